"""From a name to a model: language models that sample and score, and sentence encoders.

Read in this order, each importing only from above: `encoder`, `oasst`, `packaged`, `checkpoints`, `tokens`,
`interface`, `lm`.
"""
