"""Tests that the files in ``examples/extending`` are used by their import path, in training and in evaluation."""

import pytest
import torch

import social_dilemmas
from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.utils.checkpoints import TRUST
from social_dilemmas.conformance import check_game

PATH = "examples.extending"
IPD = {"env_config": {"num_steps": 6}, "num_envs_per_env_runner": 8, "num_epochs": 1, "seed": 1}


def settings_of(part):
    return {
        "algorithm": {"share": 0.25},
        "intrinsic_reward": {
            "players": {"player_*": {"player": "ppo", "intrinsic": {f"{PATH}.intrinsic_reward:Altruism": {}}}}
        },
        "influence_estimator": {"reciprocity": {"influence": f"{PATH}.influence_estimator:PayoffInfluence"}},
        "reward_form": {"reciprocity": {"reward": f"{PATH}.reward_form:SIGNS"}},
        "strategy": {"players": {"player_0": "ppo", "player_1": f"scripted/{PATH}.strategy:generous"}},
        "network": {"players": {"player_0": f"module/{PATH}.network:TwoLayers", "player_1": "reciprocator"}},
    }[part]


@pytest.mark.parametrize(
    "part", ["algorithm", "intrinsic_reward", "influence_estimator", "reward_form", "strategy", "network"]
)
def test_parts_are_trained_and_evaluated(build, tmp_path, monkeypatch, part):
    run = f"{PATH}.algorithm:EqualShares" if part == "algorithm" else "Reciprocator"
    algo = build(build_config(algorithm_class(run), "ipd_v0", {**IPD, **settings_of(part)}))
    for _ in range(2):
        algo.train()
    algo.save_to_path(tmp_path)
    monkeypatch.setenv(TRUST, "1")
    assert open_evaluator(tmp_path, seed=1).evaluate(4)["episodes"] == 4


def test_checkpoints_that_name_a_file_from_outside_need_trust(build, tmp_path, monkeypatch):
    algo = build(build_config(algorithm_class("Reciprocator"), "ipd_v0", {**IPD, **settings_of("strategy")}))
    algo.save_to_path(tmp_path)
    for name in [name for name in __import__("sys").modules if name.startswith(PATH)]:
        monkeypatch.delitem(__import__("sys").modules, name)
    with pytest.raises(ValueError, match=r"imports examples.extending.strategy.*--trust"):
        open_evaluator(tmp_path, seed=1)


def test_the_mean_of_advantages_is_shared(build):
    config = build_config(algorithm_class(f"{PATH}.algorithm:EqualShares"), "ipd_v0", {**IPD, "share": 1.0})
    algo = build(config)
    learner, (batch,) = algo.learner_group._learner, algo.env_runner.sample()
    learner.compute_targets(batch, 0)
    torch.testing.assert_close(batch.advantages[..., 0], batch.advantages[..., 1])
    assert batch.advantages.std() > 0


def test_the_game_conforms():
    check_game(lambda num_games: social_dilemmas.make(f"{PATH}.game:shared_well_v0", num_games))
