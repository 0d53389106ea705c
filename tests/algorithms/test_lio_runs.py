"""Tests of whole runs of LIO: several processes, checkpoints, reused rollouts, results and settings."""

import numpy as np
import pytest
import torch

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.lio import LIO
from rllib_reciprocator.engine.rollout_batch import concatenate
from rllib_reciprocator.intrinsic.incentives.giving import givers_of
from tests.helpers.batches import prepared_batch
from tests.helpers.incentives import changed_modules, incentive_rule, lio_config, run_both_phases
from tests.helpers.weights import assert_same_weights, weights


@pytest.mark.processes
def test_two_learners_match_one(build):
    local, remote = (build(lio_config(agents=3, learners=learners, entropy_coeff=0.1)) for learners in (0, 2))
    state = local.learner_group.get_weights()
    remote.learner_group.set_weights(state)
    tau, after = local.sample(), local.sample()
    for algo in (local, remote):
        run_both_phases(algo, tau, after)
    assert_same_weights(local, remote, atol=2e-5)
    initial_weights = {f"{key}/{name}": value for key, params in state.items() for name, value in params.items()}
    changed_keys = [key for key, value in weights(local).items() if np.abs(value - initial_weights[key]).max() > 1e-3]
    assert any(key.startswith("incentives") for key in changed_keys)
    assert any(key.startswith("player_2") for key in changed_keys)


def test_restored_runs_that_reuse_samples_continue_identically(build, tmp_path):
    def build_run():
        return build(lio_config(reuse_samples=True))

    whole = build_run()
    whole.train()
    whole.save_to_path(tmp_path)
    expected = whole.train()
    resumed_algo = build_run()
    resumed_algo.restore_from_path(tmp_path)
    resumed_result = resumed_algo.train()
    assert resumed_result["env_runners"]["incentives"] == expected["env_runners"]["incentives"]
    assert_same_weights(whole, resumed_algo)


def test_reused_samples_reduce_the_number_of_steps(build):
    steps = [
        build(lio_config(reuse_samples=reuse)).train()["env_runners"]["num_env_steps_sampled"]
        for reuse in (False, True)
    ]
    # Two updates take three samples instead of four. Episodes have at most five steps and may end early.
    assert steps[1] < steps[0] <= 4 * 16 * 5
    assert steps[0] / steps[1] == pytest.approx(4 / 3, abs=0.15)


def test_incentives_of_reused_samples_are_recomputed(build):
    algo = build(lio_config())
    sample = algo.sample()
    with torch.no_grad():
        for param in incentive_rule(algo).functions.functions.parameters():
            param.mul_(3.0)
    batch, _ = prepared_batch(algo, sample)
    assert not torch.allclose(batch.columns["incentives"], sample.columns["incentives"])


def test_results_report_incentives_by_pair_and_action(build):
    algo = build(lio_config())
    sample = algo.sample(report=False)
    result = algo.env_runner.get_metrics()
    play_mask = sample.in_first_episode()
    payments = sample.columns["incentives"][..., 0, 1][play_mask]
    actions = sample.actions[..., 1][play_mask]
    assert float(result["incentives"]["player_0_to_player_1"].peek()) == pytest.approx(float(payments.mean()), rel=1e-4)
    for action, name in enumerate(("lever", "start", "door")):
        incentive = result["incentives_by_action"]["player_0_to_player_1"][name].peek()
        assert float(incentive) == pytest.approx(float(payments[actions == action].mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"incentives": {"told_actions": ["dor"]}}, "there is no action 'dor'.* 'door'"),
        ({"incentives": {"max_incentive": -1.0}}, "max_incentive"),
        ({"players": {"player_*": {"player": "pg", "gives": False}}}, "is for players with incentives only"),
        ({"players": {"player_*": {"player": "lio", "gives": 2}}}, "must be true or false"),
        ({"grad_clip": 1.0, "grad_clip_by": "value"}, "grad_clip_by: must be global_norm"),
    ],
)
def test_invalid_settings_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        lio_config(**changes).validate()


def test_incentives_are_trained_by_other_algorithms(build):
    a_config = (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": 5})
        .players({"*": {"player": "ppo", "intrinsic": {"incentives": {}}}})
        .env_runners(num_envs_per_env_runner=8)
        .debugging(seed=1)
    )
    algo = build(a_config)
    before = weights(algo)
    algo.train()
    assert changed_modules(algo, before) == {"player_0", "player_1", "incentives"}
    fragments = a_config.copy(copy_frozen=False).env_runners(rollout_fragment_length=2)
    with pytest.raises(ValueError, match="batch_mode: incentives are trained on whole episodes"):
        fragments.validate()


class CustomLIO(LIO):
    """Subclass of LIO with another name."""


def test_subclasses_train_incentives():
    for a_config in (lio_config(), CustomLIO.get_default_config().environment("escape_room_v0")):
        a_config.algo_class = CustomLIO
        a_config.validate()
        assert givers_of(a_config.context()) == [0, 1]


@pytest.mark.processes
def test_samples_of_several_runners_are_concatenated(build):
    algo = build(lio_config(games=8, reuse_samples=True).env_runners(num_env_runners=2))
    result = algo.train()
    metrics = result["env_runners"]
    assert metrics["num_episodes"] == 3 * 2 * 8
    assert metrics["num_env_steps_sampled"] <= 3 * 2 * 8 * 5
    sample = concatenate([algo.sample()])
    assert len(sample.rewards) == 16
