"""Players who no longer learn, in the seats of one of our games."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rllib_reciprocator.algorithms.reciprocator import ReciprocatorConfig
from rllib_reciprocator.analysis.checkpoints import load_weights
from rllib_reciprocator.checkpoints import MODULE_PATH
from rllib_reciprocator.experiments.errors import UserError
from rllib_reciprocator.rollout import INFLUENCE_MODULE_ID, BatchedEnvRunner


def seat(
    config: ReciprocatorConfig,
    players: Mapping[str, str],
    *,
    games: int,
    seed: int | None = None,
    estimator: Path | None = None,
    influence: bool = False,
    runner_class: type[BatchedEnvRunner] = BatchedEnvRunner,
) -> BatchedEnvRunner:
    """A runner in which these players play.

    Args:
        config: Of the run that says which game is played, and how influence and balance are reckoned.
        players: Player by seat; none that learns.
        games: How many games are played at once.
        seed: Seeds the games and the players.
        estimator: A checkpoint from which the influence estimator is taken, if there is one in it.
        influence: Whether influence is computed even if no player sees its balance.
        runner_class: Class of the runner.

    Raises:
        UserError: If a player is not known, learns, or is of another game.
    """
    play = config.copy(copy_frozen=False)
    play.players(players).env_runners(num_envs_per_env_runner=games, num_env_runners=0, rollout_fragment_length="auto")
    play.learners(num_learners=0).training(minibatch_size=None).debugging(seed=seed)
    play.in_evaluation = True
    if influence:
        play.reciprocity(always_estimate=True)
    try:
        play.validate()
    except ValueError as error:
        raise UserError(str(error)) from None
    for player in play.seated():
        if player.learns:
            raise UserError(
                f"players.{player.seat}: nobody learns here, and {player.written} does;"
                " give checkpoint/PATH or scripted/.."
            )
    runner = runner_class(config=play, worker_index=0)
    specs = runner.config.rl_module_spec.rl_module_specs
    sources = {module_id: Path(spec.load_state_path) for module_id, spec in specs.items() if spec.load_state_path}
    if estimator and INFLUENCE_MODULE_ID in specs and has_estimator(estimator):
        sources[INFLUENCE_MODULE_ID] = estimator / MODULE_PATH / INFLUENCE_MODULE_ID
    load_weights(runner.module, sources)
    return runner


def has_estimator(checkpoint: Path) -> bool:
    """Whether there is an influence estimator in a checkpoint."""
    return (checkpoint / MODULE_PATH / INFLUENCE_MODULE_ID).is_dir()
