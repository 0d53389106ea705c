"""Influence, balance and reciprocal reward of the joint steps of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
import tree
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from torch import Tensor

from rllib_reciprocator.connectors.encoding import encode
from rllib_reciprocator.connectors.joint_steps import JointSpaces, JointSteps, behavior_inputs, joint_steps
from rllib_reciprocator.estimators import MixedRewardModelInfluence, Transition
from rllib_reciprocator.models import probabilities
from rllib_reciprocator.rewards import ReciprocalRule
from rllib_reciprocator.rollout import INFLUENCE_MODULE_ID

# How many actions are drawn from a policy whose actions cannot be counted.
DRAWN_ACTIONS = 8


class WeightSettings(Protocol):
    """What says how much reciprocal rewards count."""

    def weight_at(self, iteration: int, default: float) -> float:
        """The weight at an iteration, from 0; ``default`` where none is set."""


@dataclass(frozen=True)
class EpisodeReciprocity:
    """What runners and connectors need to know to compute reciprocal rewards of episodes.

    Attributes:
        joint: Who may take part, and with which spaces.
        reciprocators: The agents that reciprocate.
        rule: The form of the reward.
        balance_decay: Share of the balance that is kept from step to step.
        settings: The settings of the weight of the reciprocal reward.
        default_weight: The weight where none is set.
        observes_balance: Whether Reciprocators see their balance.
        balance_scale: They see ``tanh(balance / balance_scale)``.
        horizon: Steps of a whole episode, if that is fixed.
    """

    joint: JointSpaces
    reciprocators: tuple[Any, ...]
    rule: ReciprocalRule
    balance_decay: float
    settings: WeightSettings
    default_weight: float
    observes_balance: bool
    balance_scale: float
    horizon: int | None

    def weight(self, updates: int) -> float:
        """The weight of the reciprocal reward after so many updates of the learners."""
        return self.settings.weight_at(updates, self.default_weight)

    @property
    def observers(self) -> tuple[Any, ...]:
        """The agents whose observations have their balance in them."""
        return self.reciprocators if self.observes_balance else ()

    def joint_steps(self, episode: MultiAgentEpisode, artificial: int = 0) -> JointSteps:
        """The joint steps of a chunk, with observations as the environment gave them."""
        return joint_steps(episode, self.joint, self.observers, self.horizon, artificial)


def influence_of(
    module: Any,
    reciprocity: EpisodeReciprocity,
    episodes: Sequence[MultiAgentEpisode],
    steps: Sequence[JointSteps],
    *,
    last: bool = False,
) -> Tensor:
    """The influence of each agent on each in all these steps, one after the other, ``[rows, N, N]`` by ``[j, i]``.

    Args:
        module: The MultiRLModule, with the players' distributions and the estimator.
        reciprocity: Who takes part.
        episodes: The chunks that the steps are of.
        steps: Their joint steps.
        last: Whether those are the newest step of each alone.
    """
    joint = reciprocity.joint
    behaviors = [_told_behavior(episode, each, last=last) for episode, each in zip(episodes, steps, strict=True)]
    state, actions, present = (
        torch.from_numpy(np.concatenate([getattr(each, name) for each in steps]))
        for name in ("state", "actions", "present")
    )
    rows, (n, width) = len(state), joint.action.shape
    most = max(*joint.num_options, DRAWN_ACTIONS if 0 in joint.num_options else 1)
    options, probs = torch.zeros(rows, n, most, width), torch.zeros(rows, n, most)
    starts = np.cumsum([0, *(len(each.state) for each in steps)])[:-1]
    for index, agent in enumerate(joint.agents):
        there = [index for index, each in enumerate(steps) if len(each.rows.get(agent, ()))]
        if not there:
            continue
        where = torch.from_numpy(np.concatenate([starts[index] + steps[index].rows[agent] for index in there]))
        told = [behaviors[index][agent] for index in there]
        inputs = None if any(part is None for part in told) else torch.from_numpy(np.concatenate(told))  # type: ignore[arg-type]
        distribution = None if inputs is None else _distribution(module, episodes, agent, inputs)
        count = joint.num_options[index]
        if count:
            options[where, index, :count, :count] = torch.eye(count)
            probs[where, index, :count] = _probabilities(distribution, inputs, actions[where, index, :count])
        else:
            drawn = _drawn(distribution, joint.actions[agent], actions[where, index])
            options[where, index, : drawn.shape[1]] = drawn
            probs[where, index, : drawn.shape[1]] = 1.0 / drawn.shape[1]
    transition = Transition(state, actions, torch.zeros(rows, n), torch.zeros(rows), torch.zeros(rows, n))
    estimator: MixedRewardModelInfluence = module[INFLUENCE_MODULE_ID].unwrapped()
    device = next(estimator.parameters()).device
    moved = Transition(*(values.to(device) for values in transition))
    found = estimator.influence_among(moved, present.to(device), options.to(device), probs.to(device))
    return found.received.cpu()


def _told_behavior(episode: MultiAgentEpisode, steps: JointSteps, *, last: bool) -> dict[Any, np.ndarray | None]:
    """What each agent's policy put into its distribution in its own steps, if it says.

    Args:
        episode: The chunk.
        steps: Its joint steps.
        last: Whether those are the newest step alone.
    """
    told = {}
    for agent, at in steps.rows.items():
        own = episode.agent_episodes[agent]
        told[agent] = behavior_inputs(own, [-1] if last else slice(len(own) - len(at), len(own)))
    return told


def _distribution(module: Any, episodes: Sequence[MultiAgentEpisode], agent: Any, inputs: Tensor) -> Any:
    module_id = next(episode.module_for(agent) for episode in episodes if agent in episode.agent_episodes)
    return module[module_id].unwrapped().get_exploration_action_dist_cls().from_logits(inputs)


def _probabilities(distribution: Any, inputs: Tensor | None, taken: Tensor) -> Tensor:
    """How likely each action was, ``[rows, A]``; how often each was taken here, where the policy does not say."""
    if distribution is None:
        return taken.mean(0).expand_as(taken)
    assert inputs is not None
    return probabilities(distribution, inputs, taken.shape[1])


def _drawn(distribution: Any, space: gymnasium.Space, taken: Tensor) -> Tensor:
    """Alternatives to actions that cannot be counted, ``[rows, draws, width]``: of the policy, or of other steps."""
    if distribution is None:
        generator = torch.Generator().manual_seed(len(taken))
        return taken[torch.randint(len(taken), (len(taken), DRAWN_ACTIONS), generator=generator)]
    draws = [
        torch.from_numpy(encode(space, tree.map_structure(np.asarray, distribution.sample())))
        for _ in range(DRAWN_ACTIONS)
    ]
    drawn = torch.stack(draws, 1)
    return torch.cat([drawn, drawn.new_zeros(*drawn.shape[:2], taken.shape[1] - drawn.shape[2])], 2)
