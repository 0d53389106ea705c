"""Learner connector: reciprocal rewards into the rewards, joint steps to the estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_reciprocator.intrinsic.reciprocity.estimators.mixed_reward_model import PRESENT
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.rllib_episodes.influence import EpisodeReciprocity
from rllib_reciprocator.rllib_episodes.joint_steps import check_rewards

# Column of episodes: the weighted reciprocal reward of each step.
INTRINSIC_REWARD = "intrinsic_reward"
JOINT_STEPS = "joint_steps"


class AddReciprocalRewards(ConnectorV2):
    """Puts rewards with the reciprocal ones in them into the batch; hands the joint steps on to :class:`AddJointSteps`.

    What the episodes hold, and so what is reported, stays extrinsic. Comes before RLlib's own pieces, which leave
    columns alone that are there already.
    """

    def __init__(self, reciprocity: EpisodeReciprocity) -> None:
        """Notes who takes part."""
        super().__init__()
        self.reciprocity = reciprocity

    def __call__(
        self, *, rl_module: Any, batch: dict[str, Any], episodes: list[Any], shared_data: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        """Adds to the batch.

        Raises:
            ValueError: If a reward is not finite. Here and not where it was sampled, because RLlib restarts env runners
                that fail and goes on.
        """
        # RLlib has by now put one step that did not happen at the end of each episode, for the value after it.
        artificial = int(bool(shared_data.get("_added_loss_mask_for_valid_episode_ts")))
        steps = [self.reciprocity.joint_steps(episode, artificial) for episode in episodes]
        for episode, each in zip(episodes, steps, strict=True):
            check_rewards(episode, each, self.reciprocity.joint)
        shared_data[JOINT_STEPS] = {
            name: np.concatenate([getattr(each, name) for each in steps])
            for name in ("state", "actions", "rewards", PRESENT)
        }
        for own in self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False):
            _check_memory(own)
            rewards = np.asarray(own.get_rewards(slice(0, len(own))), np.float32)
            if INTRINSIC_REWARD in own.extra_model_outputs:
                rewards = rewards + own.get_extra_model_outputs(INTRINSIC_REWARD, slice(0, len(own)))
            self.add_n_batch_items(batch, Columns.REWARDS, rewards, len(own), own)
        return batch


def _check_memory(own: SingleAgentEpisode) -> None:
    """Raises ValueError if the memory before a chunk is missing, as where its agent did not act before the cut."""
    states = own.extra_model_outputs.get(Columns.STATE_OUT)
    if states is not None and own.t_started > 0 and states.lookback == 0:
        raise ValueError(
            f"batch_mode: {own.agent_id} has a memory and does not act in every step, and RLlib loses the memory where"
            " episodes are cut; set it to complete_episodes"
        )


class AddJointSteps(ConnectorV2):
    """Puts the joint steps into the batch as the estimator's part; comes last, when all else is batched and padded."""

    def __call__(self, *, batch: dict[str, Any], shared_data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds to the batch."""
        joint = shared_data.pop(JOINT_STEPS)
        batch[INFLUENCE_MODULE_ID] = {name: torch.from_numpy(values) for name, values in joint.items()}
        return batch
