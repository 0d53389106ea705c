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
    return model.target_networks["reward"](inputs, transition.actions[None])[0]


def behavior_of(model, steps, behavior):
    kind = model.model_config["counterfactual"]
    if kind == "policy":
        return behavior
    return torch.full_like(behavior, 0.2) if kind == "uniform" else model.behavior_model(steps)


@pytest.mark.parametrize("num_agents", [2, 3])
@pytest.mark.parametrize("counterfactual", ["policy", "modelled", "uniform"])
def test_influence_equals_a_sum_over_single_alternatives(num_agents, counterfactual):
    data = played(8, num_agents=num_agents, num_steps=3)
    steps, behavior = data.steps.flattened(), data.behavior.flatten(0, 1)
    model = estimator(RewardModelInfluence, num_agents=num_agents, counterfactual=counterfactual)
    weights = behavior_of(model, steps, behavior)
    with torch.no_grad():
        expected = torch.zeros(24, num_agents, num_agents)
        for j in range(num_agents):
            for action in range(5):
                joint = steps.actions.clone()
                joint[:, j] = action
                expected[:, j] += weights[:, j, action, None] * reward_of(model, steps._replace(actions=joint))
        expected = reward_of(model, steps)[:, None] - expected
    on_self, by_self = model.influence(steps, behavior)
    torch.testing.assert_close(on_self, expected, atol=1e-5, rtol=1e-4)
    assert by_self is on_self


def test_influence_averages_to_zero_over_the_influencers_actions():
    """Holds for any model, so that errors of the model cannot bias the reciprocal reward."""
    data = played(8, num_steps=3)
    steps, behavior = data.steps.flattened(), data.behavior.flatten(0, 1)
    model = estimator(RewardModelInfluence)
    mean = torch.zeros(24, 2, 2)
    for action in range(5):
        joint = steps.actions.clone()
        joint[:, 1] = action
        influence = model.influence(steps._replace(actions=joint), behavior).received
        mean += behavior[:, 1, action, None, None] * influence
    torch.testing.assert_close(mean[:, 1], torch.zeros(24, 2), atol=1e-5, rtol=0)


def test_deterministic_players_have_no_influence():
    steps = played(8, num_steps=3).steps.flattened()
    behavior = functional.one_hot(steps.actions, 5).float()
    influence = estimator(RewardModelInfluence).influence(steps, behavior).received
    torch.testing.assert_close(influence, torch.zeros_like(influence), atol=1e-5, rtol=0)


def test_batched_steps_equal_flat_ones():
    data = played(6, num_steps=2)
    model = estimator(RewardModelInfluence)
    batched_influence = model.influence(data.steps, data.behavior).received
    flat_influence = model.influence(data.steps.flattened(), data.behavior.flatten(0, 1)).received
    torch.testing.assert_close(batched_influence.flatten(0, 1), flat_influence)


@pytest.mark.parametrize(("counterfactual", "min_correlation"), [("policy", 0.85), ("modelled", 0.8)])
def test_learns_the_exact_influence_of_coins(counterfactual, min_correlation):
    """Compares with enumeration after 24,576 steps: a high correlation and almost no bias."""
    test_data = played(64, seed=1)
    model = estimator(RewardModelInfluence, counterfactual=counterfactual)
    initial_error = error(model.influence(test_data.steps, test_data.behavior).received, test_data.exact)
    fit(model, played(768))
    influence = model.influence(test_data.steps, test_data.behavior).received
    assert error(influence, test_data.exact) < 0.6 < initial_error
    assert correlation(influence, test_data.exact) > min_correlation
    assert abs(float(influence.mean())) < 0.02


@pytest.mark.parametrize("sees", ["state", "observations"])
def test_joint_observations_suffice_instead_of_the_state(sees):
    model, test_data = estimator(RewardModelInfluence, sees=sees), played(64, seed=1, sees=sees)
    fit(model, played(768, sees=sees))
    assert correlation(model.influence(test_data.steps, test_data.behavior).received, test_data.exact) > 0.8


def test_behavior_is_modelled_if_policies_are_not_used():
    data, test_data = played(768), played(64, seed=1)
    model = estimator(RewardModelInfluence, counterfactual="modelled")
    assert not model.uses_behavior
    fit(model, data)
    steps = test_data.steps.flattened()
    probs, behavior = model.behavior_model(steps), test_data.behavior.flatten(0, 1)
    torch.testing.assert_close(probs.sum(-1), torch.ones(len(probs), 2))
    distance = (probs - behavior).abs().sum(-1).mean()
    assert distance < 0.25 * (torch.full_like(behavior, 0.2) - behavior).abs().sum(-1).mean()


def test_target_networks_move_by_tau_and_determine_influence():
    model = estimator(RewardModelInfluence, tau=0.25)
    data = played(64)
    initial_params = [parameter.clone() for parameter in model.online.parameters()]
    initial_influence = model.influence(data.steps, data.behavior).received
    fit(model, data, updates=1)
    params = zip(model.target.parameters(), initial_params, model.online.parameters(), strict=True)
    for target, initial, online in params:
        torch.testing.assert_close(target, initial + 0.25 * (online - initial))
        assert not target.requires_grad
    assert not torch.equal(model.influence(data.steps, data.behavior).received, initial_influence)
    with torch.no_grad():
        for parameter in model.online.parameters():
            parameter.zero_()
    assert model.influence(data.steps, data.behavior).received.abs().sum() > 0


