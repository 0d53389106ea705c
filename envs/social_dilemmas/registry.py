"""Registry of games: entry points and default settings by id."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    import torch
    from pettingzoo import AECEnv

    from social_dilemmas.batched_game import BatchedGame
    from social_dilemmas.pettingzoo_env import GameParallelEnv


@dataclass(frozen=True)
class GameSpec:
    """Specification of a registered game. Supports PettingZoo's interface, ``coins_v0.parallel_env(...)``.

    Attributes:
        id: Name and version, e.g. ``coins_v0``. The version increases if the same seed and actions give a different
            trajectory.
        entry_point: ``module:callable`` that builds the game. It is imported on first use.
        defaults: Arguments that replace defaults of the callable.
        summary: Description of the game in one line.
    """

    id: str
    entry_point: str
    summary: str
    defaults: dict[str, Any] = field(default_factory=dict)

    def builder(self) -> Callable[..., BatchedGame]:
        """Returns the callable that builds the game."""
        module, name = self.entry_point.split(":")
        return getattr(import_module(module), name)

    def settings(self) -> dict[str, tuple[Any, Any]]:
        """Returns the settings of the game for ``env_config``, name -> (type, default)."""
        builder = self.builder()
        target = builder.__init__ if inspect.isclass(builder) else builder
        hints = get_type_hints(target)
        parameters = inspect.signature(builder).parameters
        return {
            name: (hints.get(name, Any), self.defaults.get(name, parameter.default))
            for name, parameter in parameters.items()
            if name not in ("num_games", "device")
        }

    def make(self, num_games: int = 1, device: str | torch.device = "cpu", **settings: Any) -> BatchedGame:
        """Builds B parallel environments of the game.

        Args:
            num_games: B, number of parallel environments.
            device: Device of all tensors.
            **settings: Settings of the game, see :meth:`settings`.

        Raises:
            ValueError: If a setting is unknown or out of range.
        """
        valid_settings = self.settings()
        for name in settings:
            if name not in valid_settings:
                raise ValueError(f"{self.id} has no setting {name!r}{did_you_mean(name, valid_settings)}")
        settings = {**self.defaults, **settings}
        presets = getattr(self.builder(), "presets", {})
        map_name = settings.get("map")
        if map_name in presets:
            settings = {**presets[map_name], **settings, "map": presets[map_name]["map"]}
        elif isinstance(map_name, str) and presets and "\n" not in map_name:
            raise ValueError(
                f"map: there is no map {map_name!r}{did_you_mean(map_name, presets)}; or pass a map as text"
            )
        return self.builder()(**settings, num_games=num_games, device=device)

    def parallel_env(self, render_mode: str | None = None, **settings: Any) -> GameParallelEnv:
        """Builds a single environment as a PettingZoo ``ParallelEnv``."""
        from social_dilemmas.pettingzoo_env import GameParallelEnv

        return GameParallelEnv(self.make(**settings), self.id, render_mode)

    def env(self, render_mode: str | None = None, **settings: Any) -> AECEnv:
        """Builds a single environment as a PettingZoo ``AECEnv``, in which agents act in turn."""
        from pettingzoo.utils import parallel_to_aec

        return parallel_to_aec(self.parallel_env(render_mode, **settings))


MAX_NAMES = 8


def did_you_mean(name: str, valid_names: Iterable[object]) -> str:
    """Builds the end of an error message about an unknown name.

    Args:
        name: The unknown name.
        valid_names: Valid names.

    Returns:
        Suggestion of the most similar valid name. If none is similar, all valid names, or the three most similar ones
        if there are more than ``MAX_NAMES``.
    """
    names, query = sorted(map(str, valid_names)), str(name)[:80]
    matches = difflib.get_close_matches(query, names, n=1, cutoff=0.5)
    if matches:
        return f"; did you mean {matches[0]!r}?"
    if len(names) <= MAX_NAMES:
        return f"; valid options are {', '.join(names)}"
    return f"; the nearest of {len(names)} are {', '.join(difflib.get_close_matches(query, names, n=3, cutoff=0.0))}"


_MATRIX_GAME = "social_dilemmas.matrix_game:MatrixGame"
_GAMES = {
    spec.id: spec
    for spec in (
        GameSpec(
            "ipd_v0",
            _MATRIX_GAME,
            "Iterated prisoner's dilemma: defecting is dominant, but mutual defection is worse for both players.",
            {"payoffs": [[[-1.0, -1.0], [-3.0, 0.0]], [[0.0, -3.0], [-2.0, -2.0]]]},
        ),
        GameSpec(
            "stag_hunt_v0",
            _MATRIX_GAME,
            "Iterated stag hunt: hunting the stag together is best, hunting the hare alone is safe.",
            {"payoffs": [[[4.0, 4.0], [0.0, 3.0]], [[3.0, 0.0], [2.0, 2.0]]]},
        ),
        GameSpec(
            "chicken_v0",
            _MATRIX_GAME,
            "Iterated chicken: daring pays against a player that swerves, and is worst for both if both dare.",
            {"payoffs": [[[0.0, 0.0], [-1.0, 1.0]], [[1.0, -1.0], [-10.0, -10.0]]]},
        ),
        GameSpec(
            "public_goods_v0",
            "social_dilemmas.matrix_game:public_goods",
            "Public goods for N players: contribute to a pot that is multiplied and shared, or keep the contribution.",
        ),
        GameSpec(
            "centralized_v0",
            "social_dilemmas.centralized:Centralized",
            "Any game with a central controller that acts for all agents and gets the sum of their rewards.",
        ),
        GameSpec(
            "cleanup_v0",
            "social_dilemmas.cleanup:Cleanup",
            "Cleanup for N players: apples grow only while agents clean the river.",
            {"map": "small"},
        ),
        GameSpec(
            "cleanup_lite_v0",
            "social_dilemmas.cleanup_lite:CleanupLite",
            "CleanUp-lite for two players on 5x4 cells: apples grow only while agents clean waste by walking over it.",
        ),
        GameSpec(
            "escape_room_v0",
            "social_dilemmas.escape_room:EscapeRoom",
            "Escape Room for N players: the door is open while enough agents pull levers at a cost.",
        ),
        GameSpec(
            "giving_v0",
            "social_dilemmas.giving:giving",
            "Any game with gifts: in addition to its action, an agent can give other agents a fixed reward.",
        ),
        GameSpec(
            "harvest_v0",
            "social_dilemmas.harvest:Harvest",
            "Harvest for N players: apples grow near other apples, and never where none is left.",
            {"map": "small"},
        ),
        GameSpec(
            "matrix_grid_v0",
            "social_dilemmas.matrix_grid:MatrixGrid",
            "Matrix games on a grid: agents collect tokens that define their strategy, then interact by a beam.",
            {"map": "small"},
        ),
        GameSpec(
            "coins_v0",
            "social_dilemmas.coins:Coins",
            "Coins for N players on any grid: any coin gives a reward, another agent's coin costs its owner more.",
        ),
    )
}


def game_ids() -> list[str]:
    """Returns the ids of all registered games, sorted."""
    return sorted(_GAMES)


def spec(game_id: str) -> GameSpec:
    """Returns the specification of a registered game.

    Args:
        game_id: Id of the game, e.g. ``coins_v0``; or ``my_games:my_game_v0`` for a game that the module ``my_games``
            registers when it is imported.

    Raises:
        ValueError: If the game is unknown. The message suggests the most similar id.
    """
    module, _, name = game_id.rpartition(":")
    if module:
        try:
            import_module(module)
        except Exception as error:  # a user's module can raise any exception
            raise ValueError(f"there is no game {game_id!r}: {module} cannot be imported ({error})") from None
    if name not in _GAMES:
        raise ValueError(f"there is no game {game_id!r}{did_you_mean(name, _GAMES)}")
    return _GAMES[name]


def is_game(game_id: str) -> bool:
    """Returns True if a game with this id is registered, see :func:`spec`."""
    try:
        spec(game_id)
    except ValueError:
        return False
    return True


def register(game: GameSpec) -> None:
    """Registers a custom game, so that all parts of the package can look it up by its id.

    Raises:
        ValueError: If a different game is registered with the same id.
    """
    if _GAMES.get(game.id, game) != game:
        raise ValueError(f"another game is registered as {game.id!r}")
    _GAMES[game.id] = game


def make(game_id: str, num_games: int = 1, device: str | torch.device = "cpu", **settings: Any) -> BatchedGame:
    """Builds B parallel environments of a registered game, see :meth:`GameSpec.make`."""
    return spec(game_id).make(num_games, device, **settings)


def parallel_env(game_id: str, render_mode: str | None = None, **settings: Any) -> GameParallelEnv:
    """Builds a single environment of a registered game as a PettingZoo ``ParallelEnv``."""
    return spec(game_id).parallel_env(render_mode, **settings)
