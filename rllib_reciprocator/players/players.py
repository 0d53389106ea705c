"""Assignment of players to agents, from the ``players`` mapping of a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_reciprocator.intrinsic.registry import intrinsic_reward
from rllib_reciprocator.players.axelrod_strategies import check_strategy
from rllib_reciprocator.players.scripted import RANDOM, STRATEGIES
from rllib_reciprocator.utils.checkpoints import find_checkpoint, module_in
from rllib_reciprocator.utils.import_paths import import_attribute
from social_dilemmas.registry import did_you_mean

RECIPROCATOR, RECIPROCITY = "reciprocator", "reciprocity"
INCENTIVES = "incentives"
# Intrinsic rewards that the names of some players imply.
MOVED_BY = {RECIPROCATOR: RECIPROCITY, "lio": INCENTIVES, "lio_ac": INCENTIVES}
LEARNER, SCRIPTED, AXELROD, CHECKPOINT, POOL = "learner", "scripted", "axelrod", "checkpoint", "pool"
# Kind of online learners: trained inside the environment, not by the algorithm. Written as learner/NAME.
LEARNING = "learning"
TEAM, MODULE, INTRINSIC, GIVES = "team", "module", "intrinsic", "gives"
# Settings of the algorithm that a player can override.
OWN_SETTINGS = (
    "clip_param", "critic_epochs", "critic_lr", "entropy_coeff", "entropy_form", "epsilon", "gamma", "grad_clip",
    "kl_coeff", "kl_target", "lambda_", "lr", "use_kl_loss", "vf_clip_param", "vf_loss_coeff",
)  # fmt: skip
_COOPERATE_OR_DEFECT = ("cooperate", "defect")
# Keys of a player's mapping that are not settings of the algorithm.
PLAYER_KEYS = ("player", POOL, TEAM, MODULE, INTRINSIC, GIVES, "model_config")
_OWN_KEYS = (*PLAYER_KEYS, "lambda", *OWN_SETTINGS)


@dataclass(frozen=True)
class Player:
    """An agent and the player that acts for it.

    Attributes:
        agent: Name of the agent in the environment.
        kind: ``learner``, ``learning``, ``scripted``, ``axelrod``, ``checkpoint`` or ``pool``.
        written: The player as written in the mapping.
        algorithm: For a player that the algorithm trains, the name of its update rule, e.g. ``ppo``, or of its kind of
            player, e.g. ``lio``. Empty for all other kinds.
        source: Strategy of a scripted player or of a player of the Axelrod library; module folder of a frozen policy;
            name of an online learner. Empty for all other kinds.
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
    def reciprocates(self) -> bool:
        """Returns True if the player is trained with the reciprocal reward."""
        return RECIPROCITY in self.intrinsic

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
        """Returns a short name for tables; that of a frozen policy leaves out its path."""
        return f"{CHECKPOINT}/..#{Path(self.source).name}" if self.kind == CHECKPOINT else self.written


