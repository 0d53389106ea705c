"""Every game by its id: where it is built, and with which defaults."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from pettingzoo import AECEnv

    from social_dilemmas.batched_game import BatchedGame
    from social_dilemmas.pettingzoo_env import GameParallelEnv


@dataclass(frozen=True)
class GameSpec:
    """A registered game. Has PettingZoo's own form: ``coins_v0.parallel_env(...)``.

    Attributes:
        id: Name and version, as ``coins_v0``. The version rises when the same seed and actions give another trace.
        entry_point: ``module:callable`` that builds the game; imported when first used.
        defaults: Arguments that differ from the callable's own defaults.
        summary: One line on the game.
    """

    id: str
    entry_point: str
    summary: str
    defaults: dict[str, Any] = field(default_factory=dict)

    def builder(self) -> Callable[..., BatchedGame]:
        """The callable that builds the game."""
        module, name = self.entry_point.split(":")
        return getattr(import_module(module), name)

    def settings(self) -> dict[str, tuple[Any, Any]]:
        """The game's arguments for ``env_config``: name -> (type, default)."""
        builder = self.builder()
        target = builder.__init__ if inspect.isclass(builder) else builder
        hints = get_type_hints(target)
        parameters = inspect.signature(builder).parameters
        return {
            name: (hints.get(name, Any), self.defaults.get(name, parameter.default))
            for name, parameter in parameters.items()
            if name not in ("num_games", "device")
        }

    def make(self, num_games: int = 1, device: Any = "cpu", **settings: Any) -> BatchedGame:
        """Builds B copies of the game.

        Args:
            num_games: B.
            device: Where all tensors live.
            **settings: The game's own arguments, see :meth:`settings`.

        Raises:
            ValueError: If a setting is not known or out of range.
        """
        known = self.settings()
        for name in settings:
            if name not in known:
                raise ValueError(f"{self.id} has no setting {name!r}{did_you_mean(name, known)}")
        settings = {**self.defaults, **settings}
        presets = getattr(self.builder(), "presets", {})
        chosen = settings.get("map")
        if chosen in presets:
            settings = {**presets[chosen], **settings, "map": presets[chosen]["map"]}
        elif isinstance(chosen, str) and presets and "\n" not in chosen:
            raise ValueError(f"map: there is no map {chosen!r}{did_you_mean(chosen, presets)}; or give one as text")
        return self.builder()(**settings, num_games=num_games, device=device)

    def parallel_env(self, render_mode: str | None = None, **settings: Any) -> GameParallelEnv:
        """One copy as a PettingZoo ``ParallelEnv``."""
        from social_dilemmas.pettingzoo_env import GameParallelEnv

        return GameParallelEnv(self.make(**settings), self.id, render_mode)

    def env(self, render_mode: str | None = None, **settings: Any) -> AECEnv:
        """One copy as a PettingZoo ``AECEnv``, agents acting in turn."""
        from pettingzoo.utils import parallel_to_aec

        return parallel_to_aec(self.parallel_env(render_mode, **settings))


MAX_NAMES = 8


