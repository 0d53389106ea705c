"""Incentive functions: what agents give each other, and what env runners keep of it."""
