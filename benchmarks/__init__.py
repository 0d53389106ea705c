"""Benchmarks of speed and of learning, compared with named baselines in the same run."""
