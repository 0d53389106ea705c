"""Tests of payments between agents, and of the rewards that policies and estimators are trained on."""

import pytest
import torch

from rllib_reciprocator.intrinsic.incentives import GIVEN
from tests.helpers.batches import prepared_batch
from tests.helpers.incentives import changed_modules, joint_observations, lio_config
from tests.helpers.weights import weights


def test_incentives_are_bounded_and_given_to_trained_co_players(build):
    players = {"player_0": "lio", "player_1": "scripted/random", "player_2": {"player": "lio", "gives": False}}
    algo = build(lio_config(players, 3, incentives={"max_incentive": 3.0}))
    sample = algo.sample()
    incentives = sample.columns["incentives"]
    is_paid = incentives.amax((0, 1)) > 0
    assert is_paid.tolist() == [[False, False, True], [False, False, False], [False, False, False]]
    assert 0.0 < float(incentives[..., 0, 2].min()) <= float(incentives.max()) < 3.0
    torch.testing.assert_close(sample.columns["received"], incentives.sum(-2))
    before = weights(algo)
    algo.train()
    assert changed_modules(algo, before) == {"player_0", "player_2", "incentives"}


def test_incentives_match_their_function_and_accumulate(build):
    algo = build(lio_config(agents=3, incentives={"observe_given": True}, env="public_goods_v0"))
    sample = algo.sample()
    functions = algo.env_runner.module["incentives"].unwrapped()
    obs, given_before = joint_observations(sample, 3), sample.columns[GIVEN]
    incentives = functions.incentives(obs.flatten(0, 1), sample.actions.flatten(0, 1), given_before.flatten(0, 1))
    torch.testing.assert_close(incentives.view_as(sample.columns["incentives"]), sample.columns["incentives"])
    totals = sample.columns["incentives"].cumsum(1)
    assert not given_before[:, 0].any()
    for i in range(3):
        for k in range(2):
            torch.testing.assert_close(given_before[:, 1:, i, k], totals[:, :-1, i, (i + k + 1) % 3])
    inputs = sample.modules["player_1"].steps[GIVEN][:, 0]
    torch.testing.assert_close(inputs, given_before[:, :, 1])


def test_policies_are_trained_on_received_incentives(build):
    algo = build(lio_config(players={"player_0": "lio", "player_1": "pg"}, gamma=1.0, env="ipd_v0"))
    sample = algo.sample()
    batch, _ = prepared_batch(algo, sample)
    payments = sample.columns["incentives"][..., 0, 1]
    torch.testing.assert_close(batch.shaped_rewards[..., 1], sample.rewards[..., 1] + payments)
    torch.testing.assert_close(batch.shaped_rewards[..., 0], sample.rewards[..., 0])


def test_charged_givers_pay_their_incentives(build):
    algo = build(lio_config(incentives={"charge_giver": True}, env="ipd_v0"))
    sample = algo.sample()
    batch, _ = prepared_batch(algo, sample)
    incentives = sample.columns["incentives"]
    net = incentives.sum(-2) - incentives.sum(-1)
    torch.testing.assert_close(batch.shaped_rewards, sample.rewards + net)


def test_indistinguishable_actions_get_equal_incentives(build):
    algo = build(lio_config(incentives={"told_actions": ["door"]}))
    functions = algo.env_runner.module["incentives"].unwrapped()
    obs = torch.rand(1, 2, 6)
    payments = [float(functions.incentives(obs, torch.tensor([[0, action]]))[0, 0, 1]) for action in range(3)]
    assert payments[0] == payments[1] != payments[2]


@pytest.mark.parametrize(
    "player", ["ppo", "reciprocator", "ac", {"player": "ppo", "intrinsic": {"inequity_aversion": {}}}]
)
def test_other_kinds_of_players_receive_incentives(build, player):
    algo = build(lio_config({"player_0": "lio_ac", "player_1": player}, num_epochs=2, env="coins_v0", lr=0.01))
    before = weights(algo)
    result = algo.train()
    assert result["env_runners"]["incentives"].keys() == {"player_0_to_player_1"}
    assert {"player_0", "player_1", "incentives"} <= changed_modules(algo, before)


@pytest.mark.parametrize("player", ["lio", "lio_ac"])
def test_incentives_are_learned_with_linear_recurrent_units(build, player):
    """Differentiates through a policy's step, which takes second derivatives of its memory."""
    a_config = lio_config(player).rl_module(model_config={"fcnet_hiddens": [8], "use_lru": True})
    algo = build(a_config)
    before = weights(algo)
    algo.train()
    assert changed_modules(algo, before) == {"player_0", "player_1", "incentives"}


def test_policies_and_incentives_wait_while_estimators_warm_up(build):
    a_config = lio_config(
        {"player_0": "lio", "player_1": "reciprocator"}, env="coins_v0", lr=0.01, updates_per_iteration=1
    )
    algo = build(a_config.intrinsic("reciprocity", warmup_iterations=1))
    before = weights(algo)
    algo.train()
    assert changed_modules(algo, before) == {"influence"}
    algo.train()
    assert changed_modules(algo, before) == {"influence", "incentives", "player_0", "player_1"}


def test_influence_includes_received_incentives(build):
    """Expects the rewards of a Reciprocator to be extrinsic rewards plus received incentives."""
    algo = build(lio_config({"player_0": "lio", "player_1": "reciprocator"}, env="coins_v0", lr=0.01))
    sample, estimator_rows = algo.sample(), {}
    rule = algo.learner_group._learner.rule_of["influence"]
    rule.trainer.fit = lambda learner, rows, *_: estimator_rows.update(rows)
    prepared_batch(algo, sample)
    expected = (sample.rewards + sample.columns["received"]).flatten(0, 1)
    torch.testing.assert_close(estimator_rows["rewards"], expected)


def test_a_rollout_that_fails_leaves_no_steps(build, monkeypatch):
    """Lets a rollout fail in its third step, and expects incentives of the next one in all its steps."""
    algo = build(lio_config())
    runner, step = algo.env_runner, type(algo.env_runner.game).step
    calls = []

    def fail_once(game, actions):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return step(game, actions)

    monkeypatch.setattr(type(runner.game), "step", fail_once)
    with pytest.raises(RuntimeError, match="out of memory"):
        runner.sample()
    runner.start_over()
    (batch,) = runner.sample()
    assert batch.columns["incentives"].shape[:2] == batch.rewards.shape[:2]
