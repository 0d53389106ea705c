import pytest
import torch
from torch import nn
from torch.nn import functional

import social_dilemmas
from rllib_reciprocator.algorithms.advantages import returns_after
from rllib_reciprocator.estimators import CounterfactualInfluence, RewardModelInfluence
from tests.estimators.test_reward_model import played


def estimator(kind=CounterfactualInfluence, num_agents=2, future_weight=0.0, seed=0):
    torch.manual_seed(seed)
    game = social_dilemmas.make("coins_v0", num_agents=num_agents)
    settings = {"hiddens": [64, 64], "epochs": 1, "minibatch_size": 512, "gamma": 0.9, "counterfactual": "policy"}
    return kind(
        observation_space=game.state_space,
        action_space=game.action_space,
        model_config={**settings, "num_agents": num_agents, "future_weight": future_weight},
    )


@pytest.mark.parametrize("num_agents", [2, 3])
def test_stacked_networks_equal_single_ones(num_agents):
    seen, _, _ = played(num_agents, games=6, steps=2)
    model = estimator(num_agents=num_agents)
    together = model.predict(seen)
    for network in range(num_agents + 1):
        layers = []
        for weight, bias in zip(model.weights, model.biases, strict=True):
            layer = nn.Linear(*weight.shape[1:])
            layer.weight.data, layer.bias.data = weight[network].t().detach(), bias[network, 0].detach()
            layers += [layer, nn.ReLU()]
        actions = functional.one_hot(seen.actions, 5).float()
        if network:
            actions[:, network - 1] = 0.0
        inputs = torch.cat([seen.state.flatten(1), seen.time_left[:, None], actions.flatten(1)], 1)
        torch.testing.assert_close(nn.Sequential(*layers[:-1])(inputs), together[network], atol=1e-5, rtol=1e-4)


def test_a_counterfactual_network_does_not_see_the_action_it_is_without():
    seen, _, _ = played(games=6, steps=2)
    model = estimator()
    changed = seen.actions.clone()
    changed[:, 1] = (changed[:, 1] + 1) % 5
    before, after = model.predict(seen), model.predict(seen._replace(actions=changed))
    torch.testing.assert_close(before[2], after[2])
    assert not torch.allclose(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_learns_the_exact_influence_of_coins():
    """From random play, as the reward model does, with more error: each network has its own."""
    seen, _, _ = played(games=768, steps=32)
    fresh, _, exact = played(games=64, steps=16, seed=1)
    model = estimator()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        for batch in model.minibatches(seen._asdict(), generator):
            predicted = model.predict(type(seen)(**batch))
            loss = functional.mse_loss(predicted, batch["rewards"].expand_as(predicted))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = model.influence(fresh)[:, [0, 1], [1, 0]].flatten()
    expected = exact[:, [0, 1], [1, 0]].flatten()
    assert float(torch.corrcoef(torch.stack([found, expected]))[0, 1]) > 0.6


@pytest.mark.parametrize("kind", [CounterfactualInfluence, RewardModelInfluence])
def test_the_future_counts_with_its_weight(kind):
    """Reward and future return are separate outputs, put together as R + weight * gamma * Q."""
    model = estimator(kind, future_weight=0.5)
    outputs = torch.tensor([[1.0, 2.0, 10.0, 20.0]])
    torch.testing.assert_close(model.worth(outputs), torch.tensor([[1.0 + 0.45 * 10, 2.0 + 0.45 * 20]]))
    seen, behavior, _ = played(games=4, steps=2)
    assert model.predict(seen).shape[-1] == 4
    assert model.influence(seen, behavior).shape == (8, 2, 2)


def test_returns_after_a_step_by_hand():
    rewards = torch.tensor([[[1.0, 0.0], [2.0, 10.0], [4.0, 0.0], [8.0, 1.0]]])
    ends = torch.tensor([[False, False, True, False]])
    after = returns_after(rewards, ends, 0.5)
    assert after.tolist() == [[[2 + 0.5 * 4, 10.0], [4.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]
