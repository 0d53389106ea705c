"""Who plays which agent: from the ``players`` mapping of a configuration to one player an agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_reciprocator.intrinsic.registry import intrinsic_reward
from rllib_reciprocator.players.axelrod_strategies import check_strategy
from rllib_reciprocator.players.scripted import RANDOM, STRATEGIES
from rllib_reciprocator.utils.checkpoints import find_checkpoint, module_in
from social_dilemmas.registry import did_you_mean

RECIPROCATOR, RECIPROCITY = "reciprocator", "reciprocity"
INCENTIVES = "incentives"
# What players of some names are moved by.
MOVED_BY = {RECIPROCATOR: RECIPROCITY, "lio": INCENTIVES, "lio_ac": INCENTIVES}
LEARNER, SCRIPTED, AXELROD, CHECKPOINT, POOL = "learner", "scripted", "axelrod", "checkpoint", "pool"
# Who learns inside the environment, and is no learner of the algorithm; written learner/NAME.
LEARNING = "learning"
TEAM, MODULE, INTRINSIC, GIVES = "team", "module", "intrinsic", "gives"
# Settings of an algorithm that a player may have to itself.
OWN_SETTINGS = (
    "clip_param", "critic_epochs", "critic_lr", "entropy_coeff", "entropy_form", "epsilon", "gamma", "grad_clip",
    "kl_coeff", "kl_target", "lambda_", "lr", "use_kl_loss", "vf_clip_param", "vf_loss_coeff",
)  # fmt: skip
_COOPERATE_OR_DEFECT = ("cooperate", "defect")
# Keys of a player's mapping that are no settings of the algorithm.
PLAYER_KEYS = ("player", POOL, TEAM, MODULE, INTRINSIC, GIVES, "model_config")
_OWN_KEYS = (*PLAYER_KEYS, "lambda", *OWN_SETTINGS)


@dataclass(frozen=True)
class Player:
    """One agent and who plays it.

    Attributes:
        agent: The agent's name in the game.
        kind: ``learner``, ``learning``, ``scripted``, ``axelrod``, ``checkpoint`` or ``pool``.
        written: The player as written in the mapping.
        algorithm: Of who learns: how, as ``ppo``; another of the algorithm's players is named as that.
        source: The strategy of a scripted player or of the Axelrod library; the module's folder of a frozen one; the
            name of one that learns inside the environment; else empty.
        team: Whose parameters it shares, if anybody's.
        module: Import path of its RLModule class, if it has one of its own.
        intrinsic: What it is moved by beside the environment's reward: settings by name of the intrinsic reward.
        settings: Settings of the algorithm, and ``model_config``, that it has to itself.
        members: Of a pool: players and their shares of the games; the shares sum to 1.
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
        """Whether training changes this player."""
        return self.kind == LEARNER or any(member.learns for member, _ in self.members)

    @property
    def reciprocates(self) -> bool:
        """Whether it learns, and is moved by reciprocity."""
        return RECIPROCITY in self.intrinsic

    @property
    def pool_members(self) -> tuple[tuple[Player, float], ...]:
        """Who may play the agent in a game, each with its share of the games: the members of a pool, or itself."""
        return self.members or ((self, 1.0),)

    @property
    def module_id(self) -> str:
        """The id of its RLModule: its agent, or its team."""
        return self.team or self.agent

    @property
    def overrides(self) -> dict[str, Any]:
        """Settings of the algorithm that it has to itself."""
        return {name: value for name, value in self.settings.items() if name != "model_config"}

    @property
    def name(self) -> str:
        """Short, for tables: a frozen player without its path."""
        return f"{CHECKPOINT}/..#{Path(self.source).name}" if self.kind == CHECKPOINT else self.written


def assign(
    players: Mapping[str, Any],
    agents: Sequence[str],
    action_names: Sequence[str] | None,
    algorithms: Sequence[str] = ("ppo",),
    default: str = RECIPROCATOR,
    learning: Sequence[str] = (),
) -> tuple[Player, ...]:
    """Gives every agent its player.

    A key is an agent or a pattern (``"player_*"``); an agent's own name goes before patterns, a later pattern before an
    earlier one. A value is one of

    - ``reciprocator``, short for ``{player: ppo, intrinsic: {reciprocity: {}}}``; or the name of an algorithm, as
      ``ppo``, for who learns by it;
    - ``team/NAME``: who shares its parameters with all others of that team;
    - ``module/PACKAGE.MODULE:CLASS``: who has an RLModule class of your own;
    - ``scripted/STRATEGY``; ``axelrod/STRATEGY`` for one of the Axelrod library, in games of two;
    - ``learner/NAME``: who learns inside the environment, between the inner episodes of a meta-episode, ``pg``, ``a2c``
      or one of ``learning_players``;
    - ``checkpoint/PATH`` for the player of the same agent in an earlier run, ``checkpoint/PATH#AGENT`` for another's;
      PATH is a checkpoint's folder, or that of a run with one trial, for its last checkpoint;
    - a mapping with ``player`` (one of these), and of those who learn ``team``, ``module``, ``intrinsic`` (settings by
      name of an intrinsic reward), ``gives`` (false for a ``lio`` player without incentives to give), ``model_config``
      and settings of the algorithm (``OWN_SETTINGS``);
    - a mapping with ``pool``: a mapping from players to their shares. Each game draws one of them for each episode.

    Args:
        players: The mapping.
        agents: The agents of the game.
        action_names: The game's actions; strategies other than ``random`` need ``cooperate`` and ``defect``. None if
            that has been looked at before.
        algorithms: Names of those who learn without an intrinsic reward.
        default: How those learn of whom a team or a module alone is named.
        learning: Names of those who learn inside the environment, where they can.

    Raises:
        ValueError: If a key matches no agent, an agent has no player, or a player is not known; the message names the
            nearest valid one.
    """
    key_of = keys_by_agent(players, agents)
    assigned = []
    for agent in agents:
        if agent not in key_of:
            raise ValueError(f"players: nobody plays {agent}")
        key = key_of[agent]
        reader = _Reader(key, agent, action_names, tuple(algorithms), default, tuple(learning))
        assigned.append(reader.read(players[key]))
    return tuple(assigned)


