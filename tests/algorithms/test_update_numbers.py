"""Compares weights and losses after training iterations of pairs of runs that must agree, and with values by hand."""

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.coala import COALAConfig
from rllib_reciprocator.algorithms.shaper import ShaperConfig
from tests.helpers.games import LAPS
from tests.helpers.weights import assert_same_weights, weights

PAYOFFS = [[[1.0, 1.0], [-1.0, 2.0]], [[2.0, -1.0], [0.0, 0.0]]]
NETWORKS = {"fcnet_hiddens": [8]}


def coala(players, *, config_class=COALAConfig, payoffs=PAYOFFS, meta=None, **training):
    settings = {"lr": 0.01, "reward_scale": 1.0, "scale_advantages": False, "grad_clip": None, **training}
    return (
        config_class()
        .environment("ipd_v0", env_config={"num_steps": 5, "payoffs": payoffs})
        .players(players)
        .meta(**{"inner_episodes": 3, "copies": 1, "center": False, **(meta or {})})
        .training(**settings)
        .rl_module(model_config=NETWORKS)
        .env_runners(num_envs_per_env_runner=16)
        .debugging(seed=1)
    )


def after_training(build, config, iterations=1):
    """Trains and returns the algorithm and its last results."""
    algo = build(config)
    for _ in range(iterations):
        results = algo.train()
    return algo, results


# --- COALA and Shaper ------------------------------------------------------------------------------------------------


def test_coala_without_online_learners_is_ppo(build):
    """Compares with PPO: with one inner episode, the discounted sums of TD errors are GAE advantages."""
    players = {"player_0": "ppo", "player_1": "scripted/tit_for_tat"}
    shared_settings = {"gamma": 0.9, "lambda_": 0.7, "num_epochs": 2, "clip_param": 0.2, "entropy_coeff": 0.0}
    ppo = (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": 5, "payoffs": PAYOFFS})
        .players(players)
        .training(lr=0.01, normalize_advantages=False, grad_clip=None, **shared_settings)
        .rl_module(model_config=NETWORKS)
        .env_runners(num_envs_per_env_runner=16)
        .debugging(seed=1)
    )
    meta = {"inner_episodes": 1}
    same, _ = after_training(build, coala({**players, "player_0": "coala"}, meta=meta, **shared_settings), 2)
    reference, _ = after_training(build, ppo, 2)
    assert_same_weights(same, reference, atol=1e-6)


@pytest.mark.parametrize("credit", ["coala", "mfos"])
def test_groups_of_one_environment_discount_later_inner_episodes_as_one_long_episode(build, credit):
    """Compares credit rules, which agree for one environment per group: later inner episodes are all its own."""
    players = {"player_0": "coala", "player_1": "learner/pg"}
    runs = {
        name: after_training(build, coala(players, meta={"credit": name}, gamma=0.8, lambda_=0.9, num_epochs=1), 3)
        for name in (credit, "unaware", "myopic")
    }
    assert_same_weights(runs[credit][0], runs["unaware"][0], atol=1e-5)
    # The mean of the advantages, since there is one epoch and one minibatch.
    losses = {name: float(results["learners"]["player_0"]["policy_loss"]) for name, (_, results) in runs.items()}
    assert losses[credit] == pytest.approx(losses["unaware"], abs=1e-4)
    assert abs(losses["unaware"] - losses["myopic"]) > 0.05


def test_advantages_are_scaled_by_those_of_trained_agents_alone(build):
    """Scales the payoffs of an agent that is not trained, and expects the same update."""
    large = [[[first, 100.0 * second] for first, second in row] for row in PAYOFFS]
    players = {"player_0": "coala", "player_1": "scripted/random"}
    runs = [
        after_training(build, coala(players, payoffs=payoffs, scale_advantages=True)) for payoffs in (PAYOFFS, large)
    ]
    (algo, results), (other_algo, other_results) = runs
    assert_same_weights(algo, other_algo)
    losses, other_losses = results["learners"]["player_0"], other_results["learners"]["player_0"]
    assert abs(float(losses["policy_loss"])) > 1e-3
    for name in ("policy_loss", "vf_loss"):
        assert float(losses[name]) == float(other_losses[name])


def test_fitness_of_a_team_is_that_of_every_agent(build):
    """Uses constant rewards: 0 per step for one agent of the team, and 1 for the other."""
    payoffs = [[[0.0, 1.0]] * 2] * 2
    players = {"player_*": "team/shaper"}
    _, results = after_training(build, coala(players, config_class=ShaperConfig, payoffs=payoffs))
    losses = results["learners"]["shaper"]
    assert float(losses["fitness_mean"]) == pytest.approx(0.5)
    assert float(losses["fitness_std"]) == pytest.approx(0.5)


