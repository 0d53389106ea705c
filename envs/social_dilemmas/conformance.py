"""Conformance checks for games, for the games of this package and for custom ones.

``check_game(lambda num_games: MyGame(num_games=num_games))`` raises AssertionError with a description of the problem.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from social_dilemmas.pettingzoo_env import GameParallelEnv
from social_dilemmas.random_play import MakeGame, play, random_actions
from social_dilemmas.reproducibility import (
    check_copies_are_independent,
    check_determinism,
    check_global_randomness_untouched,
    check_partial_reset,
    check_pickles,
    check_rows_equal_single_games,
    check_state_round_trip,
)


def check_game(make: MakeGame) -> None:
    """Runs all checks.

    Args:
        make: Function that builds the given number of parallel environments of the game.

    Raises:
        AssertionError: If a check fails.
    """
    for check in (
        check_spaces_and_shapes,
        check_actions_out_of_range,
        check_views,
        check_determinism,
        check_copies_are_independent,
        check_rows_equal_single_games,
        check_partial_reset,
        check_state_round_trip,
        check_global_randomness_untouched,
        check_pickles,
        check_rendering,
        check_parallel_env,
    ):
        check(make)


def check_spaces_and_shapes(make: MakeGame) -> None:
    """Checks shapes, dtypes and ranges of observations, states, rewards, end flags and outcomes at every step."""
    game = make(5)
    b, n = game.num_games, game.num_agents
    assert len(game.action_names) == game.action_space.n, "action_names does not name every action"
    low, high = game.reward_range
    obs = game.reset(seed=0)
    for t in range(game.horizon):
        if game.observations is not None:
            matches = (obs[:, :, None] == game.observations).flatten(3).all(-1).sum(-1)
            assert bool((matches == 1).all()), (
                f"step {t}: game.observations does not contain an observation exactly once"
            )
        assert obs.shape == (b, n, *game.observation_space.shape), (
            f"step {t}: observations have shape {tuple(obs.shape)}"
        )
        observation = obs[0, 0].cpu().numpy()
        assert observation.dtype == game.observation_space.dtype, (
            f"step {t}: observations are {obs.dtype}, unlike observation_space"
        )
        for index in range(b):
            state = game.state()[index].cpu().numpy()
            state = state[()] if state.ndim == 0 else state
            assert game.state_space.contains(state), f"step {t}: state {state} is outside {game.state_space}"
            for agent in range(n):
                observation = obs[index, agent].cpu().numpy()
                assert game.observation_space.contains(observation), (
                    f"step {t}: observation {observation} is outside observation_space"
                )
        step = game.step(random_actions(game, torch.Generator().manual_seed(t)))
        assert step.rewards.shape == (b, n), f"step {t}: rewards have shape {tuple(step.rewards.shape)}"
        assert step.rewards.dtype == torch.float32, f"step {t}: rewards are {step.rewards.dtype}"
        assert step.rewards.isfinite().all(), f"step {t}: a reward is not finite"
        assert ((step.rewards >= low) & (step.rewards <= high)).all(), f"step {t}: a reward is outside reward_range"
        for name in ("terminated", "truncated"):
            end = getattr(step, name)
            assert end.shape == (b,), f"step {t}: {name} has shape {tuple(end.shape)}"
            assert end.dtype == torch.bool, f"step {t}: {name} is {end.dtype}"
        if not game.terminates_early:
            assert not step.terminated.any(), "an environment terminated, but terminates_early is False"
            assert bool(step.truncated.all()) == (t == game.horizon - 1), f"step {t}: truncated at the wrong step"
        assert step.outcomes, "outcomes is empty"
        for name, values in step.outcomes.items():
            assert values.shape == (b, n), f"step {t}: outcome {name} has shape {tuple(values.shape)}"
        summary = game.summarize(step.outcomes, 1)
        unknown = game.episode_outcomes - set(summary)
        assert not unknown, f"episode_outcomes: summarize does not return {', '.join(sorted(unknown))}"
        for name, rates in summary.items():
            assert rates.shape == (b, n), f"rate {name} has shape {tuple(rates.shape)}"
            assert rates.isfinite().all(), f"rate {name} is not finite"
        obs = step.obs


def check_actions_out_of_range(make: MakeGame) -> None:
    """Checks that actions outside the action space raise ValueError and do not change the state."""
    game, env = make(4), GameParallelEnv(make(1), "game_v0")
    if game.device.type == "cuda":  # a failed assertion on the device makes it unusable for later checks
        return
    game.reset(seed=1)
    env.reset(seed=1)
    previous_state = game.get_state()
    for invalid_action in (-1, int(game.action_space.n)):
        actions = torch.zeros(4, game.num_agents, dtype=torch.int64, device=game.device)
        actions[2, -1] = invalid_action
        _check_refused(partial(game.step, actions), f"step accepts action {invalid_action}")
        joint = {agent: invalid_action if agent == env.agents[-1] else 0 for agent in env.agents}
        _check_refused(partial(env.step, joint), f"step of the ParallelEnv accepts action {invalid_action}")
    state = game.get_state()
    assert all(torch.equal(previous_state[name], state[name]) for name in ("_steps", *game.state_names)), (
        "an invalid action changed the state"
    )


def _check_refused(call: Callable[[], object], complaint: str) -> None:
    """Raises AssertionError with message ``complaint`` if the call does not raise ValueError."""
    try:
        call()
    except ValueError:
        return
    raise AssertionError(complaint)


def check_views(make: MakeGame) -> None:
    """Checks that :meth:`BatchedGame.views` equals the observations of the other agents at every step."""
    game = make(6)
    if not game.fully_observed:
        return
    obs = game.reset(seed=2)
    generator = torch.Generator().manual_seed(7)
    for t in range(game.horizon):
        views = game.views(obs)
        for i in range(game.num_agents):
            for k in range(game.num_agents):
                observations = obs[:, (i + k) % game.num_agents]
                assert torch.equal(views[:, i, k], observations), (
                    f"step {t}: the view of agent {i} is not what agent {i + k} observes"
                )
        obs = game.step(random_actions(game, generator)).obs


def check_rendering(make: MakeGame) -> None:
    """Checks that states can be rendered as text and as an image."""
    game = make(2)
    game.reset(seed=0)
    for _ in range(2):
        assert isinstance(game.render_ansi(1), str), "render_ansi does not return a string"
        assert game.render_ansi(1), "render_ansi returns an empty string"
        image = game.render_rgb(1)
        assert image.dtype == np.uint8, f"render_rgb returns {image.dtype}"
        assert image.ndim == 3, f"render_rgb returns {image.ndim} axes"
        assert image.shape[2] == 3, "render_rgb does not return RGB channels"
        play(game, 0, 1)


def check_parallel_env(make: MakeGame) -> None:
    """Checks the ParallelEnv with PettingZoo's tests, and that its steps equal those of the batched game."""
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    parallel_api_test(GameParallelEnv(make(1), "game_v0"), num_cycles=2 * make(1).horizon)
    parallel_seed_test(lambda: GameParallelEnv(make(1), "game_v0"))
    env, game = GameParallelEnv(make(1), "game_v0"), make(1)
    agent_obs: dict[str, np.ndarray]
    agent_obs, _ = env.reset(seed=6)
    obs = game.reset(seed=6)
    generator = torch.Generator().manual_seed(3)
    for t in range(game.horizon):
        for index, agent in enumerate(env.possible_agents):
            assert np.array_equal(agent_obs[agent], obs[0, index].cpu().numpy()), (
                f"step {t}: {agent} has a different observation"
            )
        joint = random_actions(game, generator)
        step = game.step(joint)
        agent_obs, rewards, terminated, truncated, _ = env.step(dict(zip(env.agents, joint[0].tolist(), strict=True)))
        assert list(rewards.values()) == step.rewards[0].tolist(), f"step {t}: rewards differ"
        assert set(terminated.values()) == {bool(step.terminated[0])}, f"step {t}: terminated differs"
        assert set(truncated.values()) == {bool(step.truncated[0])}, f"step {t}: truncated differs"
        if any(terminated.values()) or any(truncated.values()):
            assert env.agents == [], "agents is not empty after the end of the episode"
            break
        obs = step.obs
