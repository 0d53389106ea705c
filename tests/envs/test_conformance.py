import pytest
import torch

import social_dilemmas
from social_dilemmas import conformance
from tests.helpers.games import Countdown

# Episodes are short to keep the tests fast.
VARIANTS = [(game_id, {"num_steps": 32}) for game_id in social_dilemmas.game_ids()] + [
    ("coins_v0", {"num_agents": 3, "grid_size": [2, 4], "num_steps": 7}),
    ("coins_v0", {"num_agents": 4, "grid_size": 3}),
    ("public_goods_v0", {"num_agents": 2, "multiplier": 1.5}),
    ("public_goods_v0", {"num_agents": 6, "num_steps": 1}),
    ("cleanup_v0", {"map": "medium", "num_agents": 3, "view": "map", "num_steps": 8}),
    ("cleanup_v0", {"map": "full", "num_steps": 8}),
    ("cleanup_v0", {"map": "melting_pot", "freeze_steps": 3, "num_steps": 30}),
    ("cleanup_lite_v0", {"num_agents": 3, "zap_chance": 1.0, "num_steps": 20}),
    ("harvest_v0", {"map": "full", "num_steps": 8}),
    ("harvest_v0", {"map": "melting_pot", "num_steps": 30}),
    ("matrix_grid_v0", {"map": "melting_pot", "num_agents": 5, "num_steps": 30, "freeze_steps": 4}),
    ("escape_room_v0", {"num_agents": 5, "num_levers": 3, "random_starts": True}),
    ("giving_v0", {"settings": {"num_agents": 3, "num_levers": 2}, "observe_given": True}),
    ("giving_v0", {"game": "cleanup_v0", "settings": {"map": "small"}, "num_steps": 8, "cost": 0.0}),
    ("giving_v0", {"game": "ipd_v0", "amount": 0.0, "num_steps": 4, "observe_given": True}),
    ("centralized_v0", {"settings": {"num_agents": 3, "num_levers": 2, "random_starts": True}}),
    ("centralized_v0", {"game": "cleanup_v0", "settings": {"map": "small"}, "num_steps": 8}),
    ("centralized_v0", {"game": "coins_v0", "num_steps": 8}),
]


@pytest.mark.parametrize(("game_id", "settings"), VARIANTS, ids=lambda value: str(value))
def test_every_registered_game_conforms(game_id, settings):
    conformance.check_game(lambda num_games: social_dilemmas.make(game_id, num_games, **settings))


def test_game_that_ends_early_conforms():
    conformance.check_game(lambda num_games: Countdown(num_games=num_games))


class _Leaky(Countdown):
    def _initial_state(self):
        return {"_left": torch.randint(2, 9, (self.num_games,))}


class _Coupled(Countdown):
    def _play(self, actions):
        return super()._play(actions.roll(1, 0))


class _OutOfRange(Countdown):
    def _play(self, actions):
        rewards, *rest = super()._play(actions)
        return rewards * 3, *rest


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [(_Leaky, "random state|different start"), (_Coupled, "depends? on another"), (_OutOfRange, "reward_range")],
)
def test_conformance_kit_detects_violations(broken, complaint):
    with pytest.raises(AssertionError, match=complaint):
        conformance.check_game(lambda num_games: broken(num_games=num_games))


@pytest.mark.gpu
@pytest.mark.parametrize("game_id", social_dilemmas.game_ids())
def test_every_registered_game_conforms_on_a_gpu(game_id):
    conformance.check_game(lambda num_games: social_dilemmas.make(game_id, num_games, device="cuda"))
