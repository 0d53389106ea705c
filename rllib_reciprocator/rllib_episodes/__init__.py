"""Reciprocity for RLlib's algorithms and env runners, computed from RLlib's multi-agent episodes."""
