"""Env runners for frozen policies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rllib_reciprocator.engine import BatchedConfig, BatchedEnvRunner
from rllib_reciprocator.evaluation.checkpoints import load_weights
from rllib_reciprocator.intrinsic.reciprocity.settings import RECIPROCITY
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.utils.checkpoints import MODULE_PATH
from rllib_reciprocator.utils.errors import UserError

MAX_GAMES = 4096


def frozen_runner(
    config: BatchedConfig,
    players: Mapping[str, str],
    *,
    episodes: int,
    seed: int | None = None,
    watched_by: Path | None = None,
) -> BatchedEnvRunner:
    """Builds an env runner in which frozen policies play.

    Policies are loaded with the dependencies that their intrinsic rewards need, e.g. the influence estimator and its
    settings.

    Args:
        config: Configuration that defines the environment.
        players: Players by agent. None of them may be trainable.
        episodes: Total number of episodes to play. They are played in up to ``MAX_GAMES`` parallel environments, in
            whole meta-episodes and whole groups of environments if the players need these.
        seed: Seed of environments and players.
        watched_by: Checkpoint whose influence estimator, if it has one, computes the influence for all agents without
            their own estimator.

    Returns:
        The env runner, with weights loaded.

    Raises:
        UserError: If a player is not known, is trainable, was trained in a different game, or lacks a dependency.
    """
    play = config.copy(copy_frozen=False)
    play.players(players).env_runners(num_env_runners=0, rollout_fragment_length="auto")
    play.learners(num_learners=0).training(minibatch_size=None, bootstrap_at_horizon=False).debugging(seed=seed)
    play.in_evaluation = True
    estimator = watched_by / MODULE_PATH / INFLUENCE_MODULE_ID if watched_by else None
    has_estimator = estimator is not None and estimator.is_dir()
    if has_estimator or RECIPROCITY in play.intrinsic_settings:
        play.intrinsic(RECIPROCITY, always_estimate=has_estimator)
    try:
        # The group size is known after validation. Until then, this number of environments is valid in any case.
        play.env_runners(num_envs_per_env_runner=play.meta_settings.copies).validate()
        group_size = play.group_size()
        # Rounds up, so that at least the requested episodes are played.
        groups = -(-min(episodes, MAX_GAMES) // (play.inner_episodes() * group_size))
        play.env_runners(num_envs_per_env_runner=groups * group_size).validate()
    except ValueError as error:
        raise UserError(str(error)) from None
    for player in play.assigned_players:
        if player.learns:
            raise UserError(
                f"players.{player.agent}: policies are not trained here, but {player.written} is trainable;"
                " give checkpoint/PATH or scripted/.."
            )
    runner = BatchedEnvRunner(config=play, worker_index=0)
    specs = runner.config.rl_module_spec.rl_module_specs
    sources = {module_id: Path(spec.load_state_path) for module_id, spec in specs.items() if spec.load_state_path}
    if has_estimator and estimator:
        sources[INFLUENCE_MODULE_ID] = estimator
    load_weights(runner.module, sources)
    return runner
