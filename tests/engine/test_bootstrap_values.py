"""Tests of advantages and of values at the ends of episodes and rollouts."""

import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

import social_dilemmas
from tests.helpers.batches import prepared
from tests.helpers.training import ROLLOUTS, training_config


def loop_advantages(sample, module, gamma, lambda_, bootstrap, horizon):
    """Computes GAE advantages of player 0 in a loop over environments and steps, ``[B, T]``."""
    obs = sample.modules["player_0"].steps[Columns.OBS][:, 0]
    value = lambda observation: float(module.compute_values({Columns.OBS: observation[None]}))  # noqa: E731
    games, steps = obs.shape[:2]
    advantages = torch.zeros(games, steps)
    for b in range(games):
        running = 0.0
        for t in reversed(range(steps)):
            terminated, truncated = (bool(ends[b, t]) for ends in (sample.terminated, sample.truncated))
            if t == steps - 1:
                next_value = value(sample.modules["player_0"].last["obs"][b, 0])
            elif truncated and not terminated and bootstrap:
                next_value = value(sample.modules["player_0"].final["obs"][b, 0, t // horizon])
            else:
                next_value = value(obs[b, t + 1])
            if terminated or (truncated and not bootstrap):
                next_value = 0.0
            ended = terminated or truncated
            error = float(sample.rewards[b, t, 0]) + gamma * next_value - value(obs[b, t])
            running = error + (0.0 if ended else gamma * lambda_ * running)
            advantages[b, t] = running
    return advantages


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("rollouts", ROLLOUTS)
def test_advantages_by_hand(build, rollouts, bootstrap):
    """Covers terminations, truncations and ends of samples, with and without a bootstrap value at the horizon."""
    env, fragment = ROLLOUTS[rollouts]
    settings = {"normalize_advantages": False, "lambda_": 0.7, "gamma": 0.9, "bootstrap_at_horizon": bootstrap}
    algo = build(training_config({"*": "ppo"}, env=env, fragment=fragment, games=12, **settings))
    algo.train()
    (sample,) = algo.env_runner.sample()
    module = algo.learner_group._learner.module["player_0"].unwrapped()
    expected = loop_advantages(sample, module, 0.9, 0.7, bootstrap, algo.env_runner.game.horizon)
    batch = prepared(algo, sample)["player_0"]
    torch.testing.assert_close(batch[Postprocessing.ADVANTAGES].view(12, -1), expected, atol=1e-4, rtol=1e-4)
    assert sample.ended[:, :-1].any() or rollouts == "whole"


def test_value_at_the_horizon_is_that_of_the_final_observation(build):
    """Expects the observation after the last step of a truncated episode, not the first one of the next episode."""
    algo = build(training_config({"*": "ppo"}, fragment=7, bootstrap_at_horizon=True))
    (sample,) = algo.env_runner.sample()
    final = sample.modules["player_0"].final["obs"]
    assert final.shape[2] == 2
    assert sample.truncated[:, 3].all()
    assert not torch.equal(final[:, :, 0], sample.modules["player_0"].steps[Columns.OBS][:, :, 4])
    game = social_dilemmas.make("coins_v0", 24, num_steps=4)
    game._cells = torch.cat(
        [sample.modules["player_0"].steps[Columns.OBS][:, 0, 3, k].flatten(1).argmax(1)[None] for k in range(4)]
    )
    expected = game.step(sample.actions[:, 3]).obs[:, 0]
    has_collected = sample.outcomes["own_coins"][:, 3].sum(1) + sample.outcomes["others_coins"][:, 3].sum(1) > 0
    assert torch.equal(final[:, 0, 0][~has_collected], expected[~has_collected])
