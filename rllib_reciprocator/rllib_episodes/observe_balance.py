"""Env-to-module connector that adds the influence balance to the observations of Reciprocators."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.typing import AgentID
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity import balance_after
from rllib_reciprocator.rllib_episodes.influence import EpisodeReciprocity, influence_of
from rllib_reciprocator.rllib_episodes.joint_steps import last_joint_step
from rllib_reciprocator.rllib_episodes.observed_balance import space_with_balance, with_balance


class ObserveBalance(ConnectorV2):
    """Env-to-module connector that adds the influence balance to the observations of Reciprocators.

    Updates the balance of each ongoing episode by its last step, and replaces the latest observation of each observer
    by the observation with its balance.
    """

    def __init__(
        self,
        input_observation_space: gymnasium.Space | None = None,
        input_action_space: gymnasium.Space | None = None,
        *,
        reciprocity: EpisodeReciprocity,
    ) -> None:
        """Initializes the connector.

        Args:
            input_observation_space: Observation spaces by agent, from the previous connector.
            input_action_space: Action spaces by agent, from the previous connector.
            reciprocity: The specification of reciprocity.
        """
        # Set first, because the base class calls recompute_output_observation_space().
        self.reciprocity = reciprocity
        super().__init__(input_observation_space, input_action_space)
        # Environment step and balance ``[N, N]`` after it, by episode id.
        self._balances: dict[str, tuple[int, Tensor]] = {}

    def recompute_output_observation_space(
        self, input_observation_space: gymnasium.Space, input_action_space: gymnasium.Space
    ) -> gymnasium.Space:
        """Returns the observation spaces by agent, extended by the balance for observers."""
        num_balances = len(self.reciprocity.joint.agents) - 1
        return spaces.Dict(
            {
                agent: space_with_balance(space, num_balances) if agent in self.reciprocity.observers else space
                for agent, space in input_observation_space.spaces.items()
            }
        )

    def __call__(
        self,
        *,
        rl_module: MultiRLModule,
        batch: dict[str, Any],
        episodes: list[MultiAgentEpisode],
        explore: bool | None = None,
        **kwargs: object,
    ) -> dict[str, Any]:
        """Adds the balance to the episodes' latest observations.

        The batch is returned unchanged, because RLlib reads observations from the episodes.
        """
        advanced_episodes = [episode for episode in episodes if episode.env_t > self._known(episode)]
        self._move_on(rl_module, advanced_episodes, explore=explore is not False)
        joint = self.reciprocity.joint
        for episode in episodes:
            balance = self._balances[episode.id_][1] if episode.id_ in self._balances else None
            for index, agent in enumerate(joint.agents):
                agent_episode = episode.agent_episodes.get(agent)
                if (
                    agent not in self.reciprocity.observers
                    or agent_episode is None
                    or not _has_new_observation(episode, agent)
                ):
                    continue
                observed_balance = np.zeros(len(joint.agents) - 1, np.float32)
                if balance is not None:
                    co_players = [j for j in range(len(joint.agents)) if j != index]
                    observed_balance = torch.tanh(
                        balance[co_players, index] / self.reciprocity.settings.balance_scale
                    ).numpy()
                obs = with_balance(joint.observations[agent], agent_episode.get_observations(-1), observed_balance)
                agent_episode.observation_space = self.observation_space[agent]
                agent_episode.set_observations(at_indices=-1, new_data=obs)
            episode.observation_space = self.observation_space
        if not all(episode.is_done for episode in episodes):
            # RLlib passes finished episodes in a call of their own, before the call with all ongoing episodes.
            ongoing_ids = {episode.id_ for episode in episodes}
            self._balances = {id_: entry for id_, entry in self._balances.items() if id_ in ongoing_ids}
        return batch

    def _known(self, episode: MultiAgentEpisode) -> int:
        """Returns the environment step up to which the episode's balance is computed."""
        return self._balances[episode.id_][0] if episode.id_ in self._balances else 0

    def _move_on(self, rl_module: MultiRLModule, episodes: list[MultiAgentEpisode], *, explore: bool) -> None:
        """Updates the balance of each episode by its last step."""
        if not episodes:
            return
        reciprocity = self.reciprocity
        n = len(reciprocity.joint.agents)
        steps = [
            last_joint_step(episode, reciprocity.joint, reciprocity.observers, reciprocity.horizon)
            for episode in episodes
        ]
        influence = influence_of(rl_module, reciprocity, episodes, steps, last=True, explore=explore)
        balances = torch.stack([self._balances.get(episode.id_, (0, torch.zeros(n, n)))[1] for episode in episodes])
        next_balances = balance_after(balances, influence, reciprocity.rule, reciprocity.balance_decay)
        for episode, balance in zip(episodes, next_balances, strict=True):
            self._balances[episode.id_] = (episode.env_t, balance)


def _has_new_observation(episode: MultiAgentEpisode, agent: AgentID) -> bool:
    """Returns True if the agent's last observation belongs to the current environment step."""
    return episode.env_t_to_agent_t[agent].data[-1] != episode.SKIP_ENV_TS_TAG