def did_you_mean(name: str, known: Any) -> str:
    """The end of an error message on a name that is not known.

    Args:
        name: The name.
        known: Valid names.

    Returns:
        The nearest valid name; where none is near all of them, or of many the three that are nearest.
    """
    names, written = sorted(map(str, known)), str(name)[:80]
    near = difflib.get_close_matches(written, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    if len(names) <= MAX_NAMES:
        return f"; there are {', '.join(names)}"
    return f"; of {len(names)} the nearest are {', '.join(difflib.get_close_matches(written, names, n=3, cutoff=0.0))}"


_MATRIX_GAME = "social_dilemmas.matrix_game:MatrixGame"
_GAMES = {
    spec.id: spec
    for spec in (
        GameSpec(
            "ipd_v0",
            _MATRIX_GAME,
            "Iterated prisoner's dilemma: defecting always pays, and both end worse off.",
            {"payoffs": [[[-1.0, -1.0], [-3.0, 0.0]], [[0.0, -3.0], [-2.0, -2.0]]]},
        ),
        GameSpec(
            "stag_hunt_v0",
            _MATRIX_GAME,
            "Iterated stag hunt: hunting the stag together is best, the hare alone is safe.",
            {"payoffs": [[[4.0, 4.0], [0.0, 3.0]], [[3.0, 0.0], [2.0, 2.0]]]},
        ),
        GameSpec(
            "chicken_v0",
            _MATRIX_GAME,
            "Iterated chicken: daring pays against one who swerves, and ruins two who dare.",
            {"payoffs": [[[0.0, 0.0], [-1.0, 1.0]], [[1.0, -1.0], [-10.0, -10.0]]]},
        ),
        GameSpec(
            "public_goods_v0",
            "social_dilemmas.matrix_game:public_goods",
            "Public goods for N players: contribute to a pot that is multiplied and shared, or keep it.",
        ),
        GameSpec(
            "centralized_v0",
            "social_dilemmas.centralized:Centralized",
            "Any game for one agent that acts for all, and is rewarded with what they get together.",
        ),
        GameSpec(
            "cleanup_v0",
            "social_dilemmas.cleanup:Cleanup",
            "Cleanup for N players: apples grow only while somebody cleans the river.",
            {"map": "small"},
        ),
        GameSpec(
            "cleanup_lite_v0",
            "social_dilemmas.cleanup_lite:CleanupLite",
            "CleanUp-lite for two players on 5x4 cells: apples grow only while somebody walks over the waste.",
        ),
        GameSpec(
            "escape_room_v0",
            "social_dilemmas.escape_room:EscapeRoom",
            "Escape Room for N players: the door is open while enough of them pay to pull levers.",
        ),
        GameSpec(
            "giving_v0",
            "social_dilemmas.giving:giving",
            "Any game with gifts: beside what it does in the game, an agent may give others a fixed reward.",
        ),
        GameSpec(
            "harvest_v0",
            "social_dilemmas.harvest:Harvest",
            "Harvest for N players: apples grow beside apples, and never where none is left.",
            {"map": "small"},
        ),
        GameSpec(
            "matrix_grid_v0",
            "social_dilemmas.matrix_grid:MatrixGrid",
            "Matrix games in a grid: collect tokens of what you choose, then meet by a beam.",
            {"map": "small"},
        ),
        GameSpec(
            "coins_v0",
            "social_dilemmas.coins:Coins",
            "Coins for N players on any grid: any coin pays, another's coin costs its owner more.",
        ),
    )
}


def game_ids() -> list[str]:
    """The ids of all registered games."""
    return sorted(_GAMES)


def spec(game_id: str) -> GameSpec:
    """The registered game of that id.

    Args:
        game_id: As ``coins_v0``; or ``my_games:my_game_v0`` for one that importing the module ``my_games`` registers.

    Raises:
        ValueError: If there is none; the message names the nearest.
    """
    module, _, name = game_id.rpartition(":")
    if module:
        try:
            import_module(module)
        except Exception as error:  # whatever a module of the user's own raises
            raise ValueError(f"there is no game {game_id!r}: {module} cannot be imported ({error})") from None
    if name not in _GAMES:
        raise ValueError(f"there is no game {game_id!r}{did_you_mean(name, _GAMES)}")
    return _GAMES[name]


def is_game(game_id: str) -> bool:
    """Whether there is a registered game of that id (:func:`spec`)."""
    try:
        spec(game_id)
    except ValueError:
        return False
    return True


def register(game: GameSpec) -> None:
    """Adds a game of your own, so that every part of the package finds it by its id.

    Raises:
        ValueError: If another game has that id.
    """
    if _GAMES.get(game.id, game) != game:
        raise ValueError(f"another game is registered as {game.id!r}")
    _GAMES[game.id] = game


def make(game_id: str, num_games: int = 1, device: Any = "cpu", **settings: Any) -> BatchedGame:
    """Builds B copies of a registered game; see :meth:`GameSpec.make`."""
    return spec(game_id).make(num_games, device, **settings)


def parallel_env(game_id: str, render_mode: str | None = None, **settings: Any) -> GameParallelEnv:
    """One copy of a registered game as a PettingZoo ``ParallelEnv``."""
    return spec(game_id).parallel_env(render_mode, **settings)