def test_the_fitness_of_each_agent_moves_the_shared_parameters(build):
    """Rewards only the second agent, for its cooperation: the team learns to cooperate."""
    payoffs = [[[0.0, 1.0], [0.0, 0.0]]] * 2
    players = {"player_*": "team/shaper"}
    config = coala(players, config_class=ShaperConfig, payoffs=payoffs, lr=0.1, sigma=0.5)
    algo = build(config.env_runners(num_envs_per_env_runner=64))
    rates = [float(algo.train()["env_runners"]["outcomes"]["player_1"]["cooperation_rate"]) for _ in range(15)]
    assert rates[0] < 0.7
    assert rates[-1] > 0.8


# --- discounts, exploration, cut-offs ---------------------------------------------------------------------------------


def test_every_agent_learns_with_its_own_discount(build):
    def train(first, second):
        players = {f"player_{index}": {"player": "ppo", "gamma": gamma} for index, gamma in enumerate((first, second))}
        config = (
            ReciprocatorConfig()
            .environment("ipd_v0", env_config={"num_steps": 6})
            .players(players)
            .training(gamma=0.99, num_epochs=1)
            .rl_module(model_config=NETWORKS)
            .env_runners(num_envs_per_env_runner=16)
            .debugging(seed=1)
        )
        algo, results = after_training(build, config)
        losses = [float(results["learners"][f"player_{index}"]["vf_loss"]) for index in range(2)]
        return weights(algo), losses

    (low, low_losses), (middle, mixed_losses), (high, high_losses) = (
        train(*gammas) for gammas in ((0.3, 0.3), (0.3, 0.9), (0.9, 0.9))
    )
    for name, value in middle.items():
        same = low if name.startswith("player_0") else high
        np.testing.assert_array_equal(value, same[name], err_msg=name)
    assert mixed_losses == [low_losses[0], high_losses[1]]
    assert all(abs(a - b) > 0.1 for a, b in zip(low_losses, high_losses, strict=True))


@pytest.mark.parametrize("env", ["ipd_v0", "escape_room_v0", "coins_v0"])
def test_exploration_mixes_in_every_action_uniformly(build, env):
    """Expects the probabilities ``(1 - epsilon) p + epsilon / A``."""

    def probabilities(epsilon):
        config = (
            ReciprocatorConfig()
            .environment(env)
            .players({"player_*": "ppo"})
            .training(epsilon=epsilon)
            .rl_module(model_config=NETWORKS)
            .env_runners(num_envs_per_env_runner=2)
            .debugging(seed=1)
        )
        module = build(config).get_module("player_0")
        # Larger parameters make policies that are far from uniform.
        module.load_state_dict(
            {name: value if name == "epsilon" else 5.0 * value for name, value in module.state_dict().items()}
        )
        obs = social_dilemmas.make(env, 2).reset(seed=1)[:, 0]
        inputs = module.forward_exploration({Columns.OBS: obs})[Columns.ACTION_DIST_INPUTS]
        distribution = module.get_exploration_action_dist_cls().from_logits(inputs)
        actions = torch.arange(int(module.action_space.n))
        return torch.stack([distribution.logp(action.expand(2)).exp() for action in actions], -1)

    policy, mixture = probabilities(0.0), probabilities(0.4)
    torch.testing.assert_close(mixture, 0.6 * policy + 0.4 / policy.shape[-1], atol=1e-5, rtol=0.0)
    assert float((policy - 1.0 / policy.shape[-1]).abs().max()) > 0.1


def test_values_at_cut_offs_are_those_of_the_last_observation_of_each_episode(build):
    """Uses fragments of two and a half episodes, and observations that differ between all steps."""
    social_dilemmas.register(LAPS)
    horizon, length, environments, gamma = 4, 10, 3, 0.9
    config = (
        ReciprocatorConfig()
        .environment("laps_v0", env_config={"num_steps": horizon})
        .players({"player_0": "ppo", "player_1": "scripted/random"})
        .training(gamma=gamma, lambda_=0.0, bootstrap_at_horizon=True, num_epochs=1)
        .rl_module(model_config=NETWORKS)
        .env_runners(num_envs_per_env_runner=environments, rollout_fragment_length=length)
        .debugging(seed=1)
    )
    algo = build(config)

    def value(observations):
        (values,) = algo.learner_group.foreach_learner(
            lambda learner: learner.module["player_0"].unwrapped().compute_values({Columns.OBS: observations})
        )
        return values.get().detach()

    for iteration in range(3):
        # Rewards are zero, so that a target is the discounted value of the observation after the step.
        steps = torch.arange(iteration * length, (iteration + 1) * length).repeat(environments, 1)
        laps, step = steps // horizon + 1, steps % horizon
        environment = torch.arange(environments)[:, None].expand_as(steps)
        before = torch.stack([laps, step, environment], -1).float() / 10.0
        after = torch.stack([laps, step + 1, environment], -1).float() / 10.0
        errors = gamma * value(after.flatten(0, 1)) - value(before.flatten(0, 1))
        loss = float(algo.train()["learners"]["player_0"]["vf_loss"])
        assert loss == pytest.approx(float(errors.square().mean()), rel=1e-4)
