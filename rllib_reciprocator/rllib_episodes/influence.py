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
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.spaces.space_utils import batch as batched
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity import ReciprocalRule, ReciprocitySettings
from rllib_reciprocator.intrinsic.reciprocity.estimators import MixedRewardModelInfluence, Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import UNIFORM
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.models import probabilities
from rllib_reciprocator.rllib_episodes.encoding import encode
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces, JointSteps, behavior_inputs, joint_steps

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
    explore: bool = True,
) -> Tensor:
    """The influence of each agent on each in all these steps, one after the other, ``[rows, N, N]`` by ``[j, i]``.

    Args:
        module: The MultiRLModule, with the players' distributions and the estimator.
        reciprocity: Who takes part.
        episodes: The chunks that the steps are of.
        steps: Their joint steps.
        last: Whether those are the newest step of each alone.
        explore: If True, the players sampled their actions; if False, each took the most likely one.

    Raises:
        ValueError: If a counterfactual is an expectation over the policy of a player that reports no distribution.
    """
    joint = reciprocity.joint
    estimator: MixedRewardModelInfluence = module[INFLUENCE_MODULE_ID].unwrapped()
    reported = [_reported_inputs(episode, each, last=last) for episode, each in zip(episodes, steps, strict=True)]
    state, actions, present = (
        torch.from_numpy(np.concatenate([getattr(each, name) for each in steps]))
        for name in ("state", "actions", "present")
    )
    rows, (n, width) = len(state), joint.action.shape
    # From the policy, and where a uniform choice is mixed in from the action space.
    num_draws = DRAWN_ACTIONS * (2 if estimator.uses_behavior and estimator.uniform_share else 1)
    most = max(*joint.num_options, num_draws if 0 in joint.num_options else 1)
    options, probs = torch.zeros(rows, n, most, width), torch.zeros(rows, n, most)
    starts = np.cumsum([0, *(len(each.state) for each in steps)])[:-1]
    for index, agent in enumerate(joint.agents):
        there = [index for index, each in enumerate(steps) if len(each.rows.get(agent, ()))]
        if not there:
            continue
        where = torch.from_numpy(np.concatenate([starts[index] + steps[index].rows[agent] for index in there]))
        distribution = inputs = None
        if estimator.uses_behavior:
            parts = [part for k in there if (part := reported[k][agent]) is not None]
            if len(parts) < len(there):
                raise ValueError(no_distribution(agent))
            inputs = torch.from_numpy(np.concatenate(parts))
            distribution = _distribution(module, episodes, agent, inputs, explore=explore)
        count = joint.num_options[index]
        if count:
            legal = joint.legal_actions(agent, state[where])
            options[where, index, :count, :count] = torch.eye(count)
            probs[where, index, :count] = _probabilities(distribution, inputs, legal, estimator.uniform_share)
        else:
            drawn, weights = _drawn(distribution, joint.actions[agent], len(where), width, estimator.uniform_share)
            options[where, index, : drawn.shape[1]] = drawn
            probs[where, index, : drawn.shape[1]] = weights
    transition = Transition(state, actions, torch.zeros(rows, n), torch.zeros(rows), torch.zeros(rows, n))
    device = next(estimator.parameters()).device
    moved = Transition(*(values.to(device) for values in transition))
    found = estimator.influence_among(moved, present.to(device), options.to(device), probs.to(device))
    return found.received.cpu()


def no_distribution(agent: Any) -> str:
    """Returns the message for a player that reports no action distribution although counterfactuals need it."""
    return (
        f"players.{agent}: its module returns no {Columns.ACTION_DIST_INPUTS}, which counterfactual policy needs; set"
        f" reciprocity.counterfactual to {UNIFORM}"
    )


def _reported_inputs(episode: MultiAgentEpisode, steps: JointSteps, *, last: bool) -> dict[Any, np.ndarray | None]:
    """Returns the inputs of each agent's action distribution in its own steps, None where its module reports none.

    Args:
        episode: The chunk.
        steps: Its joint steps.
        last: Whether those are the newest step alone.
    """
    inputs = {}
    for agent, at in steps.rows.items():
        own = episode.agent_episodes[agent]
        inputs[agent] = behavior_inputs(own, [-1] if last else slice(len(own) - len(at), len(own)))
    return inputs


def _distribution(
    module: Any, episodes: Sequence[MultiAgentEpisode], agent: Any, inputs: Tensor, *, explore: bool
) -> Any:
    module_id = next(episode.module_for(agent) for episode in episodes if agent in episode.agent_episodes)
    of_agent = module[module_id].unwrapped()
    if explore:
        return of_agent.get_exploration_action_dist_cls().from_logits(inputs)
    return of_agent.get_inference_action_dist_cls().from_logits(inputs).to_deterministic()


def _probabilities(distribution: Any, inputs: Tensor | None, legal: Tensor, uniform_share: float) -> Tensor:
    """Returns the probabilities of the alternatives to each action, ``[rows, A]``.

    The same wherever it is asked, for one step as for a batch of them: what a Reciprocator sees of its balance and what
    it is paid for have to agree.

    Args:
        distribution: The player's; None for a uniform choice alone.
        inputs: What it was made from, ``[rows, inputs]``.
        legal: ``[rows, A]`` bool, the actions that a uniform choice is among.
        uniform_share: Share of the uniform choice.
    """
    uniform = legal / legal.sum(-1, keepdim=True)
    if distribution is None:
        return uniform
    assert inputs is not None
    return (1.0 - uniform_share) * probabilities(distribution, inputs, legal.shape[-1]) + uniform_share * uniform


def _drawn(
    distribution: Any, space: gymnasium.Space, rows: int, width: int, uniform_share: float
) -> tuple[Tensor, Tensor]:
    """Draws alternatives to actions that cannot be counted, from the player's policy and from the action space.

    Args:
        distribution: The player's; None for draws from the action space alone.
        space: The action space.
        rows: How many steps.
        width: Of an encoded action.
        uniform_share: Share of the draws from the action space.

    Returns:
        The alternatives, ``[rows, draws, width]``, and their weights, ``[draws]``, which sum to 1.
    """
    draws: list[Tensor] = []
    weights: list[float] = []
    if distribution is not None:
        of_policy = [tree.map_structure(np.asarray, distribution.sample()) for _ in range(DRAWN_ACTIONS)]
        draws.append(torch.stack([torch.from_numpy(encode(space, actions)) for actions in of_policy], 1))
        weights += [(1.0 - uniform_share) / DRAWN_ACTIONS] * DRAWN_ACTIONS
    share = 1.0 if distribution is None else uniform_share
    if share:
        space = copy.deepcopy(space)
        space.seed(0)
        of_space = encode(space, batched([space.sample() for _ in range(DRAWN_ACTIONS)]))
        draws.append(torch.from_numpy(of_space).expand(rows, -1, -1))
        weights += [share / DRAWN_ACTIONS] * DRAWN_ACTIONS
    drawn = torch.cat(draws, 1)
    padded = torch.cat([drawn, drawn.new_zeros(*drawn.shape[:2], width - drawn.shape[2])], 2)
    return padded, torch.tensor(weights)
