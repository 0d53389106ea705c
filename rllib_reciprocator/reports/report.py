"""What came of runs as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, select_autoescape
from markupsafe import Markup
from plotly.io import to_html
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from rllib_reciprocator.evaluation.evaluator import Evaluator, open_evaluator
from rllib_reciprocator.evaluation.film import gif
from rllib_reciprocator.evaluation.memory_one import LAST_ACTIONS
from rllib_reciprocator.experiments.errors import UserError, writing
from rllib_reciprocator.experiments.figures import (
    BY_PAIR,
    COLLECTIVE_RETURN,
    LOSSES,
    NOT_OUTCOMES,
    OF_INCENTIVES,
    PALETTE,
    RECIPROCAL_REWARD,
    RETURN,
    SOCIAL,
    collective_return,
)
from rllib_reciprocator.experiments.intervals import mean_and_half_width
from rllib_reciprocator.experiments.results import differing
from rllib_reciprocator.reports.curves import LAYOUT, draw_curves
from rllib_reciprocator.reports.runs import Group, read_groups
from rllib_reciprocator.utils.metric_names import INNER_EPISODES, REWARD_PER_STEP

# Games are shown of so many groups at most, to keep the file small.
MAX_FILMS = 3


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        note: How to read it.
        content: HTML.
    """

    title: str
    note: str
    content: Markup


def write_report(folders: Sequence[str | Path], file: Path, *, axis: str = "iteration", seed: int = 0) -> list[str]:
    """Writes the report on runs.

    Args:
        folders: Run folders; one for a run or a sweep, several to compare them.
        file: The HTML file.
        axis: What goes along the axes: ``iteration``, ``steps`` or ``seconds``.
        seed: Of the game that is shown.

    Returns:
        What could not be read or shown.

    Raises:
        UserError: If there is no run in a folder, or the file cannot be written.
    """
    groups = read_groups(folders)
    problems = [problem for group in groups for trial in group.trials for problem in trial.problems]
    evaluators = _evaluators(groups, seed, problems)
    curves = _curves(groups, axis)
    played = [*_inner_episodes(groups), *_policies(evaluators), *_contexts(evaluators)]
    sections = [*curves[:1], *_films(evaluators, problems), *curves[1:], *played, *_settings(groups)]
    page = Environment(autoescape=select_autoescape(default=True)).from_string(
        (files(__package__) / "report.html").read_text(encoding="utf-8")
    )
    text = page.render(
        title=", ".join(dict.fromkeys(Path(folder).resolve().name for folder in folders)),
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        summary=_summary(groups),
        sections=sections,
        problems=problems,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 -- Plotly's own script
    )
    with writing("--out", file):
        file.write_text(text, encoding="utf-8")
    return problems


def _curves(groups: Sequence[Group], axis: str) -> list[Section]:
    names = dict.fromkeys(name for group in groups for name in group.figures["figure"])
    outcomes = [name for name in names if name not in NOT_OUTCOMES]
    whose = "each player" if len(groups) == 1 else "the mean player of each group"
    band = (
        "Bands are 95% confidence intervals of means over trials (Student), where there are at least two. A cross marks"
        " where a trial ended before the others: from there on the mean is over those that went on (n in the labels)."
    )
    returns = [RETURN, COLLECTIVE_RETURN]
    if any(_lacks_returns(group) for group in groups):
        returns.append(REWARD_PER_STEP)
    parts = [
        ("Cooperation", [*outcomes, *SOCIAL], f"Outcomes of {whose}. {band}"),
        (
            "Returns",
            returns,
            "A return is one agent's undiscounted extrinsic reward per episode, without reciprocal rewards; the"
            " collective return is the sum over agents.",
        ),
        (
            "Who influences whom",
            [*BY_PAIR, RECIPROCAL_REWARD],
            "Influence of j on i: what j's action in a step did to i's reward, against what j could have done instead;"
            " its mean and its standard deviation over all steps. Balance of i towards j: influence of j on i so far,"
            " less what the form of the reward debits. Reciprocal rewards are before their weight.",
        ),
        (
            "Who gives whom",
            list(OF_INCENTIVES),
            "Mean of what i gives j in a step, in units of reward; the same by the action that j took in it.",
        ),
        ("Learning", list(LOSSES), "Losses and entropy of each learner; loss is that of the influence estimator."),
    ]
    sections = []
    for title, figures, note in parts:
        drawing = draw_curves(groups, figures, axis)
        if drawing is not None:
            sections.append(Section(title, note, _drawn(drawing)))
    return sections


