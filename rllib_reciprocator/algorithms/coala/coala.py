"""The COALA algorithm."""

from __future__ import annotations

from typing import ClassVar

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

# Checkpoints of version 0.1 contain this class under the name of this module.
from rllib_reciprocator.algorithms.coala.settings import COALASettings as COALASettings
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm
from rllib_reciprocator.engine.config import BatchedConfig

COALA_PLAYER = "coala"


class COALAConfig(BatchedConfig):
    """Configuration of :class:`COALA`, for ``coala`` players together with online learners and other players.

    .. code-block:: python

        config = (
            COALAConfig()
            .environment("ipd_v0", env_config={"num_steps": 10})
            .players({"player_0": "coala", "player_1": "learner/pg"})
            .meta(inner_episodes=10, copies=8)
        )
        algorithm = config.build_algo()
    """

    default_player = COALA_PLAYER
    rollouts_are_meta_episodes: ClassVar[bool] = True

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults, which are tuned for the iterated prisoner's dilemma."""
        super().__init__(algo_class=algo_class or COALA)
        self.reward_scale = 0.05
        self.scale_advantages = True
        self.normalize_advantages = False
        self.num_envs_per_env_runner = 1024
        self.gamma = 1.0
        self.lambda_ = 1.0
        self.clip_param = 0.2
        self.entropy_coeff = 0.0
        self.grad_clip = 1.0
        self.num_epochs = 2


class COALA(BatchedAlgorithm):
    """PPO with memory over whole meta-episodes and with credit assignment through the learning of co-players.

    An iteration samples one meta-episode of all groups of environments, in which naive online learners update between
    inner episodes. PPO then trains on the credit of each action
    (:func:`rllib_reciprocator.algorithms.coala.rules.assign_credit`). ``credit: mfos`` gives the algorithm M-FOS.

    Source: Meulemans et al., "Multi-agent cooperation through learning-aware policy gradients", ICLR 2025.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> COALAConfig:
        """Returns the default configuration."""
        return COALAConfig(algo_class=cls)
