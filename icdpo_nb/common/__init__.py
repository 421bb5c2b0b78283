"""What every room needs: errors a user is to see, texts that one can look at, where files lie.

Read in this order, each importing only from above: `errors`, `escaping`, `files`.
"""
