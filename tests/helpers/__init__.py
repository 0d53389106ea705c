"""Environments, modules and comparisons shared by several tests."""
