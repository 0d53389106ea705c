import math

import pytest
import torch
from ray.rllib.core.columns import Columns
from rllib_reciprocator.engine.sample import JOINT, STREAMS_PREFIX, concatenate

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.engine import BatchedEnvRunner
from rllib_reciprocator.engine.metrics import social_outcomes
from rllib_reciprocator.intrinsic.reciprocity import REWARDS, balance
from rllib_reciprocator.models import BALANCE
from tests.helpers.games import COUNTDOWN


def config(players=None, env="ipd_v0", games=8, seed=3, **reciprocity):
    return (
        ReciprocatorConfig()
        .environment(env, env_config={"num_steps": 6})
        .players(players or {"*": "reciprocator"})
        .reciprocity(**reciprocity)
        .env_runners(num_envs_per_env_runner=games)
        .debugging(seed=seed)
    )


def runner(built):
    built.validate()
    return BatchedEnvRunner(config=built, worker_index=0)


def assert_equal(a, b):
    for name in ("state", "actions", "rewards", "influence", "balance", "terminated", "truncated"):
        assert torch.equal(a.joint[name], b.joint[name]), name


def test_columns_match_the_game():
    (sample,) = runner(config()).sample()
    assert sample.env_steps() == 48
    assert sample.agent_steps() == 96
    game = social_dilemmas.make("ipd_v0", 8)
    obs = game.reset()
    for t in range(6):
        for index, agent in enumerate(game.agents):
            assert torch.equal(sample.modules[agent][Columns.OBS][:, 0][:, t], obs[:, index])
            assert torch.equal(sample.modules[agent][Columns.ACTIONS][:, 0][:, t], sample.joint["actions"][:, t, index])
        assert torch.equal(sample.joint["state"][:, t], game.state())
        step = game.step(sample.joint["actions"][:, t])
        assert torch.equal(sample.rewards[:, t], step.rewards)
        obs = step.obs
    assert torch.equal(sample.streams["player_1"]["last/obs"][:, 0], obs[:, 1])
    assert sample.joint["truncated"][:, -1].all()
    assert not sample.joint["truncated"][:, :-1].any()


def test_episodes_start_with_the_initial_balance():
    """Expects the initial balance of a Reciprocator, which then follows the usual update. Naive learners have none."""
    players = {"player_0": "reciprocator", "player_1": "ppo"}
    a_config = config(players, env="coins_v0", reward="petty_payoff", balance_decay=0.5, initial_balance=3.0)
    a_config.env_runners(rollout_fragment_length=12)
    (sample,) = runner(a_config).sample()
    before, influence = sample.joint["balance"], sample.joint["influence"]
    initial = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    for first in (0, 6):
        assert (before[:, first] == initial).all()
        expected = 0.5 * initial + influence[:, first] - influence[:, first].transpose(1, 2)
        torch.testing.assert_close(before[:, first + 1], expected)


@pytest.mark.parametrize("env", ["ipd_v0", "coins_v0", "cleanup_v0"])
def test_sample_bytes_estimates_the_size_of_a_sample(env):
    a_config = config(env=env, games=64)
    (sample,) = runner(a_config).sample()
    columns = [*sample.modules.values(), sample.joint, sample.outcomes]
    num_bytes = sum(values.nbytes for part in columns for values in part.values())
    assert 0.6 < a_config.sample_bytes() / num_bytes < 1.4


@pytest.mark.parametrize("rule", REWARDS)
def test_balance_during_sampling_matches_that_of_whole_episodes(rule):
    (sample,) = runner(config(reward=rule, balance_decay=0.9)).sample()
    starts = torch.zeros(6, 8, dtype=torch.bool)
    starts[0] = True
    whole = balance(sample.joint["influence"].transpose(0, 1), REWARDS[rule], 0.9, starts)
    torch.testing.assert_close(sample.joint["balance"].transpose(0, 1), whole)
    assert sample.joint["balance"][:, 1:].abs().sum() > 0


