"""Rewards, which score a response, and judges, which compare two.

Read in this order; each module imports only from those before it: `rewards`, `endpoint`, `judges`.
"""
