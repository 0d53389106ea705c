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
    steps = played(6, num_agents=num_agents, num_steps=2).steps.flattened()
    model = estimator(CounterfactualInfluence, num_agents=num_agents)
    stacked_outputs = model.predict(model.target_networks, steps)
    for network in range(num_agents + 1):
        layers = []
        for stacked_layer in model.target_networks["reward"]:
            if isinstance(stacked_layer, StackedLinear):
                layer = nn.Linear(*stacked_layer.weight.shape[1:])
                layer.weight.data, layer.bias.data = (
                    stacked_layer.weight[network].t().detach(),
                    stacked_layer.bias[network, 0].detach(),
                )
                layers += [layer, nn.ReLU()]
        actions = functional.one_hot(steps.actions, 5).float()
        if network:
            actions[:, network - 1] = 0.0
        inputs = torch.cat([steps.state.flatten(1), steps.time_left[:, None], actions.flatten(1)], 1)
        torch.testing.assert_close(nn.Sequential(*layers[:-1])(inputs), stacked_outputs[network], atol=1e-5, rtol=1e-4)


def test_counterfactual_network_ignores_the_marginalized_action():
    steps = played(6, num_steps=2).steps.flattened()
    model = estimator(CounterfactualInfluence)
    actions = steps.actions.clone()
    actions[:, 1] = (actions[:, 1] + 1) % 5
    predictions, changed_predictions = (
        model.predict(model.target_networks, batch) for batch in (steps, steps._replace(actions=actions))
    )
    torch.testing.assert_close(predictions[2], changed_predictions[2])
    assert not torch.allclose(predictions[0], changed_predictions[0])
    assert not torch.allclose(predictions[1], changed_predictions[1])


def test_learns_the_exact_influence_of_coins():
    """Requires less correlation than for the reward model, since each network has errors of its own."""
    test_data, model = played(64, seed=1), estimator(CounterfactualInfluence)
    fit(model, played(768))
    assert correlation(model.influence(test_data.steps).received, test_data.exact) > 0.6


@pytest.mark.parametrize("kind", [CounterfactualInfluence, RewardModelInfluence])
def test_future_returns_are_weighted(kind):
    """Combines the separate outputs for reward and future return as R + weight * gamma * Q."""
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
    returns = returns_after(rewards, ends, 0.5)
    assert returns.tolist() == [[[2 + 0.5 * 4, 10.0], [4.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]