def test_reciprocators_observe_their_balance_and_naive_learners_do_not():
    a_config = config(
        {"player_0": "reciprocator", "player_*": "ppo"}, env="public_goods_v0", observe_balance=True, reward="petty"
    )
    a_config.environment(env_config={"num_agents": 3, "num_steps": 6})
    (sample,) = runner(a_config).sample()
    assert BALANCE not in sample.modules["player_1"]
    torch.testing.assert_close(sample.modules["player_0"][BALANCE][:, 0], sample.joint["balance"][:, :, [1, 2], 0])


def test_log_probabilities_match_the_policy():
    env_runner = runner(config(observe_balance=True))
    (sample,) = env_runner.sample()
    for agent, columns in sample.modules.items():
        rows = {name: column.flatten(0, 2) for name, column in columns.items()}
        module = env_runner.module[agent]
        inputs = module.forward_train(rows)[Columns.ACTION_DIST_INPUTS]
        log_probs = module.get_train_action_dist_cls().from_logits(inputs).logp(rows[Columns.ACTIONS])
        torch.testing.assert_close(log_probs, rows[Columns.ACTION_LOGP], atol=1e-6, rtol=0)


def test_seed_determines_the_samples():
    first, same_seed, other_seed = (runner(config(seed=seed)) for seed in (3, 3, 4))
    for _ in range(2):
        a, b, c = first.sample()[0], same_seed.sample()[0], other_seed.sample()[0]
        assert_equal(a, b)
        assert not torch.equal(a.joint["actions"], c.joint["actions"])
    assert not torch.equal(first.sample()[0].joint["actions"], first.sample()[0].joint["actions"])


def test_sampling_does_not_change_the_global_random_state():
    env_runner = runner(config())
    before = torch.get_rng_state()
    env_runner.sample()
    assert torch.equal(before, torch.get_rng_state())


def test_fragments_continue_episodes():
    a_config = config(balance_decay=1.0, reward="petty")
    env_runner = runner(a_config.env_runners(rollout_fragment_length=2, stagger_episodes=False))
    samples = [env_runner.sample()[0] for _ in range(3)]
    assert not samples[0].joint["truncated"].any()
    assert samples[2].joint["truncated"][:, -1].all()
    influence = torch.cat([sample.joint["influence"] for sample in samples], 1)
    expected = influence.cumsum(1) - influence
    torch.testing.assert_close(torch.cat([sample.joint["balance"] for sample in samples], 1), expected)
    assert (samples[1].joint["state"][:, 0] > 0).all()
    metrics = env_runner.get_metrics()
    total = torch.cat([sample.rewards for sample in samples], 1).sum(1)
    assert float(metrics["agent_episode_returns_mean"]["player_0"].peek()) == pytest.approx(float(total[:, 0].mean()))
    assert metrics["episode_len_mean"].peek() == 6


def test_state_is_restored_in_the_middle_of_an_episode():
    players = {"player_0": "reciprocator", "player_1": "scripted/grim_trigger"}
    configs = [config(players, balance_decay=0.5).env_runners(rollout_fragment_length=3) for _ in range(2)]
    env_runner, restored_runner = map(runner, configs)
    env_runner.sample()
    restored_runner.set_state(env_runner.get_state())
    assert_equal(env_runner.sample()[0], restored_runner.sample()[0])


def test_random_numbers_depend_on_the_version_of_the_weights():
    first, second = runner(config()), runner(config())
    state = {**first.get_state(components="rl_module"), "weights_seq_no": 5}
    first.sample()
    for env_runner in (first, second):
        env_runner.set_state(state)
    assert_equal(first.sample()[0], second.sample()[0])


@pytest.fixture
def countdown():
    social_dilemmas.register(COUNTDOWN)


