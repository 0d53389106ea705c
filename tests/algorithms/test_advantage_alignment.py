import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator.algorithms.advantage_alignment import AdvantageAlignmentConfig
from rllib_reciprocator.algorithms.advantage_alignment.learner import alignment, past_gains
from rllib_reciprocator.engine.sample import Sample
from rllib_reciprocator.intrinsic.reciprocity import REWARDS, balance, reciprocal_reward
from tests.helpers.batches import prepared
from tests.helpers.weights import weights


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


def test_other_players_keep_their_advantages(build):
    players = {"player_0": "advantage_alignment", "player_1": "ppo", "player_2": "scripted/always_defect"}
    algo, plain_algo = (
        build(config(players, env="public_goods_v0", env_config={"num_agents": 3}, alignment_weight=weight))
        for weight in (1.0, 0.0)
    )
    sample = algo.sample()
    aligned, plain = prepared(algo, sample), prepared(plain_algo, sample)
    assert torch.equal(aligned["player_1"]["advantages"], plain["player_1"]["advantages"])
    assert not torch.allclose(aligned["player_0"]["advantages"], plain["player_0"]["advantages"])
    assert torch.equal(aligned["player_0"]["value_targets"], plain["player_0"]["value_targets"])


def rows(sample, agent, values):
    """Numbers of one agent's module by environment and step, and after the last step."""
    obs, last = sample.modules[agent][Columns.OBS][:, 0], sample.streams[agent]["last/obs"][:, 0]
    with torch.no_grad():
        steps = values({Columns.OBS: obs.flatten(0, 1)}).unflatten(0, obs.shape[:2])
        return torch.cat([steps, values({Columns.OBS: last})[:, None]], 1).double().numpy()


def gae(rewards, values, gamma, lambda_):
    """GAE advantages and TD errors of whole episodes that were cut off at their horizon, ``[B, T]``."""
    errors = rewards + gamma * values[:, 1:] - values[:, :-1]
    advantages, running = np.zeros_like(errors), 0.0
    for t in reversed(range(errors.shape[1])):
        running = errors[:, t] + gamma * lambda_ * running
        advantages[:, t] = running
    return advantages, errors


@pytest.mark.parametrize("co_player", ["advantage_alignment", "ppo", "scripted/tit_for_tat", "learner/pg"])
def test_advantages_by_hand(build, co_player):
    """``A_0 / std + weight * gamma * past_0 * A_1 / std``; of a co-player that is not trained, as player 0 expects."""
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
        seen_by = f"player_{agent if trained else 0}"
        of_agent, td_errors = gae(rewards[..., agent], rows(sample, seen_by, values), gamma, lambda_)
        errors = td_errors if errors is None else errors
        advantages.append(of_agent / of_agent.std())
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
    """Frozen, scripted and online learning ones, in pools too; what they get is learned to be expected."""
    if "pool" in co_player:
        frozen = f"checkpoint/{ipd}#player_0"
        co_player = {"pool": {key.replace("FROZEN", frozen): share for key, share in co_player["pool"].items()}}
    learned = []
    for weight in (0.0, 1.0):
        players = {"player_0": "advantage_alignment", "player_1": co_player}
        a_config = config(players, games=64, steps=10, alignment_weight=weight, num_epochs=20)
        algo = build(a_config.meta(inner_episodes=2, copies=8))
        losses = [float(algo.train()["learners"]["player_0"]["co_player_vf_loss"]) for _ in range(6)]
        assert losses[-1] < 0.8 * losses[0]
        learned.append({key: value for key, value in weights(algo).items() if key.startswith("player_0/actor")})
    assert any(not np.array_equal(learned[0][key], value) for key, value in learned[1].items())


def test_the_pooled_player_aligns_in_its_own_environments(build):
    """In a pool it trains otherwise than PPO does."""
    players = {"player_0": "ppo", "player_1": {"pool": {"advantage_alignment": 0.5, "scripted/random": 0.5}}}
    algo, plain = (build(config(players, alignment_weight=weight)) for weight in (1.0, 0.0))
    for each in (algo, plain):
        each.train()
    aligned, unaligned = weights(algo), weights(plain)
    assert any(not np.array_equal(aligned[key], unaligned[key]) for key in aligned if key.startswith("player_1/actor"))


def test_the_past_of_an_episode_counts_in_later_fragments(build):
    """Other rewards in the first fragment change the advantages of the second, with the same weights."""
    players = {"player_0": "advantage_alignment", "player_1": "ppo"}
    algo, other = (build(config(players, fragment=1).env_runners(stagger_episodes=False)) for _ in range(2))
    first, second = algo.sample(), algo.sample()
    algo.learn(first)
    other.learn(Sample(first.modules, first.streams, {**first.joint, "rewards": -first.rewards}, first.outcomes))
    other.learner_group.set_weights(algo.learner_group.get_weights())
    columns, others = prepared(algo, second), prepared(other, second)
    assert not torch.allclose(columns["player_0"]["advantages"], others["player_0"]["advantages"], atol=0.1)
    torch.testing.assert_close(columns["player_1"]["advantages"], others["player_1"]["advantages"])


def test_environments_that_an_update_lacks_keep_their_past(build):
    """As those of an env runner that was late."""
    players = {"player_0": "advantage_alignment", "player_1": "ppo"}
    algo, other = (build(config(players, fragment=1).env_runners(stagger_episodes=False)) for _ in range(2))
    first, second, third = (algo.sample() for _ in range(3))
    algo.learn(first)
    other.learn(Sample(first.modules, first.streams, {**first.joint, "rewards": -first.rewards}, first.outcomes))
    for each in (algo, other):
        each.learn(second.first_games(8))
    other.learner_group.set_weights(algo.learner_group.get_weights())
    one, two = (prepared(each, third)["player_0"]["advantages"] for each in (algo, other))
    assert not torch.allclose(one[8:], two[8:], atol=0.1)


def test_checkpoints_without_an_estimate_of_co_players_are_restored(build, tmp_path, caplog):
    """As earlier ones: weights are taken over, and the optimizer of the module that is larger now is reset."""
    players = {"player_0": "advantage_alignment", "player_1": "scripted/tit_for_tat"}
    former, resumed = build(config({**players, "player_0": "ppo"})), build(config(players))
    former.train()
    former.save_to_path(tmp_path)
    resumed.restore_from_path(tmp_path)
    before, after = weights(former), weights(resumed)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)
    assert any("its optimizer is reset" in record.getMessage() for record in caplog.records)
    resumed.train()
    assert any(not np.array_equal(weights(resumed)[key], value) for key, value in before.items())
