"""Reciprocity on RLlib's own road: from multi-agent episodes to influence, and from influence to rewards."""