def keys_by_agent(players: Mapping[str, Any], agents: Sequence[str]) -> dict[str, str]:
    """Which key of a mapping is for which agent: its own name, else the last pattern that matches it.

    Args:
        players: The mapping, by agent or pattern.
        agents: The agents of the game.

    Raises:
        ValueError: If a key is for no agent.
    """
    found: dict[str, str] = {}
    for key in players:
        matching = [agent for agent in agents if fnmatchcase(agent, str(key))]
        if not matching:
            raise ValueError(f"players.{key}: the game has no such agent{did_you_mean(key, agents)}")
        found |= {agent: key for agent in matching if agent not in players or agent == key}
    return found


def module_class(player: Player) -> type[RLModule]:
    """The RLModule class that a player's module names.

    Raises:
        ValueError: If there is none.
    """
    module, colon, name = player.module.partition(":")
    at = f"players.{player.agent}: module/{player.module}"
    if not colon:
        raise ValueError(f"{at}: give PACKAGE.MODULE:CLASS")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{at}: cannot be imported ({error})") from None
    if not (isinstance(found, type) and issubclass(found, RLModule)):
        raise ValueError(f"{at}: is not a class of RLModules")
    return found


@dataclass(frozen=True)
class _Reader:
    """Reads one value of a ``players`` mapping; see :func:`assign`."""

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
            ("lambda_" if name == "lambda" else name): given
            for name, given in value.items()
            if name not in PLAYER_KEYS or name == "model_config"
        }
        if not player.learns and len(value) > 1:
            raise self._error(f": {player.written} does not learn, and has no settings")
        team, module = str(value.get(TEAM, player.team)), str(value.get(MODULE, player.module))
        intrinsic = {**player.intrinsic, **self._intrinsic(value.get(INTRINSIC, {}))}
        gives = value.get(GIVES, True)
        if not isinstance(gives, bool) or (GIVES in value and INCENTIVES not in intrinsic):
            raise self._error(f".{GIVES}: is true or false, of who has incentives to give")
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
            raise self._error(f".{POOL}: goes with nothing else; settings are those of its members")
        if not isinstance(pool, Mapping) or not pool:
            raise self._error(f".{POOL}: give players and their shares, as {{scripted/tit_for_tat: 0.5, ppo: 0.5}}")
        members = []
        for written, share in pool.items():
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 1.0:
                raise self._error(f".{POOL}.{written}: {share!r} is not a share between 0 and 1")
            members.append((self._named(written), float(share)))
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
                    f": scripted/{source} plays games of cooperate and defect; here only scripted/random can"
                )
            return Player(self.agent, kind, value, source=source)
        if kind == AXELROD:
            if not self._can_cooperate:
                raise self._error(f": {value} plays games of cooperate and defect")
            try:
                check_strategy(source)
            except ValueError as error:
                raise self._error(f": {error}") from None
            return Player(self.agent, kind, value, source=source)
        if kind == LEARNER and source:
            if self.action_names is not None and source not in self.learning:
                if not self.learning:
                    raise self._error(f": {value} plays on the batched engine only (run: Reciprocator, COALA, ..)")
                raise self._error(f": nobody learns by the name {source!r}{did_you_mean(source, self.learning)}")
            return Player(self.agent, LEARNING, value, source=source)
        if kind == CHECKPOINT:
            return Player(self.agent, kind, value, source=str(self._checkpointed_module(source)))
        forms = [f"{AXELROD}/STRATEGY", f"{TEAM}/NAME", f"{MODULE}/PACKAGE.MODULE:CLASS", f"{CHECKPOINT}/PATH"]
        forms += [f"{LEARNER}/{name}" for name in self.learning]
        known = [RECIPROCATOR, *self.algorithms, *(f"{SCRIPTED}/{name}" for name in STRATEGIES), *forms]
        raise self._error(f": there is no player {value!r}{did_you_mean(str(value), known)}")

    @property
    def _can_cooperate(self) -> bool:
        return self.action_names is None or tuple(self.action_names) == _COOPERATE_OR_DEFECT

    def _checkpointed_module(self, source: str) -> Path:
        path, _, other = source.partition("#")
        try:
            return module_in(find_checkpoint(Path(path).expanduser().resolve()), other or self.agent)
        except (ValueError, RuntimeError, OSError) as error:
            raise self._error(f": {error}") from None
