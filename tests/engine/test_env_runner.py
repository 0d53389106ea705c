import math

import pytest
import torch
from ray.rllib.core.columns import Columns

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.engine import BatchedEnvRunner
from rllib_reciprocator.engine.metrics import social_outcomes
from rllib_reciprocator.engine.sample import JOINT, STREAMS_PREFIX, concatenate
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


def test_columns_are_those_of_the_game():
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
    """Of Reciprocators, towards each other; then it decays and moves as any. Naive learners have none."""
    players = {"player_0": "reciprocator", "player_1": "ppo"}
    built = config(players, env="coins_v0", reward="petty_payoff", balance_decay=0.5, initial_balance=3.0)
    built.env_runners(rollout_fragment_length=12)
    (sample,) = runner(built).sample()
    before, influence = sample.joint["balance"], sample.joint["influence"]
    initial = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    for first in (0, 6):
        assert (before[:, first] == initial).all()
        moved = 0.5 * initial + influence[:, first] - influence[:, first].transpose(1, 2)
        torch.testing.assert_close(before[:, first + 1], moved)


@pytest.mark.parametrize("env", ["ipd_v0", "coins_v0", "cleanup_v0"])
def test_a_sample_is_about_as_large_as_it_is_said_to_be(env):
    built = config(env=env, games=64)
    (sample,) = runner(built).sample()
    columns = [*sample.modules.values(), sample.joint, sample.outcomes]
    held = sum(values.nbytes for each in columns for values in each.values())
    assert 0.6 < built.sample_bytes() / held < 1.4


@pytest.mark.parametrize("rule", REWARDS)
def test_balance_while_acting_is_the_balance_of_the_whole(rule):
    (sample,) = runner(config(reward=rule, balance_decay=0.9)).sample()
    starts = torch.zeros(6, 8, dtype=torch.bool)
    starts[0] = True
    whole = balance(sample.joint["influence"].transpose(0, 1), REWARDS[rule], 0.9, starts)
    torch.testing.assert_close(sample.joint["balance"].transpose(0, 1), whole)
    assert sample.joint["balance"][:, 1:].abs().sum() > 0


def test_a_reciprocator_sees_its_balance_and_a_naive_learner_does_not():
    built = config(
        {"player_0": "reciprocator", "player_*": "ppo"}, env="public_goods_v0", observe_balance=True, reward="petty"
    )
    built.environment(env_config={"num_agents": 3, "num_steps": 6})
    (sample,) = runner(built).sample()
    assert BALANCE not in sample.modules["player_1"]
    torch.testing.assert_close(sample.modules["player_0"][BALANCE][:, 0], sample.joint["balance"][:, :, [1, 2], 0])


def test_log_probabilities_are_those_of_the_policy():
    one = runner(config(observe_balance=True))
    (sample,) = one.sample()
    for agent, columns in sample.modules.items():
        rows = {name: column.flatten(0, 2) for name, column in columns.items()}
        module = one.module[agent]
        inputs = module.forward_train(rows)[Columns.ACTION_DIST_INPUTS]
        again = module.get_train_action_dist_cls().from_logits(inputs).logp(rows[Columns.ACTIONS])
        torch.testing.assert_close(again, rows[Columns.ACTION_LOGP], atol=1e-6, rtol=0)


def test_the_same_seed_gives_the_same_samples_and_another_gives_others():
    first, again, other = (runner(config(seed=seed)) for seed in (3, 3, 4))
    for _ in range(2):
        a, b, c = first.sample()[0], again.sample()[0], other.sample()[0]
        assert_equal(a, b)
        assert not torch.equal(a.joint["actions"], c.joint["actions"])
    assert not torch.equal(first.sample()[0].joint["actions"], first.sample()[0].joint["actions"])


def test_sampling_leaves_global_randomness_alone():
    one = runner(config())
    before = torch.get_rng_state()
    one.sample()
    assert torch.equal(before, torch.get_rng_state())


def test_fragments_carry_on_with_the_episode():
    built = config(balance_decay=1.0, reward="petty")
    one = runner(built.env_runners(rollout_fragment_length=2, stagger_episodes=False))
    parts = [one.sample()[0] for _ in range(3)]
    assert not parts[0].joint["truncated"].any()
    assert parts[2].joint["truncated"][:, -1].all()
    influence = torch.cat([part.joint["influence"] for part in parts], 1)
    expected = influence.cumsum(1) - influence
    torch.testing.assert_close(torch.cat([part.joint["balance"] for part in parts], 1), expected)
    assert (parts[1].joint["state"][:, 0] > 0).all()
    metrics = one.get_metrics()
    total = torch.cat([part.rewards for part in parts], 1).sum(1)
    assert float(metrics["agent_episode_returns_mean"]["player_0"].peek()) == pytest.approx(float(total[:, 0].mean()))
    assert metrics["episode_len_mean"].peek() == 6


