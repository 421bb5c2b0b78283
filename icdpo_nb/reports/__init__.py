"""From a notebook and its parameters to a report: what a notebook shows, how it is run, and the command line.

Read in this order, each importing only from above: `parameters`, `figures`, `figures_of_training`, `tables`, `summary`,
`run`, `setup`, `progress`, `runner`, `origins`, `page`, `html`, `registry`, `evidence`, `front`, `job`, `doctor`,
`report`, `in_python`, `compare`, `processes`, `cli`.
"""
