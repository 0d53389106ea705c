"""Tests of runs of Shaper: several kinds of players, processes, evaluation, schedules and settings."""

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator.algorithms.shaper.evolved_module import SEED
from rllib_reciprocator.engine.rollout_batch import concatenate
from tests.helpers.batches import prepared_batch
from tests.helpers.shaper import build_runner, flat, shaper_config
from tests.helpers.weights import assert_same_weights, weights


def test_only_the_actor_of_an_evolved_policy_changes(build):
    algo = build(shaper_config({"player_0": "shaper", "player_1": "ppo"}, networks={"fcnet_hiddens": [4]}))
    before = weights(algo)
    algo.train()
    after = weights(algo)
    changed_names = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name for name in changed_names if name.startswith("player_0")} == {
        name for name in before if name.startswith("player_0/actor")
    }
    assert {name.split(".")[0] for name in changed_names if name.startswith("player_1")} == {
        "player_1/actor",
        "player_1/critic",
    }


def test_alignment_estimates_returns_of_shapers(build):
    players = {"player_0": "shaper", "player_1": "advantage_alignment"}
    algo = build(shaper_config(players, networks={"fcnet_hiddens": [4]}))
    assert algo.learner_group._learner.module["player_1"].unwrapped().co_critic is not None
    result = algo.train()["learners"]["player_1"]
    assert np.isfinite(result["co_player_vf_loss"])


def test_groups_of_other_pool_members_are_not_counted(build):
    players = {"player_0": {"pool": {"shaper": 0.5, "scripted/random": 0.5}}, "player_1": "learner/pg"}
    algo = build(shaper_config(players, games=64))
    (sample,) = algo.env_runner.sample()
    batch, info = prepared_batch(algo, sample)
    rows, rule = info.rows["player_0"], algo.learner_group._learner.rule_of["player_0"]
    fitness, play_mask = rule._fitness("player_0", batch, rows)
    is_playing = sample.pool_members[::4, 0, 0] == 0
    assert 0 < int(is_playing.sum()) < 16
    assert torch.equal(play_mask, is_playing)
    before = flat(algo.learner_group._learner.module["player_0"].unwrapped())
    rule._fitness = lambda *_: (torch.where(play_mask, 1.0, fitness + 100.0), play_mask)
    rule._evolve(algo.learner_group._learner, "player_0", batch, rows)
    # All members that play have the same fitness, so that the gradient is zero.
    after = flat(algo.learner_group._learner.module["player_0"].unwrapped())
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0.0)


def three_agent_config(**sizes):
    """Returns a configuration with all kinds of players.

    The members of its pool play different shares of each learner's environments.
    """
    players = {
        "player_0": "team/shaper",
        "player_1": "coala",
        "player_2": {"pool": {"learner/pg": 0.5, "team/shaper": 0.5}},
    }
    goods = {"num_agents": 3, "num_steps": 5}
    return shaper_config(players, env="public_goods_v0", env_config=goods, networks={"fcnet_hiddens": [4]}, **sizes)


def test_populations_that_play_in_no_group_are_unchanged(build):
    players = {"player_0": {"pool": {"shaper": 1e-6, "scripted/random": 1.0 - 1e-6}}, "player_1": "ppo"}
    algo = build(shaper_config(players, networks={"fcnet_hiddens": [4]}))
    before = flat(algo.learner_group._learner.module["player_0"].unwrapped())
    stats = algo.train()["learners"]["player_0"]
    assert (float(stats["fitness_mean"]), float(stats["fitness_std"])) == (0.0, 0.0)
    assert torch.equal(before, flat(algo.learner_group._learner.module["player_0"].unwrapped()))


@pytest.mark.processes
def test_two_learners_match_one(build):
    local, remote = (build(three_agent_config(learners=learners)) for learners in (0, 2))
    for algo in (local, remote):
        algo.train()
    assert_same_weights(local, remote, atol=2e-5)


def test_learners_reproduce_the_perturbations_of_all_runners(build):
    algo = build(three_agent_config())
    sample = concatenate([build_runner(three_agent_config(), index).sample()[0] for index in (1, 2)])
    seeds = sample.modules["shaper"].extra[SEED][:, 0]
    assert len(seeds.unique()) == 2
    learner = algo.learner_group._learner
    batch, info = prepared_batch(algo, sample)
    rule = learner.rule_of["shaper"]
    seeds_of_members, members = rule._perturbations("shaper", batch)
    assert torch.equal(seeds_of_members.view(16, 2), seeds.view(16, 4)[:, :1].expand(-1, 2))
    assert members.tolist() == [*range(16), *range(16)]
    before = flat(learner.module["shaper"].unwrapped())
    rule._evolve(learner, "shaper", batch, info.rows["shaper"])
    assert not torch.equal(before, flat(learner.module["shaper"].unwrapped()))


