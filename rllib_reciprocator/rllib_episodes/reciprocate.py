"""Function that adds reciprocity to an RLlib config, for any multi-agent environment and with RLlib's env runners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_reciprocator.rllib_episodes.algorithms import with_players
from rllib_reciprocator.rllib_episodes.composition import EpisodeSetup

# Checkpoints of earlier versions refer to these functions by their names in this module.
from rllib_reciprocator.rllib_episodes.composition import learner_pieces as _learner_pieces
from rllib_reciprocator.rllib_episodes.composition import runner_pieces as _runner_pieces
from rllib_reciprocator.rllib_episodes.episode_settings import episode_settings
from rllib_reciprocator.utils.ray_internals import drop_warnings

__all__ = [
    "_learner_pieces",
    "_runner_pieces",
    "reciprocate",
]


def reciprocate(
    config: AlgorithmConfig,
    players: Mapping[str, Any] | None = None,
    *,
    horizon: int | None = None,
    **reciprocity: object,
) -> AlgorithmConfig:
    """Adds reciprocity to the config of an RLlib algorithm.

    .. code-block:: python

        config = (
            PPOConfig()
            .environment("my_env")
            .multi_agent(policies=["a", "b"], policy_mapping_fn=lambda agent, episode, **kwargs: agent)
        )
        config = reciprocate(config, players={"a": "reciprocator", "b": "ppo"}, weight=0.5)
        algorithm = config.build_algo()

    Env runners compute influence with a learned reward model and write the weighted reciprocal reward of each step into
    their episodes. A learner connector adds it to the rewards. Learners fit the reward model before each update of the
    policies. Reported returns stay extrinsic. Influence is defined between agents that act in the same environment
    step; absent agents have none.

    The classes of the config and of its algorithm are replaced by subclasses. These compose callbacks, connectors,
    learner class, module specs, environment and training settings of the user with those of reciprocity, independently
    of whether they are set before or after this call. Results contain ``reward_per_step`` and, for games of this
    package, ``outcomes``. With Tune, pass ``config.algo_class`` as the trainable.

    PPO, APPO and IMPALA are supported. DQN and SAC are not, since the influence in their replay buffers would be that
    of outdated policies and an outdated estimator.

    Args:
        config: A config with an environment and its policies. It is modified in place.
        players: Players by agent or pattern, see :func:`rllib_reciprocator.players.assign`. Policies, modules and
            policy mapping are then derived from them. If None, all agents with trained policies reciprocate.
        horizon: Length of an episode in environment steps, if it is fixed. The reward model then observes the remaining
            share of the episode. If None, the ``horizon`` of the environment.
        **reciprocity: The settings in ``SETTINGS``, as for :meth:`ReciprocatorConfig.reciprocity`.

    Returns:
        The same config.

    Raises:
        ValueError: If the algorithm, a setting or an agent is not supported.
    """
    drop_warnings()
    episode_settings(config, reciprocity)
    players_config = with_players(config)
    players_config.set_up(EpisodeSetup(players, reciprocity, horizon, required=True))
    return players_config
