"""Interface of players that the algorithm does not train: scripted strategies, frozen policies, online learners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ray.rllib.core.rl_module.rl_module import RLModuleSpec

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.player_mapping import Player
    from rllib_reciprocator.engine.tracker import StepTracker
    from rllib_reciprocator.utils.settings import IntrinsicSettings
    from social_dilemmas.batched_game import BatchedGame


class PlayerSource(ABC):
    """Source of the players that are written as ``PREFIX/NAME`` and not trained by the algorithm.

    Attributes:
        kind: Value of ``Player.kind``, which checkpoints contain.
        is_online_learner: If True, its players are trained inside the environment between inner episodes.
        is_frozen: If True, its players are policies of earlier runs.
    """

    kind: ClassVar[str]
    is_online_learner: ClassVar[bool] = False
    is_frozen: ClassVar[bool] = False

    @abstractmethod
    def resolve(
        self, source: str, agent: str, action_names: Sequence[str] | None, online_learners: Sequence[str]
    ) -> str:
        """Returns what is stored as ``Player.source``.

        Args:
            source: NAME.
            agent: Name of the agent.
            action_names: Names of the actions; None if an earlier call has checked the name.
            online_learners: Names of the online learners.

        Raises:
            ValueError: If there is no such player, or it cannot play here.
        """

    @abstractmethod
    def names(self, online_learners: Sequence[str]) -> Sequence[str]:
        """Returns the valid values of NAME, for suggestions."""

    @abstractmethod
    def module_spec(self, config: BatchedConfig, game: BatchedGame, player: Player) -> RLModuleSpec:
        """Builds the spec of a player's module.

        Args:
            config: The configuration of the run.
            game: One environment of the game.
            player: The player.

        Raises:
            ValueError: If the player does not fit the game or a setting.
        """

    def short_name(self, player: Player) -> str:
        """Returns a short name of a player for tables."""
        return player.written

    def module_suffix(self, player: Player, member: int) -> str:
        """Returns the suffix of a pool member's module id.

        Args:
            player: The player.
            member: Its index in the pool.
        """
        return player.written.partition("/")[2]

    def reports_probabilities(self, player: Player) -> bool:
        """Returns False if a player samples its actions without reporting their probabilities."""
        return True

    def tracker(self, game: BatchedGame, module: Any, agent: int) -> StepTracker | None:
        """Builds a step tracker for a player; None if it needs none.

        Args:
            game: The parallel environments.
            module: The player's module.
            agent: Index of its agent.
        """
        return None

    def inner_episodes(self, player: Player) -> int | None:
        """Returns the number of inner episodes for which a player keeps its recurrent state; None for one episode."""
        return None

    def dependencies(
        self, player: Player, spec: RLModuleSpec, game: BatchedGame
    ) -> dict[str, tuple[IntrinsicSettings, dict[str, RLModuleSpec], int]]:
        """Returns the intrinsic rewards of another run that a player needs to act.

        Args:
            player: The player.
            spec: Spec of its module.
            game: One environment of the game.

        Returns:
            By name of the intrinsic reward its settings, the specs of its modules and the index of the agent that the
            player was in that run.
        """
        return {}
