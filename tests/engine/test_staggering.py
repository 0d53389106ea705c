"""Tests of staggered episodes: environments start at different steps if fragments are shorter than episodes."""

import pytest
import torch

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.engine import BatchedEnvRunner
from tests.helpers.games import COUNTDOWN

HORIZON = 10


def config(fragment=2, env="coins_v0", games=20, players=None, runners=0, **settings):
    return (
        ReciprocatorConfig()
        .environment(env, env_config={"num_steps": HORIZON})
        .players(players or {"*": "reciprocator"})
        .training(num_epochs=1)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(
            num_env_runners=runners, num_envs_per_env_runner=games, rollout_fragment_length=fragment, **settings
        )
        .debugging(seed=1)
    )


def runner(built, worker_index=0):
    built.validate()
    return BatchedEnvRunner(config=built, worker_index=worker_index)


def steps_of_episodes(sample):
    """Returns the number of earlier steps of the episode, at each step, ``[B, T]``."""
    return ((1.0 - sample.time_left) * HORIZON).round().long()


@pytest.mark.parametrize("fragment", [2, 3, 5, 9])
def test_every_sample_covers_all_parts_of_an_episode(fragment):
    env_runner = runner(config(fragment))
    phases = -(-HORIZON // fragment)
    for _ in range(7):
        (sample,) = env_runner.sample()
        steps = steps_of_episodes(sample)
        assert len(steps[:, 0].unique()) == phases
        if HORIZON % fragment == 0:
            assert steps.unique().tolist() == list(range(HORIZON))
            assert all(
                len(part.unique()) == HORIZON for part in steps.chunk(2)
            )  # also in the shard of each of two learners
        assert torch.equal(sample.is_first, steps == 0)
        assert torch.equal(sample.truncated, steps == HORIZON - 1)


def test_environments_start_together_without_staggering_or_with_whole_episodes():
    for a_config in (config(2, stagger_episodes=False), config(HORIZON), config("auto"), config(2 * HORIZON)):
        (sample,) = runner(a_config).sample()
        assert sample.is_first[:, 0].all()
        assert len(steps_of_episodes(sample)[:, 0].unique()) == 1


def test_phases_are_split_among_env_runners():
    """Uses fewer environments than phases, which start as far apart as possible."""
    starts = []
    for worker_index in (1, 2):
        (sample,) = runner(config(1, games=2, runners=2), worker_index).sample()
        starts += steps_of_episodes(sample)[:, 0].tolist()
    assert starts == [0, 2, 5, 7]


def test_steps_before_the_first_sample_are_not_counted():
    env_runner = runner(config(2))
    for _ in range(10):
        (sample,) = env_runner.sample()
        metrics = env_runner.get_metrics()
        assert sample.env_steps() == 40
        assert metrics["num_env_steps_sampled"].peek() == 40
        assert metrics["num_episodes"].peek() == 4
        assert metrics["episode_len_mean"].peek() == HORIZON


def test_returns_are_sums_over_the_whole_episode():
    env_runner = runner(config(2, games=5))
    samples, returns = [], []
    for _ in range(10):
        samples.append(env_runner.sample()[0])
        returns.append(float(env_runner.get_metrics()["agent_episode_returns_mean"]["player_0"].peek()))
    rewards = torch.cat([sample.rewards[..., 0] for sample in samples], 1)
    ended = torch.cat([sample.ended for sample in samples], 1)
    for fragment in range(5, 10):
        # One environment ends an episode in each fragment; all steps of this episode are in `samples`.
        (environment, last), *extra = ended[:, 2 * fragment : 2 * fragment + 2].nonzero().tolist()
        assert not extra
        end = 2 * fragment + last + 1
        assert returns[fragment] == pytest.approx(float(rewards[environment, end - HORIZON : end].sum()), abs=1e-4)


def test_restored_runs_keep_their_phases_and_errors_renew_them():
    env_runner, restored_runner = runner(config(3)), runner(config(3))
    env_runner.sample()
    restored_runner.set_state(env_runner.get_state())
    a, b = env_runner.sample()[0], restored_runner.sample()[0]
    assert torch.equal(a.actions, b.actions)
    assert torch.equal(steps_of_episodes(a), steps_of_episodes(b))
    env_runner.start_over()
    assert len(steps_of_episodes(env_runner.sample()[0])[:, 0].unique()) == 4


def test_games_that_end_early_are_staggered_too():
    social_dilemmas.register(COUNTDOWN)
    env_runner = runner(config(2, env="countdown_v0", players={"*": "ppo"}, games=50))
    (sample,) = env_runner.sample()
    assert 0 < int(sample.is_first[:, 0].sum()) < 50


def test_policies_are_trained_on_sampled_steps_only(build):
    algo = build(config(2))
    result = algo.train()
    assert result["num_env_steps_sampled_lifetime"] == 40
    assert result["learners"]["player_0"]["num_module_steps_trained"] == 40
