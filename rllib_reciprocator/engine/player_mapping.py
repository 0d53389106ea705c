"""Assignment of players to agents, from the ``players`` mapping of a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_reciprocator.engine.context import PlayerKind
from rllib_reciprocator.engine.registries import (
    intrinsic_reward,
    player_source,
    player_source_prefixes,
    player_switches,
)
from rllib_reciprocator.utils.import_paths import import_attribute
from social_dilemmas.registry import did_you_mean

if TYPE_CHECKING:
    from rllib_reciprocator.engine.player_sources import PlayerSource

# Values of ``Player.kind``, which checkpoints contain: players that the algorithm trains, and pools. Other values are
# those of player sources.
LEARNER, POOL = "learner", "pool"
TEAM, MODULE, INTRINSIC = "team", "module", "intrinsic"
# Settings of the algorithm that a player can override, in addition to those of its kind.
OWN_SETTINGS = (
    "clip_param", "critic_epochs", "critic_lr", "entropy_coeff", "entropy_form", "epsilon", "gamma", "grad_clip",
    "kl_coeff", "kl_target", "lambda_", "lr", "use_kl_loss", "vf_clip_param", "vf_loss_coeff",
)  # fmt: skip


@dataclass(frozen=True)
class Player:
    """An agent and the player that acts for it.

    Attributes:
        agent: Name of the agent in the environment.
        kind: ``learner`` for a player that the algorithm trains, ``pool``, or the kind of its
            :class:`rllib_reciprocator.engine.player_sources.PlayerSource`.
        written: The player as written in the mapping.
        algorithm: For a player that the algorithm trains, the name of its update rule, e.g. ``ppo``, or of its kind of
            player. Empty for all other kinds.
        source: What the player source needs, e.g. the name of a strategy or the folder of a module. Empty for players
            that the algorithm trains.
        team: Name of the team that it shares its parameters with; empty if it has no team.
        module: Import path of its custom RLModule class; empty if it has none.
        intrinsic: Its intrinsic rewards: settings by name of the intrinsic reward.
        settings: Settings of the algorithm, and ``model_config``, that it overrides.
        members: Members of a pool, each with its share of the episodes; the shares sum to 1. Empty for all other kinds.
    """

    agent: str
    kind: str
    written: str
    algorithm: str = ""
    source: str = ""
    team: str = ""
    module: str = ""
    intrinsic: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    members: tuple[tuple[Player, float], ...] = ()

    @property
    def learns(self) -> bool:
        """Returns True if the algorithm trains this player, or a member of its pool."""
        return self.kind == LEARNER or any(member.learns for member, _ in self.members)

    @property
    def pool_members(self) -> tuple[tuple[Player, float], ...]:
        """Returns the pool members and their shares of the episodes; a player that is no pool is its only member."""
        return self.members or ((self, 1.0),)

    @property
    def module_id(self) -> str:
        """Returns the id of its RLModule: the name of its team, or of its agent if it has no team."""
        return self.team or self.agent

    @property
    def overrides(self) -> dict[str, Any]:
        """Returns the settings of the algorithm that the player overrides."""
        return {name: value for name, value in self.settings.items() if name != "model_config"}

    @property
    def name(self) -> str:
        """Returns a short name for tables."""
        source = self.player_source
        return self.written if source is None else source.short_name(self)

    @property
    def player_source(self) -> PlayerSource | None:
        """Returns the source of the player; None for pools and players that the algorithm trains."""
        return source_of_kind(self.kind)


def assign(
    players: Mapping[str, Any],
    agents: Sequence[str],
    action_names: Sequence[str] | None,
    kinds: Mapping[str, PlayerKind],
    default: str,
    online_learners: Sequence[str] = (),
    team_kinds: Mapping[str, str] | None = None,
) -> tuple[Player, ...]:
    """Assigns a player to every agent.

    A key is the name of an agent or a pattern (``"player_*"``). The name of an agent takes precedence over patterns,
    and a later pattern over an earlier one. A value is one of

    - the name of a kind of player that the algorithm trains, e.g. ``ppo``; some kinds are short forms of
      another kind with intrinsic rewards (:data:`rllib_reciprocator.registry.PLAYER_KINDS`);
    - ``team/NAME``: a player that shares its parameters with all members of that team;
    - ``module/PACKAGE.MODULE:CLASS``: a player with a custom RLModule class;
    - ``scripted/STRATEGY``: a scripted strategy; ``axelrod/STRATEGY``: a strategy of the Axelrod library, in
      matrix games with two agents;
    - ``learner/NAME``: an online learner, trained inside the environment between the inner episodes of a meta-episode:
      ``pg``, ``a2c`` or one of ``learning_players``;
    - ``checkpoint/PATH``: the player of the same agent in an earlier run; ``checkpoint/PATH#AGENT``: the player of
      another agent. PATH is the folder of a checkpoint, or of a run with one trial, whose last checkpoint is loaded;
    - a mapping with ``player`` (one of the above) and, for players that the algorithm trains, ``team``, ``module``,
      ``intrinsic`` (settings by name of the intrinsic reward), a switch that disables an intrinsic reward of its kind
      (:data:`rllib_reciprocator.registry.PLAYER_SWITCHES`), ``model_config`` and settings of the algorithm
      (``OWN_SETTINGS`` and those of its kind);
    - a mapping with ``pool``: a mapping from players to their shares. Each environment draws one of them per episode.

    Args:
        players: The mapping.
        agents: Names of the agents of the environment.
        action_names: Names of the actions; strategies other than ``random`` need ``cooperate`` and ``defect``. If None,
            this and the names of online learners are not checked, e.g. because an earlier call has checked them.
        kinds: Kinds of players that the algorithm trains, by name.
        default: Player of values that name only a team, a module or settings.
        online_learners: Names of the online learners; empty if the algorithm supports none.
        team_kinds: Kinds of players by name of their team, for values ``team/NAME``; other teams are of ``default``.

    Returns:
        One player per agent, in the order of ``agents``.

    Raises:
        ValueError: If a key matches no agent, an agent has no player, or a player is not known; the message suggests
            the nearest valid name.
    """
    key_of = keys_by_agent(players, agents)
    assignment = []
    for agent in agents:
        if agent not in key_of:
            raise ValueError(f"players: no key assigns a player to {agent}")
        key = key_of[agent]
        reader = _Reader(key, agent, action_names, kinds, default, tuple(online_learners), team_kinds or {})
        assignment.append(reader.read(players[key]))
    return tuple(assignment)


def keys_by_agent(players: Mapping[str, Any], agents: Sequence[str]) -> dict[str, str]:
    """Returns the key that applies to each agent: the name of the agent, or the last pattern that matches it.

    Args:
        players: The mapping, by agent or pattern.
        agents: Names of the agents of the environment.

    Returns:
        The key by agent, without the agents that no key matches.

    Raises:
        ValueError: If a key matches no agent.
    """
    agent_keys: dict[str, str] = {}
    for key in players:
        matches = [agent for agent in agents if fnmatchcase(agent, str(key))]
        if not matches:
            raise ValueError(f"players.{key}: the environment has no such agent{did_you_mean(key, agents)}")
        agent_keys |= {agent: key for agent in matches if agent not in players or agent == key}
    return agent_keys


def module_class(player: Player) -> type[RLModule]:
    """Imports the RLModule class that a player's ``module`` names.

    Raises:
        ValueError: If it cannot be imported, or is not a subclass of RLModule.
    """
    setting = f"players.{player.agent}: module/{player.module}"
    if ":" not in player.module:
        raise ValueError(f"{setting}: give PACKAGE.MODULE:CLASS")
    try:
        attribute = import_attribute(player.module)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{setting}: cannot be imported ({error})") from None
    if not (isinstance(attribute, type) and issubclass(attribute, RLModule)):
        raise ValueError(f"{setting}: is not a subclass of RLModule")
    return attribute


@dataclass(frozen=True)
class _Reader:
    """Parser of one value of a ``players`` mapping; see :func:`assign`."""

    key: str
    agent: str
    action_names: Sequence[str] | None
    kinds: Mapping[str, PlayerKind]
    default: str
    online_learners: tuple[str, ...]
    team_kinds: Mapping[str, str]

    def read(self, value: Any) -> Player:
        if not isinstance(value, Mapping):
            return self._named(value)
        known_keys = self._known_keys()
        for name in value:
            if name not in known_keys:
                raise self._error(f".{name}: not known{did_you_mean(str(name), known_keys)}")
        return self._pool(value) if POOL in value else self._with_settings(value)

    def _known_keys(self) -> tuple[str, ...]:
        """Returns the valid keys of a mapping."""
        kind_settings = [name for kind in self.kinds.values() for name in kind.settings]
        return (*player_keys(), "lambda", *OWN_SETTINGS, *kind_settings)

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"players.{self.key}{problem}")

    def _with_settings(self, value: Mapping[str, Any]) -> Player:
        player = self._named(value.get("player", self.default))
        settings = {
            ("lambda_" if name == "lambda" else name): setting
            for name, setting in value.items()
            if name not in player_keys() or name == "model_config"
        }
        if not player.learns and len(value) > 1:
            raise self._error(f": {player.written} does not learn and takes no settings")
        team, module = str(value.get(TEAM, player.team)), str(value.get(MODULE, player.module))
        intrinsic = {**player.intrinsic, **self._intrinsic(value.get(INTRINSIC, {}))}
        for key, name in player_switches().items():
            is_enabled = value.get(key, True)
            if not isinstance(is_enabled, bool) or (key in value and name not in intrinsic):
                raise self._error(f".{key}: must be true or false, and is for players with {name} only")
            if not is_enabled:
                del intrinsic[name]
        self._check_kind_settings(player, settings)
        return replace(player, team=team, module=module, settings=settings, intrinsic=intrinsic)

    def _check_kind_settings(self, player: Player, settings: Mapping[str, Any]) -> None:
        """Raises ValueError if a setting belongs to another kind of player."""
        kind = self.kinds.get(player.algorithm, PlayerKind())
        for name in settings:
            owners = [kind_name for kind_name, fields in self.kinds.items() if name in fields.settings]
            if owners and name not in kind.settings:
                raise self._error(f".{name}: is a setting of {' and '.join(owners)}, not of {player.algorithm}")

    def _intrinsic(self, value: Any) -> dict[str, Mapping[str, Any]]:
        if not isinstance(value, Mapping):
            raise self._error(f".{INTRINSIC}: {value!r} is not a mapping of intrinsic rewards")
        for name, settings in value.items():
            try:
                intrinsic_reward(str(name))
            except ValueError as error:
                raise self._error(f".{INTRINSIC}: {error}") from None
            if not isinstance(settings or {}, Mapping):
                raise self._error(f".{INTRINSIC}.{name}: {settings!r} is not a mapping")
        return {str(name): dict(settings or {}) for name, settings in value.items()}

    def _pool(self, value: Mapping[str, Any]) -> Player:
        pool = value[POOL]
        if len(value) > 1:
            raise self._error(f".{POOL}: cannot be combined with other keys; settings belong to the pool members")
        if not isinstance(pool, Mapping) or not pool:
            raise self._error(f".{POOL}: give players and their shares, e.g. {{scripted/tit_for_tat: 0.5, ppo: 0.5}}")
        members = []
        for name, share in pool.items():
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 1.0:
                raise self._error(f".{POOL}.{name}: {share!r} is not a share between 0 and 1")
            members.append((self._named(name), float(share)))
        if abs(sum(share for _, share in members) - 1.0) > 1e-6:
            raise self._error(f".{POOL}: the shares sum to {sum(share for _, share in members):g}, not to 1")
        return Player(self.agent, POOL, " | ".join(map(str, pool)), members=tuple(members))

    def _named(self, value: Any) -> Player:
        if value in self.kinds:
            kind = self.kinds[value]
            return Player(self.agent, LEARNER, value, kind.trained_as or value, intrinsic=dict(kind.intrinsic))
        prefix, _, source = str(value).partition("/")
        if prefix in (TEAM, MODULE) and source:
            kind_name = self.team_kinds.get(source, self.default) if prefix == TEAM else self.default
            player = replace(self._named(kind_name), written=value)
            return replace(player, team=source) if prefix == TEAM else replace(player, module=source)
        player_type = player_source(prefix) if "/" in str(value) else None
        if player_type is None:
            raise self._error(f": there is no player {value!r}{did_you_mean(str(value), self._valid_names())}")
        try:
            resolved_source = player_type.resolve(source, self.agent, self.action_names, self.online_learners)
        except (ValueError, RuntimeError, OSError) as error:
            raise self._error(f": {error}") from None
        return Player(self.agent, player_type.kind, value, source=resolved_source)

    def _valid_names(self) -> list[str]:
        """Returns the valid values, for suggestions."""
        names = [*self.kinds, f"{TEAM}/NAME", f"{MODULE}/PACKAGE.MODULE:CLASS"]
        for prefix in player_source_prefixes():
            source = player_source(prefix)
            assert source is not None
            names += [f"{prefix}/{name}" for name in source.names(self.online_learners)]
        return names


def player_keys() -> tuple[str, ...]:
    """Returns the keys of a player's mapping that are not settings of the algorithm."""
    return ("player", POOL, TEAM, MODULE, INTRINSIC, *player_switches(), "model_config")


def source_of_kind(kind: str) -> PlayerSource | None:
    """Returns the player source whose players have a kind; None if there is none."""
    sources = (player_source(prefix) for prefix in player_source_prefixes())
    return next((source for source in sources if source is not None and source.kind == kind), None)
