"""RLlib's PPO, APPO and IMPALA with the settings ``players`` and ``reciprocity``.

The classes are defined at module level rather than created on demand, so that checkpoints refer to them by name and do
not contain their code.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from ray.rllib.algorithms import appo, impala, ppo
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.annotations import override

from rllib_reciprocator.engine.rule_states import KeepsRuleStates
from rllib_reciprocator.rllib_episodes import environments
from rllib_reciprocator.rllib_episodes.composition import Composition, EpisodeSetup, compose
from rllib_reciprocator.rllib_episodes.influence_callback import send_iteration
from rllib_reciprocator.rllib_episodes.learners import RestoringLearner, learner_with
from rllib_reciprocator.rllib_episodes.module_checks import check_memory_of_turns
from rllib_reciprocator.rllib_episodes.observations import prepare_observations_of_one
from rllib_reciprocator.utils.checkpoints import VersionedCheckpoints
from rllib_reciprocator.utils.divergence import DivergenceGuard
from rllib_reciprocator.utils.exact_restore import ExactRestore
from rllib_reciprocator.utils.fault_tolerance import FailFastOnLostLearner


class ConfigWithPlayers(AlgorithmConfig):
    """Config mixin that adds the settings ``players`` and ``reciprocity`` to an RLlib ``AlgorithmConfig``.

    ``env`` also accepts the names that :func:`rllib_reciprocator.rllib_episodes.environments.register` accepts.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        """Initializes the config with the default settings."""
        super().__init__(algo_class=algo_class or _ALGORITHMS.get(type(self)))
        self._setup: EpisodeSetup | None = None
        self._composition = Composition()

    def set_up(self, setup: EpisodeSetup) -> None:
        """Adds players and reciprocity.

        Args:
            setup: The players and the settings of reciprocity.

        Raises:
            ValueError: If a player, a setting or the environment is not supported.
        """
        self._setup = setup
        self._compose()

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict[str, Any]) -> AlgorithmConfig:
        """Updates the settings from a dict, in which ``players`` and ``reciprocity`` have the form of YAML files."""
        rest = {name: value for name, value in config_dict.items() if name not in ("players", "reciprocity")}
        super().update_from_dict(rest)
        players, reciprocity = config_dict.get("players"), config_dict.get("reciprocity")
        if players is not None or reciprocity is not None:
            self._setup = EpisodeSetup(players, reciprocity or {})
        if self._setup is None:
            prepare_observations_of_one(self)
        self._compose()
        return self

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Composes this package's additions with the values set since the last composition, and checks all settings.

        Raises:
            ValueError: If the algorithm does not support a setting.
        """
        if not self._is_frozen:
            self._compose()
        super().validate()
        if self._setup is not None:
            check_memory_of_turns(self, self._setup)

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> Any:
        """Returns RLlib's default learner class, extended by entropy and KL coefficients in its state."""
        return learner_with(RestoringLearner, super().get_default_learner_class())

    def keep_composition(self) -> None:
        """Freezes the current composition; policies that are set later replace the players' policies."""
        self._setup = None

    def _compose(self) -> None:
        if isinstance(self.env, str) and environments.is_known(self.env):
            environments.register(self.env)
        # Configs in checkpoints of earlier versions lack both attributes.
        self._setup = getattr(self, "_setup", None)
        # A config that was created from the state of another config shares its composition object.
        self._composition = getattr(self, "_composition", Composition()).copy()
        compose(self, self._setup, self._composition)


class WithPlayers(DivergenceGuard, FailFastOnLostLearner, KeepsRuleStates, ExactRestore, VersionedCheckpoints):
    """Algorithm mixin for RLlib algorithms with ``players`` and ``reciprocity``.

    Attributes:
        config_class: The class of the algorithm's config.
    """

    config_class: ClassVar[type[ConfigWithPlayers]]

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> ConfigWithPlayers:
        """Returns the default config."""
        return cls.config_class(algo_class=cls)

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state and sends the iteration to the env runners, whose reciprocal weight depends on it."""
        super().set_state(state)
        if hasattr(self.config, "episode_reciprocity"):
            send_iteration(self)


class PPOConfig(ConfigWithPlayers, ppo.PPOConfig):
    """Config of RLlib's PPO with players and reciprocity."""


class PPO(WithPlayers, ppo.PPO):
    """RLlib's PPO with players and reciprocity."""

    config_class = PPOConfig


class APPOConfig(ConfigWithPlayers, appo.APPOConfig):
    """Config of RLlib's APPO with players and reciprocity."""


class APPO(WithPlayers, appo.APPO):
    """RLlib's APPO with players and reciprocity."""

    config_class = APPOConfig


class IMPALAConfig(ConfigWithPlayers, impala.IMPALAConfig):
    """Config of RLlib's IMPALA with players and reciprocity."""


class IMPALA(WithPlayers, impala.IMPALA):
    """RLlib's IMPALA with players and reciprocity."""

    config_class = IMPALAConfig


# Config class -> algorithm class. The algorithm class is not an attribute of the config class, because Ray follows the
# attributes of a trainable and would recurse endlessly from the algorithm to its config and back.
_ALGORITHMS: dict[type, type[WithPlayers]] = {PPOConfig: PPO, APPOConfig: APPO, IMPALAConfig: IMPALA}
_STATIC: dict[tuple[type, type], type[ConfigWithPlayers]] = {
    (ppo.PPOConfig, ppo.PPO): PPOConfig,
    (appo.APPOConfig, appo.APPO): APPOConfig,
    (impala.IMPALAConfig, impala.IMPALA): IMPALAConfig,
}


def with_players(config: AlgorithmConfig) -> ConfigWithPlayers:
    """Converts an RLlib config and its algorithm class to classes that support players and reciprocity.

    Args:
        config: A config of PPO, APPO or IMPALA, or of a subclass. It is modified in place.

    Returns:
        The same object. Its class is now a subclass of its original class.
    """
    if not isinstance(config, ConfigWithPlayers):
        config_class: Any = type(config)
        subclass = _config_class(config_class, config.algo_class)
        config.__class__ = subclass
        config.algo_class = _ALGORITHMS[subclass]
    return config


@cache
def _config_class(config_class: type, algorithm: type) -> type[ConfigWithPlayers]:
    """Returns the subclass of a config class: one of this module for RLlib's classes, else a newly created one."""
    if (config_class, algorithm) in _STATIC:
        return _STATIC[config_class, algorithm]
    subclass: Any = type(config_class.__name__, (ConfigWithPlayers, config_class), {})
    _ALGORITHMS[subclass] = type(algorithm.__name__, (WithPlayers, algorithm), {"config_class": subclass})
    return subclass
