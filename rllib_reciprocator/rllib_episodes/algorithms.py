"""RLlib's own PPO, APPO and IMPALA, whose settings may hold ``players`` and ``reciprocity``.

The classes are here, and not made where they are asked for, so that checkpoints name them and do not hold their code.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from ray.rllib.algorithms import appo, impala, ppo
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.annotations import override

from rllib_reciprocator.intrinsic.reciprocity.learner import KeepsReplays
from rllib_reciprocator.rllib_episodes import environments
from rllib_reciprocator.rllib_episodes.composition import Composition, EpisodeSetup, check_memory_of_turns, compose
from rllib_reciprocator.rllib_episodes.influence_callback import send_iteration
from rllib_reciprocator.rllib_episodes.learners import RestoringLearner, learner_with
from rllib_reciprocator.rllib_episodes.observations import prepare_observations_of_one
from rllib_reciprocator.utils.checkpoints import VersionedCheckpoints
from rllib_reciprocator.utils.divergence import DivergenceGuard
from rllib_reciprocator.utils.exact_restore import ExactRestore
from rllib_reciprocator.utils.fault_tolerance import FailFastOnLostLearner


class ConfigWithPlayers(AlgorithmConfig):
    """Mixed into a configuration of RLlib's: what files say of players and reciprocity.

    Environments may be named as for :func:`rllib_reciprocator.rllib_episodes.environments.register`.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults."""
        super().__init__(algo_class=algo_class or _ALGORITHMS.get(type(self)))
        self._setup: EpisodeSetup | None = None
        self._composition = Composition()

    def set_up(self, setup: EpisodeSetup) -> None:
        """Adds players and reciprocity.

        Args:
            setup: What the user asks for.

        Raises:
            ValueError: If a player, a setting or the environment is not one that this can be done for.
        """
        self._setup = setup
        self._compose()

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict[str, Any]) -> AlgorithmConfig:
        """Takes settings from a dict, with ``players`` and ``reciprocity`` as in YAML files."""
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
        """Composes this package's additions with what was set since, and checks the settings.

        Raises:
            ValueError: If a setting is not one that the algorithm can have.
        """
        if not self._is_frozen:
            self._compose()
        super().validate()
        if self._setup is not None:
            check_memory_of_turns(self, self._setup)

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> Any:
        """Returns RLlib's learner, whose state includes its entropy and KL coefficients."""
        return learner_with(RestoringLearner, super().get_default_learner_class())

    def keep_composition(self) -> None:
        """Keeps the present composition; policies that are set from now on replace those of the players."""
        self._setup = None

    def _compose(self) -> None:
        if isinstance(self.env, str) and environments.is_known(self.env):
            environments.register(self.env)
        # Configurations of earlier versions, as they are in checkpoints, lack both attributes.
        self._setup = getattr(self, "_setup", None)
        # Configurations that are made from the state of another share the object.
        self._composition = getattr(self, "_composition", Composition()).copy()
        compose(self, self._setup, self._composition)


class WithPlayers(DivergenceGuard, FailFastOnLostLearner, KeepsReplays, ExactRestore, VersionedCheckpoints):
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

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned; env runners get the iteration, which the weight depends on."""
        super().set_state(state)
        if hasattr(self.config, "episode_reciprocity"):
            send_iteration(self)


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


# The algorithm of each configuration's class. It is no attribute of that class: Ray follows the attributes of a
# trainable, and would do so for ever from an algorithm to its configuration and back.
_ALGORITHMS: dict[type, type[WithPlayers]] = {PPOConfig: PPO, APPOConfig: APPO, IMPALAConfig: IMPALA}
_STATIC: dict[tuple[type, type], type[ConfigWithPlayers]] = {
    (ppo.PPOConfig, ppo.PPO): PPOConfig,
    (appo.APPOConfig, appo.APPO): APPOConfig,
    (impala.IMPALAConfig, impala.IMPALA): IMPALAConfig,
}


def with_players(config: AlgorithmConfig) -> ConfigWithPlayers:
    """Turns a configuration of RLlib's, and its algorithm, into ones that may have players and reciprocity.

    Args:
        config: A configuration of PPO, APPO or IMPALA, or of a subclass; it is changed.

    Returns:
        The same object, of a subclass of its class.
    """
    if not isinstance(config, ConfigWithPlayers):
        config_class: Any = type(config)
        subclass = _config_class(config_class, config.algo_class)
        config.__class__ = subclass
        config.algo_class = _ALGORITHMS[subclass]
    return config


@cache
def _config_class(config_class: type, algorithm: type) -> type[ConfigWithPlayers]:
    """Returns the subclass of a configuration's class, of this module for RLlib's own."""
    if (config_class, algorithm) in _STATIC:
        return _STATIC[config_class, algorithm]
    subclass: Any = type(config_class.__name__, (ConfigWithPlayers, config_class), {})
    _ALGORITHMS[subclass] = type(algorithm.__name__, (WithPlayers, algorithm), {"config_class": subclass})
    return subclass
