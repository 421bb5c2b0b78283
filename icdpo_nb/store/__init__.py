"""A persistent cache of results and of their costs.

Reading order (each module imports only from those before it): `database`, `claims`, `vectors`, `store`, `pace`,
`rehearsal`, `stored`.
"""
