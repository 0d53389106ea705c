"""A restored run continues as if it had not been interrupted, from its first step on."""

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
        # With so large a target the coefficient halves in each iteration.
        .training(entropy_coeff=SCHEDULE, kl_coeff=0.5, kl_target=1e6)
        .rl_module(model_config={"fcnet_hiddens": [4]})
        .debugging(seed=1)
    )
    return reciprocate(config, {"a": player, "b": "ppo"}, weight=0.5)


@pytest.mark.parametrize("learners", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_coefficients_go_on_bit_by_bit(build, tmp_path, learners):
    """KL coefficients adapt to each learner's own data, so that each has its own."""
    whole = build(batched(learners=learners))
    for _ in range(2):
        saved = whole.train()
    whole.save_to_path(tmp_path)
    expected = [whole.train() for _ in range(2)]
    resumed = build(batched(learners=learners))
    resumed.restore_from_path(tmp_path)
    for result in expected:
        again = resumed.train()
        for player in ("player_0", "player_1"):
            for name in (*COEFFICIENTS, "total_loss"):
                assert again["learners"][player][name] == result["learners"][player][name], name
    assert_same_weights(whole, resumed)
    assert saved["learners"]["player_1"]["curr_kl_coeff"] != 0.5
    assert 0.0 < saved["learners"]["player_1"]["curr_entropy_coeff"] < 0.5


@pytest.mark.parametrize("kind", ["reciprocate", "no players"])
def test_coefficients_of_rllibs_own_algorithms_go_on(build, tmp_path, kind):
    def fresh():
        if kind == "reciprocate":
            return build(stock())
        config = algorithm_class("PPO").get_default_config().environment("CartPole-v1").env_runners(num_env_runners=0)
        config.training(train_batch_size_per_learner=40, minibatch_size=20, num_epochs=1, kl_coeff=0.5, kl_target=1e6)
        return build(config.training(entropy_coeff=SCHEDULE).env_runners(rollout_fragment_length=40))

    whole = fresh()
    for _ in range(3):
        result = whole.train()
    module_id = "b" if kind == "reciprocate" else "default_policy"
    assert float(result["learners"][module_id]["curr_kl_coeff"]) == 0.5**4
    whole.save_to_path(tmp_path)
    resumed = fresh()
    resumed.restore_from_path(tmp_path)
    states = [algo.get_state()["learner_group"]["learner"]["coefficients"] for algo in (whole, resumed)]
    assert states[0] == states[1]
    assert states[1]["entropy"][module_id] == pytest.approx(result["learners"][module_id]["curr_entropy_coeff"])
    assert float(resumed.train()["learners"][module_id]["curr_kl_coeff"]) == 0.5**5


def test_a_coefficient_that_is_a_setting_is_that_of_the_configuration(build, tmp_path):
    """Only what follows a schedule, or adapts, is restored: a new constant counts."""
    algo = build(batched())
    algo.train()
    algo.save_to_path(tmp_path)
    resumed = build(batched().training(entropy_coeff=0.25))
    resumed.restore_from_path(tmp_path)
    assert resumed.train()["learners"]["player_1"]["curr_entropy_coeff"] == 0.25


def weights_of_runners(algo):
    return algo.env_runner_group.foreach_env_runner(
        lambda runner: {key: module.get_state() for key, module in runner.module.items()}, local_env_runner=False
    )


@pytest.mark.parametrize(("make", "module"), [(batched, "SlowBatchedModule"), (stock, "SlowTinyModule")])
@pytest.mark.parametrize("way", ["from_checkpoint", "restore_from_path", "component"])
def test_remote_env_runners_play_with_restored_weights_at_once(build, tmp_path, make, module, way):
    player = f"module/tests.helpers.slow_modules:{module}"
    trained = build(make(runners=0, player=player))
    for _ in range(2):
        trained.train()
    path = trained.save_to_path(tmp_path)
    if way == "from_checkpoint":
        # The checkpoint's own configuration has no remote env runners.
        other = build(make(runners=1, player=player))
        other.learner_group.restore_from_path(f"{path}/learner_group")
        algo = Algorithm.from_checkpoint(other.save_to_path(tmp_path / "remote"))
    else:
        algo = build(make(runners=1, player=player))
        of_component = {"component": "learner_group"} if way == "component" else {}
        algo.restore_from_path(f"{path}/learner_group" if of_component else path, **of_component)
    weights = trained.get_weights()
    states = weights_of_runners(algo)
    algo.stop()
    assert len(states) == 1
    for state in states:
        for module_id, of_module in state.items():
            for name, value in of_module.items():
                np.testing.assert_array_equal(value, weights[module_id][name], err_msg=f"{module_id}.{name}")
