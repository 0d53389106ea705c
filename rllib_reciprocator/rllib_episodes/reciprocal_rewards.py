"""Learner connectors that add reciprocal rewards to the rewards and joint steps to the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_reciprocator.intrinsic.reciprocity.estimators.mixed_reward_model import PRESENT
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.rllib_episodes.influence import EpisodeReciprocity
from rllib_reciprocator.rllib_episodes.joint_steps import check_rewards

# Column of episodes with the weighted reciprocal reward of each step.
INTRINSIC_REWARD = "intrinsic_reward"
# Key of the joint steps in the connectors' shared data.
JOINT_STEPS = "joint_steps"


class AddReciprocalRewards(ConnectorV2):
    """Learner connector that adds the sum of extrinsic and reciprocal rewards to the batch.

    The rewards in the episodes, and therefore the reported returns, stay extrinsic. The connector has to come before
    RLlib's default connectors, which skip columns that exist already. It stores the joint steps for
    :class:`AddJointSteps`.
    """

    def __init__(self, reciprocity: EpisodeReciprocity) -> None:
        """Initializes the connector with the specification of reciprocity."""
        super().__init__()
        self.reciprocity = reciprocity

    def __call__(
        self,
        *,
        rl_module: MultiRLModule,
        batch: dict[str, Any],
        episodes: list[Any],
        shared_data: dict[str, Any],
        **kwargs: object,
    ) -> dict[str, Any]:
        """Adds rewards to the batch and joint steps to the shared data.

        Raises:
            ValueError: If a reward is not finite.
        """
        # RLlib has appended one artificial step to each episode, for the bootstrap value.
        artificial = int(bool(shared_data.get("_added_loss_mask_for_valid_episode_ts")))
        steps = [self.reciprocity.joint_steps(episode, artificial) for episode in episodes]
        # Rewards are checked in the learner and not in the env runner, because RLlib restarts env runners that fail and
        # continues.
        for episode, chunk_steps in zip(episodes, steps, strict=True):
            check_rewards(episode, chunk_steps, self.reciprocity.joint)
        shared_data[JOINT_STEPS] = {
            name: np.concatenate([getattr(chunk_steps, name) for chunk_steps in steps])
            for name in ("state", "actions", "rewards", PRESENT)
        }
        for agent_episode in self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False):
            _check_memory(agent_episode)
            rewards = np.asarray(agent_episode.get_rewards(slice(0, len(agent_episode))), np.float32)
            if INTRINSIC_REWARD in agent_episode.extra_model_outputs:
                rewards = rewards + agent_episode.get_extra_model_outputs(
                    INTRINSIC_REWARD, slice(0, len(agent_episode))
                )
            self.add_n_batch_items(batch, Columns.REWARDS, rewards, len(agent_episode), agent_episode)
        return batch


def _check_memory(agent_episode: SingleAgentEpisode) -> None:
    """Raises ValueError if a chunk lacks the recurrent state before it: its agent did not act before the truncation."""
    states = agent_episode.extra_model_outputs.get(Columns.STATE_OUT)
    if states is not None and agent_episode.t_started > 0 and states.lookback == 0:
        raise ValueError(
            f"batch_mode: {agent_episode.agent_id} is stateful and does not act in every step, and RLlib loses its"
            " state where episodes are truncated; set batch_mode to complete_episodes"
        )


class AddJointSteps(ConnectorV2):
    """Learner connector that adds the joint steps to the batch as the batch of the estimator module.

    It has to come last, so that RLlib's connectors do not batch and pad the joint steps.
    """

    def __call__(self, *, batch: dict[str, Any], shared_data: dict[str, Any], **kwargs: object) -> dict[str, Any]:
        """Adds the joint steps to the batch."""
        joint = shared_data.pop(JOINT_STEPS)
        batch[INFLUENCE_MODULE_ID] = {name: torch.from_numpy(values) for name, values in joint.items()}
        return batch
