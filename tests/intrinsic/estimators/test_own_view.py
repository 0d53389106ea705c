import pytest
import torch

from benchmarks.influence import correlation, estimator, fit, played
from rllib_reciprocator.intrinsic.reciprocity.estimators import OwnViewInfluence

SEES = {"sees": "own", "counterfactual": "modelled"}


def reward_of(model, agent, obs, time_left, actions):
    """Returns the prediction of the agent's reward model for ``obs`` and actions that start with its own."""
    rows = len(obs)
    inputs = torch.cat([obs.flatten(1), time_left[:, None]], 1)
    model_inputs = inputs.expand(model.num_agents, rows, -1)
    return model.target_networks["reward"](model_inputs, actions.expand(model.num_agents, rows, -1))[agent, :, 0]


@pytest.mark.parametrize("num_agents", [2, 3])
@pytest.mark.parametrize("counterfactual", ["modelled", "uniform"])
def test_influence_equals_a_sum_over_single_alternatives(num_agents, counterfactual):
    data = played(5, num_agents=num_agents, num_steps=3, sees="own")
    steps = data.steps.flattened()
    model = estimator(OwnViewInfluence, num_agents=num_agents, sees="own", counterfactual=counterfactual)
    on_self, by_self = model.influence(steps)
    n = num_agents
    probs = model.behavior_model(model.inputs(steps.state[:, :, 0], steps.time_left))
    with torch.no_grad():
        for i in range(n):
            for k in range(1, n):
                j = (i + k) % n
                # Influence of j on i as estimated by i: i's model on i's observation, with j's action replaced.
                actions_from_i = steps.actions[:, [(i + r) % n for r in range(n)]]
                expected = reward_of(model, i, steps.state[:, i, 0], steps.time_left, actions_from_i)
                for action in range(5):
                    joint_actions = actions_from_i.clone()
                    joint_actions[:, k] = action
                    prob = probs[i, :, k, action]
                    expected = expected - prob * reward_of(
                        model, i, steps.state[:, i, 0], steps.time_left, joint_actions
                    )
                torch.testing.assert_close(on_self[:, j, i], expected, atol=1e-5, rtol=1e-4)
                # Influence of i on j as estimated by i: i's model on j's observation, with i's action replaced.
                actions_from_j = steps.actions[:, [(j + r) % n for r in range(n)]]
                expected = reward_of(model, i, steps.state[:, i, k], steps.time_left, actions_from_j)
                for action in range(5):
                    joint_actions = actions_from_j.clone()
                    joint_actions[:, n - k] = action
                    prob = probs[i, :, 0, action]
                    expected = expected - prob * reward_of(
                        model, i, steps.state[:, i, k], steps.time_left, joint_actions
                    )
                torch.testing.assert_close(by_self[:, i, j], expected, atol=1e-5, rtol=1e-4)


def test_rewards_and_observations_of_other_agents_are_not_used():
    """Checks that agent 0 estimates the same influence for other rewards and observations of agent 1."""
    data = played(64, sees="own")
    generator = torch.Generator().manual_seed(0)
    steps = data.steps
    state, rewards = steps.state.clone(), steps.rewards.clone()
    state[:, :, 1] = torch.rand(state[:, :, 1].shape, generator=generator)
    rewards[..., 1] = torch.rand(rewards[..., 1].shape, generator=generator)
    changed_data = data._replace(steps=steps._replace(state=state, rewards=rewards))
    estimates = []
    for dataset in (data, changed_data):
        model = estimator(OwnViewInfluence, **SEES)
        fit(model, dataset, updates=2)
        on_self, by_self = model.influence(dataset.steps)
        estimates.append((on_self[..., 0], by_self[..., 0, :]))
        on_other_agent = on_self[..., 1]
    for a, b in zip(*estimates, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(on_other_agent, on_self[..., 0])


def test_learns_the_exact_influence_of_coins():
    test_data, model = played(64, seed=1, sees="own"), estimator(OwnViewInfluence, **SEES)
    fit(model, played(768, sees="own"))
    on_self, by_self = model.influence(test_data.steps)
    assert correlation(on_self, test_data.exact) > 0.75
    assert correlation(by_self, test_data.exact) > 0.75


def test_replay_buffer_keeps_own_observations_of_agents():
    data = played(4, num_steps=3, num_agents=3, sees="own")
    rows = estimator(OwnViewInfluence, num_agents=3, **SEES).replay_rows(data.steps, data.ended)
    assert rows["state"].shape == (12, 3, 6, 3, 3)
    assert torch.equal(rows["state"], data.steps.state.flatten(0, 1)[:, :, 0])


def test_future_returns_are_fitted():
    data = played(4, sees="own")
    model = estimator(OwnViewInfluence, future_weight=0.5, **SEES)
    rows = model.replay_rows(data.steps, data.ended)
    out = model.forward_train(rows)
    assert out["reward"].shape == (2, 128, 2)
    targets = torch.stack([data.steps.rewards, data.steps.future_returns], -1).flatten(0, 1).transpose(0, 1)
    expected = (out["reward"] - targets).square().mean()
    torch.testing.assert_close(model.losses(rows, out)["loss"], expected)
    assert model.influence(data.steps).given.isfinite().all()
