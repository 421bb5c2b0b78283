"""Preference pairs in support, dev and test splits, loaded from a packaged name, a file, a table in memory or a hub id.

Reading order (each module imports only from those before it): `sources`, `frames`, `rows`, `pairs`, `teachers`,
`preferences`.
"""
