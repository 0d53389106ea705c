"""Tests of influence estimators that are trained with Reciprocators."""

import gymnasium
import numpy as np
import pytest
import torch

import social_dilemmas
from social_dilemmas.coins import Coins
from social_dilemmas.registry import GameSpec
from tests.helpers.batches import prepared
from tests.helpers.games import Countdown
from tests.helpers.reciprocators import COINS, reciprocator_config
from tests.helpers.weights import weights


def test_estimator_training_does_not_change_policies(build):
    algo = build(
        reciprocator_config(env="coins_v0", games=512, estimator_epochs=5, estimator_minibatch_size=512, **COINS)
    )
    algo.train()
    (sample,) = algo.env_runner.sample()
    before = weights(algo)
    prepared(algo, sample)
    after = weights(algo)
    changed_ids = {name.split("/")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert changed_ids == {"influence"}
    losses = [float(algo.train()["learners"]["influence"]["loss"]) for _ in range(10)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize(
    "settings",
    [
        {"influence": "reward"},
        {"influence": "reward", "counterfactual": "modelled", "tau": 0.5},
        {"influence": "reward", "estimator_sees": "observations"},
        {"influence": "reward", "estimator_sees": "observations", "estimator_shared": True},
        {"influence": "reward", "estimator_sees": "own"},
        {"influence": "counterfactual", "tau": 0.1, "estimator_hiddens": [16]},
        {"influence": "transition"},
    ],
)
def test_every_learned_estimator_trains_with_and_without_future_influence(build, settings):
    for future_weight in (0.0, 1.0):
        settings = {**COINS, **settings, "future_weight": future_weight}
        algo = build(reciprocator_config(env="coins_v0", **settings))
        result = [algo.train() for _ in range(2)][-1]
        assert all(np.isfinite(value).all() for value in weights(algo).values())
        assert np.isfinite(float(result["env_runners"]["influence"]["player_0_on_player_1"]))
        runner, learner = algo.env_runner.module["influence"], algo.learner_group._learner.module["influence"]
        for name, value in learner.get_state().items():
            np.testing.assert_array_equal(runner.get_state()[name], value, err_msg=name)


@pytest.mark.parametrize("env", [env for env in social_dilemmas.game_ids() if env != "centralized_v0"])
@pytest.mark.parametrize("sees", ["state", "observations", "own"])
@pytest.mark.parametrize("influence", ["reward", "counterfactual", "value"])
def test_learned_estimators_train_in_every_environment(build, env, sees, influence):
    if sees == "own" and (influence != "reward" or not social_dilemmas.make(env).fully_observed):
        pytest.skip("own needs influence reward and an environment in which agents can infer others' observations")
    algo = build(reciprocator_config(env=env, games=8, influence=influence, estimator_sees=sees, balance_decay=0.9))
    for _ in range(2):
        result = algo.train()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    assert np.isfinite(float(result["env_runners"]["influence"]["player_0_on_player_1"]))


def test_gradients_of_policies_and_estimator_are_clipped(build):
    algo = build(reciprocator_config(env="coins_v0", **COINS).training(grad_clip=0.5, grad_clip_by="norm"))
    algo.train()
    assert all(np.isfinite(value).all() for value in weights(algo).values())


def test_nan_rewards_leave_the_estimator_finite(build):
    algo = build(reciprocator_config(env="coins_v0", **COINS))
    algo.train()
    (sample,) = algo.env_runner.sample()
    sample.rewards[0, 0, 0] = float("nan")
    prepared(algo, sample)
    for name, value in weights(algo).items():
        assert np.isfinite(value).all(), name


def test_policies_are_not_trained_while_the_estimator_warms_up(build):
    algo = build(reciprocator_config(env="coins_v0", warmup_iterations=2, **COINS))
    start = weights(algo)
    for iteration in range(3):
        algo.train()
        now = weights(algo)
        changed_ids = {name.split("/")[0] for name in start if not np.array_equal(start[name], now[name])}
        assert changed_ids == ({"influence"} if iteration < 2 else {"influence", "player_0", "player_1"})


@pytest.mark.processes
def test_two_learners_train_one_estimator(build):
    """Splits the replay buffer between learners and averages gradients, so that the estimators stay equal."""
    algo = build(reciprocator_config(env="coins_v0", **COINS).learners(num_learners=2))
    for _ in range(2):
        result = algo.train()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    states = [
        state.get()
        for state in algo.learner_group.foreach_learner(lambda learner: learner.module["influence"].get_state())
    ]
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name], err_msg=name)


class OneAction(Countdown):
    """Countdown in which agents have a single action."""

    terminates_early = False

    def __init__(self, num_steps=8, **settings):
        super().__init__(num_steps=num_steps, **settings)
        self.action_space = gymnasium.spaces.Discrete(1)
        self.action_names = ("wait",)

    def _play(self, actions):
        rewards, ended, outcomes = super()._play(actions)
        return rewards, torch.zeros_like(ended), outcomes


@pytest.mark.parametrize(
    "settings", [{"counterfactual": "modelled"}, {"normalize": True}, {"influence": "counterfactual"}]
)
def test_constant_rewards_with_a_single_action_stay_finite(build, settings):
    """Trains with constant rewards: influence is zero, and must not be divided by."""
    social_dilemmas.register(
        GameSpec("one_action_v0", "tests.algorithms.test_reciprocator_estimators:OneAction", "No choice.")
    )
    a_config = reciprocator_config(env="one_action_v0", **{"influence": "reward", "balance_decay": 0.9, **settings})
    algo = build(a_config.training(normalize_returns=True))
    for _ in range(3):
        result = algo.train()
    assert all(np.isfinite(value).all() for value in weights(algo).values())
    for agent in ("player_0", "player_1"):
        losses = [float(result["learners"][agent][name]) for name in ("total_loss", "entropy", "reciprocal_reward_std")]
        assert np.isfinite(losses).all()
    assert abs(float(result["learners"]["player_0"]["reciprocal_reward_mean"])) < 0.05


class NeverMoves(Coins):
    """Coins in which player 1 stays in place whatever its action is."""

    def _play(self, actions):
        actions = actions.clone()
        actions[:, 1] = 4
        return super()._play(actions)


@pytest.mark.parametrize("sees", ["state", "own"])
def test_agents_that_never_move_have_little_influence(build, sees):
    social_dilemmas.register(
        GameSpec("never_moves_v0", "tests.algorithms.test_reciprocator_estimators:NeverMoves", "Stays.")
    )
    settings = {**COINS, "estimator_sees": sees, "estimator_epochs": 8, "estimator_minibatch_size": 512}
    algo = build(reciprocator_config(env="never_moves_v0", games=512, **settings))
    for _ in range(15):
        result = algo.train()
    deviation = result["env_runners"]["influence_std"]
    assert float(deviation["player_1_on_player_0"]) < 0.5 * float(deviation["player_0_on_player_1"])
    assert all(np.isfinite(value).all() for value in weights(algo).values())


def test_iterations_without_an_update_report_losses(build):
    algo = build(reciprocator_config(env="coins_v0", update_period_iters=3, **COINS))
    assert all(np.isfinite(float(algo.train()["learners"]["influence"]["loss"])) for _ in range(4))
