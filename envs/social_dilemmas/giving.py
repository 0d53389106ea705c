"""Any game with gifts: beside what it does in the game, an agent may give others a fixed reward."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from torch import Tensor

from social_dilemmas.batched_game import BatchedGame

MAX_AGENTS = 6


class Giving(BatchedGame):
    """Mixed into the class of a game: every action is that of the game with a choice of whom to give to.

    | | |
    |---|---|
    | observation | that of the game, and what one has given each other agent so far if ``observe_given`` |
    | action | ``Discrete(A * 2 ** (N - 1))``: ``action % A`` in the game, and gifts to the k-th after oneself by bits |
    | reward | that of the game, ``amount`` for each gift received, ``- cost * amount`` for each one given |
    | end, state | those of the game |
    | outcomes | those of the game, ``gifts_per_step``, and ``game_reward_per_step``, without gifts |

    Bit k - 1 of ``action // A`` says whether there is a gift to the k-th agent after oneself.

    Source: the baselines with discrete give-reward actions of Yang et al. (2020), section 5.2. By their text a gift
    costs as much as it brings; in their configurations it costs 0.0001.

    Version history: v0, first.
    """

    amount: float
    cost: float
    observe_given: bool
    _base_actions: int

    def give(self, amount: float, cost: float, observe_given: bool) -> None:
        """Adds gifts to the game once it is built.

        Args:
            amount: What a gift is worth to who is given it.
            cost: What it costs who gives it, as a share of that.
            observe_given: Whether agents see what they have given.

        Raises:
            ValueError: If there are too many agents, a number is out of range, or observations are no row of numbers.
        """
        n, space = self.num_agents, self.observation_space
        if n > MAX_AGENTS:
            raise ValueError(
                f"num_agents: each of {n} agents would have 2 ** {n - 1} times the actions; {MAX_AGENTS} at most"
            )
        for name, value in (("amount", amount), ("cost", cost)):
            if not 0 <= value <= 1e6:
                raise ValueError(f"{name} is {value}; it must be from 0 to 1000000")
        self.amount, self.cost, self.observe_given = amount, cost, observe_given
        self._base_actions = int(self.action_space.n)
        masks = range(2 ** (n - 1))
        after = [[k + 1 for k in range(n - 1) if mask >> k & 1] for mask in masks]
        marks = ["_give" + "".join(f"_{k}" for k in each) * (n > 2) if each else "" for each in after]
        self.action_names = tuple(name + mark for mark in marks for name in self.action_names)
        self.action_space = gymnasium.spaces.Discrete(self._base_actions * len(masks))
        low, high = self.reward_range
        most = amount * (n - 1)
        self.reward_range = (low - cost * most, high + most)
        self.payoffs = None
        if observe_given:
            self.observations = None
            if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or space.dtype != np.float32:
                raise ValueError("observe_given: this game's observations are no row of numbers")
            beside = np.full(n - 1, max(1.0, amount * self.horizon), np.float32)
            self.observation_space = gymnasium.spaces.Box(
                np.concatenate([space.low, np.zeros_like(beside)]), np.concatenate([space.high, beside])
            )
        agents = torch.arange(n, device=self.device)
        self._recipients = (agents[:, None] + agents[1:]) % n
        self._given = torch.zeros(n, n - 1, self.num_games, device=self.device)

    def summarize(self, totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """The game's own rates, and those of gifts."""
        rates = {"gifts_per_step": totals["gifts"], "game_reward_per_step": totals["game_rewards"]}
        others = {name: values for name, values in totals.items() if name not in ("gifts", "game_rewards")}
        of_game = super().summarize(others, num_steps)  # type: ignore[safe-super]
        return {**of_game, **{name: total / num_steps for name, total in rates.items()}}

    def _initial_state(self) -> dict[str, Tensor]:
        return {**super()._initial_state(), "_given": torch.zeros_like(self._given)}  # type: ignore[safe-super]

    def _observe(self) -> Tensor:
        seen = super()._observe()  # type: ignore[safe-super]
        return torch.cat([seen, self._given.permute(2, 0, 1)], -1) if self.observe_given else seen

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        rewards, terminated, outcomes = super()._play(actions % self._base_actions)  # type: ignore[safe-super]
        bits = torch.arange(self.num_agents - 1, device=actions.device)
        given = self.amount * ((actions // self._base_actions)[..., None] >> bits & 1).float()
        self._given = self._given + given.permute(1, 2, 0)
        received = torch.zeros_like(rewards).index_add_(1, self._recipients.flatten(), given.flatten(1))
        total = given.sum(-1)
        gifts = {"gifts": total / self.amount if self.amount else total, "game_rewards": rewards}
        return rewards + received - self.cost * total, terminated, {**outcomes, **gifts}


@cache
def _with_gifts(game: type[BatchedGame]) -> type[Giving]:
    """The class of a game with gifts."""
    members: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": Giving.__doc__,
        "__reduce__": _reduced,
        "state_names": (*game.state_names, "_given"),
        "fully_observed": False,
    }
    return cast(type[Giving], type(f"Giving{game.__name__}", (Giving, game), members))


def _reduced(game: Giving) -> tuple[Any, ...]:
    """How copies of a game are pickled: its class is made anew from that of the game without gifts."""
    return _empty, (type(game).__mro__[2],), game.__dict__


def _empty(game: type[BatchedGame]) -> Giving:
    made = _with_gifts(game)
    return made.__new__(made)


def giving(
    game: str = "escape_room_v0",
    settings: dict[str, Any] | None = None,
    amount: float = 2.0,
    cost: float = 1.0,
    *,
    observe_given: bool = False,
    num_steps: int | None = None,
    num_games: int = 1,
    device: str | torch.device = "cpu",
) -> Giving:
    """Copies of a game with gifts; see :class:`Giving`.

    Args:
        game: Its id.
        settings: Its own settings.
        amount: What a gift is worth to who is given it.
        cost: What it costs who gives it, as a share of that.
        observe_given: Whether agents see what they have given each other agent so far in the episode.
        num_steps: Steps of an episode; None for the game's own.
        num_games: B, how many copies are stepped together.
        device: Where all tensors live.

    Raises:
        ValueError: If there is no such game, or a setting is out of range.
    """
    from social_dilemmas.registry import make

    own = {**(settings or {}), **({} if num_steps is None else {"num_steps": num_steps})}
    made = make(game, num_games, device, **own)
    if isinstance(made, Giving):
        raise ValueError("game: gifts are in it already")
    with_gifts = _empty(type(made))
    with_gifts.__dict__.update(made.__dict__)
    with_gifts.give(amount, cost, observe_given)
    return with_gifts
