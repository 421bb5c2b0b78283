"""How good a response is: rewards, and judges that compare two.

Read in this order, each importing only from above: `rewards`, `endpoint`, `judges`.
"""
