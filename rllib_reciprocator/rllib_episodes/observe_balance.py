"""Env-to-module connector: Reciprocators see their influence balance."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity import balance_after
from rllib_reciprocator.rllib_episodes.influence import EpisodeReciprocity, influence_of
from rllib_reciprocator.rllib_episodes.joint_steps import last_joint_step
from rllib_reciprocator.rllib_episodes.observed_balance import space_with_balance, with_balance


class ObserveBalance(ConnectorV2):
    """Moves each running episode's balance on by its last step, and writes it into the newest observations."""

    def __init__(
        self,
        input_observation_space: gymnasium.Space | None = None,
        input_action_space: gymnasium.Space | None = None,
        *,
        reciprocity: EpisodeReciprocity,
    ) -> None:
        """Notes who takes part."""
        self.reciprocity = reciprocity
        super().__init__(input_observation_space, input_action_space)
        self._balances: dict[str, tuple[int, Tensor]] = {}

    def recompute_output_observation_space(
        self, input_observation_space: gymnasium.Space, input_action_space: gymnasium.Space
    ) -> gymnasium.Space:
        """The agents' spaces, those of Reciprocators with their balances."""
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
        rl_module: Any,
        batch: dict[str, Any],
        episodes: list[MultiAgentEpisode],
        explore: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Leaves the batch alone: RLlib takes observations from the episodes."""
        moved = [episode for episode in episodes if episode.env_t > self._known(episode)]
        self._move_on(rl_module, moved, explore=explore is not False)
        joint = self.reciprocity.joint
        for episode in episodes:
            balance = self._balances[episode.id_][1] if episode.id_ in self._balances else None
            for index, agent in enumerate(joint.agents):
                own = episode.agent_episodes.get(agent)
                if agent not in self.reciprocity.observers or own is None or not _newly_seen(episode, agent):
                    continue
                towards = np.zeros(len(joint.agents) - 1, np.float32)
                if balance is not None:
                    others = [j for j in range(len(joint.agents)) if j != index]
                    towards = torch.tanh(balance[others, index] / self.reciprocity.settings.balance_scale).numpy()
                obs = with_balance(joint.observations[agent], own.get_observations(-1), towards)
                own.observation_space = self.observation_space[agent]
                own.set_observations(at_indices=-1, new_data=obs)
            episode.observation_space = self.observation_space
        if not all(episode.is_done for episode in episodes):
            # RLlib passes on all that are being played at once, and those that have just ended by themselves before.
            playing = {episode.id_ for episode in episodes}
            self._balances = {id_: known for id_, known in self._balances.items() if id_ in playing}
        return batch

    def _known(self, episode: MultiAgentEpisode) -> int:
        """Up to which step the episode's balance is known."""
        return self._balances[episode.id_][0] if episode.id_ in self._balances else 0

    def _move_on(self, rl_module: Any, episodes: list[MultiAgentEpisode], *, explore: bool) -> None:
        """Takes the last step of each of these episodes into its balance."""
        if not episodes:
            return
        reciprocity = self.reciprocity
        n = len(reciprocity.joint.agents)
        steps = [
            last_joint_step(episode, reciprocity.joint, reciprocity.observers, reciprocity.horizon)
            for episode in episodes
        ]
        influence = influence_of(rl_module, reciprocity, episodes, steps, last=True, explore=explore)
        before = torch.stack([self._balances.get(e.id_, (0, torch.zeros(n, n)))[1] for e in episodes])
        after = balance_after(before, influence, reciprocity.rule, reciprocity.balance_decay)
        for episode, balance in zip(episodes, after, strict=True):
            self._balances[episode.id_] = (episode.env_t, balance)


def _newly_seen(episode: MultiAgentEpisode, agent: Any) -> bool:
    """Whether the last observation of an agent of this episode is of the present step of the environment."""
    return episode.env_t_to_agent_t[agent].data[-1] != episode.SKIP_ENV_TS_TAG
