"""What agents learned: games of trained players, and what came of training, as figures, tables and pictures."""

from rllib_reciprocator.analysis.tables import GameTable, StockTable, open_table

__all__ = ["GameTable", "StockTable", "open_table"]
