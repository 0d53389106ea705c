"""Tests of incentives as continuous actions, trained by policy gradients."""

import pytest
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator.algorithms.coala import COALAConfig
from tests.helpers.batches import prepared
from tests.helpers.incentives import incentive_rule, joint_observations, lio_config

DRAWN = {"learned_by": "policy_gradient", "charge_giver": True, "lr": 0.5}


def test_sampled_incentives_are_outputs_plus_noise(build):
    algo = build(lio_config(incentives=DRAWN, env="ipd_v0"))
    sample = algo.sample()
    functions, noise = algo.env_runner.module["incentives"].unwrapped(), sample.columns["incentive_noise"]
    outputs = functions.outputs(joint_observations(sample).flatten(0, 1), sample.actions.flatten(0, 1)).unflatten(
        0, noise.shape[:2]
    )
    payments = 2.0 * (outputs + noise).sigmoid()
    torch.testing.assert_close(sample.columns["incentives"][..., 0, 1], payments[..., 0, 0])
    torch.testing.assert_close(sample.columns["incentives"][..., 1, 0], payments[..., 1, 0])
    assert float(noise.std()) == pytest.approx(1.0, abs=0.2)
    same_seed = build(lio_config(incentives=DRAWN, env="ipd_v0")).sample()
    assert torch.equal(same_seed.columns["incentive_noise"], noise)


def test_incentive_functions_take_policy_gradient_steps(build):
    """Expects the gradient of the normal log-density, weighted with advantages and averaged over episodes."""
    algo = build(lio_config(incentives=DRAWN))
    sample = algo.sample()
    functions, rows = incentive_rule(algo).functions, prepared(algo, sample)
    mean = functions.outputs(joint_observations(sample).flatten(0, 1), sample.actions.flatten(0, 1))[..., 0]
    samples = (mean + sample.columns["incentive_noise"].flatten(0, 1)[..., 0]).detach()
    density = torch.distributions.Normal(mean, 1.0).log_prob(samples)
    advantages = torch.stack(
        [rows[f"player_{i}"]["advantages"] * rows[f"player_{i}"][Columns.LOSS_MASK] for i in range(2)], -1
    )
    parameters = list(functions.functions.parameters())
    gradient = torch.autograd.grad((density * advantages).sum() / 16, parameters)
    expected = [p.detach() + 0.5 * g for p, g in zip(parameters, gradient, strict=True)]
    assert max(float(g.abs().max()) for g in gradient) > 1e-3
    algo.learn(sample)
    for parameter, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter, value, atol=1e-6, rtol=1e-4)


def test_sampled_incentives_need_one_rollout_per_update(build):
    assert build(lio_config(incentives=DRAWN)).train()["env_runners"]["num_episodes"] == 2 * 16


def test_sampled_incentives_of_shapers_raise():
    giver = {"player": "shaper", "intrinsic": {"incentives": {}}}
    config = COALAConfig().environment("ipd_v0", env_config={"num_steps": 4})
    config.players({"player_0": giver, "player_1": "coala"}).meta(inner_episodes=2, copies=2)
    config.intrinsic("incentives", learned_by="policy_gradient").env_runners(num_envs_per_env_runner=8)
    with pytest.raises(ValueError, match=r"incentives.learned_by: policy_gradient needs the advantages of givers"):
        config.validate()
