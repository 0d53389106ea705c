"""Configuration of players and their intrinsic rewards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError
from ray.rllib.utils.annotations import override
from typing_extensions import Self

from rllib_reciprocator.engine.context import PlayerKind
from rllib_reciprocator.engine.online_learner_settings import KNOWN_LEARNERS, LearningSettings, described_learner
from rllib_reciprocator.engine.player_mapping import POOL, TEAM, Player
from rllib_reciprocator.engine.registries import intrinsic_reward, player_kinds
from rllib_reciprocator.engine.rollout_config import RolloutConfig
from rllib_reciprocator.engine.update_rule import UpdateRule
from rllib_reciprocator.utils.import_paths import import_attribute
from rllib_reciprocator.utils.settings import IntrinsicSettings

if TYPE_CHECKING:
    from social_dilemmas.batched_game import BatchedGame

_LEARNER_NAME = re.compile(r"[\w.-]+")


class PlayersConfig(RolloutConfig):
    """Configuration of the players of all agents, their intrinsic rewards, and online learners.

    Attributes:
        default_player: Player that is used if ``players`` is not set, or if an entry names a team or a module only.
        extra_player_kinds: Kinds of players in addition to those of the registry, by name.
    """

    default_player: ClassVar[str] = "ppo"
    extra_player_kinds: ClassVar[Mapping[str, PlayerKind]] = {}

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults, including those of the settings of all kinds of players."""
        super().__init__(algo_class=algo_class)
        self.player_mapping: dict[str, Any] = {"player_*": self.default_player}
        self.intrinsic_settings: dict[str, IntrinsicSettings] = {}
        self.own_learning_settings: dict[str, LearningSettings] = {}
        for kind in self.player_kinds().values():
            for name, value in kind.settings.items():
                setattr(self, name, value)

    def players(self, players: Mapping[str, Any]) -> Self:
        """Sets the player of each agent.

        Args:
            players: Mapping from agents, or patterns of agents, to players: a kind of player that is trained, e.g.
                ``ppo``; ``team/NAME``, ``scripted/STRATEGY``, or ``checkpoint/PATH`` for a frozen
                policy of an earlier run; a mapping with ``player`` and settings of that player, e.g.
                ``{player: ppo, lr: 0.001}``; or a pool (:func:`rllib_reciprocator.engine.player_mapping.assign`).

        Returns:
            This configuration.
        """
        self.player_mapping = dict(players)
        return self

    def intrinsic(self, name: str, **settings: Any) -> Self:
        """Sets an intrinsic reward for all players that have it. Unset settings keep their values.

        Args:
            name: Name of the intrinsic reward (:mod:`rllib_reciprocator.registry`).
            **settings: Settings of the intrinsic reward.

        Returns:
            This configuration.

        Raises:
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        current = self._settings_of_all(name).model_dump(exclude_unset=True)
        validated_settings = intrinsic_reward(name).settings_class.model_validate({**current, **settings})
        self.intrinsic_settings = {**self.intrinsic_settings, name: validated_settings}
        return self

    def learning_player(self, name: str, **settings: Any) -> Self:
        """Configures an online learner, the player ``learner/NAME``.

        Args:
            name: ``pg`` or ``a2c``, whose unset settings keep their values; or a new name, whose unset settings are
                those of its ``algorithm``.
            **settings: Settings of :class:`LearningSettings`.

        Returns:
            This configuration.

        Raises:
            ValueError: If the name is empty or contains characters other than letters, digits and ``_.-``.
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        if not _LEARNER_NAME.fullmatch(name):
            raise ValueError(
                f"learning_players: {name!r} cannot be written as learner/NAME; use letters, digits and _.- in a name"
            )
        validated_settings = described_learner(name, self.own_learning_settings, settings)
        self.own_learning_settings = {**self.own_learning_settings, name: validated_settings}
        return self

    def unfolded_players(self) -> Mapping[str, Any]:
        """Returns the ``players`` mapping with the members of populations in place of their kind of player."""
        size, kinds = self.meta_settings.population, self._kinds_of_populations()
        if size == 1:
            return self.player_mapping
        return {key: _unfold_population(key, player, kinds, size) for key, player in self.player_mapping.items()}

    def population_teams(self) -> dict[str, str]:
        """Returns the kind of player of each team that is a member of a population, by name of the team."""
        size = self.meta_settings.population
        return {_team_name(kind, index): kind for kind in self._kinds_of_populations() for index in range(size)}

    def _kinds_of_populations(self) -> set[str]:
        return {name for name, kind in self.player_kinds().items() if kind.forms_populations}

    # --- players ----------------------------------------------------------------------------------------------------

    @classmethod
    def player_kinds(cls) -> dict[str, PlayerKind]:
        """Returns the kinds of players that the engine trains, by name."""
        return {**player_kinds(), **cls.extra_player_kinds}

    def kind_of(self, player: Player) -> PlayerKind:
        """Returns the kind of a player that the engine trains."""
        return self.player_kinds()[player.algorithm]

    def rule_class(self, player: Player) -> type[UpdateRule]:
        """Returns the class of the update rule of a player that the engine trains."""
        return import_attribute(self.kind_of(player).update_rule)

    @override(RolloutConfig)
    def spans_meta_episodes(self, player: Player) -> bool:
        """Returns True if the memory and the values of a trained player span meta-episodes."""
        return self.kind_of(player).spans_meta_episodes

    def set_modules(self, pool_members: list[list[tuple[str, float]]]) -> None:
        """Stores the module ids and probabilities of the pool members of each agent, without frozen dependencies."""
        self._alternatives = pool_members
        self.set_dependencies({}, {})

    def set_dependencies(
        self,
        by_agent: dict[int, dict[str, tuple[IntrinsicSettings, str, int]]],
        members: dict[int, dict[str, int]],
    ) -> None:
        """Stores the intrinsic rewards of other runs that frozen policies need to act.

        Args:
            by_agent: By index of the agent and name of the intrinsic reward: its settings, the suffix of the ids of its
                modules in this run, and the index of the agent in the run that trained the policy.
            members: Index of the pool member that needs it, by index of the agent and name of the intrinsic reward.
        """
        # Checkpoints of all versions contain these names.
        self._brought, self._brought_by = by_agent, members

    def pool_members(self) -> list[list[tuple[str, float]]]:
        """Returns the module ids and probabilities of the pool members of each agent."""
        return self._alternatives

    def learning_settings(self) -> dict[str, LearningSettings]:
        """Returns the settings of all online learners, by name."""
        return {**KNOWN_LEARNERS, **self.own_learning_settings}

    # --- intrinsic rewards ------------------------------------------------------------------------------------------

    def intrinsic_by_player(self) -> dict[str, dict[tuple[int, int], IntrinsicSettings]]:
        """Returns the settings of intrinsic rewards, by name and by index of the agent and of its pool member."""
        game = self.make_game()
        by_name: dict[str, dict[tuple[int, int], IntrinsicSettings]] = {}
        for index, player in enumerate(self.assigned_players):
            for member_index, (member, _) in enumerate(player.pool_members):
                for name in member.intrinsic:
                    by_name.setdefault(name, {})[index, member_index] = self.intrinsic_of(member, name, game)
        return by_name

    def intrinsic_of(self, player: Player, name: str, game: BatchedGame) -> IntrinsicSettings:
        """Returns a player's settings of an intrinsic reward.

        Args:
            player: The player, whose settings override those shared by all players.
            name: Name of the intrinsic reward.
            game: Environment from which the remaining settings are derived.

        Raises:
            ValueError: If the player overrides a setting that must be shared, or a value is invalid.
        """
        settings = self._settings_of_all(name)
        overrides = player.intrinsic.get(name, {})
        for key in overrides:
            if key in settings.common:
                raise ValueError(
                    f"players.{player.agent}.intrinsic.{name}.{key}: is shared by all players; set config.{name}.{key}"
                )
        if overrides:
            try:
                settings = type(settings).model_validate({**settings.model_dump(exclude_unset=True), **overrides})
            except ValidationError as error:
                first_error = error.errors()[0]
                path = ".".join(map(str, first_error["loc"]))
                raise ValueError(f"players.{player.agent}.intrinsic.{name}.{path}: {first_error['msg']}") from None
        return self._for_game(settings, game)

    def intrinsic_of_all(self, name: str, game: BatchedGame) -> IntrinsicSettings:
        """Returns the settings of an intrinsic reward that are shared by all players, completed for the game."""
        return self._for_game(self._settings_of_all(name), game)

    def intrinsic_of_module(self, module_id: str) -> dict[str, tuple[IntrinsicSettings, str, int]]:
        """Returns the intrinsic rewards that a policy of this run depends on, for runs that load it as a frozen policy.

        Args:
            module_id: Id of the policy's module.

        Returns:
            By name of the intrinsic reward: its settings, the suffix of the ids of its modules, and the index of the
            agent that the policy plays (the first one of a team).
        """
        game = self.make_game()
        for index, player in enumerate(self.assigned_players):
            for (candidate, _), (candidate_id, _) in zip(player.pool_members, self._alternatives[index], strict=True):
                if candidate_id == module_id:
                    rewards = {
                        name: (self.intrinsic_of(candidate, name, game), "", index) for name in candidate.intrinsic
                    }
                    return rewards if candidate.learns else self._brought.get(index, {})
        return {}

    def _settings_of_all(self, name: str) -> IntrinsicSettings:
        return self.intrinsic_settings.get(name) or intrinsic_reward(name).settings_class()

    def _for_game(self, settings: IntrinsicSettings, game: BatchedGame) -> IntrinsicSettings:
        return settings.for_game(
            has_payoffs=game.payoffs is not None,
            num_agents=game.num_agents,
            gamma=self.gamma,
            lowest_reward=float(game.reward_range[0]),
        )


def _team_name(kind: str, index: int) -> str:
    """Returns the name of the team of one member of a population."""
    return f"{kind}_{index}"


def _unfold_population(key: str, player: Any, kinds: set[str], size: int) -> Any:
    """Returns a value of the ``players`` mapping with populations in place of their kind of player.

    Args:
        key: Key of the value, for error messages.
        player: The value.
        kinds: Kinds of players that form populations.
        size: Number of members of a population.

    Raises:
        ValueError: If the player has settings of its own.
    """
    if isinstance(player, Mapping) and player.get("player") in kinds:
        raise ValueError(f"players.{key}: with meta.population {player['player']} has no settings of its own")
    pool = player.get(POOL) if isinstance(player, Mapping) else {player: 1.0}
    if not isinstance(pool, Mapping):
        return player
    for kind in kinds & pool.keys():
        remaining = {name: value for name, value in pool.items() if name != kind}
        teams = [f"{TEAM}/{_team_name(kind, index)}" for index in range(size)]
        return {POOL: {**remaining, **dict.fromkeys(teams, pool[kind] / size)}}
    return player
