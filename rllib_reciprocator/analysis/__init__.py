"""What agents learned: games of trained players, and what came of training, as figures, tables and pictures."""

from rllib_reciprocator.analysis.tables import Table, open_table

__all__ = ["Table", "open_table"]
