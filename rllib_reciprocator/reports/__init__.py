"""Reports on the results of runs, as one HTML page."""
