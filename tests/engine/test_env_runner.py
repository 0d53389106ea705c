"""Tests of env runners: columns of rollouts, random numbers, fragments, resets, and states."""

import pytest
import torch
from ray.rllib.core.columns import Columns

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.engine.rollout_batch import concatenate
from tests.helpers.rollouts import runner, sampling_config


def assert_equal(a, b):
    for name in ("actions", "rewards", "terminated", "truncated"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("state", "influence", "balance"):
        assert torch.equal(a.columns[name], b.columns[name]), name


def test_columns_match_the_game():
    (sample,) = runner(sampling_config()).sample()
    assert sample.env_steps() == 48
    assert sample.agent_steps() == 96
    game = social_dilemmas.make("ipd_v0", 8)
    obs = game.reset()
    for t in range(6):
        for index, agent in enumerate(game.agents):
            assert torch.equal(sample.modules[agent].steps[Columns.OBS][:, 0][:, t], obs[:, index])
            assert torch.equal(sample.modules[agent].steps[Columns.ACTIONS][:, 0][:, t], sample.actions[:, t, index])
        assert torch.equal(sample.columns["state"][:, t], game.state())
        step = game.step(sample.actions[:, t])
        assert torch.equal(sample.rewards[:, t], step.rewards)
        obs = step.obs
    assert torch.equal(sample.modules["player_1"].last["obs"][:, 0], obs[:, 1])
    assert sample.truncated[:, -1].all()
    assert not sample.truncated[:, :-1].any()


@pytest.mark.parametrize("env", ["ipd_v0", "coins_v0", "cleanup_v0"])
def test_sample_bytes_estimates_the_size_of_a_sample(env):
    a_config = sampling_config(env=env, games=64)
    (sample,) = runner(a_config).sample()
    joint = [sample.actions, sample.rewards, sample.terminated, sample.truncated, sample.is_first, sample.time_left]
    columns = [columns.steps for columns in sample.modules.values()] + [sample.columns, sample.outcomes]
    num_bytes = sum(values.nbytes for values in [*joint, *(values for part in columns for values in part.values())])
    assert 0.6 < a_config.sample_bytes() / num_bytes < 1.4


def test_log_probabilities_match_the_policy():
    env_runner = runner(sampling_config(observe_balance=True))
    (sample,) = env_runner.sample()
    for agent, columns in sample.modules.items():
        rows = {name: column.flatten(0, 2) for name, column in columns.steps.items()}
        module = env_runner.module[agent]
        inputs = module.forward_train(rows)[Columns.ACTION_DIST_INPUTS]
        log_probs = module.get_train_action_dist_cls().from_logits(inputs).logp(rows[Columns.ACTIONS])
        torch.testing.assert_close(log_probs, rows[Columns.ACTION_LOGP], atol=1e-6, rtol=0)


def test_seed_determines_the_samples():
    first, same_seed, other_seed = (runner(sampling_config(seed=seed)) for seed in (3, 3, 4))
    for _ in range(2):
        a, b, c = first.sample()[0], same_seed.sample()[0], other_seed.sample()[0]
        assert_equal(a, b)
        assert not torch.equal(a.actions, c.actions)
    assert not torch.equal(first.sample()[0].actions, first.sample()[0].actions)


def test_sampling_does_not_change_the_global_random_state():
    env_runner = runner(sampling_config())
    before = torch.get_rng_state()
    env_runner.sample()
    assert torch.equal(before, torch.get_rng_state())


def test_fragments_continue_episodes():
    a_config = sampling_config(balance_decay=1.0, reward="petty")
    env_runner = runner(a_config.env_runners(rollout_fragment_length=2, stagger_episodes=False))
    samples = [env_runner.sample()[0] for _ in range(3)]
    assert not samples[0].truncated.any()
    assert samples[2].truncated[:, -1].all()
    influence = torch.cat([sample.columns["influence"] for sample in samples], 1)
    expected = influence.cumsum(1) - influence
    torch.testing.assert_close(torch.cat([sample.columns["balance"] for sample in samples], 1), expected)
    assert (samples[1].columns["state"][:, 0] > 0).all()
    metrics = env_runner.get_metrics()
    total = torch.cat([sample.rewards for sample in samples], 1).sum(1)
    assert float(metrics["agent_episode_returns_mean"]["player_0"].peek()) == pytest.approx(float(total[:, 0].mean()))
    assert metrics["episode_len_mean"].peek() == 6


def test_state_is_restored_in_the_middle_of_an_episode():
    players = {"player_0": "reciprocator", "player_1": "scripted/grim_trigger"}
    configs = [sampling_config(players, balance_decay=0.5).env_runners(rollout_fragment_length=3) for _ in range(2)]
    env_runner, restored_runner = map(runner, configs)
    env_runner.sample()
    restored_runner.set_state(env_runner.get_state())
    assert_equal(env_runner.sample()[0], restored_runner.sample()[0])


def test_random_numbers_depend_on_the_version_of_the_weights():
    first, second = runner(sampling_config()), runner(sampling_config())
    state = {**first.get_state(components="rl_module"), "weights_seq_no": 5}
    first.sample()
    for env_runner in (first, second):
        env_runner.set_state(state)
    assert_equal(first.sample()[0], second.sample()[0])


def test_environments_that_end_early_are_reset(countdown):
    env_runner = runner(sampling_config({"*": "ppo"}, env="countdown_v0", games=64))
    (sample,) = env_runner.sample()
    ended = sample.terminated | sample.truncated
    obs = sample.modules["player_0"].steps[Columns.OBS][:, 0][..., 0]
    initial_obs = obs[:, 1:][ended[:, :-1]]
    assert len(initial_obs) > 0
    assert (initial_obs >= 2).all()
    continues = ~ended[:, :-1]
    expected = obs[:, :-1] - 1 - sample.actions[:, :-1, 0]
    assert torch.equal(obs[:, 1:][continues], expected[continues])

    # Computes returns one episode after the other.
    returns = []
    for env_index in range(64):
        total = 0.0
        for t in range(6):
            total += float(sample.rewards[env_index, t, 1])
            if ended[env_index, t]:
                returns.append(total)
                total = 0.0
    metrics = env_runner.get_metrics()
    assert metrics["num_episodes"].peek() == len(returns)
    mean = float(metrics["agent_episode_returns_mean"]["player_1"].peek())
    assert mean == pytest.approx(sum(returns) / len(returns))


def test_rows_are_ordered_by_environment():
    env_runner = runner(sampling_config())
    samples = env_runner.sample(num_episodes=16)
    assert [sample.env_steps() for sample in samples] == [48, 48]
    whole = concatenate(samples)
    assert set(whole.modules) == {"player_0", "player_1"}
    observations = whole.modules["player_1"].steps[Columns.OBS].flatten(0, 2)
    for b, t in ((0, 0), (3, 5), (8, 1), (15, 5)):
        sample = samples[b // 8]
        assert torch.equal(whole.actions[b, t], sample.actions[b % 8, t])
        assert torch.equal(observations[b * 6 + t], sample.modules["player_1"].steps[Columns.OBS][b % 8, 0, t])


def test_greedy_samples_are_deterministic():
    env_runner = runner(sampling_config())
    a, b = env_runner.sample(explore=False, force_reset=True)[0], env_runner.sample(explore=False, force_reset=True)[0]
    assert torch.equal(a.actions, b.actions)


def test_replaced_buffers_are_copied_to_the_env_runner(build):
    """Uses the influence table, which is a new tensor after each update."""
    algo = build(ReciprocatorConfig().environment("ipd_v0").env_runners(num_envs_per_env_runner=8).debugging(seed=1))
    for _ in range(3):
        algo.train()
        learner = algo.learner_group._learner
        for module_id, module in algo.env_runner.module.items():
            learner_state = learner.module[module_id].unwrapped().state_dict()
            for name, value in module.state_dict().items():
                assert torch.equal(value, learner_state[name]), f"{module_id}/{name}"
