"""Utilities used by all layers: settings, checkpoints, tensors, distributed statistics, private names of Ray."""
