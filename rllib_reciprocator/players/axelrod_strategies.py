"""Strategies of the Axelrod library as RLModules."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch import TorchRLModule

from rllib_reciprocator.models.distributions import distribution_for
from rllib_reciprocator.utils.distributed import ParameterlessModule
from social_dilemmas.registry import did_you_mean

if TYPE_CHECKING:
    import axelrod


def check_strategy(name: str) -> None:
    """Checks that the Axelrod library is there, and has a strategy of that name which plays fair.

    Raises:
        ValueError: If not.
    """
    if find_spec("axelrod") is None:
        raise ValueError(f"axelrod/{name} needs the Axelrod library; pip install rllib_reciprocator[axelrod]")
    strategies = _strategies()
    if name not in strategies:
        raise ValueError(f"Axelrod has no strategy {name!r}{did_you_mean(name, strategies)}")


def is_stochastic(name: str) -> bool:
    """Returns whether a strategy draws its actions; the library does not say from which probabilities."""
    return bool(_strategies()[name].classifier["stochastic"])


def _strategies() -> dict[str, type[axelrod.Player]]:
    """Those that go by what is played alone, by the names of their classes."""
    import axelrod

    cheats = ("inspects_source", "manipulates_source", "manipulates_state")
    return {
        each.__name__: each
        for each in axelrod.strategies
        if not any(each.classifier.get(cheat) is True for cheat in cheats)
    }


class AxelrodModule(ParameterlessModule, TorchRLModule):
    """Plays a strategy of the Axelrod library in a matrix game of two players, one player object a copy.

    Settings in ``model_config``: ``strategy``, the name of its class; ``payoffs``, the game's table, of which the
    strategy is told its own side; ``seed``. It is not told how long a game lasts.

    Reads the observation: the last actions, its own first, ``-1`` before the first step; and remembers by row. So it
    plays where the rows of a batch are always the same copies, and whole episodes.
    """

    def setup(self) -> None:
        """Chooses the strategy."""
        self.action_dist_cls = distribution_for(self.action_space)
        self._class = _strategies()[self.model_config["strategy"]]
        self._players: list[tuple[axelrod.Player, axelrod.Player]] = []
        self._seeds = np.random.SeedSequence(self.model_config["seed"])

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        from axelrod import Action, Player

        actions = (Action.C, Action.D)
        seen = batch[Columns.OBS].tolist()
        while len(self._players) < len(seen):
            self._players.append((self._new_player(), Player()))
        chosen = []
        for (own, last_of_other), (player, other) in zip(seen, self._players, strict=False):
            if own < 0:
                player.reset()
                other.reset()
            else:
                mine, theirs = actions[own > 0.5], actions[last_of_other > 0.5]
                player.update_history(mine, theirs)
                other.update_history(theirs, mine)
            chosen.append(player.strategy(other) == Action.D)
        return {Columns.ACTIONS: torch.tensor(chosen, dtype=torch.int64, device=batch[Columns.OBS].device)}

    def _new_player(self) -> axelrod.Player:
        from axelrod import Game

        (both, sucker), (temptation, neither) = (
            [payoffs[0] for payoffs in row] for row in self.model_config["payoffs"]
        )
        player = self._class()
        player.set_match_attributes(length=-1, game=Game(r=both, s=sucker, t=temptation, p=neither), noise=0)
        player.set_seed(int(self._seeds.spawn(1)[0].generate_state(1)[0]))
        return player
