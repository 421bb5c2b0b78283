"""A persistent cache of results and of their costs.

Reading order (each module imports only from those before it): `database`, `claims`, `journal`, `store`, `joining`,
`pace`, `rehearsal`, `stored`.
"""