def test_environments_that_end_early_are_reset(countdown):
    env_runner = runner(config({"*": "ppo"}, env="countdown_v0", games=64))
    (sample,) = env_runner.sample()
    ended = sample.joint["terminated"] | sample.joint["truncated"]
    obs = sample.modules["player_0"][Columns.OBS][:, 0][..., 0]
    initial_obs = obs[:, 1:][ended[:, :-1]]
    assert len(initial_obs) > 0
    assert (initial_obs >= 2).all()
    continues = ~ended[:, :-1]
    expected = obs[:, :-1] - 1 - sample.joint["actions"][:, :-1, 0]
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
    env_runner = runner(config())
    samples = env_runner.sample(num_episodes=16)
    assert [sample.env_steps() for sample in samples] == [48, 48]
    concatenated = concatenate(samples)
    batch = concatenated.to_batch().policy_batches
    assert set(batch) == {JOINT, "player_0", "player_1", STREAMS_PREFIX + "player_0", STREAMS_PREFIX + "player_1"}
    for b, t in ((0, 0), (3, 5), (8, 1), (15, 5)):
        assert torch.equal(batch[JOINT]["actions"][b * 6 + t], samples[b // 8].joint["actions"][b % 8, t])
        assert torch.equal(
            batch["player_1"][Columns.OBS][b * 6 + t], samples[b // 8].modules["player_1"][Columns.OBS][b % 8, 0, t]
        )


def test_greedy_samples_are_deterministic():
    env_runner = runner(config())
    a, b = env_runner.sample(explore=False, force_reset=True)[0], env_runner.sample(explore=False, force_reset=True)[0]
    assert torch.equal(a.joint["actions"], b.joint["actions"])


def test_metrics_of_scripted_players_by_hand():
    env_runner = runner(config({"player_0": "ppo", "player_1": "scripted/always_defect"}, games=4))
    (sample,) = env_runner.sample()
    metrics = env_runner.get_metrics()
    rate = float((sample.joint["actions"][..., 0] == 0).float().mean())
    assert metrics["outcomes"]["player_0"]["cooperation_rate"].peek() == pytest.approx(rate)
    assert metrics["outcomes"]["player_1"]["cooperation_rate"].peek() == 0.0
    assert metrics["social"]["efficiency"].peek() == pytest.approx(float(sample.rewards.sum(-1).mean()), rel=1e-5)
    assert "influence" not in metrics


def test_influence_metrics_by_ordered_pair():
    env_runner = runner(config({"player_0": "reciprocator", "player_1": "scripted/random"}))
    (sample,) = env_runner.sample()
    metrics = env_runner.get_metrics()
    assert metrics["influence"]["player_0_on_player_1"].peek() == pytest.approx(
        float(sample.joint["influence"][..., 0, 1].mean()), abs=1e-6
    )
    assert metrics["balance"]["player_0_towards_player_1"].peek() == pytest.approx(
        float(sample.joint["balance"][..., 1, 0].mean()), abs=1e-6
    )


@pytest.mark.parametrize("env", ["coins_v0", "public_goods_v0"])
def test_observed_balance_equals_that_of_the_reward(env):
    """Compares the observed balance with the one that the reciprocal reward is computed from."""
    players = {"player_0": "reciprocator", "player_*": "scripted/random"}
    a_config = config(players, env=env, observe_balance=True, influence="reward", balance_decay=0.9)
    a_config.environment(env_config={"num_agents": 3, "num_steps": 6} | ({"grid_size": 4} if env == "coins_v0" else {}))
    (sample,) = runner(a_config).sample()
    policy_balance = sample.modules["player_0"][BALANCE][:, 0]
    torch.testing.assert_close(policy_balance, sample.joint["balance"][:, :, [1, 2], 0])
    expected = 0.9 * sample.joint["balance"][:, :-1] + sample.joint["influence"][:, :-1]
    if env == "coins_v0":
        expected = expected - sample.joint["given"][:, :-1].transpose(-1, -2)
    torch.testing.assert_close(sample.joint["balance"][:, 1:], expected)
    assert policy_balance.abs().sum() > 0


def test_players_have_individual_balance_settings():
    """Uses different reward rules and decays for two players with a common estimator."""
    players = {
        "player_0": {"player": "reciprocator", "intrinsic": {"reciprocity": {"reward": "petty_payoff"}}},
        "player_1": {"player": "ppo", "intrinsic": {"reciprocity": {"balance_decay": 0.5, "observe_balance": True}}},
    }
    (sample,) = runner(config(players, reward="petty", balance_decay=0.9)).sample()
    starts = torch.zeros(6, 8, dtype=torch.bool)
    starts[0] = True
    influence = sample.joint["influence"].transpose(0, 1)
    for agent, rule, decay in ((0, "petty_payoff", 0.9), (1, "petty", 0.5)):
        whole = balance(influence, REWARDS[rule], decay, starts)
        torch.testing.assert_close(sample.joint["balance"].transpose(0, 1)[..., agent], whole[..., agent])
    assert BALANCE in sample.modules["player_1"]
    assert BALANCE not in sample.modules["player_0"]


def test_individual_estimator_settings_raise():
    players = {"*": {"player": "ppo", "intrinsic": {"reciprocity": {"estimator_lr": 0.1}}}}
    with pytest.raises(ValueError, match=r"players.player_0.intrinsic.reciprocity.estimator_lr: is shared by all"):
        config(players).validate()
    players = {"*": {"player": "ppo", "intrinsic": {"reciprocity": {"balance_decay": 2.0}}}}
    with pytest.raises(ValueError, match=r"players.player_0.intrinsic.reciprocity.balance_decay: .*less than or equal"):
        config(players).validate()


@pytest.mark.parametrize("fragment", [2, 3, 5])
def test_mean_episode_length_does_not_depend_on_fragments(countdown, fragment):
    """Compares with the expected length of an episode: long episodes are counted although fragments are shorter."""
    a_config = config({"*": "ppo"}, env="countdown_v0", games=500).env_runners(rollout_fragment_length=fragment)
    a_config.environment(env_config={"num_steps": 12})
    env_runner = runner(a_config)
    lengths, episodes = [], []
    for _ in range(120 // fragment):
        env_runner.sample()
        metrics = env_runner.get_metrics()
        if "num_episodes" in metrics and metrics["num_episodes"].peek():
            episodes.append(metrics["num_episodes"].peek())
            lengths.append(float(metrics["episode_len_mean"].peek()))
    steps = [0.0, 1.0]
    for count in range(2, 12):
        steps.append(1 + 0.5 * steps[count - 1] + 0.5 * steps[count - 2])
    mean = sum(a * b for a, b in zip(lengths, episodes, strict=True)) / sum(episodes)
    # Untrained policies hurry in about half of the steps.
    assert mean == pytest.approx(sum(steps[2:]) / 10, rel=0.12)


def test_social_outcomes_are_reported_if_defined():
    assert social_outcomes(torch.tensor([0.5, -0.5]), lowest=-1.0) == {"efficiency": 0.0, "reward_gap": 1.0}
    outcomes = social_outcomes(torch.tensor([3.0, 1.0]), lowest=0.0)
    # The Gini coefficient is |3 - 1|, counted twice, divided by 2 * N * sum: 4 / 16.
    assert outcomes == {"efficiency": 4.0, "reward_gap": 2.0, "equality": 0.75}
    assert social_outcomes(torch.zeros(3), lowest=0.0)["equality"] == 1.0
    assert social_outcomes(torch.tensor([0.0, 0.0, 9.0]), lowest=0.0)["equality"] == pytest.approx(1 / 3)


def test_reward_per_step_is_that_of_the_fragment():
    env_runner = runner(config({"*": "ppo"}).env_runners(rollout_fragment_length=4))
    for _ in range(3):
        (sample,) = env_runner.sample()
        rewards_per_step = env_runner.get_metrics()["reward_per_step"]
        for index, agent in enumerate(("player_0", "player_1")):
            assert rewards_per_step[agent].peek() == pytest.approx(float(sample.rewards[..., index].mean()), abs=1e-5)


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


def test_inner_episodes_are_numbered_from_the_start_of_the_meta_episode(build):
    """Uses rollouts of one inner episode, after which the online learner is updated."""
    players = {"player_0": "ppo", "player_1": "learner/pg"}
    a_config = ReciprocatorConfig().environment("ipd_v0", env_config={"num_steps": 4})
    a_config.players(players).meta(inner_episodes=3, copies=4)
    algo = build(a_config.env_runners(num_envs_per_env_runner=16).debugging(seed=1))
    numbers = []
    for _ in range(7):
        rates = algo.train()["env_runners"]["inner_episodes"]["player_0"]["cooperation_rate"]
        (number,) = (int(key) for key, value in rates.items() if math.isfinite(value))
        numbers.append(number)
    assert numbers == [0, 1, 2, 0, 1, 2, 0]
