"""Figures over training as Plotly draws them: means over trials, with their confidence bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
MOST_LINES = 12
_COLUMNS = 3


def mean_curve(figures: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Means over trials by iteration, with ``low`` and ``high`` of their 95% confidence intervals.

    Args:
        figures: Of one figure and one agent, pair or all, a row a trial and iteration (:attr:`Group.figures`).
        axis: The column that goes along the axis; means of it over trials too.
    """
    rows = []
    for _, part in figures.groupby("iteration"):
        mean, half = mean_and_half_width(part["value"].to_numpy())
        half = 0.0 if len(part) == 1 else half
        rows.append((part[axis].mean(), mean, mean - half, mean + half))
    return pd.DataFrame(rows, columns=[axis, "mean", "low", "high"])


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
    tables = [group.figures for group in groups]
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
            if (curve["high"] > curve["low"]).any():
                band = go.Scatter(
                    x=[*curve[axis], *curve[axis][::-1]],
                    y=[*curve["high"], *curve["low"][::-1]],
                    fill="toself",
                    fillcolor=line.colour,
                    opacity=0.18,
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                    **alike,
                )
                drawing.add_trace(band, **at)
            mean = go.Scatter(
                x=curve[axis],
                y=curve["mean"],
                mode="lines" if len(curve) > 1 else "markers",
                line={"color": line.colour, "width": 2, "dash": line.dash},
                showlegend=line.label not in shown,
                **alike,
            )
            shown.add(line.label)
            drawing.add_trace(mean, **at)
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


def _lines(groups: Sequence[Group], tables: Sequence[pd.DataFrame], name: str) -> list[_Line]:
    """The lines of a panel."""
    lines: list[_Line] = []
    for number, (group, table) in enumerate(zip(groups, tables, strict=True)):
        own = table[table["figure"] == name]
        by_agent = list(own.groupby("of", sort=True))
        colour = PALETTE[number % len(PALETTE)]
        if len(groups) == 1:
            for place, (of, part) in enumerate(by_agent):
                label, colour = (str(of), PALETTE[place % len(PALETTE)]) if of else ("all", ALL)
                lines.append(_Line(label, colour, "solid", part))
        elif name in SHOWN_BY_PAIR and len(groups) * len(by_agent) <= MOST_LINES:
            for place, (of, part) in enumerate(by_agent):
                lines.append(_Line(f"{group.name}: {of}", colour, DASHES[place % len(DASHES)], part))
        elif len(own):
            keys = ["trial", "iteration", "steps", "seconds"]
            lines.append(_Line(group.name, colour, "solid", own.groupby(keys, as_index=False)["value"].mean()))
    return lines
