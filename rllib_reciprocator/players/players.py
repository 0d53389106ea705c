"""Who plays which seat: from the ``players`` mapping of a configuration to one player a seat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rllib_reciprocator.checkpoints import find_checkpoint, module_in
from rllib_reciprocator.players.axelrod_strategies import check_strategy
from rllib_reciprocator.players.scripted import RANDOM, STRATEGIES
from social_dilemmas.registry import did_you_mean

RECIPROCATOR, LEARNER, SCRIPTED, CHECKPOINT = "reciprocator", "learner", "scripted", "checkpoint"
AXELROD = "axelrod"
TEAM, MODULE = "team", "module"
# Settings of an algorithm that a player may have to itself.
OWN_SETTINGS = (
    "clip_param", "entropy_coeff", "gamma", "grad_clip", "kl_coeff", "kl_target", "lambda_", "lr", "use_kl_loss",
    "vf_clip_param", "vf_loss_coeff",
)  # fmt: skip
_COOPERATE_OR_DEFECT = ("cooperate", "defect")
# Keys of a player's mapping that are no settings of the algorithm.
PLAYER_KEYS = ("player", TEAM, MODULE, "model_config")
_OWN_KEYS = (*PLAYER_KEYS, "lambda", *OWN_SETTINGS)


@dataclass(frozen=True)
class Player:
    """One seat and who sits there.

    Attributes:
        seat: The agent's name in the game.
        kind: ``reciprocator``, ``learner`` (learns, but does not reciprocate), ``scripted``, ``axelrod`` or
            ``checkpoint``.
        written: The player as written in the mapping.
        source: The strategy of a scripted player or of the Axelrod library; the module's folder of a frozen one; else
            empty.
        team: Whose parameters it shares, if anybody's.
        module: Import path of its RLModule class, if it has one of its own.
        settings: Settings of the algorithm, and ``model_config``, that it has to itself.
    """

    seat: str
    kind: str
    written: str
    source: str = ""
    team: str = ""
    module: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def learns(self) -> bool:
        """Whether training changes this player."""
        return self.kind in (RECIPROCATOR, LEARNER)

    @property
    def module_id(self) -> str:
        """The id of its RLModule: its seat, or its team."""
        return self.team or self.seat

    @property
    def overrides(self) -> dict[str, Any]:
        """Settings of the algorithm that it has to itself."""
        return {name: value for name, value in self.settings.items() if name != "model_config"}

    @property
    def name(self) -> str:
        """Short, for tables: a frozen player without its path."""
        return f"{CHECKPOINT}/..#{Path(self.source).name}" if self.kind == CHECKPOINT else self.written


def assign(
    players: Mapping[str, Any], seats: Sequence[str], action_names: Sequence[str] | None, learner: str = "ppo"
) -> tuple[Player, ...]:
    """Gives every seat its player.

    A key is a seat or a pattern (``"player_*"``); a seat's own name goes before patterns, a later pattern before an
    earlier one. A value is one of

    - ``reciprocator``; or the name of the algorithm, as ``ppo``, for who learns without reciprocating;
    - ``team/NAME``: Reciprocators that share their parameters with all others of that team;
    - ``module/PACKAGE.MODULE:CLASS``: a Reciprocator with an RLModule class of your own;
    - ``scripted/STRATEGY``; ``axelrod/STRATEGY`` for one of the Axelrod library, in games of two;
    - ``checkpoint/PATH`` for the player who sat on the same seat in an earlier run, ``checkpoint/PATH#SEAT`` for
      another's; PATH is a checkpoint's folder, or that of a run with one trial, for its last checkpoint;
    - a mapping with ``player`` (one of these), and of those who learn ``team``, ``module``, ``model_config`` and
      settings of the algorithm (``OWN_SETTINGS``).

    Args:
        players: The mapping.
        seats: The agents of the game.
        action_names: The game's actions; strategies other than ``random`` need ``cooperate`` and ``defect``. None if
            that has been looked at before.
        learner: Name of those who learn without reciprocating.

    Raises:
        ValueError: If a key matches no seat, a seat has no player, or a player is not known; the message names the
            nearest valid one.
    """
    key_of = keys_by_seat(players, seats)
    assigned = []
    for seat in seats:
        if seat not in key_of:
            raise ValueError(f"players: nobody plays {seat}")
        key = key_of[seat]
        parse = _with_settings if isinstance(players[key], Mapping) else _parse
        assigned.append(parse(key, players[key], seat, action_names, learner))
    return tuple(assigned)


def keys_by_seat(players: Mapping[str, Any], seats: Sequence[str]) -> dict[str, str]:
    """Which key of a mapping is for which seat: its own name, else the last pattern that matches it.

    Args:
        players: The mapping, by seat or pattern.
        seats: The agents of the game.

    Raises:
        ValueError: If a key is for no seat.
    """
    found: dict[str, str] = {}
    for key in players:
        matching = [seat for seat in seats if fnmatchcase(seat, str(key))]
        if not matching:
            raise ValueError(f"players.{key}: the game has no such seat{did_you_mean(key, seats)}")
        found |= {seat: key for seat in matching if seat not in players or seat == key}
    return found


def _with_settings(
    key: str, value: Mapping[str, Any], seat: str, action_names: Sequence[str] | None, learner: str
) -> Player:
    for name in value:
        if name not in _OWN_KEYS:
            raise ValueError(f"players.{key}.{name}: not known{did_you_mean(str(name), _OWN_KEYS)}")
    player = _parse(key, value.get("player", RECIPROCATOR), seat, action_names, learner)
    settings = {("lambda_" if name == "lambda" else name): value[name] for name in value if name not in _OWN_KEYS[:3]}
    if not player.learns and len(value) > 1:
        raise ValueError(f"players.{key}: {player.written} does not learn, and has no settings")
    team, module = str(value.get(TEAM, player.team)), str(value.get(MODULE, player.module))
    return replace(player, team=team, module=module, settings=settings)


def _parse(key: str, value: Any, seat: str, action_names: Sequence[str] | None, learner: str) -> Player:
    kind, _, source = str(value).partition("/")
    if value in (RECIPROCATOR, learner):
        return Player(seat, RECIPROCATOR if value == RECIPROCATOR else LEARNER, value)
    if kind == TEAM and source:
        return Player(seat, RECIPROCATOR, value, team=source)
    if kind == MODULE and source:
        return Player(seat, RECIPROCATOR, value, module=source)
    if kind == SCRIPTED:
        if source not in STRATEGIES:
            raise ValueError(f"players.{key}: there is no strategy {source!r}{did_you_mean(source, STRATEGIES)}")
        if source != RANDOM and action_names is not None and tuple(action_names) != _COOPERATE_OR_DEFECT:
            raise ValueError(
                f"players.{key}: scripted/{source} plays games of cooperate and defect; here only scripted/random can"
            )
        return Player(seat, kind, value, source)
    if kind == AXELROD:
        if action_names is not None and tuple(action_names) != _COOPERATE_OR_DEFECT:
            raise ValueError(f"players.{key}: {value} plays games of cooperate and defect")
        try:
            check_strategy(source)
        except ValueError as error:
            raise ValueError(f"players.{key}: {error}") from None
        return Player(seat, kind, value, source)
    if kind == CHECKPOINT:
        return Player(seat, kind, value, str(_checkpointed_module(key, source, seat)))
    forms = [f"{AXELROD}/STRATEGY", f"{TEAM}/NAME", f"{MODULE}/PACKAGE.MODULE:CLASS", f"{CHECKPOINT}/PATH"]
    known = [RECIPROCATOR, learner, *(f"{SCRIPTED}/{name}" for name in STRATEGIES), *forms]
    raise ValueError(f"players.{key}: there is no player {value!r}{did_you_mean(str(value), known)}")


def _checkpointed_module(key: str, source: str, seat: str) -> Path:
    path, _, other_seat = source.partition("#")
    try:
        return module_in(find_checkpoint(Path(path).expanduser().resolve()), other_seat or seat)
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"players.{key}: {error}") from None
