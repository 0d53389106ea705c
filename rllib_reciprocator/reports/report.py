"""Report on runs as one self-contained HTML file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, select_autoescape
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from rllib_reciprocator.evaluation.evaluator import Evaluator, open_evaluator
from rllib_reciprocator.evaluation.video import gif
from rllib_reciprocator.reports.curves import draw_curves
from rllib_reciprocator.reports.policy_sections import inner_episodes, policies_in_context, policies_of
from rllib_reciprocator.reports.sections import Section, plot_html
from rllib_reciprocator.results.intervals import mean_and_half_width
from rllib_reciprocator.results.metrics import (
    BY_PAIR,
    COLLECTIVE_RETURN,
    LOSSES,
    NOT_OUTCOMES,
    OF_INCENTIVES,
    RECIPROCAL_REWARD,
    RETURN,
    SOCIAL,
    collective_return,
)
from rllib_reciprocator.results.parsing import differing
from rllib_reciprocator.results.trial_folders import Group, read_groups
from rllib_reciprocator.utils.errors import UserError, writing
from rllib_reciprocator.utils.metric_names import REWARD_PER_STEP

# Maximum number of groups with a video, to keep the file small.
MAX_VIDEOS = 3


def write_report(folders: Sequence[str | Path], file: Path, *, axis: str = "iteration", seed: int = 0) -> list[str]:
    """Writes a report on runs.

    Args:
        folders: Folders of runs. One folder for a run or a sweep, several to compare runs.
        file: HTML file to write.
        axis: Quantity on the x axes, ``iteration``, ``steps`` or ``seconds``.
        seed: Seed of the evaluations and videos.

    Returns:
        Messages on results that could not be read or shown.

    Raises:
        UserError: If a folder contains no run, or the file cannot be written.
    """
    groups = read_groups(folders)
    problems = [problem for group in groups for trial in group.trials for problem in trial.problems]
    evaluators = _evaluators(groups, seed, problems)
    curves = _curves(groups, axis)
    policies = [*inner_episodes(groups), *policies_of(evaluators), *policies_in_context(evaluators)]
    sections = [*curves[:1], *_videos(evaluators, problems), *curves[1:], *policies, *_settings(groups)]
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
    names = dict.fromkeys(name for group in groups for name in group.metrics["metric"])
    outcomes = [name for name in names if name not in NOT_OUTCOMES]
    subject = "every player" if len(groups) == 1 else "every group, as means over its players"
    band = (
        "Bands are 95% confidence intervals of the mean over at least two trials (Student's t). A cross marks where a"
        " trial ended before the others; from there on, means are over the remaining trials (n in the labels)."
    )
    returns = [RETURN, COLLECTIVE_RETURN]
    if any(_lacks_returns(group) for group in groups):
        returns.append(REWARD_PER_STEP)
    panels = [
        ("Cooperation", [*outcomes, *SOCIAL], f"Outcomes of {subject}. {band}"),
        (
            "Returns",
            returns,
            "The return of an agent is its undiscounted sum of extrinsic rewards per episode, without reciprocal"
            " rewards. The collective return is the sum over agents.",
        ),
        (
            "Reciprocity",
            [*BY_PAIR, RECIPROCAL_REWARD],
            "The influence of j on i is the effect of j's action on i's reward, compared to the actions that j could"
            " have taken instead: mean and standard deviation over all steps. The influence balance of i towards j is"
            " the accumulated influence of j on i, minus the debits of the reward rule. Reciprocal rewards are"
            " unweighted.",
        ),
        (
            "Incentives",
            list(OF_INCENTIVES),
            "Mean incentive from i to j per step, in units of reward, in total and by the action that j took.",
        ),
        (
            "Learning",
            list(LOSSES),
            "Losses and entropy of all trained policies. The panel loss is the loss of the influence estimator.",
        ),
    ]
    sections = []
    for title, metrics, note in panels:
        plot = draw_curves(groups, metrics, axis)
        if plot is not None:
            sections.append(Section(title, note, plot_html(plot)))
    return sections


def _lacks_returns(group: Group) -> bool:
    """Returns True if no episode ended in some iteration, as with rollouts that are shorter than episodes."""
    return any(collective_return(result) is None for trial in group.trials for result in trial.results)


def _evaluators(groups: Sequence[Group], seed: int, problems: list[str]) -> list[tuple[Group, Evaluator]]:
    """Builds an evaluator for every group, from the first of its trials that has a checkpoint."""
    evaluators, names = [], []
    for group in groups:
        checkpoint = next((trial.checkpoint for trial in group.trials if trial.checkpoint), None)
        if checkpoint is None:
            names.append(group.name)
            continue
        try:
            evaluators.append((group, open_evaluator(checkpoint, seed=seed)))
        except UserError as error:
            problems.append(str(error))
    if names:
        problems.append(f"no episode and no policies are shown for runs without a checkpoint: {'; '.join(names)}")
    return evaluators


def _videos(evaluators: Sequence[tuple[Group, Evaluator]], problems: list[str]) -> list[Section]:
    elements = []
    for group, evaluator in evaluators[:MAX_VIDEOS]:
        try:
            videos = evaluator.videos()
        except UserError as error:
            problems.append(f"{group.name}: no episode is shown ({error})")
            continue
        data = base64.b64encode(gif(videos)).decode()
        name = html.escape(group.name)
        image = f'<img alt="Episode of {name}" src="data:image/gif;base64,{data}">'
        elements.append(f"<figure>{image}<figcaption>{name}</figcaption></figure>")
    if not elements:
        return []
    note = "One episode with the players of the last checkpoint. Bars are rewards per step (green if positive)."
    return [Section("Episodes", note, Markup('<div class="videos">' + "".join(elements) + "</div>"))]  # noqa: S704


def _settings(groups: Sequence[Group]) -> list[Section]:
    names = differing([group.settings for group in groups])
    frame = _settings_frame(groups, names)
    full_frame = _settings_frame(groups, sorted({name for group in groups for name in group.settings}))
    content = _table(frame) if names else Markup("")
    details = Markup("<details{}><summary>All settings</summary>{}</details>").format(
        Markup("") if names else Markup(" open"), _table(full_frame)
    )
    note = "Settings in which the runs differ, except seeds." if names else "Settings of all trials, except seeds."
    return [Section("Settings", note, content + details)]


def _settings_frame(groups: Sequence[Group], names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {group.name: [str(group.settings.get(name, "–")) for name in names] for group in groups}, index=list(names)
    )


def _summary(groups: Sequence[Group]) -> Markup:
    """Builds the table of the last iterations: per group, means over trials of means over agents.

    Means are over the n trials in :attr:`Group.comparable`, which excludes trials that were stopped early.
    """
    rows: dict[str, dict[str, str]] = {}
    for group in groups:
        trials = group.comparable
        last = pd.concat(
            [
                frame[frame["iteration"] == frame["iteration"].max()].assign(trial=number)
                for number, frame in enumerate(trial.metrics for trial in trials)
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
        names = [name for name in dict.fromkeys(last["metric"]) if name not in NOT_OUTCOMES]
        per_step = [] if (last["metric"] == COLLECTIVE_RETURN).any() else [REWARD_PER_STEP]
        for name in [*names, COLLECTIVE_RETURN, *per_step]:
            values = last[last["metric"] == name].groupby("trial")["value"].mean().to_numpy()
            if len(values):
                mean, half = mean_and_half_width(values)
                row[name.replace("_", " ")] = f"{mean:.3f}" + (f" ± {half:.3f}" if len(values) > 1 else "")
        rows[group.name] = row
    return _table(pd.DataFrame.from_dict(rows, orient="index").fillna("–"))


def _table(frame: pd.DataFrame) -> Markup:
    return Markup(frame.to_html(border=0, justify="left", escape=True))  # noqa: S704 -- escaped by pandas
