"""Entrants of a tournament."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rllib_reciprocator.evaluation.checkpoints import find, read_config
from rllib_reciprocator.players import AXELROD, CHECKPOINT, LEARNER_PREFIX, SCRIPTED
from rllib_reciprocator.utils.checkpoints import MODULE_PATH
from rllib_reciprocator.utils.errors import UserError


@dataclass(frozen=True)
class Entrant:
    """Participant of a tournament.

    Attributes:
        name: Name in tables and files.
        player: Specification of the player, as in a ``players`` mapping.
        checkpoint: Folder of the checkpoint that the player is loaded from, or None.
    """

    name: str
    player: str
    checkpoint: Path | None = None


def enter(arguments: Sequence[str]) -> tuple[Entrant, ...]:
    """Builds entrants from command line arguments.

    Args:
        arguments: Arguments of the form ``[NAME=]CHECKPOINT[#AGENT]``, ``[NAME=]scripted/STRATEGY``,
            ``[NAME=]axelrod/STRATEGY`` or ``[NAME=]learner/NAME``. If no agent is given, all trained policies of the
            checkpoint take part.

    Raises:
        UserError: If a checkpoint cannot be read, two entrants have the same name, or there are fewer than two.
    """
    entrants: list[Entrant] = []
    for argument in arguments:
        name, equals, player = argument.partition("=")
        name, player = (name, player) if equals else ("", argument)
        kind, _, source = player.partition("/")
        if kind in (SCRIPTED, AXELROD, LEARNER_PREFIX):
            entrants.append(Entrant(name or (player if kind == LEARNER_PREFIX else source), player))
        else:
            entrants += _of_checkpoint(name, player.removeprefix(f"{CHECKPOINT}/"))
    players: dict[str, str] = {}
    for entrant in entrants:
        if entrant.name in players:
            raise UserError(
                f"{entrant.player}: the name {entrant.name!r} is taken already; choose another: other={entrant.player}"
            )
        players[entrant.name] = entrant.player
    if len(entrants) < 2:
        raise UserError("a tournament needs at least two entrants")
    return tuple(entrants)


def _of_checkpoint(name: str, checkpoint: str) -> Iterator[Entrant]:
    path, _, agent = checkpoint.partition("#")
    folder = find(path)
    config = read_config(folder)
    modules = sorted(entry.name for entry in (folder / MODULE_PATH).iterdir() if entry.is_dir())
    policies = [agent] if agent else [name for name in modules if name in (config.policies_to_train or modules)]
    label = name or folder.parent.parent.name or folder.name
    for policy in policies:
        # Modules that are not policies, e.g. influence estimators, cannot play.
        if policy not in config.policies:
            continue
        yield Entrant(label if agent and name else f"{label}#{policy}", f"{CHECKPOINT}/{folder}#{policy}", folder)
