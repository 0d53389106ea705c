"""The checks that every game passes; for authors of other games too.

``check_game(lambda num_games: MyGame(num_games=num_games))`` raises AssertionError with what is wrong.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from social_dilemmas.batched_game import BatchedGame, Step
from social_dilemmas.pettingzoo_env import GameParallelEnv

MakeGame = Callable[[int], BatchedGame]


def check_game(make: MakeGame) -> None:
    """Runs every check.

    Args:
        make: Builds that many copies of the game.
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


def random_actions(game: BatchedGame, generator: torch.Generator) -> Tensor:
    """A random joint action for every copy, ``[B, N]`` int64."""
    shape = (game.num_games, game.num_agents)
    return torch.randint(int(game.action_space.n), shape, generator=generator).to(game.device)


def play(game: BatchedGame, seed: int, steps: int | None = None) -> list[Step]:
    """One episode of random play."""
    generator = torch.Generator().manual_seed(seed)
    return [game.step(random_actions(game, generator)) for _ in range(steps or game.horizon)]


def _equal(a: Step, b: Step) -> bool:
    return (
        all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))
        and a.outcomes.keys() == b.outcomes.keys()
        and all(torch.equal(a.outcomes[name], b.outcomes[name]) for name in a.outcomes)
    )


def check_spaces_and_shapes(make: MakeGame) -> None:
    """Observations, states, rewards, ends and outcomes have the promised shapes, types and ranges at every step."""
    game = make(5)
    b, n = game.num_games, game.num_agents
    assert len(game.action_names) == game.action_space.n, "action_names does not name every action"
    low, high = game.reward_range
    obs = game.reset(seed=0)
    for t in range(game.horizon):
        if game.observations is not None:
            listed = (obs[:, :, None] == game.observations).flatten(3).all(-1).sum(-1)
            assert bool((listed == 1).all()), f"step {t}: an observation is not once among game.observations"
        assert obs.shape == (b, n, *game.observation_space.shape), (
            f"step {t}: observations have shape {tuple(obs.shape)}"
        )
        one = obs[0, 0].cpu().numpy()
        assert one.dtype == game.observation_space.dtype, f"step {t}: observations are {obs.dtype}, not as their space"
        for copy in range(b):
            state = game.state()[copy].cpu().numpy()
            state = state[()] if state.ndim == 0 else state
            assert game.state_space.contains(state), f"step {t}: state {state} outside {game.state_space}"
            for agent in range(n):
                one = obs[copy, agent].cpu().numpy()
                assert game.observation_space.contains(one), f"step {t}: observation {one} outside its space"
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
            assert not step.terminated.any(), "a copy terminated, but the game says that none does"
            assert bool(step.truncated.all()) == (t == game.horizon - 1), f"step {t}: truncated at the wrong step"
        assert step.outcomes, "there are no outcomes"
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
    """Actions that are not in the action space are refused, and change nothing."""
    game, env = make(4), GameParallelEnv(make(1), "game_v0")
    if game.device.type == "cuda":  # where the device itself asserts, after which it can no longer be used
        return
    game.reset(seed=1)
    env.reset(seed=1)
    before = game.get_state()
    for wrong in (-1, int(game.action_space.n)):
        actions = torch.zeros(4, game.num_agents, dtype=torch.int64, device=game.device)
        actions[2, -1] = wrong
        _check_refused(partial(game.step, actions), f"a game plays action {wrong}")
        joint = {agent: wrong if agent == env.agents[-1] else 0 for agent in env.agents}
        _check_refused(partial(env.step, joint), f"the ParallelEnv plays action {wrong}")
    after = game.get_state()
    assert all(torch.equal(before[name], after[name]) for name in ("_steps", *game.state_names)), "the state changed"


def _check_refused(call: Callable[[], object], complaint: str) -> None:
    """Raises AssertionError with the complaint if a call does not raise ValueError."""
    try:
        call()
    except ValueError:
        return
    raise AssertionError(complaint)


def check_views(make: MakeGame) -> None:
    """What agents tell from their own observations that others see is what those see, at every step."""
    game = make(6)
    if not game.fully_observed:
        return
    obs = game.reset(seed=2)
    generator = torch.Generator().manual_seed(7)
    for t in range(game.horizon):
        views = game.views(obs)
        for i in range(game.num_agents):
            for k in range(game.num_agents):
                seen = obs[:, (i + k) % game.num_agents]
                assert torch.equal(views[:, i, k], seen), f"step {t}: agent {i} is wrong on what agent {i + k} sees"
        obs = game.step(random_actions(game, generator)).obs


def check_determinism(make: MakeGame) -> None:
    """The same seed gives the same whole episode, in the same game again and in another."""
    first, other = make(4), make(4)
    traces = []
    for game in (first, first, other):
        start = game.reset(seed=11)
        traces.append((start, play(game, 3)))
    for start, trace in traces[1:]:
        assert torch.equal(start, traces[0][0]), "the same seed gives another start"
        assert all(map(_equal, trace, traces[0][1])), "the same seed gives another episode"


