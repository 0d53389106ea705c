"""Tests of influence on later rewards."""

import gymnasium
import numpy as np
import pytest
import torch

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.value_model import ValueInfluence, lambda_returns


def test_lambda_returns_by_hand():
    rewards = torch.tensor([[[1.0], [2.0], [4.0], [8.0]]])
    values = torch.tensor([[[10.0], [20.0], [30.0], [40.0]]])
    terminated = torch.tensor([[False, True, False, False]])
    returns = lambda_returns(rewards, values, terminated, 0.5, 0.75)[0, :, 0]
    # Step 3 is truncated: its bootstrap value. Step 2: 4 + 0.5 (0.25 * 40 + 0.75 * 40). Step 1 ends: 2.
    # Step 0: 1 + 0.5 (0.25 * 20 + 0.75 * 2).
    assert returns.tolist() == [4.25, 2.0, 24.0, 40.0]
    terminated[0, 3] = True
    assert lambda_returns(rewards, values, terminated, 0.5, 1.0)[0, :, 0].tolist() == [2.0, 2.0, 8.0, 8.0]
    assert lambda_returns(rewards, values, terminated, 0.5, 0.0)[0, :, 0].tolist() == [11.0, 2.0, 24.0, 8.0]


def test_learns_influence_on_later_rewards():
    """Pays agent 0 the index of agent 1's action two steps later; agent 0's own action has no effect."""
    torch.manual_seed(0)
    games, steps, gamma = 400, 6, 0.9
    space = gymnasium.spaces.Box(-1.0, 2.0, (2,), np.float32)
    settings = {
        "num_agents": 2, "hiddens": [32], "epochs": 1, "minibatch_size": 400, "future_weight": 0.0, "gamma": gamma,
        "tau": 1.0, "counterfactual": "policy", "lambda": 0.9, "buffer_iterations": 1, "update_period_iters": 1,
    }  # fmt: skip
    model = ValueInfluence(observation_space=space, action_space=gymnasium.spaces.Discrete(3), model_config=settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)

    def sample_steps():
        actions = torch.randint(0, 3, (games, steps, 2), generator=generator)
        delayed_rewards = torch.cat([torch.zeros(games, 2), actions[:, :, 1].float()], 1)
        rewards = torch.stack([delayed_rewards[:, :steps], torch.zeros(games, steps)], -1)
        state = torch.stack([delayed_rewards[:, :steps], delayed_rewards[:, 1 : steps + 1]], -1)
        time_left = (1.0 - torch.arange(steps) / steps).expand(games, steps)
        return Transition(state, actions, rewards, time_left, torch.zeros_like(rewards))

    terminated = torch.zeros(games, steps, dtype=torch.bool)
    terminated[:, -1] = True
    for _ in range(120):
        rows = model.replay_rows(sample_steps(), terminated)
        for batch in model.minibatches(rows, generator):
            optimizer.zero_grad()
            sum(model.losses(batch, model._forward_train(batch)).values()).backward()
            optimizer.step()
    transition = sample_steps()
    influence = model.influence(transition, torch.full((games, steps, 2, 3), 1 / 3)).received
    expected = gamma**2 * (transition.actions[:, :4, 1].float() - 1.0)
    assert (influence[:, :4, 1, 0] - expected).abs().mean() < 0.1
    assert influence[:, 4:, 1, 0].abs().mean() < 0.15, "rewards after the end of the episode have no influence"
    assert influence[:, :, 0, 1].abs().mean() < 0.05
    # The reward of the same step carries no information: it does not depend on the action.
    assert np.corrcoef(transition.rewards[:, :4, 0].flatten(), transition.actions[:, :4, 1].flatten())[0, 1] < 0.1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"influence": "value", "future_weight": 1.0}, "future_weight: not used by value"),
        ({"influence": "reward", "estimator_lambda": 0.5}, "estimator_lambda: used by value only"),
        ({"influence": "value", "estimator_lambda": 1.5}, "less than or equal to 1"),
        ({"influence": "value", "estimator_sees": "own"}, "own needs influence reward"),
    ],
)
def test_settings_without_effect_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        ReciprocatorConfig().environment("coins_v0").reciprocity(**settings).validate()
