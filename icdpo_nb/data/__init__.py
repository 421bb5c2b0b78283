"""Preference pairs in support, dev and test splits, loaded from a packaged name, a file or a hub id.

Reading order (each module imports only from those before it): `sources`, `rows`, `preferences`.
"""
