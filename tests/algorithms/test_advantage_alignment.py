from dataclasses import replace

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator.algorithms.advantage_alignment import AdvantageAlignmentConfig
from rllib_reciprocator.algorithms.advantage_alignment.alignment import alignment, past_gains
from rllib_reciprocator.intrinsic.reciprocity import REWARDS, balance, reciprocal_reward
from tests.helpers.batches import prepared
from tests.helpers.weights import weights


def aligned(gains, advantages, first, gamma, before=None):
    """Returns the alignment term for given gains and advantages."""
    past, _ = past_gains(gains, first, gamma, before)
    return alignment(past, advantages.sum(-1, keepdim=True) - advantages, gamma)


def test_alignment_term_by_hand():
    """Uses two agents, three steps and gamma 0.5; a new episode starts at the third step."""
    gains = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    advantages = torch.tensor([[[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]]])
    first = torch.tensor([[True, False, True]])
    term = aligned(gains, advantages, first, torch.tensor([0.5, 0.5]))
    # At the second step, past gains are 0.5 * 1 of agent 0 and 0.5 * 2 of agent 1. The term is gamma times an agent's
    # past gains times the co-player's advantage.
    assert term.tolist() == [[[0.0, 0.0], [0.5 * 0.5 * 40.0, 0.5 * 1.0 * 30.0], [0.0, 0.0]]]
    one_episode = aligned(gains, advantages, torch.tensor([[True, False, False]]), torch.tensor([0.5, 0.5]))
    assert one_episode[0, 2].tolist() == [0.5 * (0.25 * 1 + 0.5 * 3) * 60.0, 0.5 * (0.25 * 2 + 0.5 * 4) * 50.0]


def test_past_gains_continue_across_rollouts():
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
def test_alignment_equals_the_petty_reciprocal_reward_of_advantages(agents):
    """Expects ``gamma^2 * (N - 1)`` times that reward, if the influence of every co-player on i is i's gain."""
    torch.manual_seed(0)
    gamma, steps = 0.9, 7
    gains = torch.randn(4, steps, agents)
    first = torch.zeros(4, steps, dtype=torch.bool)
    first[:, 0] = first[2, 3] = True
    term = aligned(gains, gains, first, torch.full((agents,), gamma))
    influence = gains[:, :, None, :].expand(-1, -1, agents, -1).transpose(0, 1)
    balances = balance(influence, REWARDS["petty"], gamma, first.t())
    # The influence of i on j, in row i and column j, is j's gain.
    expected = gamma**2 * (agents - 1) * reciprocal_reward(balances, influence, REWARDS["petty"]).transpose(0, 1)
    torch.testing.assert_close(term, expected, atol=1e-5, rtol=1e-5)


def config(players=None, games=16, steps=6, fragment="auto", env="ipd_v0", env_config=None, **training):
    return (
        AdvantageAlignmentConfig()
        .environment(env, env_config={"num_steps": steps, **(env_config or {})})
        .players(players or {"player_*": "advantage_alignment"})
        .training(**{"normalize_advantages": False, "num_epochs": 1, "lr": 0.02, **training})
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=games, rollout_fragment_length=fragment)
        .debugging(seed=1)
    )


def test_players_without_alignment_keep_their_advantages(build):
    players = {"player_0": "advantage_alignment", "player_1": "ppo", "player_2": "scripted/always_defect"}
    algo, plain_algo = (
        build(config(players, env="public_goods_v0", env_config={"num_agents": 3}, alignment_weight=weight))
        for weight in (1.0, 0.0)
    )
    sample = algo.sample()
    aligned_batch, plain = prepared(algo, sample), prepared(plain_algo, sample)
    assert torch.equal(aligned_batch["player_1"]["advantages"], plain["player_1"]["advantages"])
    assert not torch.allclose(aligned_batch["player_0"]["advantages"], plain["player_0"]["advantages"])
    assert torch.equal(aligned_batch["player_0"]["value_targets"], plain["player_0"]["value_targets"])


def rows(sample, agent, values):
    """Returns the values of one agent's module at every step and after the last one, ``[B, T + 1]``."""
    obs, last = sample.modules[agent].steps[Columns.OBS][:, 0], sample.modules[agent].last[Columns.OBS][:, 0]
    with torch.no_grad():
        steps = values({Columns.OBS: obs.flatten(0, 1)}).unflatten(0, obs.shape[:2])
        return torch.cat([steps, values({Columns.OBS: last})[:, None]], 1).double().numpy()


def gae(rewards, values, gamma, lambda_):
    """Returns GAE advantages and TD errors of whole episodes that were truncated at the horizon, each ``[B, T]``."""
    errors = rewards + gamma * values[:, 1:] - values[:, :-1]
    advantages, running = np.zeros_like(errors), 0.0
    for t in reversed(range(errors.shape[1])):
        running = errors[:, t] + gamma * lambda_ * running
        advantages[:, t] = running
    return advantages, errors


