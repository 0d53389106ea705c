"""Runners in which players play who no longer learn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rllib_reciprocator.engine import BatchedConfig, BatchedEnvRunner
from rllib_reciprocator.evaluation.checkpoints import load_weights
from rllib_reciprocator.experiments.errors import UserError
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.players import RECIPROCITY
from rllib_reciprocator.utils.checkpoints import MODULE_PATH

MAX_GAMES = 4096


def frozen_runner(
    config: BatchedConfig,
    players: Mapping[str, str],
    *,
    episodes: int,
    seed: int | None = None,
    watched_by: Path | None = None,
    runner_class: type[BatchedEnvRunner] = BatchedEnvRunner,
) -> BatchedEnvRunner:
    """A runner in which these players play. Each brings what it goes by: module, influence estimator, settings.

    Args:
        config: Of the run that says which game is played.
        players: Player by agent; none that learns.
        episodes: Number of episodes to play, of all games together. They are played in parallel up to a limit, and in
            whole meta-episodes and whole groups of copies where the players need these.
        seed: Seeds the games and the players.
        watched_by: A checkpoint whose influence estimator tells of those who bring none, if there is one in it.
        runner_class: Class of the runner.

    Raises:
        UserError: If a player is not known, learns, is of another game, or lacks what it goes by.
    """
    play = config.copy(copy_frozen=False)
    play.players(players).env_runners(num_env_runners=0, rollout_fragment_length="auto")
    play.learners(num_learners=0).training(minibatch_size=None, bootstrap_at_horizon=False).debugging(seed=seed)
    play.in_evaluation = True
    estimator = watched_by / MODULE_PATH / INFLUENCE_MODULE_ID if watched_by else None
    watched = estimator is not None and estimator.is_dir()
    if watched or RECIPROCITY in play.intrinsic_settings:
        play.intrinsic(RECIPROCITY, always_estimate=watched)
    try:
        # A size that is valid with and without groups, until the players are known.
        play.env_runners(num_envs_per_env_runner=play.meta_settings.copies).validate()
        copies = play.group_size()
        groups = -(-min(episodes, MAX_GAMES) // (play.inner_episodes() * copies))
        play.env_runners(num_envs_per_env_runner=groups * copies).validate()
    except ValueError as error:
        raise UserError(str(error)) from None
    for player in play.assigned_players:
        if player.learns:
            raise UserError(
                f"players.{player.agent}: nobody learns here, and {player.written} does;"
                " give checkpoint/PATH or scripted/.."
            )
    runner = runner_class(config=play, worker_index=0)
    specs = runner.config.rl_module_spec.rl_module_specs
    sources = {module_id: Path(spec.load_state_path) for module_id, spec in specs.items() if spec.load_state_path}
    if watched and estimator:
        sources[INFLUENCE_MODULE_ID] = estimator
    load_weights(runner.module, sources)
    return runner
