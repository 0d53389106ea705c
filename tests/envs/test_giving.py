import pytest
import torch

import social_dilemmas


def make_game(num_games=1, **settings):
    return social_dilemmas.make("giving_v0", num_games, **settings)


def test_gifts_by_hand():
    """Escape Room (2, 1): agent 0 pulls the lever; agent 1 leaves and gives 2 to agent 0."""
    game = make_game(amount=2.0, cost=0.5, observe_given=True)
    assert game.action_names == ("lever", "start", "door", "lever_give", "start_give", "door_give")
    game.reset(seed=0)
    step = game.step(torch.tensor([[0, 5]]))
    assert step.rewards.tolist() == [[-1.0 + 2.0, 10.0 - 1.0]]
    assert bool(step.terminated[0])
    assert step.outcomes["gifts"].tolist() == [[0.0, 1.0]]
    assert step.outcomes["game_rewards"].tolist() == [[-1.0, 10.0]]
    assert step.obs[0, :, -1].tolist() == [0.0, 2.0]
    assert game.reset()[0, :, -1].tolist() == [0.0, 0.0]


def test_gifts_between_three_agents():
    """Agent 1 gives to the second agent after it, agent 0; agent 2 gives to both other agents."""
    game = make_game(settings={"num_agents": 3, "num_levers": 2}, cost=1.0, observe_given=True)
    names = game.action_names
    assert names[:4] == ("lever", "start", "door", "lever_give_1")
    game.reset(seed=0)
    step = game.step(torch.tensor([[names.index("start"), names.index("start_give_2"), names.index("start_give_1_2")]]))
    assert step.rewards.tolist() == [[4.0, 2.0 - 2.0, -4.0]]
    assert step.obs[0, :, -2:].tolist() == [[0.0, 0.0], [0.0, 2.0], [2.0, 2.0]]
    assert float(step.rewards.sum()) == 0.0


def test_giving_game_without_gifts_equals_the_game():
    plain = social_dilemmas.make("cleanup_v0", 8, map="small", num_steps=20)
    with_gifts = make_game(8, game="cleanup_v0", settings={"map": "small"}, num_steps=20)
    assert torch.equal(plain.reset(seed=3), with_gifts.reset(seed=3))
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        actions = torch.randint(6, (8, 2), generator=generator)
        plain_step, step = plain.step(actions), with_gifts.step(actions)
        assert torch.equal(plain_step.obs, step.obs)
        assert torch.equal(plain_step.rewards, step.rewards)
    assert with_gifts.horizon == 20
    assert with_gifts.payoffs is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"game": "escape_rom_v0"}, "there is no game 'escape_rom_v0'; did you mean 'escape_room_v0'"),
        ({"game": "giving_v0"}, "it has gifts already"),
        ({"settings": {"num_agents": 7}}, "num_agents: 7 agents with gifts"),
        ({"settings": {"levers": 1}}, "has no setting 'levers'"),
        ({"cost": -1.0}, "cost is -1.0"),
        ({"game": "cleanup_v0", "observe_given": True}, "not float32 vectors"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_game(**settings)