def test_the_mean_plays_in_evaluations_and_forward_inference(build):
    algo = build(shaper_config())
    algo.train()
    module = algo.env_runner.module["player_0"].unwrapped()
    obs = torch.as_tensor(algo.env_runner.game.reset()[:, 0])
    memory = {name: value.expand(32, -1) for name, value in module.get_initial_state().items()}
    batch = {Columns.OBS: obs, Columns.STATE_IN: memory}
    greedy_logits = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
    assert len(greedy_logits.unique()) == 1
    assert len(module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS].unique()) == 8
    evaluation_config = algo.config.copy(copy_frozen=False)
    evaluation_config.in_evaluation = True
    evaluation_config.validate()
    runner = type(algo.env_runner)(config=evaluation_config, worker_index=0)
    runner.module.set_state(algo.env_runner.module.get_state())
    (sample,) = runner.sample(num_episodes=1)
    first_logits = sample.modules["player_0"].steps[Columns.ACTION_DIST_INPUTS][:, 0, 0]
    torch.testing.assert_close(first_logits.unique(), greedy_logits.unique())


def test_sigma_follows_its_schedule_in_runners_too(build):
    algo = build(shaper_config(sigma=[[0, 0.2], [960, 0.1]]))
    runner_module = algo.env_runner.module["player_0"].unwrapped()
    assert float(runner_module.sigma) == pytest.approx(0.2)
    sigmas = [algo.train()["learners"]["player_0"]["sigma"] for _ in range(3)]
    # An iteration has 480 environment steps.
    assert [float(sigma) for sigma in sigmas] == pytest.approx([0.15, 0.1, 0.1])
    assert float(runner_module.sigma) == pytest.approx(0.1)


def test_members_use_epsilon_exploration(build):
    algo = build(shaper_config({"player_0": "shaper", "player_1": "learner/pg"}, epsilon=1.0))
    (sample,) = algo.env_runner.sample()
    logits = sample.modules["player_0"].steps[Columns.ACTION_DIST_INPUTS]
    torch.testing.assert_close(logits, torch.zeros_like(logits))
    assert set(algo.train()["learners"]) >= {"player_0"}


def test_learns_to_defect_against_always_cooperate(build):
    algo = build(
        shaper_config({"player_0": "shaper", "player_1": "scripted/always_cooperate"}, games=128, lr=0.1, sigma=0.5)
    )
    results = [algo.train()["env_runners"] for _ in range(12)]
    assert float(results[0]["reward_per_step"]["player_0"]) < 1.7
    assert float(results[-1]["reward_per_step"]["player_0"]) > 1.85


@pytest.mark.parametrize(
    ("players", "networks", "message"),
    [
        (None, {"model": "rllib"}, "players.player_0: shaper needs the networks of model_config.model actor_critic"),
        ({"player_*": "shapr"}, None, "there is no player 'shapr'; did you mean 'shaper'"),
    ],
)
def test_invalid_settings_raise(players, networks, message):
    with pytest.raises(ValueError, match=message):
        shaper_config(players, networks=networks).validate()


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (0, "^sigma: 0 is out of range"),
        (-0.1, "^sigma: -0.1 is out of range"),
        (float("nan"), "^sigma: nan is out of range"),
        (1e30, r"^sigma: 1e\+30 is out of range .* above 0 and at most 1000$"),
        ([[0, 0.3], [100, 0.0]], "^sigma: 0 at step 100 is out of range"),
        ([[0, 1e30], [100, 0.1]], r"^sigma: 1e\+30 at step 0 is out of range"),
    ],
)
def test_perturbations_need_a_finite_positive_standard_deviation(sigma, message):
    with pytest.raises(ValueError, match=message):
        shaper_config(sigma=sigma).validate()


def test_single_group_raises():
    with pytest.raises(ValueError, match=r"^num_envs_per_env_runner: 4 .*player_0 has a single perturbation.* use 8"):
        shaper_config(games=4).validate()
    shaper_config(games=8).validate()
    shaper_config(games=4).env_runners(num_env_runners=2).validate()
    shared_config = shaper_config({"player_*": "team/both"}, games=4)
    shared_config.validate()
