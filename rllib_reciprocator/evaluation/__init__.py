"""What agents learned: games of players who no longer learn, as figures, traces, films and tournaments."""

from rllib_reciprocator.evaluation.evaluator import Evaluator, open_evaluator

__all__ = ["Evaluator", "open_evaluator"]
