"""Language models that sample and score responses, here or behind a server, and sentence encoders, loaded by name.

Reading order (each module imports only from those before it): `encoder`, `oasst`, `packaged`, `placement`, `devices`,
`sizes`, `checkpoints`, `licence`, `chat`, `tokens`, `interface`, `addresses`, `completions`, `abilities`, `server`,
`conversation`, `lm`, `cluster`, `crew`, `workers`, `copies`, `replicas`.
"""
