"""Sections of reports, and plots in them."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.io import to_html


@dataclass(frozen=True)
class Section:
    """Section of the page.

    Attributes:
        title: Heading.
        note: Explanation of the content.
        content: HTML.
    """

    title: str
    note: str
    content: Markup


def plot_html(plot: go.Figure) -> Markup:
    """Returns a plot as HTML, for pages that contain Plotly's script."""
    config = {"displaylogo": False, "responsive": True}
    return Markup(to_html(plot, include_plotlyjs=False, full_html=False, config=config))  # noqa: S704 -- Plotly's