def test_state_in_the_middle_of_an_episode_goes_on_elsewhere():
    players = {"player_0": "reciprocator", "player_1": "scripted/grim_trigger"}
    built = [config(players, balance_decay=0.5).env_runners(rollout_fragment_length=3) for _ in range(2)]
    one, other = map(runner, built)
    one.sample()
    other.set_state(one.get_state())
    assert_equal(one.sample()[0], other.sample()[0])


def test_new_weights_give_new_randomness_and_the_same_weights_the_same():
    one, other = runner(config()), runner(config())
    state = {**one.get_state(components="rl_module"), "weights_seq_no": 5}
    one.sample()
    for each in (one, other):
        each.set_state(state)
    assert_equal(one.sample()[0], other.sample()[0])


@pytest.fixture
def countdown():
    social_dilemmas.register(COUNTDOWN)


def test_games_that_end_early_start_again_by_themselves(countdown):
    one = runner(config({"*": "ppo"}, env="countdown_v0", games=64))
    (sample,) = one.sample()
    ended = sample.joint["terminated"] | sample.joint["truncated"]
    obs = sample.modules["player_0"][Columns.OBS][:, 0][..., 0]
    fresh = obs[:, 1:][ended[:, :-1]]
    assert len(fresh) > 0
    assert (fresh >= 2).all()
    continued = ~ended[:, :-1]
    went_down = obs[:, :-1] - 1 - sample.joint["actions"][:, :-1, 0]
    assert torch.equal(obs[:, 1:][continued], went_down[continued])

    # Returns, by hand, one episode after the other.
    returns = []
    for copy in range(64):
        total = 0.0
        for t in range(6):
            total += float(sample.rewards[copy, t, 1])
            if ended[copy, t]:
                returns.append(total)
                total = 0.0
    metrics = one.get_metrics()
    assert metrics["num_episodes"].peek() == len(returns)
    mean = float(metrics["agent_episode_returns_mean"]["player_1"].peek())
    assert mean == pytest.approx(sum(returns) / len(returns))


