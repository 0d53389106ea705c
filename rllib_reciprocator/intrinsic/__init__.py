"""Intrinsic rewards: what agents are moved by in addition to what the environment pays them."""
