"""Results of runs: metrics and their names, tables, confidence intervals, folders of trials."""
