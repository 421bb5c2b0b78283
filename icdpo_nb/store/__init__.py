"""A persistent cache of results and of their costs.

Reading order (each module imports only from those before it): `database`, `claims`, `journal`, `results`, `upstream`,
`vectors`, `store`, `joining`, `pace`, `notes`, `probes`, `rehearsed_lm`, `rehearsal`, `meter`, `stored`, `command`.
"""
