"""Tests of training with Reciprocators: reproducibility, rewards, co-players and policies."""

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from benchmarks.bare_loop import BareLoop
from rllib_reciprocator.intrinsic.reciprocity import REWARDS, reciprocal_reward
from rllib_reciprocator.intrinsic.reciprocity.specs import BALANCE_INPUT
from rllib_reciprocator.players import STRATEGIES
from tests.helpers.batches import prepared
from tests.helpers.reciprocators import reciprocator_config, with_memory
from tests.helpers.weights import assert_same_weights, weights


def test_seeded_runs_are_identical(build):
    settings = {"minibatch_size": 40, "shuffle_batch_per_epoch": True}
    first, second = build(reciprocator_config().training(**settings)), build(reciprocator_config().training(**settings))
    for _ in range(3):
        a, b = first.train(), second.train()
        assert a["env_runners"]["outcomes"] == b["env_runners"]["outcomes"]
    assert_same_weights(first, second)
    other_seed = build(reciprocator_config(seed=2).training(**settings))
    other_seed.train()
    assert any(not np.array_equal(value, weights(other_seed)[name]) for name, value in weights(first).items())


def test_learners_add_weighted_reciprocal_rewards(build):
    """Expects returns of extrinsic plus weighted reciprocal rewards, and of extrinsic rewards for a naive learner."""
    a_config = reciprocator_config(
        {"player_0": "reciprocator", "player_1": "ppo"}, weight={"start": 2.0, "end": 9.0, "per_iteration": 1.0}
    )
    algo = build(a_config.training(normalize_advantages=False, lambda_=1.0, gamma=0.9))
    algo.train()
    (sample,) = algo.env_runner.sample()
    batches = prepared(algo, sample, iteration=3)
    reciprocal = reciprocal_reward(sample.columns["balance"], sample.columns["influence"], REWARDS["petty"])
    assert reciprocal[..., 0].abs().sum() > 0
    for index, agent in enumerate(("player_0", "player_1")):
        rewards = sample.rewards[..., index] + (5.0 * reciprocal[..., 0] if index == 0 else 0.0)
        returns = torch.stack([sum(0.9**k * rewards[:, t + k] for k in range(4 - t)) for t in range(4)], 1)
        targets = batches[agent][Postprocessing.VALUE_TARGETS].view(-1, 4)
        torch.testing.assert_close(targets, returns, atol=1e-4, rtol=1e-4)


def test_returns_are_normalized_as_in_the_paper(build):
    algo = build(reciprocator_config().training(normalize_returns=True, normalize_advantages=False, lambda_=1.0))
    (sample,) = algo.env_runner.sample()
    learner, batch = algo.learner_group._learner, prepared(algo, sample)["player_0"]
    targets = batch[Postprocessing.VALUE_TARGETS]
    assert float(targets.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(targets.std(unbiased=False)) == pytest.approx(1.0, abs=1e-4)
    values = learner.module["player_0"].compute_values(batch)
    torch.testing.assert_close(batch[Postprocessing.ADVANTAGES], (targets - values).detach())


@pytest.mark.parametrize("rule", REWARDS)
def test_every_reward_trains_without_nan(build, rule):
    algo = build(reciprocator_config(reward=rule, observe_balance=True, balance_decay=0.9, exploration=0.1))
    result = [algo.train() for _ in range(2)][-1]
    assert all(np.isfinite(value).all() for value in weights(algo).values())
    assert np.isfinite(result["learners"]["player_0"]["reciprocal_reward_mean"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_trains_against_every_scripted_player(build, strategy):
    algo = build(reciprocator_config({"player_0": "reciprocator", "player_1": f"scripted/{strategy}"}))
    result = algo.train()
    assert set(result["learners"]) >= {"player_0"}
    assert "policy_loss" in result["learners"]["player_0"]
    assert "policy_loss" not in result["learners"].get("player_1", {})


def test_recurrent_policies_learn_to_predict_an_unobserved_balance(build):
    settings = {"observe_balance": False, "predict_balance_coeff": 1.0, "balance_scale": 2.0, "balance_decay": 0.9}
    a_config = with_memory(reciprocator_config(games=256, **settings)).training(lr=0.01, num_epochs=10)
    algo = build(a_config.environment(env_config={"num_steps": 12}))
    for _ in range(20):
        result = algo.train()
    (sample,) = algo.env_runner.sample()
    spread = float((sample.modules["player_0"].steps[BALANCE_INPUT] / 2.0).tanh().var())
    assert float(result["learners"]["player_0"]["balance_loss"]) < 0.5 * spread
    columns = prepared(algo, sample)["player_0"]
    module = algo.env_runner.module["player_0"]
    logits = module.forward_train(columns)[Columns.ACTION_DIST_INPUTS]
    columns[BALANCE_INPUT] = columns[BALANCE_INPUT] + 1.0
    assert torch.equal(module.forward_train(columns)[Columns.ACTION_DIST_INPUTS], logits)


def test_naive_learners_play_coins(build):
    a_config = reciprocator_config({"*": "ppo"}, env="coins_v0").training(bootstrap_at_horizon=True, lambda_=0.9)
    algo = build(a_config)
    algo.train()
    result, (sample,) = algo.train(), algo.env_runner.sample()
    own_coins, other_coins = (sample.outcomes[name][..., 0].sum() for name in ("own_coins", "others_coins"))
    rates = algo.env_runner.get_metrics()["outcomes"]["player_0"]
    assert float(rates["own_coin_share"].peek()) == pytest.approx(float(own_coins / (own_coins + other_coins)))
    assert np.isfinite(float(result["learners"]["player_0"]["vf_loss"]))


def test_evaluation_during_training(build):
    algo = build(
        reciprocator_config().evaluation(
            evaluation_interval=1, evaluation_duration=40, evaluation_config={"explore": False}
        )
    )
    result = algo.train()
    assert result["evaluation"]["env_runners"]["num_episodes"] >= 40


def test_nonfinite_gradients_are_not_applied(build):
    algo = build(reciprocator_config())
    learner = algo.learner_group._learner
    before = weights(algo)
    gradients = {name: torch.full_like(parameter, float("nan")) for name, parameter in learner._params.items()}
    learner.apply_gradients(gradients)
    for name, value in weights(algo).items():
        assert np.isfinite(value).all(), name
        np.testing.assert_array_equal(value, before[name])


def test_learns_like_an_independent_loop_from_the_same_weights(build):
    """Compares cooperation rates with those of a loop that shares no code, with the paper's settings."""
    a_config = reciprocator_config(seed=3, games=2048).environment(env_config={"num_steps": 32})
    a_config.rl_module(model_config={"fcnet_hiddens": [2, 2]})
    a_config.training(num_epochs=10, normalize_returns=True, normalize_advantages=False)
    algo, bare = build(a_config), BareLoop(width=2, clip=0.1, normalize_returns=True)
    for index, agent in enumerate(("player_0", "player_1")):
        module = algo.learner_group._learner.module[agent]
        for bare_network, network in ((bare.actors[index], module.actor), (bare.critics[index], module.critic)):
            layers = [*network.encoder.connected, network.head]
            bare_network.load_state_dict(torch.nn.Sequential(*layers).state_dict())
    rates, bare_rates = [], []
    for _ in range(16):
        outcomes = algo.train()["env_runners"]["outcomes"]
        rates.append(sum(float(agent_rates["cooperation_rate"]) for agent_rates in outcomes.values()) / 2)
        bare_rates.append(bare.iterate())
    np.testing.assert_allclose(rates, bare_rates, atol=0.03)
    assert abs(rates[-1] - rates[0]) > 0.1
