"""Algorithms, one subpackage per algorithm."""
