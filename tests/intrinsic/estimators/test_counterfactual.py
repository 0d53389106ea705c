import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.influence import correlation, estimator, fit, played
from rllib_reciprocator.engine.advantages import returns_after
from rllib_reciprocator.intrinsic.reciprocity.estimators import CounterfactualInfluence, RewardModelInfluence
from rllib_reciprocator.models.stacked import StackedLinear


@pytest.mark.parametrize("num_agents", [2, 3])
def test_stacked_networks_equal_single_ones(num_agents):
    seen = played(6, num_agents=num_agents, num_steps=2).steps.flattened()
    model = estimator(CounterfactualInfluence, num_agents=num_agents)
    together = model.predict(model.acting, seen)
    for network in range(num_agents + 1):
        layers = []
        for stacked in model.acting["reward"]:
            if isinstance(stacked, StackedLinear):
                layer = nn.Linear(*stacked.weight.shape[1:])
                layer.weight.data, layer.bias.data = (
                    stacked.weight[network].t().detach(),
                    stacked.bias[network, 0].detach(),
                )
                layers += [layer, nn.ReLU()]
        actions = functional.one_hot(seen.actions, 5).float()
        if network:
            actions[:, network - 1] = 0.0
        inputs = torch.cat([seen.state.flatten(1), seen.time_left[:, None], actions.flatten(1)], 1)
        torch.testing.assert_close(nn.Sequential(*layers[:-1])(inputs), together[network], atol=1e-5, rtol=1e-4)


def test_a_counterfactual_network_does_not_see_the_action_it_is_without():
    seen = played(6, num_steps=2).steps.flattened()
    model = estimator(CounterfactualInfluence)
    changed = seen.actions.clone()
    changed[:, 1] = (changed[:, 1] + 1) % 5
    before, after = (model.predict(model.acting, each) for each in (seen, seen._replace(actions=changed)))
    torch.testing.assert_close(before[2], after[2])
    assert not torch.allclose(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_learns_the_exact_influence_of_coins():
    """As the reward model does, with more error: each network has its own."""
    fresh, model = played(64, seed=1), estimator(CounterfactualInfluence)
    fit(model, played(768))
    assert correlation(model.influence(fresh.steps).received, fresh.exact) > 0.6


@pytest.mark.parametrize("kind", [CounterfactualInfluence, RewardModelInfluence])
def test_the_future_counts_with_its_weight(kind):
    """Reward and future return are separate outputs, put together as R + weight * gamma * Q."""
    model = estimator(kind, future_weight=0.5, gamma=0.9)
    outputs = torch.tensor([[1.0, 2.0, 10.0, 20.0]])
    torch.testing.assert_close(model.worth(outputs), torch.tensor([[1.0 + 0.45 * 10, 2.0 + 0.45 * 20]]))
    data = played(4, num_steps=2)
    rows = model.replay_rows(data.steps, data.ended)
    assert model.forward_train(rows)["reward"].shape[-1] == 4
    assert model.influence(data.steps, data.behavior).received.shape == (4, 2, 2, 2)


def test_returns_after_a_step_by_hand():
    rewards = torch.tensor([[[1.0, 0.0], [2.0, 10.0], [4.0, 0.0], [8.0, 1.0]]])
    ends = torch.tensor([[False, False, True, False]])
    after = returns_after(rewards, ends, 0.5)
    assert after.tolist() == [[[2 + 0.5 * 4, 10.0], [4.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]
