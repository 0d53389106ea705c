"""Tests of the credit of LIO's incentives: advantages of givers, critics, and the cost of incentives."""

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator.engine.update_rule import LEARN, LOOK_AHEAD
from rllib_reciprocator.intrinsic.incentives.credit import directional, gradients, incentive_derivatives
from tests.helpers.incentives import incentive_rule, joint_observations, lio_config, run_both_phases
from tests.helpers.weights import assert_same_weights, weights


def test_incentive_derivatives_by_hand():
    credit = torch.zeros(1, 3, 2, 2)
    credit[0, :, 0, 1] = torch.tensor([1.0, 2.0, 4.0])
    is_first, decay = torch.tensor([[True, False, False]]), torch.tensor([0.9, 0.5])
    derivatives = incentive_derivatives(credit, decay, is_first)
    # A reward in the last step adds to all three advantages: 4 + 0.5 * 2 + 0.25 * 1.
    assert derivatives[0, :, 0, 1].tolist() == [1.0, 2.5, 5.25]
    assert not derivatives[0, :, 1].any()
    by_step = incentive_derivatives(credit, decay.expand(1, 3, 2), is_first)
    assert torch.equal(by_step, derivatives)
    # In a new episode, a reward adds to the advantages of this episode only.
    two_episodes = incentive_derivatives(credit, decay, torch.tensor([[True, False, True]]))
    assert two_episodes[0, :, 0, 1].tolist() == [1.0, 2.5, 4.0]


def test_directional_derivatives_match_forward_mode():
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    rows, parameters = torch.randn(6, 3), dict(layer.named_parameters())
    direction = [torch.randn_like(param) for param in parameters.values()]
    (derivative,) = directional(lambda: layer(rows)[:, 0], list(parameters.values()), [direction])
    tangents = dict(zip(parameters, direction, strict=True))
    _, expected = torch.func.jvp(
        lambda p: torch.func.functional_call(layer, p, (rows,))[:, 0],
        ({name: param.detach() for name, param in parameters.items()},),
        (tangents,),
    )
    torch.testing.assert_close(derivative, expected)
    (gradient,) = gradients(layer(rows)[:, 0], list(parameters.values()), torch.ones(1, 6))
    assert float(gradient[-1]) == pytest.approx(6.0)


def test_ppo_recipients_are_approximated_by_one_sgd_step(build):
    """Compares gradients with those for a recipient that is trained by policy gradients, at a small learning rate."""
    gradients = []
    for recipient in ("pg", "ppo"):
        players = {"player_0": "lio", "player_1": recipient}
        incentives = {"cost_coeff": 0.0, "cost_lr": None}
        algo = build(lio_config(players, lr=1e-5, use_baseline=False, num_epochs=1, incentives=incentives))
        tau, after = algo.sample(), algo.sample()
        algo.learn(tau, phase=LEARN, report=False)
        incentive_rule(algo).learner.get_optimizer("incentives", "reward").register_step_pre_hook(
            lambda optimizer, *_: gradients.append(optimizer.param_groups[0]["params"][0].grad[0].clone())
        )
        algo.learn(after, phase=LOOK_AHEAD)
    assert float(gradients[0].abs().max()) > 0.0
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.02 * float(gradients[0].abs().max()))


def test_giver_advantages_without_critics_by_hand(build):
    algo = build(lio_config(gamma=0.9))
    sample = algo.sample()
    gains = incentive_rule(algo)._gains(sample)
    lengths = sample.in_first_episode().sum(1).tolist()
    to_go = [
        [sum(0.9 ** (k - t) * float(sample.rewards[b, k, 1]) for k in range(t, length)) for t in range(length)]
        for b, length in enumerate(lengths)
    ]
    for t in range(5):
        mean = np.mean([returns[t] for returns in to_go if len(returns) > t] or [0.0])
        for b, returns in enumerate(to_go):
            expected = returns[t] - mean if len(returns) > t else 0.0
            assert float(gains[b, t, 1]) == pytest.approx(expected, abs=1e-4)


def test_giver_critics_bootstrap_at_the_horizon(build):
    """Computes advantages of extrinsic rewards by hand from the critics' values."""
    a_config = lio_config("lio_ac", env="ipd_v0", bootstrap_at_horizon=True, use_baseline=False, lambda_=0.8, gamma=0.9)
    algo = build(a_config.incentives(critic_lr=0.0))
    sample = algo.sample()
    # The last step terminates the episode in half of the environments, instead of truncating it.
    sample.terminated[:8, -1] = True
    rule = incentive_rule(algo)
    last_obs = torch.stack([sample.modules[f"player_{i}"].last[Columns.OBS][:, 0] for i in range(2)], 1)
    before, last = (rule.functions.values(obs).detach() for obs in (joint_observations(sample).flatten(0, 1), last_obs))
    before = before.view(16, 5, 2)
    after = torch.cat([before[:, 1:], last[:, None]], 1)
    after[:8, -1] = 0.0
    errors = sample.rewards + 0.9 * after - before
    expected, running = torch.zeros_like(errors), 0.0
    for t in reversed(range(5)):
        running = errors[:, t] + 0.9 * 0.8 * running
        expected[:, t] = running
    torch.testing.assert_close(rule._gains(sample), expected, atol=1e-5, rtol=1e-4)


def test_cost_coeff_follows_its_schedule(build):
    """Expects a schedule from 2 to 0 to have a value of 1 halfway."""
    algos = []
    for coeff in (1.0, [[0, 2.0], [1000, 0.0]]):
        algo = build(lio_config(incentives={"cost_coeff": coeff, "cost_lr": None}))
        sample = algo.sample()
        run_both_phases(algo, sample, lifetimes=(0, 500))
        algos.append(algo)
    assert_same_weights(*algos)


def test_cost_counts_without_a_separate_optimizer(build):
    """Uses one Adam optimizer for both losses: the cost still changes the update."""
    weights_by_coeff = []
    for coeff in (0.0, 1.0):
        algo = build(lio_config(incentives={"cost_coeff": coeff, "cost_lr": None, "lr": 0.01}))
        sample = algo.sample()
        run_both_phases(algo, sample)
        weights_by_coeff.append(weights(algo))
    free_params, charged_params = (
        {key: params[key] for key in params if key.startswith("incentives/")} for params in weights_by_coeff
    )
    assert any(not np.array_equal(free_params[key], charged_params[key]) for key in free_params)


def test_the_cost_is_discounted_and_averaged_over_episodes(build):
    algo = build(lio_config(gamma=0.5, incentives={"cost_coeff": 3.0, "max_incentive": 2.0}))
    sample = algo.sample()
    play_mask = sample.in_first_episode()
    shares = sample.columns["incentives"].sum((-1, -2)) / 2.0 * play_mask
    expected = 3.0 * float((shares * 0.5 ** torch.arange(5)).sum()) / 16
    algo.learn(sample, phase=LEARN, report=False)
    algo.learn(sample, phase=LOOK_AHEAD)
    cost = float(algo.metrics.peek(("learners", "incentives", "incentive_cost")))
    assert cost == pytest.approx(expected, rel=1e-4)
    assert cost < 0.9 * 3.0 * float(shares.sum()) / 16
