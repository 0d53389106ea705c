from itertools import product

import gymnasium
import numpy as np
import pytest
import torch
from torch.nn import functional

import social_dilemmas
from benchmarks.influence import RandomEpisodes, fit
from rllib_reciprocator.engine.advantages import returns_after
from rllib_reciprocator.intrinsic.reciprocity.estimators import Transition, TransitionInfluence

RIGHT, LEFT, DOWN, UP, STAY = range(5)


def estimator(future_weight=1.0, seed=0, **settings):
    torch.manual_seed(seed)
    game = social_dilemmas.make("coins_v0", **settings)
    networks = {"hiddens": [64, 64], "epochs": 1, "minibatch_size": 512, "counterfactual": "policy", "tau": 1.0}
    return TransitionInfluence(
        observation_space=game.state_space,
        action_space=game.action_space,
        model_config={
            **networks,
            "num_agents": game.num_agents,
            "gamma": 0.9,
            "future_weight": future_weight,
            "horizon": 12,
        },
    )


def episodes(games=64, seed=0):
    """Samples episodes of random actions; returns steps ``[B, T, ..]``, their ends and the next cells of objects."""
    game = social_dilemmas.make("coins_v0", games, num_steps=12)
    generator = torch.Generator().manual_seed(seed)
    game.reset(seed=seed)
    columns = {name: [] for name in ("state", "actions", "rewards", "time_left", "cells", "ended")}
    for _ in range(12):
        actions = torch.randint(5, (games, 2), generator=generator)
        columns["state"].append(game.state())
        columns["time_left"].append(game.time_left())
        step = game.step(actions)
        for name, value in (("actions", actions), ("rewards", step.rewards), ("ended", step.truncated)):
            columns[name].append(value)
        columns["cells"].append(game._cells.t())
    stacked_columns = {name: torch.stack(values, 1) for name, values in columns.items()}
    ended, cells = stacked_columns.pop("ended"), stacked_columns.pop("cells")
    return (
        Transition(**stacked_columns, future_returns=returns_after(stacked_columns["rewards"], ended, 0.9)),
        ended,
        cells,
    )


def test_chain_of_contractions_equals_the_sum_over_all_states():
    model = estimator()
    probs = torch.randn(3, 4, 9).softmax(-1)
    expected = torch.zeros(3, 2)
    for index, cells in enumerate(product(range(9), repeat=4)):
        weight = torch.stack([probs[:, k, cell] for k, cell in enumerate(cells)]).prod(0)
        expected += weight[:, None] * model.state_values[index]
    torch.testing.assert_close(model.expected_value(probs), expected, atol=1e-5, rtol=1e-4)


def test_the_table_holds_the_value_of_each_state():
    model = estimator()
    game = social_dilemmas.make("coins_v0", 20)
    game.reset(seed=1)
    index = (game._cells * 9 ** torch.arange(3, -1, -1)[:, None]).sum(0)
    torch.testing.assert_close(
        model.state_values[index], model.target_networks["value"](game.state().flatten(1)[None])[0].detach()
    )


def test_replay_buffer_holds_the_next_cells_of_objects():
    steps, ended, cells = episodes()
    rows = estimator().replay_rows(steps, ended)
    is_known = rows["next_known"].view(64, 12)
    assert is_known[:, :-1].all()
    assert not is_known[:, -1].any()
    assert torch.equal(rows["next_cells"].view(64, 12, 4)[:, :-1], cells[:, :-1])
    expected = steps.rewards + 0.9 * steps.future_returns
    torch.testing.assert_close(rows["returns"].view(64, 12, 2), expected)


def test_zero_future_weight_equals_the_reward_model():
    model = estimator(future_weight=0.0)
    steps, _, _ = episodes(games=4)
    flat = steps.flattened()
    inputs = model.inputs(flat.state, flat.time_left)
    plain = model.worth(model.alternatives("reward", inputs, flat.actions[None])[0])
    torch.testing.assert_close(model.alternatives_worth(flat), plain)


def test_influence_averages_to_zero_over_the_influencers_actions():
    model = estimator()
    steps, _, _ = episodes(games=4)
    flat = steps.flattened()
    behavior = torch.rand(48, 2, 5).softmax(-1)
    mean = torch.zeros(48, 2, 2)
    for action in range(5):
        joint = flat.actions.clone()
        joint[:, 0] = action
        mean += behavior[:, 0, action, None, None] * model.influence(flat._replace(actions=joint), behavior).received
    torch.testing.assert_close(mean[:, 0], torch.zeros(48, 2), atol=1e-5, rtol=0)


def test_last_step_has_no_future_value():
    model, reward_model = estimator(), estimator(future_weight=0.0)
    reward_model.load_state_dict(model.state_dict())
    steps, _, _ = episodes(games=4)
    behavior = torch.rand(4, 12, 2, 5).softmax(-1)
    with_future, rewards_only = (network.influence(steps, behavior).received for network in (model, reward_model))
    assert torch.equal(with_future[:, -1], rewards_only[:, -1])
    assert (with_future[:, :-1] != rewards_only[:, :-1]).any((2, 3)).all()


def _values_of_all_states(model):
    cells = torch.tensor(list(product(range(9), repeat=4)))
    return model.target_networks["value"](functional.one_hot(cells, 9).float().flatten(1)[None])[0].detach()


def test_learns_how_agents_move():
    steps, ended, _ = episodes(games=1024)
    model = estimator()
    fit(model, RandomEpisodes(steps, None, None, ended), updates=15)
    test_steps, test_ends, _ = episodes(games=64, seed=5)
    rows = model.replay_rows(test_steps, test_ends)
    logits = model.forward_train(rows)["next_cells"]
    is_known = rows["next_known"]
    accuracy = (logits.argmax(-1) == rows["next_cells"])[is_known].float().mean(0)
    assert (accuracy[:2] > 0.9).all()  # agents go where their action takes them
    assert (accuracy[2:] > 0.6).all()  # coins stay unless they are collected
    torch.testing.assert_close(model.state_values, _values_of_all_states(model))


@pytest.mark.parametrize(
    ("space", "complaint"),
    [
        (gymnasium.spaces.Discrete(5), "needs a state of one-hot planes"),
        (gymnasium.spaces.Box(0, 1, (6, 3, 3), np.float32), "531,441 are more than 60,000"),
    ],
)
def test_states_that_cannot_be_enumerated_are_refused(space, complaint):
    with pytest.raises(ValueError, match=complaint):
        TransitionInfluence.check_space(space)


def test_uses_functional_one_hot_order():
    """Checks that object 0 is the highest digit of a state's index, as in the chain of contractions."""
    model = estimator()
    probs = functional.one_hot(torch.tensor([[1, 2, 3, 4]]), 9).float()
    torch.testing.assert_close(model.expected_value(probs)[0], model.state_values[1 * 729 + 2 * 81 + 3 * 9 + 4])
