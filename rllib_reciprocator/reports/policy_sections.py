"""Sections of reports on policies: cooperation by last joint action and by inner episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rllib_reciprocator.evaluation.evaluator import Evaluator
from rllib_reciprocator.evaluation.memory_one import LAST_ACTIONS
from rllib_reciprocator.reports.curves import LAYOUT
from rllib_reciprocator.reports.sections import Section, plot_html
from rllib_reciprocator.results.colors import PALETTE
from rllib_reciprocator.results.intervals import mean_and_half_width
from rllib_reciprocator.results.trial_folders import Group
from rllib_reciprocator.utils.metric_names import INNER_EPISODES, REWARD_PER_STEP


def policies_of(evaluators: Sequence[tuple[Group, Evaluator]]) -> list[Section]:
    """Builds the section of P(cooperate | last joint action) in matrix games for two players."""
    plot = go.Figure()
    for group, evaluator in evaluators:
        policy = evaluator.policy()
        if policy is None:
            continue
        for agent, row in policy.iterrows():
            label = str(agent) if len(evaluators) == 1 else f"{group.name}: {agent}"
            color = PALETTE[len(plot.data) % len(PALETTE)]
            plot.add_trace(go.Bar(x=list(LAST_ACTIONS), y=list(row), name=label, marker={"color": color}))
    if not plot.data:
        return []
    plot.update_layout(height=360, barmode="group", **LAYOUT)
    plot.update_yaxes(range=[0, 1.02], title_text="P(cooperate)")
    plot.update_xaxes(title_text="last joint action (own, co-player's)")
    note = (
        "Policies of the last checkpoint, with initial states and balances of zero. CD: the player cooperated and its"
        " co-player defected."
    )
    return [Section("Policies", note, plot_html(plot))]


def inner_episodes(groups: Sequence[Group]) -> list[Section]:
    """Builds the section of rewards per step by inner episode, in the last iteration."""
    plot = go.Figure()
    for group in groups:
        rewards: dict[str, dict[int, list[float]]] = {}
        for trial in group.comparable:
            for agent, metrics in trial.results[-1].get("env_runners", {}).get(INNER_EPISODES, {}).items():
                for number, value in metrics[REWARD_PER_STEP].items():
                    rewards.setdefault(agent, {}).setdefault(int(number), []).append(value)
        for agent, by_inner_episode in rewards.items():
            numbers = sorted(by_inner_episode)
            label = agent if len(groups) == 1 else f"{group.name}: {agent}"
            color = PALETTE[len(plot.data) % len(PALETTE)]
            means = [mean_and_half_width(np.array(by_inner_episode[number]))[0] for number in numbers]
            plot.add_trace(go.Scatter(x=numbers, y=means, name=label, line={"color": color}))
    if not plot.data:
        return []
    plot.update_layout(height=360, **LAYOUT)
    plot.update_yaxes(title_text="reward per step")
    plot.update_xaxes(title_text="inner episode")
    note = "Means over trials in the last iteration. Online learners (learner/..) learn after every inner episode."
    return [Section("Inner episodes", note, plot_html(plot))]


def policies_in_context(evaluators: Sequence[tuple[Group, Evaluator]]) -> list[Section]:
    """Builds the section of cooperation rates by last joint action and inner episode."""
    frames = [(group, evaluator.policy_in_context()) for group, evaluator in evaluators]
    panels = [
        (agent if len(frames) == 1 else f"{group.name}: {agent}", rows.droplevel("agent"))
        for group, frame in frames
        if frame is not None
        for agent, rows in frame.groupby("agent")
    ]
    if not panels:
        return []
    plot = make_subplots(1, len(panels), subplot_titles=[name for name, _ in panels])
    for column, (_, rows) in enumerate(panels, 1):
        scale = {"zmin": 0, "zmax": 1, "colorscale": "Greens", "showscale": column == len(panels)}
        plot.add_trace(go.Heatmap(x=list(LAST_ACTIONS), y=list(rows.index), z=rows.to_numpy(), **scale), 1, column)
        plot.update_yaxes(autorange="reversed", row=1, col=column)
    plot.update_yaxes(title_text="inner episode", col=1)
    plot.update_layout(height=360, **LAYOUT)
    note = "Cooperation rates in play, by inner episode and by the last joint action (own, co-player's)."
    return [Section("Policies in context", note, plot_html(plot))]
