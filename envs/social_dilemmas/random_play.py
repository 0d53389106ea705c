"""Episodes of games with random actions, for the conformance checks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from social_dilemmas.batched_game import BatchedGame, Step

MakeGame = Callable[[int], BatchedGame]


def random_actions(game: BatchedGame, generator: torch.Generator) -> Tensor:
    """Samples a random joint action for every environment, ``[B, N]`` int64."""
    shape = (game.num_games, game.num_agents)
    return torch.randint(int(game.action_space.n), shape, generator=generator).to(game.device)


def play(game: BatchedGame, seed: int, steps: int | None = None) -> list[Step]:
    """Plays random actions for ``steps`` steps, by default for one episode."""
    generator = torch.Generator().manual_seed(seed)
    return [game.step(random_actions(game, generator)) for _ in range(steps or game.horizon)]


def steps_equal(a: Step, b: Step) -> bool:
    """Returns True if observations, rewards, ends and outcomes of two steps are equal."""
    return (
        all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))
        and a.outcomes.keys() == b.outcomes.keys()
        and all(torch.equal(a.outcomes[name], b.outcomes[name]) for name in a.outcomes)
    )
