"""One module for each question of a notebook; they return tables and sentences and display nothing.

Read in this order; each module imports only from those before it: `cost`, `sampling`, `comparison`, `headroom`,
`chains`, `decomposition`, `protocols`, `microscope`, `retrieval_ablation`, `likelihood`, `consistency`, `checkup`,
`forecast`, `labelling`, `teaching`, `ablation`, `influence`, `win_rate`, `policies`, `training_course`, `relative_preference`,
`weighting`, `sandbox_claims`, `sandbox_transfer`.
"""
