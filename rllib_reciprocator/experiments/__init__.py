"""Experiments: reads them from YAML, validates them, runs them with Ray Tune and reports their results."""
