import pytest
import torch
from torch.nn import functional

import social_dilemmas
from rllib_reciprocator.estimators import RewardModelInfluence, Transition


def estimator(game, seed=0, **settings):
    torch.manual_seed(seed)
    defaults = {
        "counterfactual": "policy",
        "hiddens": [64, 64],
        "epochs": 1,
        "minibatch_size": 512,
        "future_weight": 0.0,
    }
    return RewardModelInfluence(
        observation_space=game.state_space,
        action_space=game.action_space,
        model_config={"num_agents": game.num_agents, **defaults, **settings},
    )


def played(num_agents=2, games=128, steps=16, seed=0):
    """Random play with random probabilities: transitions, behaviour, and the exact influence of every step."""
    game = social_dilemmas.make("coins_v0", games, num_agents=num_agents, num_steps=steps)
    other = social_dilemmas.make("coins_v0", games, num_agents=num_agents, num_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    game.reset(seed=seed)
    transitions, behaviors, exact = [], [], []
    for _ in range(steps):
        behavior = torch.rand(games, num_agents, 5, generator=generator).softmax(-1)
        actions = torch.multinomial(behavior.flatten(0, 1), 1, generator=generator).view(games, num_agents)
        state, before = game.state(), game.get_state()
        time_left = game.time_left()

        def rewards_of(joint, before=before):
            other.set_state(before)
            return other.step(joint).rewards

        rewards = game.step(actions).rewards
        counterfactual = torch.zeros(games, num_agents, num_agents)
        for j in range(num_agents):
            for action in range(5):
                joint = actions.clone()
                joint[:, j] = action
                counterfactual[:, j] += behavior[:, j, action, None] * rewards_of(joint)
        transitions.append(Transition(state, actions, rewards, time_left, torch.zeros_like(rewards)))
        behaviors.append(behavior)
        exact.append(rewards[:, None, :] - counterfactual)
    return Transition(*map(torch.cat, zip(*transitions, strict=True))), torch.cat(behaviors), torch.cat(exact)


def predicted(model, transition):
    return model.predict(transition)


@pytest.mark.parametrize("num_agents", [2, 3])
@pytest.mark.parametrize("counterfactual", ["policy", "uniform"])
def test_influence_is_the_sum_over_alternatives_one_by_one(num_agents, counterfactual):
    seen, behavior, _ = played(num_agents, games=8, steps=3)
    game = social_dilemmas.make("coins_v0", num_agents=num_agents)
    model = estimator(game, counterfactual=counterfactual)
    weights = behavior if counterfactual == "policy" else torch.full_like(behavior, 0.2)
    with torch.no_grad():
        expected = torch.zeros(24, num_agents, num_agents)
        for j in range(num_agents):
            for action in range(5):
                joint = seen.actions.clone()
                joint[:, j] = action
                expected[:, j] += weights[:, j, action, None] * predicted(model, seen._replace(actions=joint))
        expected = predicted(model, seen)[:, None] - expected
    torch.testing.assert_close(model.influence(seen, behavior), expected, atol=1e-5, rtol=1e-4)


def test_influence_averages_to_zero_over_the_influencers_own_choices():
    """Whatever the model says: what biases the reciprocal reward elsewhere cannot do so here."""
    seen, behavior, _ = played(games=8, steps=3)
    model = estimator(social_dilemmas.make("coins_v0"))
    mean = torch.zeros(24, 2, 2)
    for action in range(5):
        joint = seen.actions.clone()
        joint[:, 1] = action
        mean += behavior[:, 1, action, None, None] * model.influence(seen._replace(actions=joint), behavior)
    torch.testing.assert_close(mean[:, 1], torch.zeros(24, 2), atol=1e-5, rtol=0)


def test_a_player_that_always_does_the_same_has_no_influence():
    seen, _, _ = played(games=8, steps=3)
    certain = functional.one_hot(seen.actions, 5).float()
    found = estimator(social_dilemmas.make("coins_v0")).influence(seen, certain)
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-5, rtol=0)


def test_steps_of_many_games_at_once_equal_one_game():
    seen, behavior, _ = played(games=6, steps=2)
    model = estimator(social_dilemmas.make("coins_v0"))
    shaped = Transition(*(values.unflatten(0, (2, 6)) for values in seen))
    together = model.influence(shaped, behavior.unflatten(0, (2, 6)))
    torch.testing.assert_close(together.flatten(0, 1), model.influence(seen, behavior))


def test_learns_the_exact_influence_of_coins():
    """Against enumeration, after 24,576 steps of random play: most of the influence, and next to no bias."""
    seen, _, _ = played(games=768, steps=32)
    fresh, behavior, exact = played(games=64, steps=16, seed=1)
    model = estimator(social_dilemmas.make("coins_v0"))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    generator = torch.Generator().manual_seed(0)
    before = (model.influence(fresh, behavior) - exact).square().mean()
    for _ in range(12):
        for batch in model.minibatches(seen._asdict(), generator):
            loss = functional.mse_loss(predicted(model, Transition(**batch)), batch["rewards"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = model.influence(fresh, behavior)
    after = (found - exact).square().mean()
    assert after < 0.35 * exact.square().mean() < before
    between = found[:, [0, 1], [1, 0]].flatten(), exact[:, [0, 1], [1, 0]].flatten()
    assert float(torch.corrcoef(torch.stack(between))[0, 1]) > 0.8
    assert abs(float(found.mean())) < 0.02


def test_minibatches_cover_the_replay_and_follow_the_generator():
    seen, _, _ = played(games=10, steps=10)
    model = estimator(social_dilemmas.make("coins_v0"), minibatch_size=40, epochs=3)
    batches = [list(model.minibatches(seen._asdict(), torch.Generator().manual_seed(3))) for _ in range(2)]
    assert [len(batch["actions"]) for batch in batches[0]] == [40] * 6
    assert all(torch.equal(a["actions"], b["actions"]) for a, b in zip(*batches, strict=True))
    small = estimator(social_dilemmas.make("coins_v0"), minibatch_size=1000)
    assert [len(batch["actions"]) for batch in small.minibatches(seen._asdict(), torch.Generator())] == [100]


@pytest.mark.parametrize("rewards", [0.0, 5.0])
def test_constant_rewards_give_finite_influence(rewards):
    seen, behavior, _ = played(games=16, steps=4)
    model = estimator(social_dilemmas.make("coins_v0"))
    constant = seen._replace(rewards=torch.full_like(seen.rewards, rewards))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(20):
        loss = functional.mse_loss(predicted(model, constant), constant.rewards)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.influence(constant, behavior).isfinite().all()
