"""Tests of runs of COALA: memory, online learners, pools, populations and settings."""

import pytest
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.coala import COALAConfig
from rllib_reciprocator.algorithms.coala.rules import assign_credit
from rllib_reciprocator.engine.policy_pool import redistribute_probabilities
from rllib_reciprocator.models.distributions import Bernoulli
from tests.helpers.batches import minibatches, prepared
from tests.helpers.coala import coala_config
from tests.helpers.weights import assert_same_weights


def test_memory_persists_within_a_meta_episode_only(build):
    """Compares sampling step by step with a pass over the meta-episode; the memory is reset before the next one."""
    algo = build(coala_config())
    learner = algo.learner_group._learner
    for _ in range(2):
        (sample,) = algo.env_runner.sample()
        assert sample.rewards.shape == (16, 15, 2)
        assert sample.is_first[0].nonzero().flatten().tolist() == [0, 5, 10]
        columns = prepared(algo, sample)["player_0"]
        module = learner.module["player_0"].unwrapped()
        with torch.no_grad():
            out = module.forward_train(columns)
        torch.testing.assert_close(
            Bernoulli(out[Columns.ACTION_DIST_INPUTS]).logp(columns[Columns.ACTIONS]), columns[Columns.ACTION_LOGP]
        )
        torch.testing.assert_close(
            module.compute_values(columns, embeddings=out[Columns.EMBEDDINGS]), columns[Columns.VF_PREDS]
        )
        # All inner episodes start with the same observation, but in later ones the memory changes the policy.
        starts = sample.modules["player_0"].steps[Columns.ACTION_DIST_INPUTS][:, 0, [0, 5], 0]
        assert len(starts[:, 0].unique()) == 1
        assert len(starts[:, 1].unique()) > 1


def test_online_learners_learn_between_inner_episodes_and_are_reset(build):
    algo = build(coala_config(players=None, inner=3))
    runner = algo.env_runner
    module = runner.module["player_1"].unwrapped()
    for _ in range(2):
        runner.sample()
        logits = module.learned()["parameters"]["logits"][..., 0]
        assert logits.shape == (4, 5)
        assert bool(logits.ne(0).any(1).all())
    defection_probs = []
    learn = module.learn

    def record_and_learn(obs, actions, rewards):
        defection_probs.append(
            Bernoulli(module._forward({Columns.OBS: obs[:, 0]})[Columns.ACTION_DIST_INPUTS]).logits.sigmoid()
        )
        learn(obs, actions, rewards)

    module.learn = record_and_learn
    runner.sample()
    assert defection_probs[0].unique().tolist() == [0.5]
    # Defection pays against a co-player that acts at random, also in the first step.
    assert float(defection_probs[1].mean()) > 0.5
    assert float(defection_probs[2].mean()) > float(defection_probs[1].mean())
    assert all(len(probs.view(4, 4).unique(dim=1)[0]) == 1 for probs in defection_probs)


def test_pool_members_are_drawn_per_group_and_meta_episode(build, monkeypatch):
    """Expects an agent's credit to follow the rule with online learners if its co-player is one."""
    players = {"player_0": "team/coala", "player_1": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}}}
    algo = build(coala_config(players, games=64))
    (sample,) = algo.env_runner.sample()
    members = sample.pool_members[..., 1].view(16, 4, 15)
    assert bool((members == members[:, :1, :1]).all())
    assert 0 < int(members[:, 0, 0].sum()) < 16
    flags = []

    def record_flags(signals, with_learners, **settings):
        flags.append(with_learners)
        return assign_credit(signals, with_learners, **settings)

    monkeypatch.setattr("rllib_reciprocator.algorithms.coala.credit.assign_credit", record_flags)
    prepared(algo, sample)
    (with_online_learner,) = flags
    assert torch.equal(with_online_learner[:, 0], members[..., 0].flatten() == 0)
    assert not bool(with_online_learner[:, 1].any())
    result = algo.train()["env_runners"]
    assert set(result["pool"]["player_1"]) == {"player_1+pg", "coala"}


def test_members_of_a_population_never_meet_themselves(build):
    players = {"player_0": "coala", "player_1": {"pool": {"learner/pg": 0.4, "coala": 0.6}}}
    algo = build(coala_config(players, games=2048, inner=1, steps=1).meta(population=3))
    ids = [[module_id for module_id, _ in members] for members in algo.config.pool_members()]
    assert ids == [["coala_0", "coala_1", "coala_2"], ["player_1+pg", "coala_0", "coala_1", "coala_2"]]
    (sample,) = algo.env_runner.sample()
    first, second = sample.pool_members[::4, 0].unbind(-1)
    assert not bool((first + 1 == second).any())
    naive = second == 0
    assert float(naive.float().mean()) == pytest.approx(0.4, abs=0.08)
    for member in range(3):
        co_players = second[(first == member) & ~naive]
        assert len(co_players.unique()) == 2
        assert float((co_players == co_players.unique()[0]).float().mean()) == pytest.approx(0.5, abs=0.15)
    assert {"coala_0", "coala_1", "coala_2"} <= set(algo.train()["learners"])


