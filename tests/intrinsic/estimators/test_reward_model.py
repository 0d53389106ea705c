import pytest
import torch
from torch.nn import functional

import social_dilemmas
from benchmarks.influence import correlation, error, estimator, fit, played
from rllib_reciprocator.intrinsic.reciprocity.estimators import RewardModelInfluence, Transition
from rllib_reciprocator.intrinsic.reciprocity.estimators.value_model import ValueInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.view import OBSERVATIONS, view


def reward_of(model, transition):
    inputs = model.inputs(transition.state, transition.time_left)
    return model.acting["reward"](inputs, transition.actions[None])[0]


def behavior_of(model, seen, behavior):
    kind = model.model_config["counterfactual"]
    if kind == "policy":
        return behavior
    return torch.full_like(behavior, 0.2) if kind == "uniform" else model.behavior_model(seen)


@pytest.mark.parametrize("num_agents", [2, 3])
@pytest.mark.parametrize("counterfactual", ["policy", "modelled", "uniform"])
def test_influence_is_the_sum_over_alternatives_one_by_one(num_agents, counterfactual):
    data = played(8, num_agents=num_agents, num_steps=3)
    seen, behavior = data.steps.flattened(), data.behavior.flatten(0, 1)
    model = estimator(RewardModelInfluence, num_agents=num_agents, counterfactual=counterfactual)
    weights = behavior_of(model, seen, behavior)
    with torch.no_grad():
        expected = torch.zeros(24, num_agents, num_agents)
        for j in range(num_agents):
            for action in range(5):
                joint = seen.actions.clone()
                joint[:, j] = action
                expected[:, j] += weights[:, j, action, None] * reward_of(model, seen._replace(actions=joint))
        expected = reward_of(model, seen)[:, None] - expected
    received, given = model.influence(seen, behavior)
    torch.testing.assert_close(received, expected, atol=1e-5, rtol=1e-4)
    assert given is received


def test_influence_averages_to_zero_over_the_influencers_own_choices():
    """Whatever the model says: what biases the reciprocal reward elsewhere cannot do so here."""
    data = played(8, num_steps=3)
    seen, behavior = data.steps.flattened(), data.behavior.flatten(0, 1)
    model = estimator(RewardModelInfluence)
    mean = torch.zeros(24, 2, 2)
    for action in range(5):
        joint = seen.actions.clone()
        joint[:, 1] = action
        influence = model.influence(seen._replace(actions=joint), behavior).received
        mean += behavior[:, 1, action, None, None] * influence
    torch.testing.assert_close(mean[:, 1], torch.zeros(24, 2), atol=1e-5, rtol=0)


def test_a_player_that_always_does_the_same_has_no_influence():
    seen = played(8, num_steps=3).steps.flattened()
    certain = functional.one_hot(seen.actions, 5).float()
    found = estimator(RewardModelInfluence).influence(seen, certain).received
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-5, rtol=0)


def test_steps_of_many_games_at_once_equal_one_game():
    data = played(6, num_steps=2)
    model = estimator(RewardModelInfluence)
    together = model.influence(data.steps, data.behavior).received
    alone = model.influence(data.steps.flattened(), data.behavior.flatten(0, 1)).received
    torch.testing.assert_close(together.flatten(0, 1), alone)


@pytest.mark.parametrize(("counterfactual", "least"), [("policy", 0.85), ("modelled", 0.8)])
def test_learns_the_exact_influence_of_coins(counterfactual, least):
    """Against enumeration, after 24,576 steps: most of the influence, and next to no bias."""
    fresh = played(64, seed=1)
    model = estimator(RewardModelInfluence, counterfactual=counterfactual)
    before = error(model.influence(fresh.steps, fresh.behavior).received, fresh.exact)
    fit(model, played(768))
    found = model.influence(fresh.steps, fresh.behavior).received
    assert error(found, fresh.exact) < 0.6 < before
    assert correlation(found, fresh.exact) > least
    assert abs(float(found.mean())) < 0.02


@pytest.mark.parametrize("sees", ["state", "observations"])
def test_all_observations_do_as_well_as_the_state(sees):
    model, fresh = estimator(RewardModelInfluence, sees=sees), played(64, seed=1, sees=sees)
    fit(model, played(768, sees=sees))
    assert correlation(model.influence(fresh.steps, fresh.behavior).received, fresh.exact) > 0.8


def test_what_others_do_is_learned_where_they_do_not_tell():
    data, fresh = played(768), played(64, seed=1)
    model = estimator(RewardModelInfluence, counterfactual="modelled")
    assert not model.uses_behavior
    fit(model, data)
    seen = fresh.steps.flattened()
    modelled, behavior = model.behavior_model(seen), fresh.behavior.flatten(0, 1)
    torch.testing.assert_close(modelled.sum(-1), torch.ones(len(modelled), 2))
    distance = (modelled - behavior).abs().sum(-1).mean()
    assert distance < 0.25 * (torch.full_like(behavior, 0.2) - behavior).abs().sum(-1).mean()


def test_copies_move_by_their_share_and_say_what_influence_is():
    model = estimator(RewardModelInfluence, tau=0.25)
    data = played(64)
    first = [parameter.clone() for parameter in model.online.parameters()]
    before = model.influence(data.steps, data.behavior).received
    fit(model, data, updates=1)
    moved = zip(model.target.parameters(), first, model.online.parameters(), strict=True)
    for copy, start, learned in moved:
        torch.testing.assert_close(copy, start + 0.25 * (learned - start))
        assert not copy.requires_grad
    assert not torch.equal(model.influence(data.steps, data.behavior).received, before)
    with torch.no_grad():
        for parameter in model.online.parameters():
            parameter.zero_()
    assert model.influence(data.steps, data.behavior).received.abs().sum() > 0


