import pytest
import torch

import social_dilemmas


def make_game(num_games=1, **settings):
    return social_dilemmas.make("centralized_v0", num_games, **settings)


def test_controller_acts_for_both_agents():
    """Escape Room (2, 1): agent 0 pulls the lever, agent 1 leaves."""
    game = make_game()
    assert game.num_agents == 1
    assert game.action_names[:4] == ("lever+lever", "start+lever", "door+lever", "lever+start")
    assert game.reset(seed=0).shape == (1, 1, 12)
    step = game.step(torch.tensor([[game.action_names.index("lever+door")]]))
    assert step.rewards.tolist() == [[9.0]]
    assert bool(step.terminated[0])
    assert step.outcomes["levers"].tolist() == [[0.5]]


@pytest.mark.parametrize("name", ["cleanup_v0", "coins_v0", "escape_room_v0", "harvest_v0"])
def test_centralized_game_equals_the_game(name):
    plain, central = social_dilemmas.make(name, 8, num_steps=20), make_game(8, game=name, num_steps=20)
    n, actions = plain.num_agents, int(plain.action_space.n)
    obs, central_obs = plain.reset(seed=3), central.reset(seed=3)
    axis = -1 if obs.dim() == 4 else 1
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        for agent, agent_obs in enumerate(central_obs[:, 0].chunk(n, axis)):
            assert torch.equal(agent_obs, obs[:, agent])
        joint = torch.randint(actions, (8, n), generator=generator)
        index = sum(joint[:, agent] * actions**agent for agent in range(n))
        step, central_step = plain.step(joint), central.step(index[:, None])
        torch.testing.assert_close(central_step.rewards[:, 0], step.rewards.sum(1))
        assert torch.equal(central_step.terminated, step.terminated)
        for key, rate in central.summarize(central_step.outcomes, 1).items():
            assert torch.equal(rate[:, 0], plain.summarize({k: v.mean(1) for k, v in step.outcomes.items()}, 1)[key])
        obs, central_obs = step.obs, central_step.obs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"game": "escape_rom_v0"}, "there is no game 'escape_rom_v0'; did you mean 'escape_room_v0'"),
        ({"game": "cleanup_v0", "settings": {"map": "full"}}, "joint actions; at most 10000"),
        ({"settings": {"levers": 1}}, "has no setting 'levers'"),
        ({"game": "centralized_v0"}, "it is centralized already"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_game(**settings)
