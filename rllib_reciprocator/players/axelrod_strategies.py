"""Strategies of the Axelrod library as RLModules."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule

from rllib_reciprocator.engine.player_sources import PlayerSource
from rllib_reciprocator.models.distributions import distribution_for
from rllib_reciprocator.players.scripted import can_cooperate
from rllib_reciprocator.utils.distributed import ParameterlessModule
from social_dilemmas.registry import did_you_mean

if TYPE_CHECKING:
    import axelrod

    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.player_mapping import Player
    from social_dilemmas.batched_game import BatchedGame

AXELROD = "axelrod"


def check_strategy(name: str) -> None:
    """Checks that the Axelrod library is installed and has a strategy of that name that does not cheat.

    Raises:
        ValueError: If the library is not installed, or has no such strategy.
    """
    if find_spec("axelrod") is None:
        raise ValueError(f"axelrod/{name} needs the Axelrod library; pip install rllib_reciprocator[axelrod]")
    strategies = _strategies()
    if name not in strategies:
        raise ValueError(f"Axelrod has no strategy {name!r}{did_you_mean(name, strategies)}")


def is_stochastic(name: str) -> bool:
    """Returns True if a strategy draws its actions; the library does not report their probabilities."""
    return bool(_strategies()[name].classifier["stochastic"])


def _strategies() -> dict[str, type[axelrod.Player]]:
    """Returns the strategies that depend on nothing but the history of actions, by class name."""
    import axelrod

    cheats = ("inspects_source", "manipulates_source", "manipulates_state")
    return {
        strategy.__name__: strategy
        for strategy in axelrod.strategies
        if not any(strategy.classifier.get(cheat) is True for cheat in cheats)
    }


class AxelrodModule(ParameterlessModule, TorchRLModule):
    """Module that plays a strategy of the Axelrod library in a two-player matrix game, one player object per row.

    Settings in ``model_config``: ``strategy``, the name of its class; ``payoffs``, the payoff table, of which the
    strategy receives its own payoffs; ``seed``. The strategy does not know the length of an episode.

    Reads the observation: the last actions, its own first, ``-1`` before the first step. The history is kept per row
    of the batch, so every batch must have the rows of the same environments, and episodes must be complete.
    """

    def setup(self) -> None:
        """Looks up the strategy."""
        self.action_dist_cls = distribution_for(self.action_space)
        self._class = _strategies()[self.model_config["strategy"]]
        self._players: list[tuple[axelrod.Player, axelrod.Player]] = []
        self._seeds = np.random.SeedSequence(self.model_config["seed"])

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        from axelrod import Action, Player

        actions = (Action.C, Action.D)
        observations = batch[Columns.OBS].tolist()
        while len(self._players) < len(observations):
            self._players.append((self._new_player(), Player()))
        defections = []
        for (last_action, opponent_last_action), (player, opponent) in zip(observations, self._players, strict=False):
            if last_action < 0:
                player.reset()
                opponent.reset()
            else:
                action, opponent_action = actions[last_action > 0.5], actions[opponent_last_action > 0.5]
                player.update_history(action, opponent_action)
                opponent.update_history(opponent_action, action)
            defections.append(player.strategy(opponent) == Action.D)
        return {Columns.ACTIONS: torch.tensor(defections, dtype=torch.int64, device=batch[Columns.OBS].device)}

    def _new_player(self) -> axelrod.Player:
        from axelrod import Game

        (reward, sucker), (temptation, punishment) = (
            [payoffs[0] for payoffs in row] for row in self.model_config["payoffs"]
        )
        player = self._class()
        player.set_match_attributes(length=-1, game=Game(r=reward, s=sucker, t=temptation, p=punishment), noise=0)
        player.set_seed(int(self._seeds.spawn(1)[0].generate_state(1)[0]))
        return player


class AxelrodPlayers(PlayerSource):
    """Players ``axelrod/STRATEGY``."""

    kind: ClassVar[str] = AXELROD

    def resolve(
        self, source: str, agent: str, action_names: Sequence[str] | None, online_learners: Sequence[str]
    ) -> str:
        """Returns the name of the strategy, which needs the actions of a matrix game."""
        if not can_cooperate(action_names):
            raise ValueError(f"{AXELROD}/{source} needs an environment with the actions cooperate and defect")
        check_strategy(source)
        return source

    def names(self, online_learners: Sequence[str]) -> Sequence[str]:
        """Returns a placeholder: the library has hundreds of strategies."""
        return ("STRATEGY",)

    def module_spec(self, config: BatchedConfig, game: BatchedGame, player: Player) -> RLModuleSpec:
        """Builds the spec of a strategy's module.

        Raises:
            ValueError: If the environment is not a matrix game of two agents, or rollouts are not whole episodes.
        """
        if game.num_agents != 2 or game.payoffs is None:
            raise ValueError(f"players.{player.agent}: {player.written} needs a matrix game of two agents")
        if not config.plays_whole_episodes(game):
            raise ValueError(f"players.{player.agent}: {player.written} needs rollout_fragment_length auto")
        # Agents have different seeds, and see the payoff matrix from their side.
        index = game.agents.index(player.agent)
        payoffs = game.payoffs if index == 0 else game.payoffs.transpose(0, 1).flip(-1)
        return RLModuleSpec(
            AxelrodModule,
            observation_space=game.observation_space,
            action_space=game.action_space,
            model_config={
                "strategy": player.source,
                "payoffs": payoffs.tolist(),
                "seed": None if config.seed is None else [config.seed, index],
            },
        )

    def reports_probabilities(self, player: Player) -> bool:
        """Returns False for strategies that draw their actions."""
        return not is_stochastic(player.source)


SOURCE = AxelrodPlayers()
