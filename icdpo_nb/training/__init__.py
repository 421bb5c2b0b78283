"""Policies that learn from the same preferences: SFT, DPO, IPO, KTO and RPO with LoRA.

Read in this order, each importing only from above: `losses`, `recipes`, `rpo_trainer`, `trainers`, `finetune`.
"""
