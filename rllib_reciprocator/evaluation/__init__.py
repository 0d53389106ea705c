"""Evaluation of trained policies without further training: metrics, traces, videos and tournaments."""

from rllib_reciprocator.evaluation.evaluator import Evaluator, open_evaluator

__all__ = ["Evaluator", "open_evaluator"]
