"""Influence between the agents of RLlib's multi-agent episodes, computed from joint steps."""

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
from ray.rllib.core.distribution.distribution import Distribution
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.spaces.space_utils import batch as batched
from ray.rllib.utils.typing import AgentID
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity import ReciprocalRule, ReciprocitySettings
from rllib_reciprocator.intrinsic.reciprocity.estimators import MixedRewardModelInfluence, Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import UNIFORM
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.models import probabilities
from rllib_reciprocator.rllib_episodes.encoding import encode
from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces, JointSteps, behavior_inputs, joint_steps

# Number of actions sampled to approximate the policy where the action space is not discrete.
DRAWN_ACTIONS = 8


@dataclass(frozen=True)
class EpisodeReciprocity:
    """Specification of reciprocity for env runners and connectors.

    Attributes:
        joint: The agents and their spaces.
        reciprocators: The agents that reciprocate.
        settings: Settings of reciprocity, with all defaults resolved that depend on the environment.
        horizon: Length of an episode in environment steps; None if it is not fixed.
    """

    joint: JointSpaces
    reciprocators: tuple[Any, ...]
    settings: ReciprocitySettings
    horizon: int | None

    @property
    def rule(self) -> ReciprocalRule:
        """Returns the rule of the reciprocal reward."""
        return self.settings.rule

    @property
    def balance_decay(self) -> float:
        """Returns the factor by which the balance is discounted per step."""
        assert self.settings.balance_decay is not None
        return self.settings.balance_decay

    def weight(self, iteration: int) -> float:
        """Returns the weight of the reciprocal reward in a training iteration, counted from 0."""
        return self.settings.weight_at(iteration)

    @property
    def observers(self) -> tuple[Any, ...]:
        """Returns the agents whose observations contain their influence balance."""
        return self.reciprocators if self.settings.observe_balance else ()

    def joint_steps(self, episode: MultiAgentEpisode, artificial: int = 0) -> JointSteps:
        """Returns the joint steps of an episode chunk, with the environment's original observations."""
        return joint_steps(episode, self.joint, self.observers, self.horizon, artificial)


def influence_of(
    module: MultiRLModule,
    reciprocity: EpisodeReciprocity,
    episodes: Sequence[MultiAgentEpisode],
    steps: Sequence[JointSteps],
    *,
    last: bool = False,
    explore: bool = True,
) -> Tensor:
    """Computes the influence between all agents at all steps of several episode chunks.

    Args:
        module: The MultiRLModule that contains the players' modules and the estimator.
        reciprocity: The specification of reciprocity.
        episodes: The episode chunks.
        steps: The joint steps of each chunk.
        last: If True, ``steps`` contains only the last step of each chunk.
        explore: If True, the players sampled their actions; if False, they took the most likely action.

    Returns:
        Influence ``[rows, N, N]``, indexed ``[j, i]`` with the influencer first. Rows are the steps of the first chunk,
        then those of the second chunk, and so on.

    Raises:
        ValueError: If counterfactuals are expectations over the policies, and a player reports no action distribution.
    """
    joint = reciprocity.joint
    estimator: MixedRewardModelInfluence = module[INFLUENCE_MODULE_ID].unwrapped()
    reported_inputs = [
        _reported_inputs(episode, chunk_steps, last=last) for episode, chunk_steps in zip(episodes, steps, strict=True)
    ]
    state, actions, present = (
        torch.from_numpy(np.concatenate([getattr(chunk_steps, name) for chunk_steps in steps]))
        for name in ("state", "actions", "present")
    )
    rows, (n, width) = len(state), joint.action.shape
    # Non-discrete actions are sampled from the policy or the action space, from both if uniform actions are mixed in.
    num_draws = DRAWN_ACTIONS * (2 if estimator.uses_behavior and estimator.uniform_share else 1)
    max_options = max(*joint.num_options, num_draws if 0 in joint.num_options else 1)
    options, probs = torch.zeros(rows, n, max_options, width), torch.zeros(rows, n, max_options)
    starts = np.cumsum([0, *(len(chunk_steps.state) for chunk_steps in steps)])[:-1]
    for index, agent in enumerate(joint.agents):
        chunks = [k for k, chunk_steps in enumerate(steps) if len(chunk_steps.rows.get(agent, ()))]
        if not chunks:
            continue
        agent_rows = torch.from_numpy(np.concatenate([starts[k] + steps[k].rows[agent] for k in chunks]))
        distribution = inputs = None
        if estimator.uses_behavior:
            parts = [part for k in chunks if (part := reported_inputs[k][agent]) is not None]
            if len(parts) < len(chunks):
                raise ValueError(no_distribution(agent))
            inputs = torch.from_numpy(np.concatenate(parts))
            distribution = _distribution(module, episodes, agent, inputs, explore=explore)
        count = joint.num_options[index]
        if count:
            legal = joint.legal_actions(agent, state[agent_rows])
            options[agent_rows, index, :count, :count] = torch.eye(count)
            probs[agent_rows, index, :count] = _probabilities(distribution, inputs, legal, estimator.uniform_share)
        else:
            samples, weights = _sample_actions(
                distribution, joint.actions[agent], len(agent_rows), width, estimator.uniform_share
            )
            options[agent_rows, index, : samples.shape[1]] = samples
            probs[agent_rows, index, : samples.shape[1]] = weights
    # influence_among() reads state and actions only; the other fields are placeholders.
    transition = Transition(state, actions, torch.zeros(rows, n), torch.zeros(rows), torch.zeros(rows, n))
    device = next(estimator.parameters()).device
    device_transition = Transition(*(values.to(device) for values in transition))
    influence = estimator.influence_among(device_transition, present.to(device), options.to(device), probs.to(device))
    return influence.received.cpu()


