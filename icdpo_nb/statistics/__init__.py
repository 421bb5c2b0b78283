"""How sure one can be: intervals, estimates, the papers' numbers, verdicts. Nothing is displayed here.

Read in this order, each importing only from above: `intervals`, `published`, `estimates`, `beside`, `verdicts`, `seeds`.
"""
