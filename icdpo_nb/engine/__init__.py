"""The inference engine, which computes each context once for all its responses, and the general path for other models.

Reading order (each module imports only from those before it): `invariance`, `linear`, `norms`, `activations`, `attention`,
`caches`, `memory`, `packing`, `turns`, `base`, `prefix`, `graphs`, `sampling`, `drafting`, `rows`, `decoding`, `reduction`,
`proof`, `engine`, `plain`.
"""
