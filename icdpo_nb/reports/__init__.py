"""From a notebook and its parameters to a report: what a notebook shows, and how it is run.

Read in this order, each importing only from above: `parameters`, `figures`, `figures_of_training`,
`figures_of_selection`, `figures_of_sweeps`, `tables`, `summary`, `microscope`, `run`, `setup`, `playground`, `widgets`,
`progress`, `kernels`, `runner`, `origins`, `page`, `html`, `registry`, `evidence`, `front`, `job`, `completion`, `doctor`,
`report`, `estimate`, `forecast`, `in_python`, `gallery`, `compare`, `processes`, `expectation`, `making`, `teach`.
"""
