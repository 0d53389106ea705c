"""Plays a checkpoint's players, without learning."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.checkpoints import Checkpointable
from rich.table import Table
from torch import Tensor

from rllib_reciprocator import environments
from rllib_reciprocator.algorithms.reciprocator import ReciprocatorConfig
from rllib_reciprocator.experiments.errors import UserError, unknown
from rllib_reciprocator.experiments.intervals import mean_and_half_width
from rllib_reciprocator.players import MODULE_PATH
from rllib_reciprocator.players.frozen import read_constructor
from rllib_reciprocator.rollout import INFLUENCE_MODULE_ID, BatchedEnvRunner

MAX_GAMES = 4096


def read_config(checkpoint: Path) -> AlgorithmConfig:
    """The configuration that a checkpoint was made with.

    Raises:
        UserError: If the folder is no checkpoint or its files cannot be read.
    """
    file = checkpoint / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME
    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint}: no such checkpoint")
    if not file.is_file() or not (checkpoint / MODULE_PATH).is_dir():
        raise UserError(f"{checkpoint}: not an Algorithm checkpoint (it has no {file.name} or no {MODULE_PATH})")
    try:
        algorithm, (state,), _ = read_constructor(checkpoint)
        return algorithm.get_default_config().from_state(state)  # type: ignore[attr-defined]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None


def evaluate(
    checkpoint: Path,
    episodes: int,
    players: Mapping[str, str] | None = None,
    *,
    seed: int | None = None,
    explore: bool = True,
) -> dict[str, Any]:
    """Plays episodes with a checkpoint's players, or with others on some seats.

    Args:
        checkpoint: An Algorithm checkpoint of ``Reciprocator``.
        episodes: How many episodes.
        players: Who sits on a seat instead of its player in training: ``scripted/STRATEGY`` or ``checkpoint/PATH``.
        seed: Seeds the games and the players.
        explore: Whether players draw their actions; if not, they take the likeliest.

    Returns:
        Who played, and per player the extrinsic return and each outcome with 95% confidence intervals over episodes.

    Raises:
        UserError: If the checkpoint or a player is not one.
    """
    config = read_config(checkpoint)
    if not isinstance(config, ReciprocatorConfig):
        raise UserError(f"{checkpoint}: was trained by {config.algo_class.__name__}; evaluate it with evaluate_stock()")
    trained = {player.seat: player for player in config.seated()}
    mapping = {
        seat: f"checkpoint/{checkpoint}#{seat}" if player.learns else player.written for seat, player in trained.items()
    }
    names = {seat: player.name for seat, player in trained.items()}
    for seat, player_name in (players or {}).items():
        if seat not in trained:
            raise UserError(f"--players {seat}: {unknown(seat, trained)}")
        mapping[seat] = names[seat] = player_name

    games = min(episodes, MAX_GAMES)
    play = config.copy(copy_frozen=False)
    play.players(mapping).env_runners(num_envs_per_env_runner=games, num_env_runners=0, rollout_fragment_length="auto")
    play.learners(num_learners=0).training(minibatch_size=None).debugging(seed=seed)
    play.in_evaluation = True
    try:
        play.validate()
    except ValueError as error:
        raise UserError(f"--{error}") from None
    for player in play.seated():
        if player.learns:
            raise UserError(
                f"--players {player.seat}={player.written}: nobody learns here; give checkpoint/PATH or scripted/.."
            )
    runner = BatchedEnvRunner(config=play, worker_index=0)
    _load_weights(runner, checkpoint)

    samples = runner.sample(num_episodes=episodes, explore=explore)
    returns = torch.cat([sample.rewards.sum(1) for sample in samples])[:episodes]
    totals = {name: torch.cat([sample.outcomes[name] for sample in samples])[:episodes] for name in samples[0].outcomes}
    figures = {"return": returns, **runner.game.summarize(totals, runner.game.horizon)}
    return {
        "checkpoint": str(checkpoint),
        "env": play.env,
        "env_config": dict(play.env_config),
        "episodes": len(returns),
        "steps": runner.game.horizon,
        "players": {
            seat: {"player": names[seat], **{name: _interval(values[:, index]) for name, values in figures.items()}}
            for index, seat in enumerate(runner.game.agents)
        },
    }


def _load_weights(runner: BatchedEnvRunner, checkpoint: Path) -> None:
    """Gives frozen players their weights, and the estimator what it knew at the checkpoint."""
    for module_id, spec in runner.config.rl_module_spec.rl_module_specs.items():
        source = spec.load_state_path
        if module_id == INFLUENCE_MODULE_ID and (checkpoint / MODULE_PATH / module_id).is_dir():
            source = checkpoint / MODULE_PATH / module_id
        if source:
            runner.module[module_id].restore_from_path(source)


def evaluate_stock(checkpoint: Path, episodes: int) -> dict[str, Any]:
    """Plays episodes with any other RLlib algorithm's checkpoint, through RLlib's own evaluation."""
    config = read_config(checkpoint)
    if isinstance(config.env, str) and environments.is_known(config.env):
        environments.register(config.env)
    algorithm = Algorithm.from_checkpoint(str(checkpoint))
    try:
        played = algorithm.env_runner.sample(num_episodes=episodes, explore=False)[:episodes]
    finally:
        algorithm.stop()
    returns: dict[str, list[float]] = defaultdict(list)
    for episode in played:
        for agent, own in getattr(episode, "agent_episodes", {"all": episode}).items():
            returns[str(agent)].append(float(own.get_return()))
    return {
        "checkpoint": str(checkpoint),
        "env": str(config.env),
        "env_config": dict(config.env_config),
        "episodes": len(played),
        "players": {
            agent: {"player": config.algo_class.__name__, "return": _interval(torch.tensor(values))}
            for agent, values in sorted(returns.items())
        },
    }


def _interval(values: Tensor) -> dict[str, float]:
    """Mean over episodes and the half-width of its 95% confidence interval."""
    mean, half = mean_and_half_width(values.numpy())
    return {"mean": mean, "ci95": half}


def write(report: dict[str, Any], file: Path) -> None:
    """Writes a report as JSON.

    Raises:
        UserError: If the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {file}: cannot be written ({error})") from None


def table(report: dict[str, Any]) -> Table:
    """A report as a table, mean and half-width of the 95% confidence interval."""
    drawn = Table(title=f"{report['env']}: {report['episodes']} episodes", title_justify="left")
    figures = [name for name in next(iter(report["players"].values())) if name != "player"]
    drawn.add_column("seat")
    drawn.add_column("player")
    for name in figures:
        drawn.add_column(name.replace("_", " "), justify="right")
    for seat, row in report["players"].items():
        drawn.add_row(seat, row["player"], *(f"{row[name]['mean']:.3f} ± {row[name]['ci95']:.3f}" for name in figures))
    return drawn
