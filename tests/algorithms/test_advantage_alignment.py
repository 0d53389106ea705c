import pytest
import torch

from rllib_reciprocator.algorithms.advantage_alignment import AdvantageAlignmentConfig
from rllib_reciprocator.algorithms.advantage_alignment.learner import alignment, past_gains
from rllib_reciprocator.intrinsic import REWARDS, balance, reciprocal_reward
from tests.batches import prepared


def aligned(gains, advantages, first, gamma, before=None):
    """The alignment term of agents with these gains and advantages."""
    past, _ = past_gains(gains, first, gamma, before)
    return alignment(past, advantages.sum(-1, keepdim=True) - advantages, gamma)


def test_by_hand():
    """Two agents, three steps, gamma 0.5; an episode begins with the third step."""
    gains = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    advantages = torch.tensor([[[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]]])
    first = torch.tensor([[True, False, True]])
    term = aligned(gains, advantages, first, torch.tensor([0.5, 0.5]))
    # Before the second step agent 0 has had 0.5 * 1, agent 1 0.5 * 2; the term is gamma times that times the other's.
    assert term.tolist() == [[[0.0, 0.0], [0.5 * 0.5 * 40.0, 0.5 * 1.0 * 30.0], [0.0, 0.0]]]
    longer = aligned(gains, advantages, torch.tensor([[True, False, False]]), torch.tensor([0.5, 0.5]))
    assert longer[0, 2].tolist() == [0.5 * (0.25 * 1 + 0.5 * 3) * 60.0, 0.5 * (0.25 * 2 + 0.5 * 4) * 50.0]


def test_the_past_goes_on_from_one_rollout_to_the_next():
    torch.manual_seed(0)
    gains, gamma = torch.randn(3, 8, 2), torch.tensor([0.9, 0.8])
    first = torch.zeros(3, 8, dtype=torch.bool)
    first[:, 0] = first[1, 6] = True
    whole, end = past_gains(gains, first, gamma)
    early, middle = past_gains(gains[:, :5], first[:, :5], gamma)
    late, same_end = past_gains(gains[:, 5:], first[:, 5:], gamma, middle)
    torch.testing.assert_close(torch.cat([early, late], 1), whole)
    torch.testing.assert_close(same_end, end)


@pytest.mark.parametrize("agents", [2, 3])
def test_it_is_the_petty_reciprocal_reward_of_advantages(agents):
    """``gamma^2 * (N - 1)`` times that reward, where what i has had from anybody is i's own advantage."""
    torch.manual_seed(0)
    gamma, steps = 0.9, 7
    gains = torch.randn(4, steps, agents)
    first = torch.zeros(4, steps, dtype=torch.bool)
    first[:, 0] = first[2, 3] = True
    term = aligned(gains, gains, first, torch.full((agents,), gamma))
    influence = gains[:, :, None, :].expand(-1, -1, agents, -1).transpose(0, 1)
    had = balance(influence, REWARDS["petty"], gamma, first.t())
    # What i gives to j, in row i and column j, is what j gets.
    same = gamma**2 * (agents - 1) * reciprocal_reward(had, influence, REWARDS["petty"]).transpose(0, 1)
    torch.testing.assert_close(term, same, atol=1e-5, rtol=1e-5)


def test_others_keep_their_advantages_and_those_who_do_not_learn_have_none(build):
    players = {"player_0": "advantage_alignment", "player_1": "ppo", "player_2": "scripted/always_defect"}
    config = (
        AdvantageAlignmentConfig()
        .environment("public_goods_v0", env_config={"num_agents": 3, "num_steps": 5})
        .players(players)
        .training(normalize_advantages=False, num_epochs=1)
        .env_runners(num_envs_per_env_runner=16)
        .debugging(seed=1)
    )
    algo = build(config)
    (sample,) = algo.env_runner.sample()
    learner = algo.learner_group._learner
    aligned = prepared(algo, sample)
    learner.config = learner.config.copy(copy_frozen=False)
    learner.config.alignment_weight = 0.0
    plain = prepared(algo, sample)
    assert torch.equal(aligned["player_1"]["advantages"], plain["player_1"]["advantages"])
    assert not torch.allclose(aligned["player_0"]["advantages"], plain["player_0"]["advantages"])
    assert torch.equal(aligned["player_0"]["value_targets"], plain["player_0"]["value_targets"])
    learner._learn = torch.zeros(3)
    learner.config.alignment_weight = 1.0
    alone = prepared(algo, sample)
    # With nobody else who learns there is nobody to align with.
    torch.testing.assert_close(alone["player_0"]["advantages"], plain["player_0"]["advantages"])
