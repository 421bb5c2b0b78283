"""The inference engine, which computes each context once for all its responses.

Reading order (each module imports only from those before it): `linear`, `attention`, `memory`, `packing`, `prefix`,
`decoding`, `proof`, `engine`.
"""
