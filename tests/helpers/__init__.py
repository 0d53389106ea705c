"""Environments, modules and comparisons that several tests use."""
