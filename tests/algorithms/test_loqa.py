"""Tests of LOQA: the shaping term, incentives for its players, and settings."""

import numpy as np
import pytest
import torch

from rllib_reciprocator.algorithms.coala import COALAConfig
from rllib_reciprocator.algorithms.lio import LIOConfig
from rllib_reciprocator.algorithms.loqa import LOQAConfig, shaping_term
from tests.helpers.weights import weights


def loqa_config(env="ipd_v0", **training):
    return (
        LOQAConfig()
        .environment(env, env_config={"num_steps": 4} if env == "ipd_v0" else {})
        .training(**training)
        .rl_module(model_config={"fcnet_hiddens": [4]})
        .env_runners(num_envs_per_env_runner=8)
        .debugging(seed=1)
    )


def test_shaping_term_is_the_sum_over_the_past_of_the_episode():
    generator = torch.Generator().manual_seed(1)
    past, future = (torch.randn(2, 5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    is_first = torch.tensor([[True, False, False, True, False], [False, True, False, False, False]])
    decay = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    expected = np.zeros((2, 5))
    for b in range(2):
        for k in range(5):
            for t in reversed(range(k)):
                if is_first[b, t + 1 : k + 1].any():
                    break
                factor = float(decay[b, t + 1 : k].prod())
                expected[b, k] += factor * float((past[b, t] * future[b, k]).sum())
    np.testing.assert_allclose(shaping_term(past, future, is_first, decay), expected)


def test_only_trained_networks_of_policies_change(build):
    algo = build(loqa_config())
    before = weights(algo)
    algo.train()
    after = weights(algo)
    unchanged_names = {name for name in before if np.array_equal(before[name], after[name])}
    assert not unchanged_names


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_incentives_for_loqa_players_are_learned(build, epsilon):
    players = {"player_0": {"player": "lio", "epsilon": epsilon}, "player_1": {"player": "loqa", "epsilon": 0.0}}
    config = (
        LIOConfig()
        .environment("ipd_v0", env_config={"num_steps": 4})
        .players(players)
        .incentives(hiddens=[4], lr=0.01)
        .training(lr=0.1, updates_per_iteration=2)
        .rl_module(model_config={"fcnet_hiddens": [4]})
        .env_runners(num_envs_per_env_runner=8)
        .debugging(seed=1)
    )
    algo = build(config)
    before = weights(algo)
    algo.train()
    after = weights(algo)
    changed_names = {name for name in before if not np.array_equal(before[name], after[name])}
    assert any(name.startswith("incentives/functions") for name in changed_names)


def test_incentives_for_shapers_only_are_refused():
    config = COALAConfig().environment("ipd_v0", env_config={"num_steps": 4})
    config.players({"player_0": "shaper", "player_1": "lio"}).meta(inner_episodes=2, copies=2)
    with pytest.raises(ValueError, match="incentives need another agent that is trained on advantages"):
        config.env_runners(num_envs_per_env_runner=8).validate()


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (lambda: loqa_config().env_runners(rollout_fragment_length=2), "set batch_mode to complete_episodes"),
        (lambda: loqa_config(q_temperature=0.0), "q_temperature: must be above 0"),
        (lambda: loqa_config(shaping_decay=1.5), "shaping_decay: must be from 0 to 1"),
        (
            lambda: loqa_config().environment("centralized_v0", env_config={"game": "ipd_v0"}),
            "env: loqa players need other agents",
        ),
    ],
)
def test_errors_name_the_setting(config, complaint):
    with pytest.raises(ValueError, match=complaint):
        config().validate()
