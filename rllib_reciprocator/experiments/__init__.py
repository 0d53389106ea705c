"""Experiments: read from YAML, checked, run through Ray Tune, shown, and their checkpoints evaluated."""
