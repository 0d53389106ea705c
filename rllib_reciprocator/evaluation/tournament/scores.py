"""Standings and ranking of a tournament: means with 95% confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from rllib_reciprocator.evaluation.batched_evaluator import RETURN
from rllib_reciprocator.evaluation.tournament.games import CO_PLAYERS, ENTRANT, GAMES, TURN
from rllib_reciprocator.results.intervals import stratified_mean_and_half_width

# Columns of the summaries that are not metrics.
PARTNER, SAMPLES = "partner", "samples"
_NOT_METRICS = (ENTRANT, CO_PLAYERS, TURN, GAMES, PARTNER, SAMPLES)


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """Returns the names of the metrics in results, standings or a ranking. The first one is the return."""
    names = [name for name in frame.columns if name not in _NOT_METRICS]
    return [name for name in names if not name.endswith("_ci95")]


def standings(results: pd.DataFrame) -> pd.DataFrame:
    """Summarizes results by pairs of entrants.

    Args:
        results: As returned by :func:`hold`.

    Returns:
        One row per entrant and partner: ``entrant``, ``partner``, ``games``, ``samples`` (the number of
        independent samples), and for every metric the mean and, with the suffix ``_ci95``, the half-width of its 95%
        confidence interval. In games for more than two agents, groups that contain both entrants have equal weights.
    """
    rows = []
    groups = _groups(results)
    for name, frames in groups.items():
        for partner in groups:
            selection = [frame for co_players, frame in frames.items() if partner in co_players]
            if selection:
                rows.append({ENTRANT: name, PARTNER: partner, **_summary(selection)})
    return pd.DataFrame(rows)


def ranking(results: pd.DataFrame, pool: Sequence[str]) -> pd.DataFrame:
    """Ranks entrants by their mean return against a pool.

    Args:
        results: As returned by :func:`hold`.
        pool: Names of entrants. An entrant is ranked by the groups in which all other agents are played by members of
            the pool other than itself. These groups have equal weights.

    Returns:
        One row per entrant, sorted by return in descending order: ``games``, ``samples``, and for every metric the mean
        and ``_ci95`` as in :func:`standings`. Entrants without such a group are left out.
    """
    rows = {}
    for name, frames in _groups(results).items():
        opponents = set(pool) - {name}
        selection = [frame for co_players, frame in frames.items() if opponents.issuperset(co_players)]
        if selection:
            rows[name] = _summary(selection)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(ENTRANT)
    return table.sort_values(RETURN, ascending=False, kind="stable") if len(table) else table


def _groups(results: pd.DataFrame) -> dict[str, dict[tuple[str, ...], pd.DataFrame]]:
    """Splits results by entrant and by the names of the other entrants in its group."""
    groups: dict[str, dict[tuple[str, ...], pd.DataFrame]] = {}
    for (name, co_players), frame in results.groupby([ENTRANT, CO_PLAYERS], sort=False):
        groups.setdefault(name, {})[co_players] = frame
    return groups


def _summary(groups: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """Computes the numbers of games and samples, and stratified means with confidence intervals.

    The strata are the groups, with equal weights, and within a group its turns, unless one of them has a single sample.
    """
    strata: list[pd.DataFrame] = []
    weights: list[float] = []
    for group in groups:
        turns = [turn for _, turn in group.groupby(TURN, sort=False)]
        if min(map(len, turns)) < 2:
            turns = [group]
        strata += turns
        weights += [1.0 / (len(groups) * len(turns))] * len(turns)
    summary: dict[str, Any] = {
        GAMES: sum(int(group[GAMES].sum()) for group in groups),
        SAMPLES: sum(map(len, groups)),
    }
    for metric in metrics_of(groups[0]):
        values = [stratum[metric].to_numpy() for stratum in strata]
        summary[metric], summary[f"{metric}_ci95"] = stratified_mean_and_half_width(values, weights)
    return summary
