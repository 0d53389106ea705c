"""Intrinsic rewards, which are added to the extrinsic rewards of the environment."""
