"""Games with gifts: in addition to its action in the game, an agent can give other agents a fixed reward."""

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
    """Mixin for games that extends each action by a choice of the agents that receive a gift.

    | | |
    |---|---|
    | observation | observation of the game; if ``observe_given``, also the total given to each other agent so far |
    | action | ``Discrete(A * 2 ** (N - 1))``: ``action % A`` in the game, gifts to the k-th agent after it by bits |
    | reward | reward of the game, plus ``amount`` per gift received, minus ``cost * amount`` per gift given |
    | end, state | those of the game |
    | outcomes | those of the game, ``gifts_per_step``, and ``game_reward_per_step`` without gifts |

    Bit k - 1 of ``action // A`` is 1 if the agent gives to the k-th agent after it.

    Source: the baselines with discrete give-reward actions of Yang et al. (2020), section 5.2. According to the paper,
    a gift costs as much as the recipient gets; in its configurations the cost is 0.0001.

    Version history: v0, first.
    """

    amount: float
    cost: float
    observe_given: bool
    _base_actions: int

    def give(self, amount: float, cost: float, observe_given: bool) -> None:
        """Adds gifts to the environments after they are built.

        Args:
            amount: Reward that the recipient of a gift gets.
            cost: Cost of a gift for the giver, as a fraction of ``amount``.
            observe_given: If True, agents observe the rewards that they have given.

        Raises:
            ValueError: If there are too many agents, a number is out of range, or ``observe_given`` is set and the
                observations are not float32 vectors.
        """
        n, space = self.num_agents, self.observation_space
        if n > MAX_AGENTS:
            raise ValueError(
                f"num_agents: {n} agents with gifts have 2 ** {n - 1} times the actions; use {MAX_AGENTS} at most"
            )
        for name, value in (("amount", amount), ("cost", cost)):
            if not 0 <= value <= 1e6:
                raise ValueError(f"{name} is {value}; it must be from 0 to 1000000")
        self.amount, self.cost, self.observe_given = amount, cost, observe_given
        self._base_actions = int(self.action_space.n)
        masks = range(2 ** (n - 1))
        recipients = [[k + 1 for k in range(n - 1) if mask >> k & 1] for mask in masks]
        suffixes = ["_give" + "".join(f"_{k}" for k in offsets) * (n > 2) if offsets else "" for offsets in recipients]
        self.action_names = tuple(name + suffix for suffix in suffixes for name in self.action_names)
        self.action_space = gymnasium.spaces.Discrete(self._base_actions * len(masks))
        low, high = self.reward_range
        max_gifts = amount * (n - 1)
        self.reward_range = (low - cost * max_gifts, high + max_gifts)
        self.payoffs = None
        if observe_given:
            self.observations = None
            if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or space.dtype != np.float32:
                raise ValueError("observe_given: observations of this game are not float32 vectors; set it to False")
            given_high = np.full(n - 1, max(1.0, amount * self.horizon), np.float32)
            self.observation_space = gymnasium.spaces.Box(
                np.concatenate([space.low, np.zeros_like(given_high)]), np.concatenate([space.high, given_high])
            )
        agents = torch.arange(n, device=self.device)
        self._recipients = (agents[:, None] + agents[1:]) % n
        self._given = torch.zeros(n, n - 1, self.num_games, device=self.device)

    def summarize(self, totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Returns the rates of the game and those of gifts."""
        rates = {"gifts_per_step": totals["gifts"], "game_reward_per_step": totals["game_rewards"]}
        game_totals = {name: values for name, values in totals.items() if name not in ("gifts", "game_rewards")}
        game_rates = super().summarize(game_totals, num_steps)  # type: ignore[safe-super]
        return {**game_rates, **{name: total / num_steps for name, total in rates.items()}}

    def _initial_state(self) -> dict[str, Tensor]:
        return {**super()._initial_state(), "_given": torch.zeros_like(self._given)}  # type: ignore[safe-super]

    def _observe(self) -> Tensor:
        observations = super()._observe()  # type: ignore[safe-super]
        return torch.cat([observations, self._given.permute(2, 0, 1)], -1) if self.observe_given else observations

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        rewards, terminated, outcomes = super()._play(actions % self._base_actions)  # type: ignore[safe-super]
        bits = torch.arange(self.num_agents - 1, device=actions.device)
        given_rewards = self.amount * ((actions // self._base_actions)[..., None] >> bits & 1).float()
        self._given = self._given + given_rewards.permute(1, 2, 0)
        received_rewards = torch.zeros_like(rewards).index_add_(1, self._recipients.flatten(), given_rewards.flatten(1))
        total_gifts = given_rewards.sum(-1)
        gifts = {"gifts": total_gifts / self.amount if self.amount else total_gifts, "game_rewards": rewards}
        return rewards + received_rewards - self.cost * total_gifts, terminated, {**outcomes, **gifts}


@cache
def _with_gifts(game: type[BatchedGame]) -> type[Giving]:
    """Builds the subclass of a game with gifts."""
    members: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": Giving.__doc__,
        "__reduce__": _reduce,
        "state_names": (*game.state_names, "_given"),
        "fully_observed": False,
    }
    return cast(type[Giving], type(f"Giving{game.__name__}", (Giving, game), members))


def _reduce(game: Giving) -> tuple[Any, ...]:
    """Returns the pickle recipe of a game with gifts.

    The class is rebuilt from the class of the game, because dynamic classes cannot be pickled by name.
    """
    return _empty, (type(game).__mro__[2],), game.__dict__


def _empty(game: type[BatchedGame]) -> Giving:
    game_class = _with_gifts(game)
    return game_class.__new__(game_class)


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
    """Builds environments of a game with gifts, see :class:`Giving`.

    Args:
        game: Id of the game.
        settings: Settings of the game.
        amount: Reward that the recipient of a gift gets.
        cost: Cost of a gift for the giver, as a fraction of ``amount``.
        observe_given: If True, agents observe the reward that they gave to each other agent so far in the episode.
        num_steps: Episode length, in steps. Defaults to that of the game.
        num_games: B, number of parallel environments.
        device: Device of all tensors.

    Raises:
        ValueError: If the game is unknown, or a setting is unknown or out of range.
    """
    from social_dilemmas.registry import make

    game_settings = {**(settings or {}), **({} if num_steps is None else {"num_steps": num_steps})}
    base_game = make(game, num_games, device, **game_settings)
    if isinstance(base_game, Giving):
        raise ValueError("game: it has gifts already; pass the id of the game without gifts")
    gift_game = _empty(type(base_game))
    gift_game.__dict__.update(base_game.__dict__)
    gift_game.give(amount, cost, observe_given)
    return gift_game
