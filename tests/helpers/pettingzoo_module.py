"""User-defined module with PettingZoo's interface."""

from social_dilemmas import ipd_v0

parallel_env = ipd_v0.parallel_env
