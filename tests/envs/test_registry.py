import subprocess
import sys

import numpy as np
import pytest

import social_dilemmas
from social_dilemmas.registry import GameSpec


def test_both_constructors_of_a_parallel_env():
    from social_dilemmas import coins_v0

    assert coins_v0.parallel_env(num_agents=3).possible_agents == ["player_0", "player_1", "player_2"]
    assert social_dilemmas.parallel_env("coins_v0", render_mode="ansi", num_agents=3).metadata["name"] == "coins_v0"


def test_aec_env_passes_pettingzoos_test():
    from pettingzoo.test import api_test

    api_test(social_dilemmas.spec("ipd_v0").env(), num_cycles=40)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: social_dilemmas.make("coin_v0"), "no game 'coin_v0'; did you mean 'coins_v0'"),
        (lambda: social_dilemmas.make("ipd_v0", num_stepz=3), "no setting 'num_stepz'; did you mean 'num_steps'"),
        (
            lambda: social_dilemmas.parallel_env("ipd_v0", render_mode="film"),
            "'film' is not one of ansi",
        ),
        (lambda: social_dilemmas.register(GameSpec("ipd_v0", "x:y", "another")), "another game is registered"),
    ],
)
def test_errors_suggest_the_nearest_name(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


def test_games_registered_by_user_modules(tmp_path, monkeypatch):
    (tmp_path / "games_of_mine.py").write_text(
        "import social_dilemmas\n"
        "spec = social_dilemmas.GameSpec('mine_v0', 'social_dilemmas.coins:Coins', 'Coins.', {'grid_size': 4})\n"
        "social_dilemmas.register(spec)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("social_dilemmas.registry._GAMES", dict(social_dilemmas.registry._GAMES))
    assert not social_dilemmas.is_game("mine_v0")
    assert social_dilemmas.make("games_of_mine:mine_v0").grid_size == (4, 4)
    assert social_dilemmas.is_game("games_of_mine:mine_v0")
    with pytest.raises(ValueError, match="did you mean 'mine_v0'"):
        social_dilemmas.make("games_of_mine:mine_v1")
    with pytest.raises(ValueError, match="games_of_mien cannot be imported"):
        social_dilemmas.make("games_of_mien:mine_v0")


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError):
        _ = social_dilemmas.no_such_game_v0


def test_importing_the_games_does_not_import_ray():
    code = "import sys, social_dilemmas; social_dilemmas.make('ipd_v0'); sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_package_imports_neither_ray_nor_torch():
    code = "import sys, rllib_reciprocator; sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rendering_through_pettingzoo():
    env = social_dilemmas.parallel_env("coins_v0", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (144, 144, 3)
    assert social_dilemmas.parallel_env("ipd_v0", render_mode="ansi").render() == "- -"


@pytest.mark.parametrize("game_id", social_dilemmas.game_ids())
def test_window_shows_every_step(game_id, monkeypatch):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = social_dilemmas.parallel_env(game_id, render_mode="human", num_steps=3)
    env._window._frames_per_second = 0
    env.reset(seed=0)
    first = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    assert np.array_equal(first, env._game.render_rgb())
    while env.agents:
        env.step(dict.fromkeys(env.agents, 0))
        frame = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
        assert np.array_equal(frame, env._game.render_rgb())
    assert env.render() is None
    env.close()
    assert pygame.display.get_surface() is None
