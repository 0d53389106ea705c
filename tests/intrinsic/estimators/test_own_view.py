import pytest
import torch

from benchmarks.influence import correlation, estimator, fit, played
from rllib_reciprocator.intrinsic.reciprocity.estimators import OwnViewInfluence

SEES = {"sees": "own", "counterfactual": "modelled"}


def reward_of(model, agent, obs, time_left, actions):
    """What the agent's own reward model says where it sees ``obs`` and its own action comes first."""
    rows = len(obs)
    inputs = torch.cat([obs.flatten(1), time_left[:, None]], 1)
    everybody = inputs.expand(model.num_agents, rows, -1)
    return model.acting["reward"](everybody, actions.expand(model.num_agents, rows, -1))[agent, :, 0]


@pytest.mark.parametrize("num_agents", [2, 3])
@pytest.mark.parametrize("counterfactual", ["modelled", "uniform"])
def test_influence_is_the_sum_over_alternatives_one_by_one(num_agents, counterfactual):
    data = played(5, num_agents=num_agents, num_steps=3, sees="own")
    seen = data.steps.flattened()
    model = estimator(OwnViewInfluence, num_agents=num_agents, sees="own", counterfactual=counterfactual)
    received, given = model.influence(seen)
    n = num_agents
    modelled = model.behavior_model(model.inputs(seen.state[:, :, 0], seen.time_left))
    with torch.no_grad():
        for i in range(n):
            for k in range(1, n):
                j = (i + k) % n
                # What i takes j to have done to it: on what i sees, j's action replaced.
                own_order = seen.actions[:, [(i + r) % n for r in range(n)]]
                expected = reward_of(model, i, seen.state[:, i, 0], seen.time_left, own_order)
                for action in range(5):
                    changed = own_order.clone()
                    changed[:, k] = action
                    prob = modelled[i, :, k, action]
                    expected = expected - prob * reward_of(model, i, seen.state[:, i, 0], seen.time_left, changed)
                torch.testing.assert_close(received[:, j, i], expected, atol=1e-5, rtol=1e-4)
                # What i takes itself to have done to j: i's model on what j sees, i's action replaced.
                their_order = seen.actions[:, [(j + r) % n for r in range(n)]]
                expected = reward_of(model, i, seen.state[:, i, k], seen.time_left, their_order)
                for action in range(5):
                    changed = their_order.clone()
                    changed[:, n - k] = action
                    prob = modelled[i, :, 0, action]
                    expected = expected - prob * reward_of(model, i, seen.state[:, i, k], seen.time_left, changed)
                torch.testing.assert_close(given[:, i, j], expected, atol=1e-5, rtol=1e-4)


def test_nothing_of_the_others_is_used():
    """With other rewards and other observations of theirs agent 0 learns and believes the same."""
    data = played(64, sees="own")
    generator = torch.Generator().manual_seed(0)
    steps = data.steps
    state, rewards = steps.state.clone(), steps.rewards.clone()
    state[:, :, 1] = torch.rand(state[:, :, 1].shape, generator=generator)
    rewards[..., 1] = torch.rand(rewards[..., 1].shape, generator=generator)
    changed = data._replace(steps=steps._replace(state=state, rewards=rewards))
    beliefs = []
    for each in (data, changed):
        model = estimator(OwnViewInfluence, **SEES)
        fit(model, each, updates=2)
        received, given = model.influence(each.steps)
        beliefs.append((received[..., 0], given[..., 0, :]))
        other = received[..., 1]
    for a, b in zip(*beliefs, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(other, received[..., 0])


def test_learns_the_exact_influence_of_coins():
    fresh, model = played(64, seed=1, sees="own"), estimator(OwnViewInfluence, **SEES)
    fit(model, played(768, sees="own"))
    received, given = model.influence(fresh.steps)
    assert correlation(received, fresh.exact) > 0.75
    assert correlation(given, fresh.exact) > 0.75


def test_the_replay_keeps_what_each_agent_sees_itself():
    data = played(4, num_steps=3, num_agents=3, sees="own")
    rows = estimator(OwnViewInfluence, num_agents=3, **SEES).replay_rows(data.steps, data.ended)
    assert rows["state"].shape == (12, 3, 6, 3, 3)
    assert torch.equal(rows["state"], data.steps.state.flatten(0, 1)[:, :, 0])


def test_the_future_counts_with_its_weight():
    data = played(4, sees="own")
    model = estimator(OwnViewInfluence, future_weight=0.5, **SEES)
    rows = model.replay_rows(data.steps, data.ended)
    out = model.forward_train(rows)
    assert out["reward"].shape == (2, 128, 2)
    targets = torch.stack([data.steps.rewards, data.steps.future_returns], -1).flatten(0, 1).transpose(0, 1)
    expected = (out["reward"] - targets).square().mean()
    torch.testing.assert_close(model.losses(rows, out)["loss"], expected)
    assert model.influence(data.steps).given.isfinite().all()