@pytest.mark.parametrize("co_player", ["advantage_alignment", "ppo", "scripted/tit_for_tat", "learner/pg"])
def test_advantages_by_hand(build, co_player):
    """Expects ``A_0 / std + weight * gamma * past_0 * A_1 / std``.

    If the co-player is not trained, player 0's module estimates its values.
    """
    weight, gamma, lambda_ = 0.7, 0.9, 0.8
    players = {"player_0": "advantage_alignment", "player_1": co_player}
    a_config = config(players, games=32, alignment_weight=weight, gamma=gamma, lambda_=lambda_)
    algo = build(a_config.meta(inner_episodes=2, copies=4))
    algo.train()
    sample = algo.sample()
    trained = co_player in ("advantage_alignment", "ppo")
    module = algo.learner_group._learner.module["player_0"].unwrapped()
    critics = [module.compute_values]
    if trained:
        critics.append(algo.learner_group._learner.module["player_1"].unwrapped().compute_values)
    else:
        critics.append(lambda batch: module.compute_co_player_values(batch)[:, 0])
    rewards = sample.rewards.double().numpy()
    advantages, errors = [], None
    for agent, values in enumerate(critics):
        observer = f"player_{agent if trained else 0}"
        agent_advantages, td_errors = gae(rewards[..., agent], rows(sample, observer, values), gamma, lambda_)
        errors = td_errors if errors is None else errors
        advantages.append(agent_advantages / agent_advantages.std())
    errors = errors / errors.std()
    expected, past = np.zeros_like(errors), np.zeros(len(errors))
    for t in range(errors.shape[1]):
        expected[:, t] = advantages[0][:, t] + weight * gamma * past * advantages[1][:, t]
        past = gamma * (past + errors[:, t])
    columns = prepared(algo, sample)["player_0"]
    np.testing.assert_allclose(columns["advantages"].view(errors.shape).numpy(), expected, atol=1e-4, rtol=1e-3)
    assert np.abs(expected - advantages[0]).max() > 0.1


CO_PLAYERS = [
    "scripted/tit_for_tat",
    "learner/pg",
    {"pool": {"advantage_alignment": 0.5, "scripted/tit_for_tat": 0.5}},
    {"pool": {"ppo": 0.5, "FROZEN": 0.5}},
]


@pytest.mark.parametrize("co_player", CO_PLAYERS)
def test_players_align_with_co_players_that_are_not_trained(build, ipd, co_player):
    """Covers frozen, scripted and online-learning co-players, also in pools, and the critic of their returns."""
    if "pool" in co_player:
        frozen = f"checkpoint/{ipd}#player_0"
        co_player = {"pool": {key.replace("FROZEN", frozen): share for key, share in co_player["pool"].items()}}
    learned_values = []
    for weight in (0.0, 1.0):
        players = {"player_0": "advantage_alignment", "player_1": co_player}
        a_config = config(players, games=64, steps=10, alignment_weight=weight, num_epochs=20)
        algo = build(a_config.meta(inner_episodes=2, copies=8))
        losses = [float(algo.train()["learners"]["player_0"]["co_player_vf_loss"]) for _ in range(6)]
        assert losses[-1] < 0.8 * losses[0]
        learned_values.append({key: value for key, value in weights(algo).items() if key.startswith("player_0/actor")})
    assert any(not np.array_equal(learned_values[0][key], value) for key, value in learned_values[1].items())


def test_pool_members_align_in_their_environments(build):
    """Trains a pool member with and without the alignment term, and expects different weights."""
    players = {"player_0": "ppo", "player_1": {"pool": {"advantage_alignment": 0.5, "scripted/random": 0.5}}}
    algo, plain_algo = (build(config(players, alignment_weight=weight)) for weight in (1.0, 0.0))
    for trained_algo in (algo, plain_algo):
        trained_algo.train()
    aligned_weights, unaligned_weights = weights(algo), weights(plain_algo)
    assert any(
        not np.array_equal(aligned_weights[key], unaligned_weights[key])
        for key in aligned_weights
        if key.startswith("player_1/actor")
    )


def test_past_gains_of_an_episode_enter_later_fragments(build):
    """Changes the rewards of the first fragment: advantages of the second one change, with equal weights."""
    players = {"player_0": "advantage_alignment", "player_1": "ppo"}
    algo, other_algo = (build(config(players, fragment=1).env_runners(stagger_episodes=False)) for _ in range(2))
    first, second = algo.sample(), algo.sample()
    algo.learn(first)
    other_algo.learn(replace(first, rewards=-first.rewards))
    other_algo.learner_group.set_weights(algo.learner_group.get_weights())
    columns, other_columns = prepared(algo, second), prepared(other_algo, second)
    assert not torch.allclose(columns["player_0"]["advantages"], other_columns["player_0"]["advantages"], atol=0.1)
    torch.testing.assert_close(columns["player_1"]["advantages"], other_columns["player_1"]["advantages"])


def test_environments_missing_from_an_update_keep_their_past_gains(build):
    """Leaves out environments of an update, as if their env runner had timed out."""
    players = {"player_0": "advantage_alignment", "player_1": "ppo"}
    algo, other_algo = (build(config(players, fragment=1).env_runners(stagger_episodes=False)) for _ in range(2))
    first, second, third = (algo.sample() for _ in range(3))
    algo.learn(first)
    other_algo.learn(replace(first, rewards=-first.rewards))
    for trained_algo in (algo, other_algo):
        trained_algo.learn(second.first_environments(8))
    other_algo.learner_group.set_weights(algo.learner_group.get_weights())
    advantages, other_advantages = (
        prepared(trained_algo, third)["player_0"]["advantages"] for trained_algo in (algo, other_algo)
    )
    assert not torch.allclose(advantages[8:], other_advantages[8:], atol=0.1)


def test_checkpoints_without_co_player_critics_are_restored(build, tmp_path, caplog):
    """Restores a checkpoint of PPO: its weights are loaded, and the optimizer of the enlarged module is reset."""
    players = {"player_0": "advantage_alignment", "player_1": "scripted/tit_for_tat"}
    ppo_algo, restored_algo = build(config({**players, "player_0": "ppo"})), build(config(players))
    ppo_algo.train()
    ppo_algo.save_to_path(tmp_path)
    restored_algo.restore_from_path(tmp_path)
    before, after = weights(ppo_algo), weights(restored_algo)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)
    assert any("its optimizer is reset" in record.getMessage() for record in caplog.records)
    restored_algo.train()
    assert any(not np.array_equal(weights(restored_algo)[key], value) for key, value in before.items())
