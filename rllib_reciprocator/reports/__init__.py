"""What came of training: the results of runs as one page."""
