"""Tests that a restored run continues from its first step as if it had not been interrupted."""

import numpy as np
import pytest
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune import register_env

from rllib_reciprocator import ReciprocatorConfig, reciprocate
from rllib_reciprocator.algorithms.registry import algorithm_class
from tests.helpers.multi_agent_envs import TwoAgents, own_policy
from tests.helpers.weights import assert_same_weights

# From 0 to 0.5 in 640 steps, which the runs below do not reach.
SCHEDULE = [[0, 0.0], [640, 0.5]]
COEFFICIENTS = ("curr_entropy_coeff", "curr_kl_coeff")


def batched(runners=0, learners=0, player="reciprocator"):
    return (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": 4})
        .players({"player_0": player, "player_1": "ppo"})
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=16)
        .training(num_epochs=2, lr=0.05, entropy_coeff=SCHEDULE, use_kl_loss=True, kl_coeff=0.5, kl_target=1e-4)
        .rl_module(model_config={"fcnet_hiddens": [4]})
        .learners(num_learners=learners)
        .debugging(seed=1)
    )


def stock(runners=0, player="reciprocator"):
    register_env("two_agents", TwoAgents)
    config = (
        PPOConfig()
        .environment("two_agents")
        .multi_agent(policies=["a", "b"], policy_mapping_fn=own_policy)
        .env_runners(num_env_runners=runners, rollout_fragment_length=10)
        .training(train_batch_size_per_learner=40, minibatch_size=20, num_epochs=1, lr=0.05)
        # With such a large target, the coefficient halves in each iteration.
        .training(entropy_coeff=SCHEDULE, kl_coeff=0.5, kl_target=1e6)
        .rl_module(model_config={"fcnet_hiddens": [4]})
        .debugging(seed=1)
    )
    return reciprocate(config, {"a": player, "b": "ppo"}, weight=0.5)


@pytest.mark.parametrize("learners", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_restored_coefficients_are_bit_exact(build, tmp_path, learners):
    """Checks KL coefficients, which differ between learners since they adapt to the data of each learner."""
    original = build(batched(learners=learners))
    for _ in range(2):
        saved_result = original.train()
    original.save_to_path(tmp_path)
    expected = [original.train() for _ in range(2)]
    restored_algo = build(batched(learners=learners))
    restored_algo.restore_from_path(tmp_path)
    for result in expected:
        restored_result = restored_algo.train()
        for player in ("player_0", "player_1"):
            for name in (*COEFFICIENTS, "total_loss"):
                assert restored_result["learners"][player][name] == result["learners"][player][name], name
    assert_same_weights(original, restored_algo)
    assert saved_result["learners"]["player_1"]["curr_kl_coeff"] != 0.5
    assert 0.0 < saved_result["learners"]["player_1"]["curr_entropy_coeff"] < 0.5


@pytest.mark.parametrize("kind", ["reciprocate", "no players"])
def test_coefficients_of_rllibs_algorithms_are_restored(build, tmp_path, kind):
    def build_new():
        if kind == "reciprocate":
            return build(stock())
        config = algorithm_class("PPO").get_default_config().environment("CartPole-v1").env_runners(num_env_runners=0)
        config.training(train_batch_size_per_learner=40, minibatch_size=20, num_epochs=1, kl_coeff=0.5, kl_target=1e6)
        return build(config.training(entropy_coeff=SCHEDULE).env_runners(rollout_fragment_length=40))

    original = build_new()
    for _ in range(3):
        result = original.train()
    module_id = "b" if kind == "reciprocate" else "default_policy"
    assert float(result["learners"][module_id]["curr_kl_coeff"]) == 0.5**4
    original.save_to_path(tmp_path)
    restored_algo = build_new()
    restored_algo.restore_from_path(tmp_path)
    states = [algo.get_state()["learner_group"]["learner"]["coefficients"] for algo in (original, restored_algo)]
    assert states[0] == states[1]
    assert states[1]["entropy"][module_id] == pytest.approx(result["learners"][module_id]["curr_entropy_coeff"])
    assert float(restored_algo.train()["learners"][module_id]["curr_kl_coeff"]) == 0.5**5


def test_constant_coefficients_are_those_of_the_config(build, tmp_path):
    """Checks that only scheduled and adaptive coefficients are restored; a new constant is used."""
    algo = build(batched())
    algo.train()
    algo.save_to_path(tmp_path)
    restored_algo = build(batched().training(entropy_coeff=0.25))
    restored_algo.restore_from_path(tmp_path)
    assert restored_algo.train()["learners"]["player_1"]["curr_entropy_coeff"] == 0.25


def weights_of_runners(algo):
    return algo.env_runner_group.foreach_env_runner(
        lambda runner: {key: module.get_state() for key, module in runner.module.items()}, local_env_runner=False
    )


@pytest.mark.processes
@pytest.mark.parametrize(("make", "module"), [(batched, "SlowBatchedModule"), (stock, "SlowTinyModule")])
@pytest.mark.parametrize("way", ["from_checkpoint", "restore_from_path", "component"])
def test_remote_env_runners_use_restored_weights_at_once(build, tmp_path, make, module, way):
    player = f"module/tests.helpers.slow_modules:{module}"
    source_algo = build(make(runners=0, player=player))
    for _ in range(2):
        source_algo.train()
    path = source_algo.save_to_path(tmp_path)
    if way == "from_checkpoint":
        # The checkpoint's own configuration has no remote env runners.
        remote_algo = build(make(runners=1, player=player))
        remote_algo.learner_group.restore_from_path(f"{path}/learner_group")
        algo = Algorithm.from_checkpoint(remote_algo.save_to_path(tmp_path / "remote"))
    else:
        algo = build(make(runners=1, player=player))
        component_args = {"component": "learner_group"} if way == "component" else {}
        algo.restore_from_path(f"{path}/learner_group" if component_args else path, **component_args)
    weights = source_algo.get_weights()
    states = weights_of_runners(algo)
    algo.stop()
    assert len(states) == 1
    for state in states:
        for module_id, params in state.items():
            for name, value in params.items():
                np.testing.assert_array_equal(value, weights[module_id][name], err_msg=f"{module_id}.{name}")
