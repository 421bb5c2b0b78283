"""What was computed once is found again, with what it cost.

Read in this order, each importing only from above: `database`, `claims`, `store`, `stored`.
"""
