"""One module for each question that a notebook asks: tables and sentences. Nothing is displayed here.

Read in this order, each importing only from above: `cost`, `sampling`, `comparison`, `retrieval_ablation`, `likelihood`,
`consistency`, `win_rate`, `policies`, `relative_preference`, `weighting`, `sandbox_claims`, `sandbox_transfer`.
"""
