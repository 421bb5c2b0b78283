"""The inference engine, which computes each context once for all its responses, and the general path for other models.

Reading order (each module imports only from those before it): `linear`, `norms`, `invariance`, `attention`, `memory`,
`packing`, `turns`, `base`, `prefix`, `graphs`, `sampling`, `drafting`, `rows`, `decoding`, `proof`, `engine`, `plain`.
"""
