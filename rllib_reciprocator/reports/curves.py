"""Learning curves with Plotly: means over trials with confidence bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rllib_reciprocator.results.colors import PALETTE
from rllib_reciprocator.results.intervals import mean_and_half_width
from rllib_reciprocator.results.trial_folders import Group

ALL = "#444444"
AXES = {"iteration": "iteration", "steps": "environment steps", "seconds": "seconds of training"}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
# Metrics that are drawn by pair even for several groups, because their means over all pairs are not informative: one
# agent's gain is often another's loss.
SHOWN_BY_PAIR = ("influence", "balance", "incentives", "incentives_by_action")
MAX_LINES = 12
_COLUMNS = 3


def mean_curve(metrics: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Computes means over trials per iteration, with ``low`` and ``high`` of their 95% confidence intervals.

    Args:
        metrics: Finite values of one metric, of one agent, one pair or all agents together (:attr:`Group.metrics`), one
            row per trial and iteration.
        axis: Column of the x axis. Its values are averaged over trials too.

    Returns:
        One row per iteration in which a trial reported a value, with ``n``, the number of these trials. ``low``
        and ``high`` are NaN where ``n`` is 1.
    """
    rows = []
    for iteration, trials in metrics.groupby("iteration"):
        mean, half = mean_and_half_width(trials["value"].to_numpy())
        rows.append((iteration, trials[axis].mean(), mean, mean - half, mean + half, len(trials)))
    # The axis is assigned under its own name last, because it may be the iteration.
    curve = pd.DataFrame(rows, columns=["iteration", "x", "mean", "low", "high", "n"])
    return curve.assign(**{axis: curve["x"]}).drop(columns="x")


def early_ends(metrics: pd.DataFrame) -> list[int]:
    """Returns the iterations at which trials ended before the longest trial of the same group.

    Args:
        metrics: All metrics of a group (:attr:`Group.metrics`).
    """
    last = metrics.groupby("trial")["iteration"].max()
    return sorted({int(iteration) for iteration in last if iteration < last.max()})


def draw_curves(groups: Sequence[Group], names: Sequence[str], axis: str = "iteration") -> go.Figure | None:
    """Draws one panel per metric.

    For one group, a panel has one line per agent or pair. For several groups, it has one line per group, the mean over
    its agents. Metrics of pairs (``SHOWN_BY_PAIR``) have one line per group and pair, up to ``MAX_LINES`` lines.

    Args:
        groups: Groups of trials to draw.
        names: Names of the metrics. Metrics that no group has, or that are always zero, are left out.
        axis: Column of the x axis, ``iteration``, ``steps`` or ``seconds``.

    Returns:
        The plot, or None if there is nothing to draw.
    """
    tables = [group.metrics[np.isfinite(group.metrics["value"].astype(float))] for group in groups]
    metric_names = [
        name for name in names if any((table["value"][table["metric"] == name] != 0).any() for table in tables)
    ]
    if not metric_names:
        return None
    columns = 2 if len(metric_names) in (2, 4) else min(_COLUMNS, len(metric_names))
    rows = -(-len(metric_names) // columns)
    titles = [name.replace("_", " ") for name in metric_names]
    plot = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.26 / rows)
    # Labels that the legend has already; lines of all panels with the same label share one entry.
    legend_labels: set[str] = set()
    for index, name in enumerate(metric_names):
        position = {"row": index // columns + 1, "col": index % columns + 1}
        for line in _lines(groups, tables, name):
            curve = mean_curve(line.metrics, axis)
            legend = {"legendgroup": line.label, "name": line.label}
            for band in _bands(curve):
                shape = go.Scatter(
                    x=[*band[axis], *band[axis][::-1]],
                    y=[*band["high"], *band["low"][::-1]],
                    mode="lines",
                    fill="toself",
                    fillcolor=line.colour,
                    opacity=0.18,
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                    **legend,
                )
                plot.add_trace(shape, **position)
            mean = go.Scatter(
                x=curve[axis],
                y=curve["mean"],
                customdata=curve["n"],
                hovertemplate="%{y:.4g} (n %{customdata})",
                mode="lines" if len(curve) > 1 else "markers",
                line={"color": line.colour, "width": 2, "dash": line.dash},
                showlegend=line.label not in legend_labels,
                **legend,
            )
            legend_labels.add(line.label)
            plot.add_trace(mean, **position)
            trial_ends = curve[curve["iteration"].isin(line.ends)]
            if len(trial_ends):
                crosses = go.Scatter(
                    x=trial_ends[axis],
                    y=trial_ends["mean"],
                    customdata=trial_ends["n"],
                    hovertemplate="a trial ends (n %{customdata})",
                    mode="markers",
                    marker={"symbol": "x", "size": 8, "color": line.colour},
                    showlegend=False,
                    **legend,
                )
                plot.add_trace(crosses, **position)
        if name.endswith(("_rate", "_share")):
            plot.update_yaxes(range=[-0.02, 1.02], **position)
    plot.update_xaxes(title_text=AXES[axis], row=rows)
    plot.update_layout(height=60 + 300 * rows, **LAYOUT)
    return plot


LAYOUT = {
    "template": "plotly_white",
    "margin": {"l": 50, "r": 20, "t": 60, "b": 40},
    "legend": {"orientation": "h", "y": -0.18, "yref": "container", "yanchor": "bottom"},
    "font": {"family": "system-ui, sans-serif", "size": 13},
}


@dataclass(frozen=True)
class _Line:
    label: str
    colour: str
    dash: str
    metrics: pd.DataFrame
    ends: list[int]


def _bands(curve: pd.DataFrame) -> list[pd.DataFrame]:
    """Splits a curve into contiguous parts of at least two points that all have a confidence interval."""
    has_interval = curve["high"].notna()
    parts = [part for _, part in curve[has_interval].groupby((~has_interval).cumsum()[has_interval])]
    return [part for part in parts if len(part) > 1 and (part["high"] > part["low"]).any()]


def _lines(groups: Sequence[Group], tables: Sequence[pd.DataFrame], name: str) -> list[_Line]:
    """Builds the lines of a panel."""
    lines: list[_Line] = []
    for group_index, (group, table) in enumerate(zip(groups, tables, strict=True)):
        rows, ends = table[table["metric"] == name], early_ends(group.metrics)
        by_agent = list(rows.groupby("subject", sort=True))
        color = PALETTE[group_index % len(PALETTE)]
        if len(groups) == 1:
            for index, (agent_or_pair, part) in enumerate(by_agent):
                # The name is empty for metrics of all agents together.
                label, color = (str(agent_or_pair), PALETTE[index % len(PALETTE)]) if agent_or_pair else ("all", ALL)
                lines.append(_Line(label, color, "solid", part, ends))
        elif name in SHOWN_BY_PAIR and len(groups) * len(by_agent) <= MAX_LINES:
            for index, (agent_or_pair, part) in enumerate(by_agent):
                lines.append(_Line(f"{group.name}: {agent_or_pair}", color, DASHES[index % len(DASHES)], part, ends))
        elif len(rows):
            keys = ["trial", "iteration", "steps", "seconds"]
            lines.append(_Line(group.name, color, "solid", rows.groupby(keys, as_index=False)["value"].mean(), ends))
    return lines
