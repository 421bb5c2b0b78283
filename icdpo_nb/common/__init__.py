"""Shared helpers: the error for invalid input, escaping of texts for display, OpenAI-compatible servers,
files and digests, this machine.

Reading order (each module imports only from those before it): `errors`, `escaping`, `endpoint`,
`files`, `notes`, `countdown`, `machine`, `downloads`.
"""