def _lacks_returns(group: Group) -> bool:
    """Returns True if there are iterations in which no episode ended, as with fragments of long episodes."""
    return any(collective_return(result) is None for trial in group.trials for result in trial.results)


def _drawn(drawing: go.Figure) -> Markup:
    config = {"displaylogo": False, "responsive": True}
    return Markup(to_html(drawing, include_plotlyjs=False, full_html=False, config=config))  # noqa: S704 -- Plotly's


def _evaluators(groups: Sequence[Group], seed: int, problems: list[str]) -> list[tuple[Group, Evaluator]]:
    """An evaluator of the players of each group's first trial that has a checkpoint."""
    evaluators, without = [], []
    for group in groups:
        checkpoint = next((trial.checkpoint for trial in group.trials if trial.checkpoint), None)
        if checkpoint is None:
            without.append(group.name)
            continue
        try:
            evaluators.append((group, open_evaluator(checkpoint, seed=seed)))
        except UserError as error:
            problems.append(str(error))
    if without:
        problems.append(f"without a checkpoint there is no game and no policy to be shown: {'; '.join(without)}")
    return evaluators


def _films(evaluators: Sequence[tuple[Group, Evaluator]], problems: list[str]) -> list[Section]:
    shown = []
    for group, evaluator in evaluators[:MAX_FILMS]:
        try:
            films = evaluator.films()
        except UserError as error:
            problems.append(f"{group.name}: no game is shown ({error})")
            continue
        data = base64.b64encode(gif(films)).decode()
        name = html.escape(group.name)
        picture = f'<img alt="A game of {name}" src="data:image/gif;base64,{data}">'
        shown.append(f"<figure>{picture}<figcaption>{name}</figcaption></figure>")
    if not shown:
        return []
    note = "One episode with the last checkpoint's players; a tick a step for what each got (green above zero)."
    return [Section("A game", note, Markup('<div class="films">' + "".join(shown) + "</div>"))]  # noqa: S704


def _policies(evaluators: Sequence[tuple[Group, Evaluator]]) -> list[Section]:
    """P(cooperate | last joint action) in matrix games for two."""
    drawing = go.Figure()
    for group, evaluator in evaluators:
        policy = evaluator.policy()
        if policy is None:
            continue
        for agent, row in policy.iterrows():
            label = str(agent) if len(evaluators) == 1 else f"{group.name}: {agent}"
            colour = PALETTE[len(drawing.data) % len(PALETTE)]
            drawing.add_trace(go.Bar(x=list(LAST_ACTIONS), y=list(row), name=label, marker={"color": colour}))
    if not drawing.data:
        return []
    drawing.update_layout(height=360, barmode="group", **LAYOUT)
    drawing.update_yaxes(range=[0, 1.02], title_text="P(cooperate)")
    drawing.update_xaxes(title_text="last joint action, one's own first")
    note = "Of the last checkpoint's players (memories empty, balances zero). CD: I cooperated, the other defected."
    return [Section("Policies", note, _drawn(drawing))]


def _inner_episodes(groups: Sequence[Group]) -> list[Section]:
    """What every agent got a step in each inner episode of a meta-episode, in the last iteration."""
    drawing = go.Figure()
    for group in groups:
        found: dict[str, dict[int, list[float]]] = {}
        for trial in group.comparable:
            for agent, of_agent in trial.results[-1].get("env_runners", {}).get(INNER_EPISODES, {}).items():
                for number, value in of_agent[REWARD_PER_STEP].items():
                    found.setdefault(agent, {}).setdefault(int(number), []).append(value)
        for agent, by_number in found.items():
            numbers = sorted(by_number)
            label = agent if len(groups) == 1 else f"{group.name}: {agent}"
            colour = PALETTE[len(drawing.data) % len(PALETTE)]
            means = [mean_and_half_width(np.array(by_number[number]))[0] for number in numbers]
            drawing.add_trace(go.Scatter(x=numbers, y=means, name=label, line={"color": colour}))
    if not drawing.data:
        return []
    drawing.update_layout(height=360, **LAYOUT)
    drawing.update_yaxes(title_text="reward of a step")
    drawing.update_xaxes(title_text="inner episode")
    note = "Of the last iteration, means over trials. Players learner/.. learn after each one."
    return [Section("Inner episodes", note, _drawn(drawing))]


