"""Conformance checks of the randomness and the state of games: equal seeds and states give equal episodes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from social_dilemmas.random_play import MakeGame, play, random_actions, steps_equal


def check_determinism(make: MakeGame) -> None:
    """Checks that the same seed gives the same episode, in the same environments and in new ones."""
    first, second = make(4), make(4)
    traces = []
    for game in (first, first, second):
        start = game.reset(seed=11)
        traces.append((start, play(game, 3)))
    for start, trace in traces[1:]:
        assert torch.equal(start, traces[0][0]), "the same seed gives a different start"
        assert all(map(steps_equal, trace, traces[0][1])), "the same seed gives a different episode"


def check_copies_are_independent(make: MakeGame) -> None:
    """Checks that the actions in one environment do not change the other environments."""
    first, second = make(3), make(3)
    first.reset(seed=5)
    second.reset(seed=5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(first.horizon):
        actions = random_actions(first, generator)
        changed_actions = actions.clone()
        changed_actions[0] = (changed_actions[0] + 1) % int(first.action_space.n)
        first_step, second_step = first.step(actions), second.step(changed_actions)
        assert torch.equal(first_step.obs[1:], second_step.obs[1:]), (
            "observations depend on another environment's actions"
        )
        assert torch.equal(first_step.rewards[1:], second_step.rewards[1:]), (
            "rewards depend on another environment's actions"
        )


def check_rows_equal_single_games(make: MakeGame) -> None:
    """Checks that each environment of a batch equals a single environment with the same random numbers."""
    parallel_game = make(16)
    draws: list[Tensor] = []
    draw = parallel_game._uniform

    def record(*shape: int, copies_last: bool = False) -> Tensor:
        values = draw(*shape, copies_last=copies_last)
        draws.append(values.movedim(-1, 0) if copies_last else values)
        return values

    def replay(rows: Iterator[Tensor]) -> Callable[..., Tensor]:
        def _replay(*shape: int, copies_last: bool = False) -> Tensor:
            return next(rows).movedim(0, -1) if copies_last else next(rows)

        return _replay

    parallel_game._uniform = record  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(2)
    start = parallel_game.reset(seed=9)
    actions = [random_actions(parallel_game, generator) for _ in range(parallel_game.horizon)]
    steps = [parallel_game.step(joint) for joint in actions]
    for b in (0, 7, 15):
        single = make(1)
        single._uniform = replay(values[b : b + 1] for values in draws)  # type: ignore[method-assign]
        assert torch.equal(single.reset()[0], start[b]), f"environment {b} starts unlike a single environment"
        for t, (joint, step) in enumerate(zip(actions, steps, strict=True)):
            single_step = single.step(joint[b : b + 1])
            assert torch.equal(single_step.obs[0], step.obs[b]), (
                f"environment {b} differs from a single environment at step {t}"
            )
            assert torch.equal(single_step.rewards[0], step.rewards[b]), (
                f"rewards of environment {b} differ at step {t}"
            )


def check_partial_reset(make: MakeGame) -> None:
    """Checks that a partial reset resets the selected environments only."""
    game = make(4)
    game.reset(seed=1)
    steps = play(game, 4, max(1, game.horizon // 2))
    where = torch.tensor([True, False, True, False], device=game.device)
    obs = game.reset(where=where)
    assert torch.equal(obs[~where], steps[-1].obs[~where]), "a partial reset changed other environments"
    ends = [step.truncated for step in play(game, 5)]
    if not game.terminates_early:
        assert ends[-1][where].all(), "an environment does not end at its horizon after a partial reset"
        assert not any(end[where].any() for end in ends[:-1]), (
            "an environment ends before its horizon after a partial reset"
        )


def check_state_round_trip(make: MakeGame) -> None:
    """Checks that environments with a restored state continue like the original ones."""
    game, restored_game = make(4), make(4)
    game.reset(seed=3)
    half = max(1, game.horizon // 2)
    play(game, 6, half)
    restored_game.reset(seed=99)
    restored_game.set_state(game.get_state())
    remaining_steps = max(1, game.horizon - half)
    assert all(map(steps_equal, play(game, 7, remaining_steps), play(restored_game, 7, remaining_steps))), (
        "a restored game continues differently"
    )


def check_global_randomness_untouched(make: MakeGame) -> None:
    """Checks that the global random states of torch and numpy do not change."""
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state(legacy=False)
    game = make(4)
    game.reset(seed=1)
    play(game, 8)
    assert torch.equal(torch_before, torch.get_rng_state()), "torch's global random state changed"
    assert repr(numpy_before) == repr(np.random.get_state(legacy=False)), "numpy's global random state changed"


def check_pickles(make: MakeGame) -> None:
    """Checks that unpickled environments continue like the original ones, because Ray pickles environments."""
    game = make(2)
    game.reset(seed=4)
    state = game.get_state()
    unpickled_game = pickle.loads(pickle.dumps(game))
    unpickled_game.set_state(state)
    assert all(map(steps_equal, play(game, 9), play(unpickled_game, 9))), "an unpickled game continues differently"