def test_minibatches_cover_the_replay_and_follow_the_generator():
    seen = played(10, num_steps=10).steps.flattened()
    model = estimator(RewardModelInfluence, minibatch_size=40, epochs=3)
    batches = [list(model.minibatches(seen._asdict(), torch.Generator().manual_seed(3))) for _ in range(2)]
    assert [len(batch["actions"]) for batch in batches[0]] == [40] * 6
    assert all(torch.equal(a["actions"], b["actions"]) for a, b in zip(*batches, strict=True))
    small = estimator(RewardModelInfluence, minibatch_size=1000)
    assert [len(batch["actions"]) for batch in small.minibatches(seen._asdict(), torch.Generator())] == [100]


def test_losses_are_those_of_steps_not_yet_learned_from():
    data = played(256)
    model = estimator(RewardModelInfluence, counterfactual="modelled")
    rows = model.replay_rows(data.steps, data.ended)
    losses = model.validation_losses(rows)
    expected = (reward_of(model, Transition.of(rows)) - rows["rewards"]).square().mean()
    torch.testing.assert_close(losses["loss"], expected.detach())
    chosen = model.behavior_model(Transition.of(rows)).gather(-1, rows["actions"][..., None])
    torch.testing.assert_close(losses["behavior_loss"], -chosen.log().mean().detach())


@pytest.mark.parametrize("rewards", [0.0, 5.0])
def test_constant_rewards_give_finite_influence(rewards):
    data = played(16, num_steps=4)
    data = data._replace(steps=data.steps._replace(rewards=torch.full_like(data.steps.rewards, rewards)))
    model = estimator(RewardModelInfluence)
    fit(model, data)
    assert model.influence(data.steps, data.behavior).received.isfinite().all()


def test_views_of_coins_are_what_others_see():
    game = social_dilemmas.make("coins_v0", 4, num_agents=3)
    obs = game.reset(seed=0)
    assert view(game, obs, "observations", None) is obs
    assert torch.equal(view(game, obs, "own", None)[:, 1, 2], obs[:, 0])


def test_a_uniform_share_is_mixed_in():
    data = played(8, num_steps=3)
    seen, behavior = data.steps.flattened(), data.behavior.flatten(0, 1)
    model = estimator(RewardModelInfluence)
    found = {}
    for share in (0.0, 0.25, 1.0):
        model.model_config["uniform_share"] = share
        found[share] = model.influence(seen, behavior).received
    torch.testing.assert_close(found[0.25], 0.75 * found[0.0] + 0.25 * found[1.0], atol=1e-5, rtol=1e-4)
    model.model_config |= {"uniform_share": 0.0, "counterfactual": "uniform"}
    torch.testing.assert_close(found[1.0], model.influence(seen).received, atol=1e-5, rtol=1e-4)
    assert (found[1.0] - found[0.0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [RewardModelInfluence, ValueInfluence])
@pytest.mark.parametrize("num_agents", [2, 3])
def test_one_network_measures_all_agents_alike(kind, num_agents):
    """If agents change places, what each does to each changes places with them."""
    data = played(8, sees=OBSERVATIONS, num_agents=num_agents, num_steps=3)
    seen, behavior = data.steps.flattened(), data.behavior.flatten(0, 1)
    model = estimator(kind, num_agents=num_agents, sees=OBSERVATIONS, shared=True, **{"lambda": 0.9})
    found = model.influence(seen, behavior).received
    turned = seen._replace(state=seen.state.roll(-1, 1), actions=seen.actions.roll(-1, 1))
    after = model.influence(turned, behavior.roll(-1, 1)).received
    torch.testing.assert_close(after, found.roll((-1, -1), (1, 2)), atol=1e-5, rtol=1e-4)
    assert found.std() > 0


@pytest.mark.parametrize("future_weight", [0.0, 1.0])
def test_alternatives_of_one_network_are_other_joint_actions(future_weight):
    seen = played(8, sees=OBSERVATIONS, num_agents=3, num_steps=3).steps.flattened()
    settings = {"sees": OBSERVATIONS, "shared": True, "future_weight": future_weight}
    model = estimator(RewardModelInfluence, num_agents=3, **settings)
    worth = model.alternatives_worth(seen)
    for agent in range(3):
        for action in range(5):
            joint = seen.actions.clone()
            joint[:, agent] = action
            told = model.worth(model.outputs(model.acting, seen._replace(actions=joint)))
            torch.testing.assert_close(worth[:, agent, action], told)


def test_one_network_learns_more_of_the_same_steps():
    """It learns from the place of each agent what holds for all of them."""
    data, fresh = (played(128, sees=OBSERVATIONS, seed=seed) for seed in (1, 2))
    seen, behavior = fresh.steps.flattened(), fresh.behavior.flatten(0, 1)
    correlations = []
    for shared in (False, True):
        model = estimator(RewardModelInfluence, sees=OBSERVATIONS, shared=shared)
        fit(model, data)
        correlations.append(correlation(model.influence(seen, behavior).received, fresh.exact.flatten(0, 1)))
    assert correlations[1] > max(0.7, correlations[0] + 0.1)
