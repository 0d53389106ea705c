"""Trains every kind of player with RLlib's env runners."""

import numpy as np
import pytest
from ray.rllib.connectors.env_to_module import FlattenObservations

from rllib_reciprocator import reciprocate
from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.players import STRATEGIES
from tests.helpers.multi_agent_envs import team_policy
from tests.helpers.reciprocate import config, plain


@pytest.mark.parametrize("observe_balance", [False, True])
def test_agents_with_different_spaces(build, observe_balance):
    a_config = plain(env="mixed", agents=("camera", "clerk", "clock"))
    players = {"camera": "reciprocator", "*": "ppo"}
    flat = {"multi_agent": True, "agent_ids": ["clerk", "clock"]}
    a_config.env_runners(env_to_module_connector=lambda env, spaces, device: FlattenObservations(**flat))
    a_config = reciprocate(a_config, players, weight=0.1, observe_balance=observe_balance, estimator_minibatch_size=16)
    result = build(a_config).train()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    assert np.isfinite(float(result["env_runners"]["influence"]["clock_on_camera"]))


def test_stateful_and_shared_policies(build):
    """Trains a team of two agents that share an LSTM, together with a PPO player."""
    a_config = plain().rl_module(
        model_config={"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4, "fcnet_hiddens": [8]}
    )
    algo = build(reciprocate(a_config, {"*": "team/red", "late": "ppo"}, weight=0.1))
    result = [algo.train() for _ in range(2)][-1]
    assert set(result["learners"]) == {"red", "late", "influence", "__all_modules__"}
    assert np.isfinite(float(result["learners"]["red"]["total_loss"]))
    assert set(result["env_runners"]["reciprocal_reward"]) == {"stays", "early"}


def test_user_defined_shared_policies(build):
    """Checks that the policy mapping of the config is kept, as in RLlib's examples of parameter sharing."""
    a_config = plain().multi_agent(policies=["team", "late"], policy_mapping_fn=team_policy, policies_to_train=["team"])
    result = build(reciprocate(a_config, weight=0.1)).train()
    assert set(result["env_runners"]["reciprocal_reward"]) == {"stays", "early"}
    assert "total_loss" not in result["learners"].get("late", {})


def test_every_kind_of_player(build, tmp_path):
    first = build(plain())
    first.train()
    path = first.save_to_path(tmp_path)
    players = {
        "stays": {"player": "reciprocator", "lr": 0.1, "model_config": {"fcnet_hiddens": [5]}},
        "early": "scripted/random",
        "late": f"checkpoint/{path}",
    }
    algo = build(config(players))
    before = algo.learner_group.get_weights()
    for _ in range(2):
        result = algo.train()
    after, frozen = algo.learner_group.get_weights(), first.learner_group.get_weights()["late"]
    assert {name for name, values in result["learners"].items() if "policy_loss" in values} == {"stays"}
    assert float(result["learners"]["stays"]["default_optimizer_learning_rate"]) == pytest.approx(0.1)
    assert any(value.shape[0] == 5 for value in after["stays"].values())
    assert any(not np.array_equal(before["stays"][name], value) for name, value in after["stays"].items())
    for name, value in frozen.items():
        np.testing.assert_array_equal(after["late"][name], value)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scripted_players_in_rllibs_env_runners(build, strategy):
    settings = {"players": {"player_0": "reciprocator", "player_1": f"scripted/{strategy}"}, "reciprocity": {}}
    a_config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 6})
    a_config.env_runners(num_env_runners=0, rollout_fragment_length=4).rl_module(model_config={"fcnet_hiddens": [8]})
    a_config.training(train_batch_size_per_learner=24, minibatch_size=12, num_epochs=2)
    algo = build(a_config.update_from_dict(settings))
    algo.train()
    episode = algo.env_runner.sample(num_episodes=1)[0]
    opponent_moves, moves = (episode.agent_episodes[f"player_{k}"].get_actions() for k in range(2))
    assert len(moves) == 6
    if strategy == "tit_for_tat":
        assert list(moves) == [0, *opponent_moves[:-1]]
    if strategy == "grim_trigger":
        assert list(moves) == [int(any(opponent_moves[:t])) for t in range(6)]


def test_user_defined_module_class(build):
    path = "tests.helpers.multi_agent_envs:TinyModule"
    algo = build(config({"*": f"module/{path}"}))
    algo.train()
    assert type(algo.env_runner.module["stays"]).__name__ == "TinyModule"
