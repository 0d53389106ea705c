"""Who plays which seat: from the ``players`` mapping of a configuration to one player a seat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from rllib_reciprocator.players.scripted import RANDOM, STRATEGIES
from social_dilemmas.registry import did_you_mean

RECIPROCATOR, PPO, SCRIPTED, CHECKPOINT = "reciprocator", "ppo", "scripted", "checkpoint"
MODULE_PATH = Path("learner_group", "learner", "rl_module")


@dataclass(frozen=True)
class Player:
    """One seat and who sits there.

    Attributes:
        seat: The agent's name in the game; also the id of its RLModule.
        kind: ``reciprocator``, ``ppo``, ``scripted`` or ``checkpoint``.
        written: The player as written in the mapping.
        source: The strategy of a scripted player; the module's folder of a frozen one; else empty.
    """

    seat: str
    kind: str
    written: str
    source: str = ""

    @property
    def learns(self) -> bool:
        """Whether training changes this player."""
        return self.kind in (RECIPROCATOR, PPO)

    @property
    def name(self) -> str:
        """Short, for tables: a frozen player without its path."""
        return f"{CHECKPOINT}/..#{Path(self.source).name}" if self.kind == CHECKPOINT else self.written


def assign(players: Mapping[str, str], seats: Sequence[str], action_names: Sequence[str]) -> tuple[Player, ...]:
    """Gives every seat its player.

    A key is a seat or a pattern (``"player_*"``); a seat's own name goes before patterns, a later pattern before an
    earlier one. A value is ``reciprocator``, ``ppo``, ``scripted/STRATEGY``, or ``checkpoint/PATH`` for the player
    who sat on the same seat in an earlier run (``checkpoint/PATH#SEAT`` for another's).

    Args:
        players: The mapping.
        seats: The agents of the game.
        action_names: The game's actions; strategies other than ``random`` need ``cooperate`` and ``defect``.

    Raises:
        ValueError: If a key matches no seat, a seat has no player, or a player is not known; the message names the
            nearest valid one.
    """
    for key in players:
        if not any(fnmatchcase(seat, key) for seat in seats):
            raise ValueError(f"players.{key}: the game has no such seat{did_you_mean(key, seats)}")
    assigned = []
    for seat in seats:
        keys = [seat] if seat in players else [key for key in players if fnmatchcase(seat, key)]
        if not keys:
            raise ValueError(f"players: nobody plays {seat}")
        assigned.append(_parse(keys[-1], players[keys[-1]], seat, action_names))
    return tuple(assigned)


def _parse(key: str, value: str, seat: str, action_names: Sequence[str]) -> Player:
    kind, _, source = str(value).partition("/")
    if value in (RECIPROCATOR, PPO):
        return Player(seat, kind, value)
    if kind == SCRIPTED:
        if source not in STRATEGIES:
            raise ValueError(f"players.{key}: there is no strategy {source!r}{did_you_mean(source, STRATEGIES)}")
        if source != RANDOM and tuple(action_names) != ("cooperate", "defect"):
            raise ValueError(
                f"players.{key}: scripted/{source} plays games of cooperate and defect; here only scripted/random can"
            )
        return Player(seat, kind, value, source)
    if kind == CHECKPOINT:
        return Player(seat, kind, value, str(_checkpointed_module(key, source, seat)))
    known = [RECIPROCATOR, PPO, *(f"{SCRIPTED}/{name}" for name in STRATEGIES), f"{CHECKPOINT}/PATH"]
    raise ValueError(f"players.{key}: there is no player {value!r}{did_you_mean(str(value), known)}")


def _checkpointed_module(key: str, source: str, seat: str) -> Path:
    path, _, other_seat = source.partition("#")
    root = Path(path).expanduser().resolve()
    modules = root / MODULE_PATH
    if not modules.is_dir():
        raise ValueError(f"players.{key}: {path or 'an empty path'} is not a checkpoint (it has no {MODULE_PATH})")
    module = modules / (other_seat or seat)
    if not module.is_dir():
        there = [folder.name for folder in modules.iterdir() if folder.is_dir()]
        raise ValueError(f"players.{key}: {path} has no player {module.name!r}{did_you_mean(module.name, there)}")
    return module
