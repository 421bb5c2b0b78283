"""One context computed once for all its responses: how a transformer is run here.

Read in this order, each importing only from above: `onednn`, `attention`, `memory`, `packing`, `prefix`, `decoding`, `proof`,
`engine`.
"""