def no_distribution(agent: AgentID) -> str:
    """Returns the error message for a player that reports no action distribution although counterfactuals need it."""
    return (
        f"players.{agent}: its module returns no {Columns.ACTION_DIST_INPUTS}, which counterfactual policy needs; set"
        f" reciprocity.counterfactual to {UNIFORM}"
    )


def _reported_inputs(episode: MultiAgentEpisode, steps: JointSteps, *, last: bool) -> dict[Any, np.ndarray | None]:
    """Returns the inputs of each agent's action distribution at its own steps; None if its module reports none.

    Args:
        episode: The episode chunk.
        steps: Its joint steps.
        last: If True, ``steps`` contains only the last step of the chunk.
    """
    inputs = {}
    for agent, rows in steps.rows.items():
        agent_episode = episode.agent_episodes[agent]
        inputs[agent] = behavior_inputs(
            agent_episode, [-1] if last else slice(len(agent_episode) - len(rows), len(agent_episode))
        )
    return inputs


def _distribution(
    module: MultiRLModule, episodes: Sequence[MultiAgentEpisode], agent: AgentID, inputs: Tensor, *, explore: bool
) -> Any:
    module_id = next(episode.module_for(agent) for episode in episodes if agent in episode.agent_episodes)
    agent_module = module[module_id].unwrapped()
    if explore:
        return agent_module.get_exploration_action_dist_cls().from_logits(inputs)
    return agent_module.get_inference_action_dist_cls().from_logits(inputs).to_deterministic()


def _probabilities(distribution: Distribution, inputs: Tensor | None, legal: Tensor, uniform_share: float) -> Tensor:
    """Returns the counterfactual probabilities of discrete actions, ``[rows, A]``.

    The result for a step must not depend on the other steps of the batch: the balance that a Reciprocator observes is
    computed step by step, and the balance in its reciprocal reward is computed for whole chunks.

    Args:
        distribution: The player's action distribution. If None, the uniform distribution is used.
        inputs: Inputs of the action distribution, ``[rows, inputs]``.
        legal: Mask of the legal actions, over which the uniform distribution extends, ``[rows, A]`` bool.
        uniform_share: Weight of the uniform distribution in the mixture.
    """
    uniform = legal / legal.sum(-1, keepdim=True)
    if distribution is None:
        return uniform
    assert inputs is not None
    return (1.0 - uniform_share) * probabilities(distribution, inputs, legal.shape[-1]) + uniform_share * uniform


def _sample_actions(
    distribution: Distribution, space: gymnasium.Space, rows: int, width: int, uniform_share: float
) -> tuple[Tensor, Tensor]:
    """Samples counterfactual actions from the player's policy and from the action space, if this is not discrete.

    Args:
        distribution: The player's action distribution. If None, actions are sampled from the action space only.
        space: The action space.
        rows: Number of steps.
        width: Width of an encoded action.
        uniform_share: Total weight of the samples from the action space.

    Returns:
        The encoded actions, ``[rows, samples, width]``, and their weights, ``[samples]``, which sum to 1.
    """
    draws: list[Tensor] = []
    weights: list[float] = []
    if distribution is not None:
        policy_samples = [tree.map_structure(np.asarray, distribution.sample()) for _ in range(DRAWN_ACTIONS)]
        draws.append(torch.stack([torch.from_numpy(encode(space, actions)) for actions in policy_samples], 1))
        weights += [(1.0 - uniform_share) / DRAWN_ACTIONS] * DRAWN_ACTIONS
    share = 1.0 if distribution is None else uniform_share
    if share:
        # A seeded copy gives the same samples for a step and for a whole chunk, and leaves the space's generator alone.
        space = copy.deepcopy(space)
        space.seed(0)
        space_samples = encode(space, batched([space.sample() for _ in range(DRAWN_ACTIONS)]))
        draws.append(torch.from_numpy(space_samples).expand(rows, -1, -1))
        weights += [share / DRAWN_ACTIONS] * DRAWN_ACTIONS
    samples = torch.cat(draws, 1)
    padded_samples = torch.cat([samples, samples.new_zeros(*samples.shape[:2], width - samples.shape[2])], 2)
    return padded_samples, torch.tensor(weights)
