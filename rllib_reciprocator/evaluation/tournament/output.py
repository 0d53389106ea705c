"""Tables, files and heat maps of a tournament."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from rllib_reciprocator.evaluation.batched_evaluator import RETURN
from rllib_reciprocator.evaluation.tournament.games import ENTRANT
from rllib_reciprocator.evaluation.tournament.scores import PARTNER, metrics_of, ranking, standings
from rllib_reciprocator.results.csv_text import write_csv
from rllib_reciprocator.utils.errors import writing

# Maximum number of partners whose returns are columns of the printed table. The files contain all of them.
MAX_COLUMNS = 6


def table(results: pd.DataFrame, title: str, pool: Sequence[str] = ()) -> Table:
    """Builds a table of the ranking, if there is a pool, and of the mean returns with the first partners.

    Args:
        results: As returned by :func:`hold`.
        title: Title of the table.
        pool: As for :func:`ranking`.
    """
    cells = standings(results).set_index([ENTRANT, PARTNER])
    names = list(dict.fromkeys(results[ENTRANT]))
    ranking_table = ranking(results, pool) if pool else None
    if ranking_table is not None:
        title += f"; ranked by the mean return against {', '.join(pool)} (without self-play)"
    partners = list(pool) if pool else names
    if len(partners) > MAX_COLUMNS:
        title += f"; returns with the first {MAX_COLUMNS} of {len(partners)}, the files contain all"
        partners = partners[:MAX_COLUMNS]
    rich_table = Table(title=title, title_justify="left")
    rich_table.add_column("entrant")
    metrics = metrics_of(cells) if pool else []
    for metric in metrics:
        rich_table.add_column(metric.replace("_", " "), justify="right")
    for partner in partners:
        rich_table.add_column(f"return with {partner}", justify="right")
    for name in _order(names, ranking_table):
        row = None if ranking_table is None or name not in ranking_table.index else ranking_table.loc[name]
        summary = ["" if row is None else f"{row[key]:.3f} ± {row[f'{key}_ci95']:.3f}" for key in metrics]
        means = []
        for partner in partners:
            cell = cells.loc[(name, partner)] if (name, partner) in cells.index else None
            means.append("" if cell is None else f"{cell[RETURN]:.2f} ± {cell[f'{RETURN}_ci95']:.2f}")
        rich_table.add_row(name, *summary, *means)
    return rich_table


def write(results: pd.DataFrame, folder: Path, title: str, pool: Sequence[str] = ()) -> list[Path]:
    """Writes standings and, if there is a pool, the ranking as CSV, and a heat map of every metric.

    Args:
        results: As returned by :func:`hold`.
        folder: Folder to write to. It is created if it does not exist.
        title: Title of the heat maps.
        pool: As for :func:`ranking`.

    Returns:
        Paths of the files.

    Raises:
        UserError: If a file cannot be written.
    """
    frame, ranking_table = standings(results), ranking(results, pool) if pool else None
    names = _order(list(dict.fromkeys(results[ENTRANT])), ranking_table)
    with writing("--out", folder):
        folder.mkdir(exist_ok=True)
        files = [folder / "tournament.csv"]
        write_csv(frame, files[0])
        if ranking_table is not None:
            files.append(folder / "ranking.csv")
            write_csv(ranking_table.reset_index(), files[-1])
        for metric in metrics_of(frame):
            files.append(folder / f"{metric}.png")
            draw(frame, names, metric, title, files[-1])
    return files


def draw(frame: pd.DataFrame, names: Sequence[str], metric: str, title: str, file: Path) -> None:
    """Draws a heat map of a metric. Rows are entrants, columns their partners.

    Args:
        frame: The standings.
        names: Names of the entrants, in the order of rows and columns. Pairs without a value are left empty.
        metric: Name of the metric.
        title: Title of the heat map.
        file: Image file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = frame.pivot(index=ENTRANT, columns=PARTNER, values=metric).reindex(index=names, columns=names).to_numpy()
    side = max(4.0, 0.62 * len(names) + 2.2)
    canvas = Figure(figsize=(side + 1.2, side), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    rate = metric.endswith(("_rate", "_share"))
    low, high = (0.0, 1.0) if rate or np.isnan(matrix).all() else (float(np.nanmin(matrix)), float(np.nanmax(matrix)))
    image = axes.imshow(matrix, cmap="RdYlGn", vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(matrix):
        if np.isnan(value):
            continue
        # The colors at both ends of the scale are too dark for black text.
        dark = abs(value - (low + high) / 2) > 0.38 * (high - low)
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("played with")
    canvas.colorbar(image, ax=axes, shrink=0.8)
    axes.set_title(f"{title}: {metric.replace('_', ' ')} of the row's player", fontsize=10)
    canvas.savefig(file, dpi=130)


def _order(names: Sequence[str], ranking_table: pd.DataFrame | None) -> list[str]:
    """Returns the names of the entrants in the order of the ranking, followed by those without a rank."""
    ranked_names = [] if ranking_table is None else list(ranking_table.index)
    return [*ranked_names, *(name for name in names if name not in ranked_names)]
