"""Reciprocity in RLlib's own episodes: from multi-agent episodes to influence, and from influence to rewards."""
