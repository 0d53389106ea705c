from itertools import product

import pytest
import torch

import social_dilemmas
from rllib_reciprocator.intrinsic.reciprocity.estimators import TabularInfluence, Transition


def estimator(game, **settings):
    defaults = {
        "num_agents": game.num_agents,
        "buffer_iterations": 1,
        "update_period_iters": 1,
        "prior": 1.0,
        "exploration": 0.0,
    }
    return TabularInfluence(
        observation_space=game.state_space,
        action_space=game.action_space,
        model_config={**defaults, **settings, "payoffs": game.payoffs.tolist()},
    )


def brute_force(game, behavior, state, actions):
    """Computes influence by summing over the influencer's alternative actions one at a time."""
    n = game.num_agents
    result = torch.zeros(n, n)
    for j, i in product(range(n), repeat=2):
        expected = 0.0
        for alternative in range(2):
            joint = list(actions)
            joint[j] = alternative
            expected += float(behavior[state, j, alternative]) * float(game.payoffs[(*joint, i)])
        result[j, i] = float(game.payoffs[(*actions, i)]) - expected
    return result


def steps(state, actions):
    """Builds steps in which columns that tables do not use are constant."""
    zeros = torch.zeros(actions.shape)
    return Transition(state, actions, zeros, torch.ones(state.shape), zeros)


def transitions(game, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = torch.randint(int(game.state_space.n), (rows,), generator=generator)
    actions = torch.randint(2, (rows, game.num_agents), generator=generator)
    return steps(state, actions)


@pytest.mark.parametrize(
    ("game_id", "settings"), [("ipd_v0", {}), ("chicken_v0", {}), ("public_goods_v0", {"num_agents": 3})]
)
def test_equals_brute_force(game_id, settings):
    game = social_dilemmas.make(game_id, **settings)
    table = estimator(game, exploration=0.1)
    table.observe(transitions(game, 200), iteration=0)
    batch = transitions(game, 50, seed=1)
    influence = table.influence(batch).received
    for row in range(50):
        expected = brute_force(game, table.behavior(), int(batch.state[row]), batch.actions[row].tolist())
        torch.testing.assert_close(influence[row], expected)


def test_prisoners_dilemma_by_hand():
    """Checks influence under uniform behavior: cooperation gives the other player 1 and costs the player itself 0.5."""
    game = social_dilemmas.make("ipd_v0")
    cooperation = steps(torch.tensor([0]), torch.tensor([[0, 0]]))
    assert estimator(game).influence(cooperation).received[0].tolist() == [[-0.5, 1.0], [1.0, -0.5]]
    defection = cooperation._replace(actions=torch.tensor([[1, 0]]))
    assert estimator(game).influence(defection).received[0].tolist() == [[0.5, -1.0], [1.0, -0.5]]


def test_behavior_is_counted_by_state_and_player():
    game = social_dilemmas.make("ipd_v0")
    table = estimator(game, prior=1.0)
    state = torch.tensor([0, 0, 0, 3])
    actions = torch.tensor([[0, 1], [0, 1], [1, 1], [1, 0]])
    table.observe(steps(state, actions), iteration=0)
    behavior = table.behavior()
    torch.testing.assert_close(behavior[0], torch.tensor([[3 / 5, 2 / 5], [1 / 5, 4 / 5]]))
    torch.testing.assert_close(behavior[3], torch.tensor([[1 / 3, 2 / 3], [2 / 3, 1 / 3]]))


def test_unvisited_states_give_no_nan():
    """Differs from the paper's code, where their frequency is 0/0, and the NaN reaches the policy and ends training."""
    game = social_dilemmas.make("ipd_v0")
    table = estimator(game)
    batch = steps(torch.tensor([1] * 8), torch.zeros(8, 2, dtype=torch.int64))
    table.observe(batch, iteration=0)
    assert table.table.isfinite().all()
    torch.testing.assert_close(table.behavior()[4], torch.full((2, 2), 0.5))


def test_deterministic_behavior_has_influence_only_with_exploration():
    game = social_dilemmas.make("ipd_v0")
    defect = Transition(
        torch.full((10_000,), 4),
        torch.ones(10_000, 2, dtype=torch.int64),
        torch.zeros(10_000, 2),
        torch.ones(10_000),
        torch.zeros(10_000, 2),
    )
    without_exploration, with_exploration = estimator(game, prior=1e-6), estimator(game, prior=1e-6, exploration=0.2)
    for table in (without_exploration, with_exploration):
        table.observe(defect, iteration=0)
    assert without_exploration.influence(defect).received.abs().max() < 1e-6
    torch.testing.assert_close(
        with_exploration.influence(defect).received[0, 0, 1], torch.tensor(-0.2), atol=1e-5, rtol=0
    )


def test_buffer_and_period():
    game = social_dilemmas.make("ipd_v0")
    table = estimator(game, buffer_iterations=2, update_period_iters=3)
    start = table.table.clone()
    first, second, third = (transitions(game, 40, seed) for seed in range(3))
    table.observe(first, iteration=1)
    assert torch.equal(table.table, start)
    table.observe(second, iteration=2)
    table.observe(third, iteration=3)
    assert not torch.equal(table.table, start)
    assert table.counts.sum() == 2 * 40 * 2


def test_state_round_trip():
    game = social_dilemmas.make("ipd_v0")
    table, table_copy = estimator(game), estimator(game)
    table.observe(transitions(game, 100), iteration=0)
    table_copy.set_state(table.get_state())
    batch = transitions(game, 10, seed=5)
    assert torch.equal(table.influence(batch).received, table_copy.influence(batch).received)


def test_batched_steps_equal_flat_ones():
    game = social_dilemmas.make("public_goods_v0", num_agents=3)
    table = estimator(game)
    batch = transitions(game, 12)
    result = table.influence(
        Transition(
            batch.state.view(3, 4),
            batch.actions.view(3, 4, 3),
            batch.rewards.view(3, 4, 3),
            batch.time_left.view(3, 4),
            batch.future_returns.view(3, 4, 3),
        )
    )
    assert torch.equal(result.received.flatten(0, 1), table.influence(batch).received)


def test_too_large_tables_are_refused():
    game = social_dilemmas.make("public_goods_v0", num_agents=8)
    assert estimator(game).table.shape == (257 * 256, 8, 8)
    with pytest.raises(ValueError, match="maximum: "):
        TabularInfluence(
            observation_space=__import__("gymnasium").spaces.Discrete(10_000),
            action_space=game.action_space,
            model_config={
                "payoffs": game.payoffs.tolist(),
                "buffer_iterations": 1,
                "update_period_iters": 1,
                "prior": 1.0,
                "exploration": 0.0,
            },
        )
