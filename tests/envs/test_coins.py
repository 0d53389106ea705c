import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import social_dilemmas

RIGHT, LEFT, DOWN, UP, STAY = range(5)


def coins(cells, **options):
    """Returns one environment with the agents, followed by the coins, on the given cells."""
    game = social_dilemmas.make("coins_v0", 1, **options)
    game.reset(seed=0)
    game._cells = torch.tensor(cells)[:, None]
    return game


@pytest.mark.parametrize(("action", "cell"), [(RIGHT, 5), (LEFT, 3), (DOWN, 7), (UP, 1), (STAY, 4)])
def test_moves_from_the_middle(action, cell):
    game = coins([4, 0, 2, 6])
    game.step(torch.tensor([[action, STAY]]))
    assert game._cells[0, 0] == cell


@pytest.mark.parametrize(("action", "cell"), [(RIGHT, 6), (LEFT, 7), (DOWN, 2), (UP, 5)])
def test_moves_go_around_the_torus(action, cell):
    game = coins([8, 0, 1, 3])
    game.step(torch.tensor([[action, STAY]]))
    assert game._cells[0, 0] == cell


def test_moves_on_a_grid_that_is_not_square():
    game = coins([7, 0, 1, 3], grid_size=(2, 4))
    game.step(torch.tensor([[RIGHT, DOWN]]))
    assert game._cells[:2, 0].tolist() == [4, 4]


@pytest.mark.parametrize(
    ("cells", "rewards", "own_coins", "others_coins"),
    [
        ([3, 8, 4, 0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]),  # player 0 takes its own coin
        ([3, 8, 0, 4], [1.0, -2.0], [0.0, 0.0], [1.0, 0.0]),  # player 0 takes the coin of player 1
        ([3, 4, 4, 5], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0]),  # both players take their own coins
        ([3, 4, 5, 4], [-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]),  # both players take the coin of the other player
        ([3, 3, 4, 0], [-1.0, 1.0], [1.0, 0.0], [0.0, 1.0]),  # both players take the coin of player 0
        ([3, 8, 0, 1], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]),  # no coin is taken
    ],
)
def test_rewards_by_hand(cells, rewards, own_coins, others_coins):
    step = coins(cells).step(torch.tensor([[RIGHT, RIGHT]]))
    assert step.rewards[0].tolist() == rewards
    assert step.outcomes["own_coins"][0].tolist() == own_coins
    assert step.outcomes["others_coins"][0].tolist() == others_coins


def test_penalty_of_three_players():
    step = coins([3, 3, 8, 0, 2, 4], num_agents=3).step(torch.tensor([[RIGHT, RIGHT, STAY]]))
    assert step.rewards[0].tolist() == [1.0, 1.0, -3.0]  # two players take its coin: -3 / 2 for each of them


def test_agent_and_coin_planes_are_rotated_separately():
    """In the code of the paper, all planes are rotated jointly, which mixes agent and coin planes of player 1."""
    game = coins([0, 1, 2, 3])
    planes = game._observe()[0].flatten(2).argmax(-1)
    assert planes.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]
    three_player_game = coins([0, 1, 2, 3, 4, 5], num_agents=3)
    assert three_player_game._observe()[0].flatten(2).argmax(-1).tolist() == [
        [0, 1, 2, 3, 4, 5],
        [1, 2, 0, 4, 5, 3],
        [2, 0, 1, 5, 3, 4],
    ]


@given(
    agents=st.integers(2, 5),
    size=st.tuples(st.integers(1, 4), st.integers(3, 5)),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=30, deadline=None)
def test_objects_start_apart_and_coins_reappear_on_free_cells(agents, size, seed):
    """In the code of the paper, neither is guaranteed."""
    if size[0] * size[1] < 2 * agents:
        return
    game = social_dilemmas.make("coins_v0", 32, num_agents=agents, grid_size=size)
    game.reset(seed=seed)
    assert all(len(set(cells)) == 2 * agents for cells in game._cells.t().tolist())
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        before = game._cells[agents:].clone()
        game.step(torch.randint(5, (32, agents), generator=generator))
        after = game._cells
        for env in range(32):
            agent_cells, coin_cells = after[:agents, env].tolist(), after[agents:, env].tolist()
            assert len(set(coin_cells)) == agents
            for coin in range(agents):
                if before[coin, env] in agent_cells:
                    assert coin_cells[coin] not in agent_cells
                else:
                    assert coin_cells[coin] == before[coin, env]


def test_coins_reappear_uniformly():
    """Two coins that are taken in the same step reappear on all ordered pairs of free cells with equal probability."""
    game = social_dilemmas.make("coins_v0", 60_000)
    game.reset(seed=1)
    game._cells = torch.tensor([3, 6, 4, 7])[:, None].repeat(1, 60_000)
    game.step(torch.tensor([[RIGHT, RIGHT]]).expand(60_000, 2))
    assert game._cells[:2, 0].tolist() == [4, 7]
    pairs = torch.bincount(game._cells[2] * 9 + game._cells[3], minlength=81).view(9, 9)
    free = [cell for cell in range(9) if cell not in (4, 7)]
    expected = 60_000 / (len(free) * (len(free) - 1))
    for a in range(9):
        for b in range(9):
            if a in free and b in free and a != b:
                assert abs(int(pairs[a, b]) - expected) < 5 * expected**0.5
            else:
                assert pairs[a, b] == 0


def test_grid_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="no cell for each of 3 agents"):
        social_dilemmas.make("coins_v0", num_agents=3, grid_size=2)


@pytest.mark.parametrize("action", [-1, 5, 9])
def test_actions_outside_the_action_space_are_refused(action):
    game = social_dilemmas.make("coins_v0", 3)
    game.reset(seed=1)
    actions = torch.zeros(3, 2, dtype=torch.int64)
    actions[1, 1] = action
    with pytest.raises(ValueError, match=rf"^action {action} is not in Discrete\(5\) of Coins$"):
        game.step(actions)
    parallel = social_dilemmas.parallel_env("coins_v0")
    parallel.reset(seed=1)
    with pytest.raises(ValueError, match=rf"^action {action} of player_1 is not in Discrete\(5\)$"):
        parallel.step({"player_0": 0, "player_1": action})
    aec_env = social_dilemmas.spec("coins_v0").env()
    aec_env.reset(seed=1)
    aec_env.step(0)
    with pytest.raises(ValueError, match=rf"^action {action} of player_1 is not in Discrete\(5\)$"):
        aec_env.step(action)


@pytest.mark.parametrize(
    "actions", [torch.zeros(3, 2), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)]
)
def test_actions_of_wrong_dtype_or_shape_are_refused(actions):
    game = social_dilemmas.make("coins_v0", 3)
    game.reset(seed=1)
    with pytest.raises(ValueError, match=r"they must be torch.int64 \(3, 2\)"):
        game.step(actions)


def test_missing_actions_and_fractions_are_refused():
    env = social_dilemmas.parallel_env("coins_v0")
    env.reset(seed=1)
    with pytest.raises(ValueError, match="has none for player_1"):
        env.step({"player_0": 0})
    with pytest.raises(ValueError, match=r"action 0\.7 of player_1 is not in"):
        env.step({"player_0": 0, "player_1": 0.7})


def test_text_rendering():
    assert coins([4, 0, 2, 6]).render_ansi() == "B . a\n. A .\nb . ."
    assert coins([4, 4, 2, 6]).render_ansi() == ". . a\n. * .\nb . ."
