"""Shared helpers: the error for invalid input, escaping of texts for display, files and digests, this machine.

Reading order (each module imports only from those before it): `errors`, `escaping`, `files`,
`notes`, `machine`, `downloads`.
"""
