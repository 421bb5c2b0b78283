"""Language models that sample and score responses, and sentence encoders, loaded by name.

Reading order (each module imports only from those before it): `encoder`, `oasst`, `packaged`, `placement`, `devices`,
`sizes`, `checkpoints`, `chat`, `tokens`, `interface`, `lm`, `cluster`, `crew`, `workers`, `copies`, `replicas`.
"""