def test_minibatches_cover_the_replay_and_follow_the_generator():
    steps = played(10, num_steps=10).steps.flattened()
    model = estimator(RewardModelInfluence, minibatch_size=40, epochs=3)
    batches = [list(model.minibatches(steps._asdict(), torch.Generator().manual_seed(3))) for _ in range(2)]
    assert [len(batch["actions"]) for batch in batches[0]] == [40] * 6
    assert all(torch.equal(a["actions"], b["actions"]) for a, b in zip(*batches, strict=True))
    small = estimator(RewardModelInfluence, minibatch_size=1000)
    assert [len(batch["actions"]) for batch in small.minibatches(steps._asdict(), torch.Generator())] == [100]


def test_validation_losses_are_those_before_the_update():
    data = played(256)
    model = estimator(RewardModelInfluence, counterfactual="modelled")
    rows = model.replay_rows(data.steps, data.ended)
    losses = model.validation_losses(rows)
    expected = (reward_of(model, Transition.of(rows)) - rows["rewards"]).square().mean()
    torch.testing.assert_close(losses["loss"], expected.detach())
    probs = model.behavior_model(Transition.of(rows)).gather(-1, rows["actions"][..., None])
    torch.testing.assert_close(losses["behavior_loss"], -probs.log().mean().detach())


@pytest.mark.parametrize("rewards", [0.0, 5.0])
def test_constant_rewards_give_finite_influence(rewards):
    data = played(16, num_steps=4)
    data = data._replace(steps=data.steps._replace(rewards=torch.full_like(data.steps.rewards, rewards)))
    model = estimator(RewardModelInfluence)
    fit(model, data)
    assert model.influence(data.steps, data.behavior).received.isfinite().all()


def test_views_of_coins_equal_the_agents_observations():
    game = social_dilemmas.make("coins_v0", 4, num_agents=3)
    obs = game.reset(seed=0)
    assert view(game, obs, "observations", None) is obs
    assert torch.equal(view(game, obs, "own", None)[:, 1, 2], obs[:, 0])


def test_a_uniform_share_is_mixed_in():
    data = played(8, num_steps=3)
    steps, behavior = data.steps.flattened(), data.behavior.flatten(0, 1)
    model = estimator(RewardModelInfluence)
    influence = {}
    for share in (0.0, 0.25, 1.0):
        model.model_config["uniform_share"] = share
        influence[share] = model.influence(steps, behavior).received
    torch.testing.assert_close(influence[0.25], 0.75 * influence[0.0] + 0.25 * influence[1.0], atol=1e-5, rtol=1e-4)
    model.model_config |= {"uniform_share": 0.0, "counterfactual": "uniform"}
    torch.testing.assert_close(influence[1.0], model.influence(steps).received, atol=1e-5, rtol=1e-4)
    assert (influence[1.0] - influence[0.0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [RewardModelInfluence, ValueInfluence])
@pytest.mark.parametrize("num_agents", [2, 3])
def test_shared_network_is_equivariant_to_permutations_of_agents(kind, num_agents):
    """Checks that permuting the agents permutes their influence."""
    data = played(8, sees=OBSERVATIONS, num_agents=num_agents, num_steps=3)
    steps, behavior = data.steps.flattened(), data.behavior.flatten(0, 1)
    model = estimator(kind, num_agents=num_agents, sees=OBSERVATIONS, shared=True, **{"lambda": 0.9})
    influence = model.influence(steps, behavior).received
    permuted_steps = steps._replace(state=steps.state.roll(-1, 1), actions=steps.actions.roll(-1, 1))
    permuted_influence = model.influence(permuted_steps, behavior.roll(-1, 1)).received
    torch.testing.assert_close(permuted_influence, influence.roll((-1, -1), (1, 2)), atol=1e-5, rtol=1e-4)
    assert influence.std() > 0


@pytest.mark.parametrize("future_weight", [0.0, 1.0])
def test_alternatives_of_a_shared_network_equal_other_joint_actions(future_weight):
    steps = played(8, sees=OBSERVATIONS, num_agents=3, num_steps=3).steps.flattened()
    settings = {"sees": OBSERVATIONS, "shared": True, "future_weight": future_weight}
    model = estimator(RewardModelInfluence, num_agents=3, **settings)
    values = model.alternatives_worth(steps)
    for agent in range(3):
        for action in range(5):
            joint = steps.actions.clone()
            joint[:, agent] = action
            expected = model.worth(model.outputs(model.target_networks, steps._replace(actions=joint)))
            torch.testing.assert_close(values[:, agent, action], expected)


def test_shared_network_learns_more_from_the_same_steps():
    """Checks that a network shared by all agents learns more, since it is trained on the steps of all of them."""
    data, test_data = (played(128, sees=OBSERVATIONS, seed=seed) for seed in (1, 2))
    steps, behavior = test_data.steps.flattened(), test_data.behavior.flatten(0, 1)
    correlations = []
    for is_shared in (False, True):
        model = estimator(RewardModelInfluence, sees=OBSERVATIONS, shared=is_shared)
        fit(model, data)
        correlations.append(correlation(model.influence(steps, behavior).received, test_data.exact.flatten(0, 1)))
    assert correlations[1] > max(0.7, correlations[0] + 0.1)
