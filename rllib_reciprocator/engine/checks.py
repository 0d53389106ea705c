"""Checks of a configuration that need its players and its game."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from social_dilemmas.batched_game import MAX_GAMES
from social_dilemmas.registry import did_you_mean

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.player_mapping import Player
    from social_dilemmas.batched_game import BatchedGame

BATCH_MODES = ("truncate_episodes", "complete_episodes")


def check_sampling(config: BatchedConfig) -> None:
    """Raises ValueError if a setting of the env runners is invalid, or not available on this machine."""
    if config.batch_mode not in BATCH_MODES:
        raise ValueError(
            f"batch_mode: {config.batch_mode!r} is not {' or '.join(BATCH_MODES)}"
            f"{did_you_mean(str(config.batch_mode), BATCH_MODES)}"
        )
    environments = config.num_envs_per_env_runner
    if isinstance(environments, int) and environments > MAX_GAMES:
        raise ValueError(
            f"num_envs_per_env_runner: {environments} is more than the {MAX_GAMES} environments that one env"
            " runner can step together; use more num_env_runners"
        )
    if not isinstance(config.updates_per_iteration, int) or config.updates_per_iteration < 1:
        raise ValueError(f"updates_per_iteration: {config.updates_per_iteration} must be at least 1")
    _check_device(config)


def _check_device(config: BatchedConfig) -> None:
    """Raises ValueError if ``local_runner_device`` is not a valid device, or is not available."""
    device_name = config.local_runner_device
    # Evaluation samples on RLlib's default device, see sampling_device.
    if device_name == "auto" or config.in_evaluation:
        return
    try:
        device = torch.device(device_name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"local_runner_device: {device_name!r} is not auto, cpu or cuda")
    # If a GPU is requested for the algorithm, it may run on another machine, whose devices are not known here.
    has_gpu = config.num_gpus > 0 or (not config.num_learners and config.num_gpus_per_learner > 0)
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and not has_gpu and (device.index or 0) >= devices:
        available = f"has {devices} CUDA device{'s' * (devices != 1)}" if devices else "has no CUDA device"
        raise ValueError(f"local_runner_device: {device_name!r}: this machine {available}; use auto or cpu")


def frozen_inner_episodes(config: BatchedConfig) -> int | None:
    """Returns the number of inner episodes for frozen policies whose recurrent state is kept for a meta-episode.

    Returns:
        The number set in ``meta``, else that of the runs of these policies; None if there are no such policies.

    Raises:
        ValueError: If their runs had different numbers and ``meta`` does not set one, or a checkpoint cannot be read.
    """
    agents_by_number: dict[int, str] = {}
    for player in config.assigned_players:
        for member, _ in player.pool_members:
            source = member.player_source
            if source is None or not source.is_frozen:
                continue
            try:
                inner_episodes = source.inner_episodes(member)
            except ValueError as error:
                raise ValueError(f"players.{player.agent}: {error}") from None
            if inner_episodes is not None:
                agents_by_number.setdefault(inner_episodes, player.agent)
    if config.samples_meta_episodes or "inner_episodes" in config.meta_settings.model_fields_set:
        return config.meta_settings.inner_episodes if agents_by_number else None
    if len(agents_by_number) > 1:
        (first, first_agent), (second, second_agent), *_ = agents_by_number.items()
        raise ValueError(
            f"meta.inner_episodes: missing; set it, as the frozen policies of {first_agent} and {second_agent} were"
            f" trained with {first} and {second}"
        )
    return next(iter(agents_by_number), None)


def check_sizes(config: BatchedConfig, game: BatchedGame) -> None:
    """Raises ValueError if numbers of environments, steps, learners and rows do not fit together."""
    environments, steps = config.num_envs_per_env_runner, config.rollout_steps()
    runners, learners = max(1, config.num_env_runners), max(1, config.num_learners)
    if not isinstance(environments, int) or environments < 1:
        raise ValueError(f"num_envs_per_env_runner: {environments} is not a positive number of environments")
    if config.plays_meta_episodes():
        _check_meta_episodes(config, game)
    if steps < 1:
        raise ValueError(f"rollout_fragment_length: {steps} is not a positive number of steps")
    if config.in_evaluation:
        # Evaluation has separate env runners, and its rollouts are not trained on.
        return
    if runners * environments % learners:
        raise ValueError(
            f"num_learners: {runners} env runners x {environments} environments cannot be split evenly among"
            f" {learners} learners"
        )
    rows = config.train_batch_size_per_learner
    batch_size = config._train_batch_size_per_learner
    if batch_size is None and config.train_batch_size is not None:
        batch_size = config.train_batch_size // learners
    if batch_size not in (None, rows):
        raise ValueError(
            f"train_batch_size_per_learner: {batch_size} does not match; {runners} env runners x {environments}"
            f" environments x {steps} steps over {learners} learners are {rows} (leave it out, or change"
            " num_envs_per_env_runner)"
        )
    if config.minibatch_size is not None and not 1 <= config.minibatch_size <= rows:
        raise ValueError(f"minibatch_size: {config.minibatch_size} is not between 1 and the {rows} rows of a learner")


def _check_meta_episodes(config: BatchedConfig, game: BatchedGame) -> None:
    """Raises ValueError if the game or a size does not support meta-episodes."""
    environments, group_size = config.num_envs_per_env_runner, config.group_size()
    learners = max(1, config.num_learners)
    if game.terminates_early:
        raise ValueError(f"env: inner episodes must have a fixed length, and those of {config.env} may end early")
    if environments % group_size:
        raise ValueError(
            f"num_envs_per_env_runner: {environments} is not a multiple of the group size {group_size} (meta.copies)"
        )
    num_groups = config.num_environments // group_size
    if num_groups % learners and not config.in_evaluation:
        raise ValueError(
            f"num_learners: {num_groups} groups of environments cannot be split evenly among {learners} learners"
        )
    if config.rollout_steps() != config.whole_steps(game):
        raise ValueError("rollout_fragment_length: must be auto with meta-episodes")
    if config.samples_meta_episodes and config.completes_episodes() and not config.in_evaluation:
        raise ValueError("batch_mode: a rollout is a whole meta-episode already; set it to truncate_episodes")


def check_training(config: BatchedConfig, game: BatchedGame, *, with_memory: bool) -> None:
    """Raises ValueError if the players' update rules, intrinsic rewards and settings do not fit together.

    Args:
        config: The configuration, with assigned players and module specs.
        game: One environment of the game.
        with_memory: If True, at least one trained module is recurrent.
    """
    context = config.context()
    if not config.in_evaluation and not context.trained:
        names = " or ".join(dict.fromkeys([config.default_player, *config.player_kinds()]))
        raise ValueError(f"players: no player is trained; at least one must be {names}")
    whole = context.whole_episodes
    if config.completes_episodes() and config.rollout_steps() != config.whole_steps(game):
        raise ValueError("rollout_fragment_length: must be auto with batch_mode complete_episodes")
    for seat in context.seats():
        _check_player(config, seat.player, game, whole=whole)
    if with_memory:
        _check_memory(config)
    fixed_length = whole and not game.terminates_early
    if config.normalize_returns and (config.lambda_ != 1.0 or config.bootstrap_at_horizon or not fixed_length):
        raise ValueError(
            "normalize_returns: needs lambda 1, bootstrap_at_horizon false, rollout_fragment_length auto, and an"
            " environment with episodes of fixed length"
        )
    if config.samples_meta_episodes and (config.normalize_returns or config.bootstrap_at_horizon):
        raise ValueError("normalize_returns and bootstrap_at_horizon: set both to false for whole meta-episodes")
    rewards = config.build_intrinsic_rewards(context)
    for reward in rewards:
        reward.check()
    if not config.in_evaluation:
        for rule in config.build_update_rules(context, rewards):
            rule.check()


def _check_player(config: BatchedConfig, player: Player, game: BatchedGame, *, whole: bool) -> None:
    """Raises ValueError if a player's settings do not fit the run."""
    if player.intrinsic and game.num_agents == 1:
        name = next(iter(player.intrinsic))
        raise ValueError(f"players.{player.agent}: {name} needs other agents, and {config.env} has one agent")
    if not player.learns:
        return
    rule = config.rule_class(player)
    clips = player.settings.get("grad_clip", config.grad_clip) is not None
    if clips and rule.clips_by and config.grad_clip_by not in rule.clips_by:
        raise ValueError(f"grad_clip_by: must be {' or '.join(rule.clips_by)} for players trained by policy gradients")
    if rule.needs_whole_episodes and not whole:
        raise ValueError(
            f"players.{player.agent}: {player.algorithm} needs complete episodes; set batch_mode to complete_episodes"
        )


def _check_memory(config: BatchedConfig) -> None:
    """Raises ValueError if a setting does not support recurrent modules, which are trained on whole sequences."""
    if config.bootstrap_at_horizon:
        raise ValueError(
            "bootstrap_at_horizon: not supported with recurrent modules, as rollouts do not keep their states at"
            " the horizon; set it to false"
        )
    if config.minibatch_size is not None and config.minibatch_size < config.rollout_steps():
        raise ValueError(
            f"minibatch_size: {config.minibatch_size} is less than a sequence of {config.rollout_steps()} steps,"
            " the minimum for recurrent modules"
        )
