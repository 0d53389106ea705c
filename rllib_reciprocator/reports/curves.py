"""Figures over training as Plotly draws them: means over trials, with their confidence bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rllib_reciprocator.experiments.figures import PALETTE
from rllib_reciprocator.experiments.intervals import mean_and_half_width
from rllib_reciprocator.reports.runs import Group

ALL = "#444444"
AXES = {"iteration": "iteration", "steps": "joint steps", "seconds": "seconds of training"}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
# Of these the mean over all pairs says little: one's gain is often the other's loss.
SHOWN_BY_PAIR = ("influence", "balance", "incentives", "incentives_by_action")
MAX_LINES = 12
_COLUMNS = 3


def mean_curve(figures: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Computes means over trials per iteration, with ``low`` and ``high`` of their 95% confidence intervals.

    Args:
        figures: One metric of one agent, pair or all, one row per trial and iteration (:attr:`Group.figures`); finite.
        axis: The column on the x axis; its means over trials as well.

    Returns:
        One row per iteration in which a trial reported a value, with ``n``, the number of these trials. ``low``
        and ``high`` are NaN where ``n`` is 1.
    """
    rows = []
    for iteration, part in figures.groupby("iteration"):
        mean, half = mean_and_half_width(part["value"].to_numpy())
        rows.append((iteration, part[axis].mean(), mean, mean - half, mean + half, len(part)))
    # With the axis last, it may be the iteration.
    curve = pd.DataFrame(rows, columns=["iteration", "x", "mean", "low", "high", "n"])
    return curve.assign(**{axis: curve["x"]}).drop(columns="x")


def early_ends(figures: pd.DataFrame) -> list[int]:
    """Returns the iterations after which trials ended while others of the same group went on.

    Args:
        figures: All metrics of a group (:attr:`Group.figures`).
    """
    last = figures.groupby("trial")["iteration"].max()
    return sorted({int(iteration) for iteration in last if iteration < last.max()})


def draw_curves(groups: Sequence[Group], names: Sequence[str], axis: str = "iteration") -> go.Figure | None:
    """A panel for each figure.

    With one group, a line for each agent or pair; with several a line for each group, the mean over its agents, but for
    what is of pairs, whose mean over all says little.

    Args:
        groups: What to draw.
        names: Of the figures; those that no group has, or that are zero throughout, are left out.
        axis: ``iteration``, ``steps`` or ``seconds``.

    Returns:
        The drawing; None if there is nothing to draw.
    """
    tables = [group.figures[np.isfinite(group.figures["value"].astype(float))] for group in groups]
    present = [name for name in names if any((table["value"][table["figure"] == name] != 0).any() for table in tables)]
    if not present:
        return None
    columns = 2 if len(present) in (2, 4) else min(_COLUMNS, len(present))
    rows = -(-len(present) // columns)
    titles = [name.replace("_", " ") for name in present]
    drawing = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.26 / rows)
    shown: set[str] = set()
    for place, name in enumerate(present):
        at = {"row": place // columns + 1, "col": place % columns + 1}
        for line in _lines(groups, tables, name):
            curve = mean_curve(line.figures, axis)
            alike = {"legendgroup": line.label, "name": line.label}
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
                    **alike,
                )
                drawing.add_trace(shape, **at)
            mean = go.Scatter(
                x=curve[axis],
                y=curve["mean"],
                customdata=curve["n"],
                hovertemplate="%{y:.4g} (n %{customdata})",
                mode="lines" if len(curve) > 1 else "markers",
                line={"color": line.colour, "width": 2, "dash": line.dash},
                showlegend=line.label not in shown,
                **alike,
            )
            shown.add(line.label)
            drawing.add_trace(mean, **at)
            ended = curve[curve["iteration"].isin(line.ends)]
            if len(ended):
                crosses = go.Scatter(
                    x=ended[axis],
                    y=ended["mean"],
                    customdata=ended["n"],
                    hovertemplate="a trial ends (n %{customdata})",
                    mode="markers",
                    marker={"symbol": "x", "size": 8, "color": line.colour},
                    showlegend=False,
                    **alike,
                )
                drawing.add_trace(crosses, **at)
        if name.endswith(("_rate", "_share")):
            drawing.update_yaxes(range=[-0.02, 1.02], **at)
    drawing.update_xaxes(title_text=AXES[axis], row=rows)
    drawing.update_layout(height=60 + 300 * rows, **LAYOUT)
    return drawing


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
    figures: pd.DataFrame
    ends: list[int]


def _bands(curve: pd.DataFrame) -> list[pd.DataFrame]:
    """Splits a curve into the parts with an interval at each of their points, two points at least."""
    known = curve["high"].notna()
    parts = [part for _, part in curve[known].groupby((~known).cumsum()[known])]
    return [part for part in parts if len(part) > 1 and (part["high"] > part["low"]).any()]


def _lines(groups: Sequence[Group], tables: Sequence[pd.DataFrame], name: str) -> list[_Line]:
    """The lines of a panel."""
    lines: list[_Line] = []
    for number, (group, table) in enumerate(zip(groups, tables, strict=True)):
        own, ends = table[table["figure"] == name], early_ends(group.figures)
        by_agent = list(own.groupby("of", sort=True))
        colour = PALETTE[number % len(PALETTE)]
        if len(groups) == 1:
            for place, (of, part) in enumerate(by_agent):
                label, colour = (str(of), PALETTE[place % len(PALETTE)]) if of else ("all", ALL)
                lines.append(_Line(label, colour, "solid", part, ends))
        elif name in SHOWN_BY_PAIR and len(groups) * len(by_agent) <= MAX_LINES:
            for place, (of, part) in enumerate(by_agent):
                lines.append(_Line(f"{group.name}: {of}", colour, DASHES[place % len(DASHES)], part, ends))
        elif len(own):
            keys = ["trial", "iteration", "steps", "seconds"]
            lines.append(_Line(group.name, colour, "solid", own.groupby(keys, as_index=False)["value"].mean(), ends))
    return lines