def test_populations_of_other_algorithms_have_their_kind_of_player():
    config = ReciprocatorConfig().environment("ipd_v0", env_config={"num_steps": 5})
    config.players({"player_*": "coala"}).meta(population=2, inner_episodes=2, copies=4).validate()
    members = [member for player in config.assigned_players for member, _ in player.pool_members]
    assert [(member.algorithm, member.team) for member in members] == [("coala", "coala_0"), ("coala", "coala_1")] * 2
    assert config.samples_meta_episodes


def test_probabilities_are_redistributed_within_the_population():
    shares, in_population = torch.tensor([[0.4, 0.3, 0.2, 0.1]]), torch.tensor([False, True, True, True])
    already_plays = torch.tensor([[False, True, False, False]])
    torch.testing.assert_close(
        redistribute_probabilities(shares, already_plays, in_population), torch.tensor([[0.4, 0.0, 0.4, 0.2]])
    )
    assert torch.equal(redistribute_probabilities(shares, in_population[None], in_population), shares)


def test_minibatches_leave_out_sequences_of_other_members(build):
    players = {"player_0": "team/coala", "player_1": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}}}
    algo = build(coala_config(players, games=64))
    (sample,) = algo.env_runner.sample()
    rows = prepared(algo, sample)
    num_sequences = 64 + int((sample.pool_members[:, 0, 1] == 1).sum())
    for size in (None, 32 * 15):
        selected_rows = [minibatch["coala"] for minibatch in minibatches(algo, rows, size)]
        assert sum(len(columns[Columns.ACTIONS]) for columns in selected_rows) == 15 * num_sequences
        assert all(bool(columns[Columns.LOSS_MASK].all()) for columns in selected_rows)


@pytest.mark.processes
def test_two_learners_match_one(build):
    """Uses all kinds of players, and a pool whose members play different shares of each learner's environments."""
    players = {
        "player_0": "team/coala",
        "player_1": "ppo",
        "player_2": {"pool": {"learner/pg": 0.5, "team/coala": 0.5}},
    }
    configs = [coala_config(players, learners=learners).environment("public_goods_v0") for learners in (0, 2)]
    for a_config in configs:
        a_config.env_config = {"num_agents": 3, "num_steps": 5}
    local, remote = map(build, configs)
    for algo in (local, remote):
        algo.train()
    assert_same_weights(local, remote, atol=2e-5)


def test_groups_stay_complete_if_environments_are_dropped(build):
    algo = build(coala_config())
    (sample,) = algo.env_runner.sample()
    assert len(algo._for_learners(sample.first_environments(14)).rewards) == 12


def test_only_credit_of_coala_players_spans_inner_episodes(build):
    algo = build(coala_config({"player_0": "coala", "player_1": "ppo"}, scale_advantages=False, reward_scale=1.0))
    (sample,) = algo.env_runner.sample()
    batches = prepared(algo, sample)
    values = [batches[f"player_{k}"][Columns.VF_PREDS].view(16, 15) for k in range(2)]
    rewards = sample.rewards
    meta = rewards[..., 0].flip(1).cumsum(1).flip(1)
    inner = rewards[..., 1].view(16, 3, 5).flip(2).cumsum(2).flip(2).reshape(16, 15)
    torch.testing.assert_close(batches["player_0"]["value_targets"].view(16, 15), meta, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batches["player_1"]["value_targets"].view(16, 15), inner, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batches["player_1"]["advantages"].view(16, 15), inner - values[1], atol=1e-4, rtol=1e-4)


def test_results_report_inner_episodes(build):
    result = build(coala_config()).train()["env_runners"]
    rewards = result["inner_episodes"]["player_0"]["reward_per_step"]
    assert sorted(rewards) == ["0", "1", "2"]
    mean = sum(float(reward) for reward in rewards.values()) / 3
    assert mean == pytest.approx(float(result["reward_per_step"]["player_0"]), abs=1e-5)
    assert 0.0 <= float(result["inner_episodes"]["player_1"]["cooperation_rate"]["2"]) <= 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games": 18}, "num_envs_per_env_runner: 18 is not a multiple of the group size 4"),
        ({"games": 12, "learners": 2}, "num_learners: 3 groups of environments cannot be split evenly among 2"),
        ({"players": {"player_*": "learner/pg"}}, "no player is trained"),
        (
            {"players": {"player_0": "coala", "player_1": "learner/gp"}},
            "there is no online learner 'gp'; did you mean 'pg'",
        ),
        ({"bootstrap_at_horizon": True}, "bootstrap_at_horizon"),
    ],
)
def test_invalid_settings_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        coala_config(**changes).validate()


def test_individual_settings_of_population_members_raise():
    with pytest.raises(ValueError, match=r"players.player_0: with meta.population coala has no settings of its own"):
        coala_config({"player_0": {"player": "coala", "lr": 0.1}, "player_1": "learner/pg"}).meta(
            population=2
        ).validate()


def test_early_ends_and_short_fragments_raise():
    with pytest.raises(ValueError, match="inner episodes must have a fixed length"):
        COALAConfig().environment("escape_room_v0").validate()
    with pytest.raises(ValueError, match="rollout_fragment_length"):
        coala_config().env_runners(rollout_fragment_length=5).validate()