def check_copies_are_independent(make: MakeGame) -> None:
    """What one copy's players do changes nothing in another copy."""
    one, other = make(3), make(3)
    one.reset(seed=5)
    other.reset(seed=5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(one.horizon):
        actions = random_actions(one, generator)
        changed = actions.clone()
        changed[0] = (changed[0] + 1) % int(one.action_space.n)
        a, b = one.step(actions), other.step(changed)
        assert torch.equal(a.obs[1:], b.obs[1:]), "a copy depends on another's actions"
        assert torch.equal(a.rewards[1:], b.rewards[1:]), "a copy's rewards depend on another's actions"


def check_rows_equal_single_games(make: MakeGame) -> None:
    """Copy b of many equals a single game with the same draws."""
    many = make(16)
    draws: list[Tensor] = []
    draw = many._uniform

    def recorded(*shape: int, copies_last: bool = False) -> Tensor:
        values = draw(*shape, copies_last=copies_last)
        draws.append(values.movedim(-1, 0) if copies_last else values)
        return values

    def replayed(rows: Iterator[Tensor]) -> Callable[..., Tensor]:
        def _replayed(*shape: int, copies_last: bool = False) -> Tensor:
            return next(rows).movedim(0, -1) if copies_last else next(rows)

        return _replayed

    many._uniform = recorded  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(2)
    start = many.reset(seed=9)
    actions = [random_actions(many, generator) for _ in range(many.horizon)]
    steps = [many.step(joint) for joint in actions]
    for copy in (0, 7, 15):
        single = make(1)
        single._uniform = replayed(values[copy : copy + 1] for values in draws)  # type: ignore[method-assign]
        assert torch.equal(single.reset()[0], start[copy]), f"copy {copy} starts unlike a single game"
        for t, (joint, step) in enumerate(zip(actions, steps, strict=True)):
            alone = single.step(joint[copy : copy + 1])
            assert torch.equal(alone.obs[0], step.obs[copy]), f"copy {copy} differs from a single game at step {t}"
            assert torch.equal(alone.rewards[0], step.rewards[copy]), f"rewards of copy {copy} differ at step {t}"


def check_partial_reset(make: MakeGame) -> None:
    """Resetting some copies starts those anew and leaves the others."""
    game = make(4)
    game.reset(seed=1)
    steps = play(game, 4, max(1, game.horizon // 2))
    where = torch.tensor([True, False, True, False], device=game.device)
    obs = game.reset(where=where)
    assert torch.equal(obs[~where], steps[-1].obs[~where]), "a reset changed copies that it was not for"
    ends = [step.truncated for step in play(game, 5)]
    if not game.terminates_early:
        assert ends[-1][where].all(), "a reset copy does not end after its horizon"
        assert not any(end[where].any() for end in ends[:-1]), "a reset copy ends before its horizon"


def check_state_round_trip(make: MakeGame) -> None:
    """A game goes on from a saved state as it would have."""
    game, other = make(4), make(4)
    game.reset(seed=3)
    half = max(1, game.horizon // 2)
    play(game, 6, half)
    other.reset(seed=99)
    other.set_state(game.get_state())
    rest = max(1, game.horizon - half)
    assert all(map(_equal, play(game, 7, rest), play(other, 7, rest))), "a restored game goes on differently"


def check_global_randomness_untouched(make: MakeGame) -> None:
    """No global random state changes."""
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state(legacy=False)
    game = make(4)
    game.reset(seed=1)
    play(game, 8)
    assert torch.equal(torch_before, torch.get_rng_state()), "torch's global random state changed"
    assert repr(numpy_before) == repr(np.random.get_state(legacy=False)), "numpy's global random state changed"


def check_pickles(make: MakeGame) -> None:
    """A pickled game, as Ray sends it, goes on alike."""
    game = make(2)
    game.reset(seed=4)
    state = game.get_state()
    copy = pickle.loads(pickle.dumps(game))
    copy.set_state(state)
    assert all(map(_equal, play(game, 9), play(copy, 9))), "a pickled game goes on differently"


def check_rendering(make: MakeGame) -> None:
    """Every state has a text and an image."""
    game = make(2)
    game.reset(seed=0)
    for _ in range(2):
        assert isinstance(game.render_ansi(1), str), "render_ansi gives no text"
        assert game.render_ansi(1), "render_ansi gives an empty text"
        image = game.render_rgb(1)
        assert image.dtype == np.uint8, f"render_rgb gives {image.dtype}"
        assert image.ndim == 3, f"render_rgb gives {image.ndim} axes"
        assert image.shape[2] == 3, "render_rgb gives no RGB"
        play(game, 0, 1)


def check_parallel_env(make: MakeGame) -> None:
    """The PettingZoo face passes PettingZoo's own tests and shows every step of the game as it is."""
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    parallel_api_test(GameParallelEnv(make(1), "game_v0"), num_cycles=2 * make(1).horizon)
    parallel_seed_test(lambda: GameParallelEnv(make(1), "game_v0"))
    env, game = GameParallelEnv(make(1), "game_v0"), make(1)
    seen: dict[str, np.ndarray]
    seen, _ = env.reset(seed=6)
    obs = game.reset(seed=6)
    generator = torch.Generator().manual_seed(3)
    for t in range(game.horizon):
        for index, agent in enumerate(env.possible_agents):
            assert np.array_equal(seen[agent], obs[0, index].cpu().numpy()), f"step {t}: {agent} sees something else"
        joint = random_actions(game, generator)
        step = game.step(joint)
        seen, rewards, terminated, truncated, _ = env.step(dict(zip(env.agents, joint[0].tolist(), strict=True)))
        assert list(rewards.values()) == step.rewards[0].tolist(), f"step {t}: other rewards"
        assert set(terminated.values()) == {bool(step.terminated[0])}, f"step {t}: another terminated"
        assert set(truncated.values()) == {bool(step.truncated[0])}, f"step {t}: another truncated"
        if any(terminated.values()) or any(truncated.values()):
            assert env.agents == [], "agents are left after the end"
            break
        obs = step.obs
