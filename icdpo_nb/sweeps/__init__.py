"""A grid of notebook runs on one machine or many, and what they find together: `icdpo-nb sweep FILE.yaml`.

Read in this order: `sweep_file`, `plan`, `backend`, `local`, `slurm`, `hub`, `parcel`, `over_ray`, `backends`, `watch`,
`driver`, `prepare`, `gathered`, `exhibits`, `combined`, `command`.
"""