def assign(
    players: Mapping[str, Any],
    agents: Sequence[str],
    action_names: Sequence[str] | None,
    algorithms: Sequence[str] = ("ppo",),
    default: str = RECIPROCATOR,
    learning: Sequence[str] = (),
) -> tuple[Player, ...]:
    """Assigns a player to every agent.

    A key is the name of an agent or a pattern (``"player_*"``). The name of an agent takes precedence over patterns,
    and a later pattern over an earlier one. A value is one of

    - ``reciprocator``, short for ``{player: ppo, intrinsic: {reciprocity: {}}}``; or the name of an algorithm, e.g.
      ``ppo``, for a player that it trains;
    - ``team/NAME``: a player that shares its parameters with all members of that team;
    - ``module/PACKAGE.MODULE:CLASS``: a player with a custom RLModule class;
    - ``scripted/STRATEGY``: a scripted strategy; ``axelrod/STRATEGY``: a strategy of the Axelrod library, in
      matrix games with two agents;
    - ``learner/NAME``: an online learner, trained inside the environment between the inner episodes of a meta-episode:
      ``pg``, ``a2c`` or one of ``learning_players``;
    - ``checkpoint/PATH``: the player of the same agent in an earlier run; ``checkpoint/PATH#AGENT``: the player of
      another agent. PATH is the folder of a checkpoint, or of a run with one trial, whose last checkpoint is loaded;
    - a mapping with ``player`` (one of the above) and, for players that the algorithm trains, ``team``, ``module``,
      ``intrinsic`` (settings by name of the intrinsic reward), ``gives`` (false for a ``lio`` player that gives no
      incentives), ``model_config`` and settings of the algorithm (``OWN_SETTINGS``);
    - a mapping with ``pool``: a mapping from players to their shares. Each environment draws one of them per episode.

    Args:
        players: The mapping.
        agents: Names of the agents of the environment.
        action_names: Names of the actions; strategies other than ``random`` need ``cooperate`` and ``defect``. If None,
            this and the names of online learners are not checked, e.g. because an earlier call has checked them.
        algorithms: Names of the players that the algorithm trains. The first one also trains ``reciprocator``.
        default: Player of values that name only a team, a module or settings.
        learning: Names of the online learners; empty if the algorithm supports none.

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
        reader = _Reader(key, agent, action_names, tuple(algorithms), default, tuple(learning))
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
    algorithms: tuple[str, ...]
    default: str
    learning: tuple[str, ...]

    def read(self, value: Any) -> Player:
        if not isinstance(value, Mapping):
            return self._named(value)
        for name in value:
            if name not in _OWN_KEYS:
                raise self._error(f".{name}: not known{did_you_mean(str(name), _OWN_KEYS)}")
        return self._pool(value) if POOL in value else self._with_settings(value)

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"players.{self.key}{problem}")

    def _with_settings(self, value: Mapping[str, Any]) -> Player:
        player = self._named(value.get("player", self.default))
        settings = {
            ("lambda_" if name == "lambda" else name): setting
            for name, setting in value.items()
            if name not in PLAYER_KEYS or name == "model_config"
        }
        if not player.learns and len(value) > 1:
            raise self._error(f": {player.written} does not learn and takes no settings")
        team, module = str(value.get(TEAM, player.team)), str(value.get(MODULE, player.module))
        intrinsic = {**player.intrinsic, **self._intrinsic(value.get(INTRINSIC, {}))}
        gives = value.get(GIVES, True)
        if not isinstance(gives, bool) or (GIVES in value and INCENTIVES not in intrinsic):
            raise self._error(f".{GIVES}: must be true or false, and is for players with incentives only")
        if not gives:
            del intrinsic[INCENTIVES]
        return replace(player, team=team, module=module, settings=settings, intrinsic=intrinsic)

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
        kind, _, source = str(value).partition("/")
        if value == RECIPROCATOR or value in self.algorithms:
            algorithm = self.algorithms[0] if value == RECIPROCATOR else value
            intrinsic: dict[str, Any] = {MOVED_BY[value]: {}} if value in MOVED_BY else {}
            return Player(self.agent, LEARNER, value, algorithm, intrinsic=intrinsic)
        if kind in (TEAM, MODULE) and source:
            player = replace(self._named(self.default), written=value)
            return replace(player, team=source) if kind == TEAM else replace(player, module=source)
        if kind == SCRIPTED:
            if source not in STRATEGIES:
                raise self._error(f": there is no strategy {source!r}{did_you_mean(source, STRATEGIES)}")
            if source != RANDOM and not self._can_cooperate:
                raise self._error(
                    f": scripted/{source} needs the actions cooperate and defect; use scripted/random here"
                )
            return Player(self.agent, kind, value, source=source)
        if kind == AXELROD:
            if not self._can_cooperate:
                raise self._error(f": {value} needs an environment with the actions cooperate and defect")
            try:
                check_strategy(source)
            except ValueError as error:
                raise self._error(f": {error}") from None
            return Player(self.agent, kind, value, source=source)
        if kind == LEARNER and source:
            if self.action_names is not None and source not in self.learning:
                if not self.learning:
                    raise self._error(f": {value} needs the batched engine; use run: Reciprocator, COALA, ..")
                raise self._error(f": there is no online learner {source!r}{did_you_mean(source, self.learning)}")
            return Player(self.agent, LEARNING, value, source=source)
        if kind == CHECKPOINT:
            return Player(self.agent, kind, value, source=str(self._checkpointed_module(source)))
        forms = [f"{AXELROD}/STRATEGY", f"{TEAM}/NAME", f"{MODULE}/PACKAGE.MODULE:CLASS", f"{CHECKPOINT}/PATH"]
        forms += [f"{LEARNER}/{name}" for name in self.learning]
        valid_names = [RECIPROCATOR, *self.algorithms, *(f"{SCRIPTED}/{name}" for name in STRATEGIES), *forms]
        raise self._error(f": there is no player {value!r}{did_you_mean(str(value), valid_names)}")

    @property
    def _can_cooperate(self) -> bool:
        return self.action_names is None or tuple(self.action_names) == _COOPERATE_OR_DEFECT

    def _checkpointed_module(self, source: str) -> Path:
        path, _, agent = source.partition("#")
        try:
            return module_in(find_checkpoint(Path(path).expanduser().resolve()), agent or self.agent)
        except (ValueError, RuntimeError, OSError) as error:
            raise self._error(f": {error}") from None
