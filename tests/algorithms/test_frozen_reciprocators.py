"""Tests of Reciprocators of earlier runs as frozen players."""

import shutil

import numpy as np
import pytest
import torch

from tests.helpers.reciprocators import COINS, reciprocator_config
from tests.helpers.weights import weights


@pytest.mark.processes
def test_frozen_and_scripted_players_with_two_learners(build, tmp_path):
    """Trains distributed learners with modules that have no gradients, and with tables."""
    first = build(reciprocator_config())
    first.train()
    path = first.save_to_path(tmp_path / "first")
    players = {"player_0": "reciprocator", "player_1": f"checkpoint/{path}", "player_2": "scripted/grim_trigger"}
    a_config = reciprocator_config(players, env="public_goods_v0").environment(
        env_config={"num_agents": 3, "num_steps": 4}
    )
    with pytest.raises(ValueError, match=r"observation_space is .* that of the environment is"):
        a_config.validate()
    players = {"player_0": "reciprocator", "player_1": f"checkpoint/{path}#player_0"}
    algo = build(reciprocator_config(players, seed=5).learners(num_learners=2))
    algo.train()
    before, after = weights(first), weights(algo)
    for name, value in before.items():
        if name.startswith("player_0/"):
            np.testing.assert_array_equal(after["player_1/" + name.removeprefix("player_0/")], value)
    assert any(not np.array_equal(after[name], before[name]) for name in before if name.startswith("player_0/"))


def test_frozen_reciprocators_use_their_own_estimator(build, tmp_path):
    first = build(reciprocator_config(env="coins_v0", balance_scale=2.0, **COINS))
    first.train()
    path = first.save_to_path(tmp_path / "first")
    frozen = {"player_0": "ppo", "player_1": f"checkpoint/{path}"}
    algo = build(reciprocator_config(frozen, env="coins_v0"))
    result = algo.train()
    assert "influence" not in result["learners"]
    assert "reciprocal_reward_mean" not in result["learners"]["player_0"]
    (sample,) = algo.env_runner.sample()
    estimator_state = first.learner_group._learner.module["influence"].unwrapped().get_state()
    for name, value in algo.env_runner.module["influence+player_1"].get_state().items():
        np.testing.assert_array_equal(value, estimator_state[name], err_msg=name)
    balances, influence = sample.columns["balance"], sample.columns["influence"]
    assert balances[..., 1].abs().sum() > 0
    # The decay is 0.9 as in the run of the checkpoint, not 0.96 as in this one. The PPO agent has no balance.
    next_balance = 0.9 * balances[:, 0, 0, 1] + influence[:, 0, 0, 1] - sample.columns["given"][:, 0, 1, 0]
    torch.testing.assert_close(balances[:, 1, 0, 1], next_balance)
    assert not balances[..., 0].any()


def test_frozen_reciprocators_without_estimator_raise(build, tmp_path):
    first = build(reciprocator_config(env="coins_v0", **COINS))
    path = first.save_to_path(tmp_path / "first")
    shutil.rmtree(tmp_path / "first" / "learner_group" / "learner" / "rl_module" / "influence")
    with pytest.raises(ValueError, match=r"players.player_1: .* has no module 'influence', which its player needs"):
        reciprocator_config({"player_0": "ppo", "player_1": f"checkpoint/{path}"}, env="coins_v0").validate()
