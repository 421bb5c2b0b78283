"""From a name, a file or a hub id to preference pairs in support, dev and test.

Read in this order, each importing only from above: `sources`, `rows`, `preferences`.
"""
