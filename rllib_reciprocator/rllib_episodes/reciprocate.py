"""Reciprocity for RLlib's own algorithms: any environment, its own env runners, by one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_reciprocator.rllib_episodes.algorithms import with_players
from rllib_reciprocator.rllib_episodes.composition import (
    SETTINGS,
    SUPPORTED,
    EpisodeSetup,
    check_modules,
    episode_settings,
    module_spaces,
)

# Checkpoints of earlier versions name these functions here.
from rllib_reciprocator.rllib_episodes.composition import learner_pieces as _learner_pieces
from rllib_reciprocator.rllib_episodes.composition import runner_pieces as _runner_pieces
from rllib_reciprocator.utils.ray_internals import drop_warnings

__all__ = [
    "SETTINGS",
    "SUPPORTED",
    "_learner_pieces",
    "_runner_pieces",
    "check_modules",
    "module_spaces",
    "reciprocate",
]


def reciprocate(
    config: AlgorithmConfig,
    players: Mapping[str, Any] | None = None,
    *,
    horizon: int | None = None,
    **reciprocity: Any,
) -> AlgorithmConfig:
    """Makes agents of an RLlib algorithm Reciprocators.

    .. code-block:: python

        config = (
            PPOConfig()
            .environment("my_env")
            .multi_agent(policies=["a", "b"], policy_mapping_fn=lambda agent, episode, **kwargs: agent)
        )
        config = reciprocate(config, players={"a": "reciprocator", "b": "ppo"}, weight=0.5)
        algorithm = config.build_algo()

    Env runners compute influence with a learned reward model and write each step's weighted reciprocal reward into
    their episodes; a learner connector adds it to the rewards; the learners fit the reward model in between. Reported
    returns stay extrinsic. Influence is told between agents that act in the same step of the environment; those who are
    not there have none.

    The configuration and its algorithm become subclasses of their classes, which keep callbacks, connectors, learner
    class, module specs, environment and training settings composed with these additions, whether they are set before or
    after this call. Results have ``reward_per_step`` and, for games of this package, ``outcomes``. With Tune, pass
    ``config.algo_class`` as the trainable.

    Works with PPO, APPO and IMPALA. Not with algorithms that learn from old transitions (DQN, SAC): the influence in
    their replay would be that of policies and an estimator of long ago.

    Args:
        config: A configuration with an environment and its policies; it is changed.
        players: Who plays, by agent or pattern (:func:`rllib_reciprocator.players.assign`); policies, modules and
            policy mapping are then derived from that. If None, all agents reciprocate whose policies learn.
        horizon: Steps of a whole episode where that is fixed: the reward model then sees the time left. None for what
            the environment itself has as its ``horizon``.
        **reciprocity: As for :meth:`ReciprocatorConfig.reciprocity`; the settings in ``SETTINGS``.

    Returns:
        The configuration.

    Raises:
        ValueError: If the algorithm, a setting or an agent is not one that this can be done for.
    """
    drop_warnings()
    episode_settings(config, reciprocity)
    ours = with_players(config)
    ours.set_up(EpisodeSetup(players, reciprocity, horizon, required=True))
    return ours
