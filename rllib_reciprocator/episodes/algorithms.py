"""RLlib's own PPO, APPO and IMPALA, whose settings may hold ``players`` and ``reciprocity``.

The classes are here, and not made where they are asked for, so that checkpoints name them and do not hold their code.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ray.rllib.algorithms import appo, impala, ppo
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.annotations import override

import social_dilemmas
from rllib_reciprocator import environments
from rllib_reciprocator.checkpoints import VersionedCheckpoints
from rllib_reciprocator.divergence import StopsWhenDiverged
from rllib_reciprocator.episodes.additions import add_callbacks
from rllib_reciprocator.episodes.known_environment import known_environment
from rllib_reciprocator.episodes.learners import PlayersLearner, learner_with
from rllib_reciprocator.episodes.modules import assign_players
from rllib_reciprocator.episodes.observations import prepare_observations_of_one
from rllib_reciprocator.episodes.outcomes_callback import EpisodeOutcomesCallback
from rllib_reciprocator.episodes.reciprocate import add_reciprocity, all_that_learn, episode_settings
from rllib_reciprocator.episodes.rewards_callback import RewardPerStepCallback
from rllib_reciprocator.influence.learner import KeepsReplays
from rllib_reciprocator.lost_learners import FailsFastOnLostLearner


class ConfigWithPlayers(AlgorithmConfig):
    """Mixed into a configuration of RLlib's: what files say of players and reciprocity.

    Environments may be named as for :func:`rllib_reciprocator.environments.register`.
    """

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict[str, Any]) -> AlgorithmConfig:
        """Takes settings from a dict, with ``players`` and ``reciprocity`` as in YAML files."""
        rest = {name: value for name, value in config_dict.items() if name not in ("players", "reciprocity")}
        super().update_from_dict(rest)
        if isinstance(self.env, str) and environments.is_known(self.env):
            environments.register(self.env)
        if isinstance(self.env, str) and social_dilemmas.is_game(self.env):
            add_callbacks(self, EpisodeOutcomesCallback)
        add_callbacks(self, RewardPerStepCallback)
        players, reciprocity = config_dict.get("players"), config_dict.get("reciprocity")
        if players is None and reciprocity is None:
            prepare_observations_of_one(self)
            return self
        settings, known = episode_settings(self, reciprocity or {}), known_environment(self)
        reciprocators = all_that_learn(self, known) if players is None else assign_players(self, players, known)
        if reciprocators:
            add_reciprocity(self, known, reciprocators, settings, known.horizon)
        else:
            self.learners(learner_class=learner_with(PlayersLearner, self.learner_class))
        return self


class WithPlayers(StopsWhenDiverged, FailsFastOnLostLearner, KeepsReplays, VersionedCheckpoints):
    """Mixed into an algorithm of RLlib's.

    Attributes:
        config_class: Its configuration's class.
    """

    config_class: ClassVar[type[ConfigWithPlayers]]

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> ConfigWithPlayers:
        """The default configuration."""
        return cls.config_class(algo_class=cls)


class PPOConfig(ConfigWithPlayers, ppo.PPOConfig):
    """RLlib's configuration of PPO."""


class PPO(WithPlayers, ppo.PPO):
    """RLlib's PPO."""

    config_class = PPOConfig


class APPOConfig(ConfigWithPlayers, appo.APPOConfig):
    """RLlib's configuration of APPO."""


class APPO(WithPlayers, appo.APPO):
    """RLlib's APPO."""

    config_class = APPOConfig


class IMPALAConfig(ConfigWithPlayers, impala.IMPALAConfig):
    """RLlib's configuration of IMPALA."""


class IMPALA(WithPlayers, impala.IMPALA):
    """RLlib's IMPALA."""

    config_class = IMPALAConfig