def _contexts(evaluators: Sequence[tuple[Group, Evaluator]]) -> list[Section]:
    """How often players cooperated after each last joint action, in each inner episode."""
    found = [(group, evaluator.policy_in_context()) for group, evaluator in evaluators]
    parts = [
        (agent if len(found) == 1 else f"{group.name}: {agent}", rows.droplevel("agent"))
        for group, frame in found
        if frame is not None
        for agent, rows in frame.groupby("agent")
    ]
    if not parts:
        return []
    drawing = make_subplots(1, len(parts), subplot_titles=[name for name, _ in parts])
    for column, (_, rows) in enumerate(parts, 1):
        scale = {"zmin": 0, "zmax": 1, "colorscale": "Greens", "showscale": column == len(parts)}
        drawing.add_trace(go.Heatmap(x=list(LAST_ACTIONS), y=list(rows.index), z=rows.to_numpy(), **scale), 1, column)
        drawing.update_yaxes(autorange="reversed", row=1, col=column)
    drawing.update_yaxes(title_text="inner episode", col=1)
    drawing.update_layout(height=360, **LAYOUT)
    note = "How often they cooperated in play, by the last joint action, their own first, and by inner episode."
    return [Section("Policies in context", note, _drawn(drawing))]


def _settings(groups: Sequence[Group]) -> list[Section]:
    names = differing([group.settings for group in groups])
    frame = _settings_frame(groups, names)
    everything = _settings_frame(groups, sorted({name for group in groups for name in group.settings}))
    content = _table(frame) if names else Markup("")
    whole = Markup("<details{}><summary>All settings</summary>{}</details>").format(
        Markup("") if names else Markup(" open"), _table(everything)
    )
    note = "Those in which runs differ; the seeds apart." if names else "All trials have these; the seeds apart."
    return [Section("Settings", note, content + whole)]


def _settings_frame(groups: Sequence[Group], names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {group.name: [str(group.settings.get(name, "–")) for name in names] for group in groups}, index=list(names)
    )


def _summary(groups: Sequence[Group]) -> Markup:
    """Builds the table of last iterations: per group, means over trials of means over agents.

    Trials that were stopped before the others do not count in the means (:attr:`Group.comparable`), whose number is n.
    """
    rows: dict[str, dict[str, str]] = {}
    for group in groups:
        trials = group.comparable
        last = pd.concat(
            [
                figures[figures["iteration"] == figures["iteration"].max()].assign(trial=number)
                for number, figures in enumerate(trial.figures for trial in trials)
            ]
        )
        last = last[np.isfinite(last["value"].astype(float))]
        iterations = [trial.results[-1]["training_iteration"] for trial in trials]
        row: dict[str, Any] = {
            "trials": len(group.trials),
            "n": len(trials),
            "iterations": f"{min(iterations)}" + (f" to {max(iterations)}" if len(set(iterations)) > 1 else ""),
            "seconds": f"{sum(trial.results[-1].get('time_total_s', 0.0) for trial in group.trials):.0f}",
        }
        names = [name for name in dict.fromkeys(last["figure"]) if name not in NOT_OUTCOMES]
        per_step = [] if (last["figure"] == COLLECTIVE_RETURN).any() else [REWARD_PER_STEP]
        for name in [*names, COLLECTIVE_RETURN, *per_step]:
            values = last[last["figure"] == name].groupby("trial")["value"].mean().to_numpy()
            if len(values):
                mean, half = mean_and_half_width(values)
                row[name.replace("_", " ")] = f"{mean:.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")
        rows[group.name] = row
    return _table(pd.DataFrame.from_dict(rows, orient="index").fillna("–"))


def _table(frame: pd.DataFrame) -> Markup:
    return Markup(frame.to_html(border=0, justify="left", escape=True))  # noqa: S704 -- escaped by pandas
