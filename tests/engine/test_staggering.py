"""Environments whose fragments are shorter than episodes are at different steps of these."""

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
    """The number of steps of the episode before each step, ``[B, T]``."""
    return ((1.0 - sample.joint["time_left"]) * HORIZON).round().long()


@pytest.mark.parametrize("fragment", [2, 3, 5, 9])
def test_every_sample_has_steps_of_all_parts_of_an_episode(fragment):
    one = runner(config(fragment))
    phases = -(-HORIZON // fragment)
    for _ in range(7):
        (sample,) = one.sample()
        steps = steps_of_episodes(sample)
        assert len(steps[:, 0].unique()) == phases
        if HORIZON % fragment == 0:
            assert steps.unique().tolist() == list(range(HORIZON))
            assert all(len(part.unique()) == HORIZON for part in steps.chunk(2))  # and for each of two learners
        assert torch.equal(sample.joint["is_first"], steps == 0)
        assert torch.equal(sample.joint["truncated"], steps == HORIZON - 1)


def test_environments_begin_in_phase_where_that_is_asked_for_or_fragments_are_episodes():
    for built in (config(2, stagger_episodes=False), config(HORIZON), config("auto"), config(2 * HORIZON)):
        (sample,) = runner(built).sample()
        assert sample.joint["is_first"][:, 0].all()
        assert len(steps_of_episodes(sample)[:, 0].unique()) == 1


def test_environments_of_several_runners_share_the_phases():
    """With fewer environments than phases, as far apart as they can be."""
    starts = []
    for worker_index in (1, 2):
        (sample,) = runner(config(1, games=2, runners=2), worker_index).sample()
        starts += steps_of_episodes(sample)[:, 0].tolist()
    assert starts == [0, 2, 5, 7]


def test_steps_before_the_start_are_not_counted():
    one = runner(config(2))
    for _ in range(10):
        (sample,) = one.sample()
        metrics = one.get_metrics()
        assert sample.env_steps() == 40
        assert metrics["num_env_steps_sampled"].peek() == 40
        assert metrics["num_episodes"].peek() == 4
        assert metrics["episode_len_mean"].peek() == HORIZON


def test_returns_are_sums_over_the_whole_episode():
    one = runner(config(2, games=5))
    samples, returns = [], []
    for _ in range(10):
        samples.append(one.sample()[0])
        returns.append(float(one.get_metrics()["agent_episode_returns_mean"]["player_0"].peek()))
    rewards = torch.cat([sample.rewards[..., 0] for sample in samples], 1)
    ended = torch.cat([sample.ended for sample in samples], 1)
    for number in range(5, 10):
        # One environment ends an episode in each fragment; this one began within what was sampled.
        (environment, last), *others = ended[:, 2 * number : 2 * number + 2].nonzero().tolist()
        assert not others
        end = 2 * number + last + 1
        assert returns[number] == pytest.approx(float(rewards[environment, end - HORIZON : end].sum()), abs=1e-4)


def test_a_resumed_run_keeps_its_phases_and_an_error_gives_new_ones():
    one, other = runner(config(3)), runner(config(3))
    one.sample()
    other.set_state(one.get_state())
    a, b = one.sample()[0], other.sample()[0]
    assert torch.equal(a.joint["actions"], b.joint["actions"])
    assert torch.equal(steps_of_episodes(a), steps_of_episodes(b))
    one.start_over()
    assert len(steps_of_episodes(one.sample()[0])[:, 0].unique()) == 4


def test_games_that_end_early_are_staggered_too():
    social_dilemmas.register(COUNTDOWN)
    one = runner(config(2, env="countdown_v0", players={"*": "ppo"}, games=50))
    (sample,) = one.sample()
    assert 0 < int(sample.joint["is_first"][:, 0].sum()) < 50


def test_policies_are_trained_on_what_was_sampled_alone(build):
    algo = build(config(2))
    result = algo.train()
    assert result["num_env_steps_sampled_lifetime"] == 40
    assert result["learners"]["player_0"]["num_module_steps_trained"] == 40
