"""Plots of learning curves with Matplotlib."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from rllib_reciprocator.results.colors import PALETTE
from rllib_reciprocator.results.metrics import collective_return, outcome_rates, returns, rewards_per_step
from rllib_reciprocator.results.trials import Trial, by_setting

# Maximum number of settings in the legend of a sweep's plot.
MAX_KEYS = 20
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":")


def draw(title: str, trials: list[Trial], plot_file: PurePosixPath) -> None:
    """Plots outcome rates and returns over the iterations, one line per trial and agent.

    Rewards per step are plotted if no episode ended in some iteration. Colors distinguish agents. In a sweep, colors
    distinguish settings, and line styles distinguish agents.

    Args:
        title: Title of the plot.
        trials: The trials to plot.
        plot_file: The PNG file, in the trials' storage.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    settings = by_setting(trials)
    sweep = len(settings) > 1
    all_metrics = [_plotted_metrics(result) for trial in trials for result in trial.results]
    names = list(dict.fromkeys(name for metrics in all_metrics for name in metrics)) or ["return"]
    if all("return" in metrics for metrics in all_metrics):
        names = [name for name in names if name != "reward per step"]
    agents = list(dict.fromkeys(agent for metrics in all_metrics for name in names for agent in metrics.get(name, {})))
    figure = Figure(figsize=(5.2 * len(names), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for setting_index, group in enumerate(settings.values()):
        for trial in group:
            iterations = [result["training_iteration"] for result in trial.results]
            trial_metrics = [_plotted_metrics(result) for result in trial.results]
            for panel, name in zip(panels, names, strict=True):
                for index, agent in enumerate(agents):
                    values = [metrics.get(name, {}).get(agent) for metrics in trial_metrics]
                    points = [(x, y) for x, y in zip(iterations, values, strict=True) if y is not None]
                    style = {
                        "color": _color(setting_index if sweep else index),
                        "linestyle": STYLES[index % len(STYLES)],
                    }
                    if len(points) == 1:
                        style["marker"] = "o"
                    panel.plot([x for x, _ in points], [y for _, y in points], linewidth=1.6, **style)
    for panel, name in zip(panels, names, strict=True):
        panel.set_title(name.replace("_", " "), fontsize=10)
        panel.set_xlabel("iteration")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        if name.endswith(("_rate", "_share")):
            panel.set_ylim(-0.02, 1.02)
    players = trials[0].players
    handles = [
        Line2D(
            [], [], label=f"{agent} ({players[agent]})" if agent in players else agent,
            color="black" if sweep else _color(index), linestyle=STYLES[index % len(STYLES)],
        )
        for index, agent in enumerate(agents)
    ]  # fmt: skip
    if sweep:
        labels = [", ".join(f"{name.rpartition('/')[2]} {value}" for name, value in key) for key in settings]
        handles += [Line2D([], [], label=label, color=_color(index)) for index, label in enumerate(labels)][:MAX_KEYS]
        if len(labels) > MAX_KEYS:
            handles.append(Line2D([], [], label=f"and {len(labels) - MAX_KEYS} more", color="none"))
        figure.legend(handles=handles, fontsize=7, frameon=False, loc="outside right upper")
    elif handles:
        panels[0].legend(handles=handles, fontsize=8, frameon=False, loc="best")
    figure.suptitle(title, fontsize=11)
    with trials[0].storage.open_output_stream(str(plot_file)) as stream:
        figure.savefig(stream, dpi=130, format="png")


def _plotted_metrics(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the metrics of a result that are plotted: name of the panel -> agent -> value."""
    total = collective_return(result)
    by_agent = returns(result) or ({"all": total} if total is not None else {})
    panels = {**outcome_rates(result), "return": by_agent, "reward per step": rewards_per_step(result)}
    return {name: values for name, values in panels.items() if values}


def _color(number: int) -> str:
    return PALETTE[number % len(PALETTE)]
