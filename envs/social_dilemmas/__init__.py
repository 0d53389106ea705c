"""Social dilemmas as batched environments on CPU or GPU, with a PettingZoo interface.

``make("coins_v0", num_games=2048)`` builds parallel environments, ``parallel_env("coins_v0")`` a single environment
for PettingZoo. ``from social_dilemmas import coins_v0; coins_v0.parallel_env()`` is the equivalent PettingZoo idiom.
"""

from typing import Any

from social_dilemmas.registry import GameSpec, game_ids, is_game, make, parallel_env, register, spec

__all__ = ["GameSpec", "game_ids", "is_game", "make", "parallel_env", "register", "spec"]


def __getattr__(name: str) -> Any:
    if name in game_ids():
        return spec(name)
    raise AttributeError(f"module 'social_dilemmas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *game_ids()])
