"""Influence, balance and reciprocal reward of the joint steps of episodes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
import tree
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.spaces.space_utils import batch as batched
from torch import Tensor

from rllib_reciprocator.episodes.encoding import encode
from rllib_reciprocator.episodes.joint_steps import JointSpaces, JointSteps, behavior_inputs, joint_steps
from rllib_reciprocator.influence import MixedRewardModelInfluence, Transition
from rllib_reciprocator.influence.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.intrinsic import ReciprocalRule, ReciprocitySettings
from rllib_reciprocator.models import probabilities

# How many actions are drawn from a policy whose actions cannot be counted.
DRAWN_ACTIONS = 8


@dataclass(frozen=True)
class EpisodeReciprocity:
    """What runners and connectors need to know to compute reciprocal rewards of episodes.

    Attributes:
        joint: Who may take part, and with which spaces.
        reciprocators: The agents that reciprocate.
        settings: How they reciprocate, with everything decided that follows from the game.
        horizon: Steps of a whole episode, if that is fixed.
    """

    joint: JointSpaces
    reciprocators: tuple[Any, ...]
    settings: ReciprocitySettings
    horizon: int | None

    @property
    def rule(self) -> ReciprocalRule:
        """The form of the reciprocal reward."""
        return self.settings.rule

    @property
    def balance_decay(self) -> float:
        """Share of the balance that is kept from step to step."""
        assert self.settings.balance_decay is not None
        return self.settings.balance_decay

    def weight(self, iteration: int) -> float:
        """Returns the weight of the reciprocal reward in a training iteration, counted from 0."""
        return self.settings.weight_at(iteration)

    @property
    def observers(self) -> tuple[Any, ...]:
        """The agents whose observations have their balance in them."""
        return self.reciprocators if self.settings.observe_balance else ()

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
            probs[where, index, :count] = _probabilities(distribution, inputs, count)
        else:
            drawn = _drawn(distribution, joint.actions[agent], len(where), width)
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


def _probabilities(distribution: Any, inputs: Tensor | None, count: int) -> Tensor | float:
    """How likely each of so many actions was, ``[rows, A]``; all alike where the policy does not say.

    The same wherever it is asked, for one step as for a batch of them: what a Reciprocator sees of its balance and what
    it is paid for have to agree.
    """
    if distribution is None:
        return 1.0 / count
    assert inputs is not None
    return probabilities(distribution, inputs, count)


def _drawn(distribution: Any, space: gymnasium.Space, rows: int, width: int) -> Tensor:
    """Alternatives to actions that cannot be counted, ``[rows, draws, width]``: of the policy, or of the space."""
    if distribution is None:
        space = copy.deepcopy(space)
        space.seed(0)
        some = encode(space, batched([space.sample() for _ in range(DRAWN_ACTIONS)]))
        drawn = torch.from_numpy(some).expand(rows, -1, -1)
    else:
        draws = [
            torch.from_numpy(encode(space, tree.map_structure(np.asarray, distribution.sample())))
            for _ in range(DRAWN_ACTIONS)
        ]
        drawn = torch.stack(draws, 1)
    return torch.cat([drawn, drawn.new_zeros(*drawn.shape[:2], width - drawn.shape[2])], 2)