def test_rows_keep_games_whole():
    one = runner(config())
    samples = one.sample(num_episodes=16)
    assert [sample.env_steps() for sample in samples] == [48, 48]
    both = concatenate(samples)
    batch = both.to_batch().policy_batches
    assert set(batch) == {JOINT, "player_0", "player_1", STREAMS_PREFIX + "player_0", STREAMS_PREFIX + "player_1"}
    for b, t in ((0, 0), (3, 5), (8, 1), (15, 5)):
        assert torch.equal(batch[JOINT]["actions"][b * 6 + t], samples[b // 8].joint["actions"][b % 8, t])
        assert torch.equal(
            batch["player_1"][Columns.OBS][b * 6 + t], samples[b // 8].modules["player_1"][Columns.OBS][b % 8, 0, t]
        )


def test_greedy_players_take_the_likeliest_action():
    one = runner(config())
    a, b = one.sample(explore=False, force_reset=True)[0], one.sample(explore=False, force_reset=True)[0]
    assert torch.equal(a.joint["actions"], b.joint["actions"])


def test_metrics_of_scripted_players_by_hand():
    one = runner(config({"player_0": "ppo", "player_1": "scripted/always_defect"}, games=4))
    (sample,) = one.sample()
    metrics = one.get_metrics()
    rate = float((sample.joint["actions"][..., 0] == 0).float().mean())
    assert metrics["outcomes"]["player_0"]["cooperation_rate"].peek() == pytest.approx(rate)
    assert metrics["outcomes"]["player_1"]["cooperation_rate"].peek() == 0.0
    assert metrics["social"]["efficiency"].peek() == pytest.approx(float(sample.rewards.sum(-1).mean()), rel=1e-5)
    assert "influence" not in metrics


def test_influence_metrics_by_ordered_pair():
    one = runner(config({"player_0": "reciprocator", "player_1": "scripted/random"}))
    (sample,) = one.sample()
    metrics = one.get_metrics()
    assert metrics["influence"]["player_0_on_player_1"].peek() == pytest.approx(
        float(sample.joint["influence"][..., 0, 1].mean()), abs=1e-6
    )
    assert metrics["balance"]["player_0_towards_player_1"].peek() == pytest.approx(
        float(sample.joint["balance"][..., 1, 0].mean()), abs=1e-6
    )


@pytest.mark.parametrize("env", ["coins_v0", "public_goods_v0"])
def test_the_balance_beside_scripted_players_is_the_one_that_is_paid_by(env):
    """What the policy sees is what the reward is made of."""
    players = {"player_0": "reciprocator", "player_*": "scripted/random"}
    built = config(players, env=env, observe_balance=True, influence="reward", balance_decay=0.9)
    built.environment(env_config={"num_agents": 3, "num_steps": 6} | ({"grid_size": 4} if env == "coins_v0" else {}))
    (sample,) = runner(built).sample()
    shown = sample.modules["player_0"][BALANCE][:, 0]
    torch.testing.assert_close(shown, sample.joint["balance"][:, :, [1, 2], 0])
    moved = 0.9 * sample.joint["balance"][:, :-1] + sample.joint["influence"][:, :-1]
    if env == "coins_v0":
        moved = moved - sample.joint["given"][:, :-1].transpose(-1, -2)
    torch.testing.assert_close(sample.joint["balance"][:, 1:], moved)
    assert shown.abs().sum() > 0


def test_players_of_one_run_keep_balances_of_their_own():
    """Another rule and another decay for one of two, from one estimator."""
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


def test_settings_of_the_estimator_are_one_for_all():
    players = {"*": {"player": "ppo", "intrinsic": {"reciprocity": {"estimator_lr": 0.1}}}}
    with pytest.raises(ValueError, match=r"players.player_0.intrinsic.reciprocity.estimator_lr: is shared by all"):
        config(players).validate()
    players = {"*": {"player": "ppo", "intrinsic": {"reciprocity": {"balance_decay": 2.0}}}}
    with pytest.raises(ValueError, match=r"players.player_0.intrinsic.reciprocity.balance_decay: .*less than or equal"):
        config(players).validate()


@pytest.mark.parametrize("fragment", [2, 3, 5])
def test_episodes_of_any_length_count_when_they_end(countdown, fragment):
    """The mean length is that of the game, however short samples are: long episodes are not lost."""
    built = config({"*": "ppo"}, env="countdown_v0", games=500).env_runners(rollout_fragment_length=fragment)
    built.environment(env_config={"num_steps": 12})
    one = runner(built)
    lengths, episodes = [], []
    for _ in range(120 // fragment):
        one.sample()
        metrics = one.get_metrics()
        if "num_episodes" in metrics and metrics["num_episodes"].peek():
            episodes.append(metrics["num_episodes"].peek())
            lengths.append(float(metrics["episode_len_mean"].peek()))
    steps = [0.0, 1.0]
    for left in range(2, 12):
        steps.append(1 + 0.5 * steps[left - 1] + 0.5 * steps[left - 2])
    mean = sum(a * b for a, b in zip(lengths, episodes, strict=True)) / sum(episodes)
    # Players are untrained, and hurry about half of the time.
    assert mean == pytest.approx(sum(steps[2:]) / 10, rel=0.12)


def test_social_outcomes_are_told_where_they_are_defined():
    assert social_outcomes(torch.tensor([0.5, -0.5]), lowest=-1.0) == {"efficiency": 0.0, "reward_gap": 1.0}
    found = social_outcomes(torch.tensor([3.0, 1.0]), lowest=0.0)
    # Gini: |3 - 1| counted twice over 2 * N * sum = 4 / 16.
    assert found == {"efficiency": 4.0, "reward_gap": 2.0, "equality": 0.75}
    assert social_outcomes(torch.zeros(3), lowest=0.0)["equality"] == 1.0
    assert social_outcomes(torch.tensor([0.0, 0.0, 9.0]), lowest=0.0)["equality"] == pytest.approx(1 / 3)


def test_the_reward_of_a_step_does_not_depend_on_where_samples_end():
    one = runner(config({"*": "ppo"}).env_runners(rollout_fragment_length=4))
    for _ in range(3):
        (sample,) = one.sample()
        told = one.get_metrics()["reward_per_step"]
        for index, agent in enumerate(("player_0", "player_1")):
            assert told[agent].peek() == pytest.approx(float(sample.rewards[..., index].mean()), abs=1e-5)


def test_what_a_learner_puts_in_the_place_of_buffers_is_copied_too(build):
    """The table of influence is a new tensor after each update."""
    algo = build(ReciprocatorConfig().environment("ipd_v0").env_runners(num_envs_per_env_runner=8).debugging(seed=1))
    for _ in range(3):
        algo.train()
        learner = algo.learner_group._learner
        for module_id, module in algo.env_runner.module.items():
            learned = learner.module[module_id].unwrapped().state_dict()
            for name, value in module.state_dict().items():
                assert torch.equal(value, learned[name]), f"{module_id}/{name}"


def test_inner_episodes_are_numbered_from_the_start_of_the_meta_episode(build):
    """A rollout is one inner episode here, after which the online learner learns."""
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
