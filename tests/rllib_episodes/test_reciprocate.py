import time

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.tune import register_env

from rllib_reciprocator import ReciprocatorConfig, reciprocate
from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.intrinsic.reciprocity import balance, reciprocal_reward
from rllib_reciprocator.players import STRATEGIES, ScriptedModule
from rllib_reciprocator.rllib_episodes.influence import influence_of
from rllib_reciprocator.rllib_episodes.influence_callback import EpisodeInfluenceCallback
from rllib_reciprocator.rllib_episodes.reciprocal_rewards import INTRINSIC_REWARD
from rllib_reciprocator.rllib_episodes.rewards_callback import RewardPerStepCallback
from tests.helpers.multi_agent_envs import ComeAndGo, Mixed, own_policy, team_policy

AGENTS = ("stays", "early", "late")
SAMPLED = "num_env_steps_sampled"


@pytest.fixture(autouse=True)
def environments():
    register_env("come_and_go", ComeAndGo)
    register_env("mixed", Mixed)


def plain(kind=PPOConfig, env="come_and_go", agents=AGENTS, fragment=5, envs=2, env_config=None):
    config = (
        kind()
        .environment(env, env_config=env_config or {})
        .multi_agent(policies=list(agents), policy_mapping_fn=own_policy)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=envs, rollout_fragment_length=fragment)
        .training(train_batch_size_per_learner=fragment * envs * 4)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .debugging(seed=1)
    )
    return config.training(minibatch_size=10, num_epochs=2) if kind is PPOConfig else config


def config(players=None, *, horizon=7, **settings):
    kept = {
        name: settings.pop(name) for name in ("kind", "env", "agents", "fragment", "env_config") if name in settings
    }
    defaults = {"weight": 0.5, "balance_decay": 0.9, "estimator_minibatch_size": 16}
    return reciprocate(plain(**kept), players, horizon=horizon, **{**defaults, **settings})


def runner(a_config):
    a_config.validate()
    return MultiAgentEnvRunner(config=a_config, worker_index=0)


def takes_turns_of_actions(module, batch, **kwargs):
    """Actions without probabilities that differ from step to step, and from one episode to the next."""
    module.played = getattr(module, "played", 0) + 1
    return {Columns.ACTIONS: (torch.arange(len(batch[Columns.OBS])) + module.played) % 3}


def in_order(chunks):
    """Chunks by episode, each in the order in which it was played."""
    episodes = {}
    for chunk in sorted(chunks, key=lambda c: c.env_t_started):
        episodes.setdefault(chunk.id_, []).append(chunk)
    return [parts for parts in episodes.values() if parts[-1].is_done]


@pytest.mark.parametrize("beside", ["ppo", "scripted/random", "deterministic"])
@pytest.mark.parametrize("observe_balance", [False, True])
def test_rewards_are_those_of_the_whole_episode(observe_balance, beside, monkeypatch):
    """Chunk by chunk, with agents that come and go, as if each episode were looked at whole.

    The balance that is seen is the balance that is paid by, beside players who tell no probabilities too.
    """
    counterfactual = None
    if beside == "deterministic":
        monkeypatch.setattr(ScriptedModule, "_forward", takes_turns_of_actions)
        beside, counterfactual = "scripted/random", "uniform"
    players = {"*": "reciprocator", "early": beside}
    a_config = config(players, observe_balance=observe_balance, counterfactual=counterfactual)
    one = runner(a_config)
    chunks = [chunk for _ in range(4) for chunk in one.sample(num_timesteps=10)]
    known = a_config.episode_reciprocity
    whole = in_order(chunks)
    assert len(whole) >= 3
    for parts in whole:
        steps = [known.joint_steps(part) for part in parts]
        influence = influence_of(one.module, known, parts, steps)
        starts = torch.zeros(len(influence), dtype=torch.bool)
        starts[0] = True
        before = balance(influence, known.rule, 0.9, starts)
        reciprocal = 0.5 * reciprocal_reward(before, influence, known.rule)
        assert reciprocal.abs().sum() > 0
        at = 0
        for part, each in zip(parts, steps, strict=True):
            for index, agent in enumerate(AGENTS):
                if agent not in each.rows:
                    continue
                own = part.agent_episodes[agent]
                written = np.asarray(own.get_extra_model_outputs(INTRINSIC_REWARD, slice(0, len(own))))
                expected = reciprocal[at + each.rows[agent], index].numpy() if agent != "early" else 0.0 * written
                np.testing.assert_allclose(written, expected, atol=1e-6)
                if observe_balance and agent != "early":
                    others = [k for k in range(3) if k != index]
                    seen = np.asarray(own.get_observations(slice(0, len(own))))[:, 1:]
                    shown = torch.tanh(before[at + each.rows[agent]][:, others, index] / 4.0).numpy()
                    np.testing.assert_allclose(seen, shown, atol=1e-6)
            at += len(each.state)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_influence_is_the_sum_over_alternatives_one_by_one(share):
    a_config = config(fragment=7, uniform_share=share)
    one = runner(a_config)
    episode = one.sample(num_episodes=1)[0]
    known = a_config.episode_reciprocity
    steps = known.joint_steps(episode)
    estimator = one.module["influence"]
    found = influence_of(one.module, known, [episode], [steps])
    network = estimator.online["reward"]
    state, actions = torch.from_numpy(steps.state), torch.from_numpy(steps.actions)
    with torch.no_grad():
        for j, agent in enumerate(AGENTS):
            inputs = episode.agent_episodes[agent].get_extra_model_outputs(Columns.ACTION_DIST_INPUTS)
            probs = (1.0 - share) * torch.as_tensor(np.asarray(inputs)).softmax(-1) + share / 3
            at = steps.rows[agent]
            expected = network(state, actions)[at]
            for action in range(3):
                changed = actions.clone()
                changed[:, j] = torch.eye(3)[action]
                expected = expected - probs[: len(at), action, None] * network(state, changed)[at]
            expected = expected * torch.from_numpy(steps.present[at]).float()
            torch.testing.assert_close(found[at, j], expected, atol=1e-5, rtol=1e-4)
    assert not found[~torch.from_numpy(steps.present).any(1)].any()


def test_the_learner_gets_both_rewards_and_the_results_only_the_extrinsic(build):
    algo = build(config({"stays": "reciprocator", "*": "ppo"}, fragment=7))
    result = algo.train()
    episodes = algo.env_runner.sample(num_episodes=3)
    learner = algo.learner_group._learner
    intrinsic = np.concatenate(
        [episode.agent_episodes["stays"].get_extra_model_outputs(INTRINSIC_REWARD) for episode in episodes]
    )
    extrinsic = np.concatenate([episode.agent_episodes["stays"].get_rewards() for episode in episodes])
    assert np.abs(intrinsic).sum() > 0
    batch = learner._learner_connector(rl_module=learner.module, batch={}, episodes=episodes, shared_data={})
    there = batch["stays"][Columns.LOSS_MASK].numpy()
    np.testing.assert_allclose(batch["stays"][Columns.REWARDS].numpy()[there], extrinsic + intrinsic, atol=1e-5)
    assert batch["influence"]["rewards"].shape == (21, 3)
    alone = np.mean([sum(episode.agent_episodes["early"].get_rewards()) for episode in episodes])
    assert 0.6 <= alone <= 0.6 + 5
    assert set(result["env_runners"]["reciprocal_reward"]) == {"stays"}
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    assert len(result["env_runners"]["influence"]) == 6


def test_the_estimator_learns_what_the_environment_pays(build):
    """Another's third action is worth 1: the influence of a step is known, and the model finds it."""
    settings = {"estimator_epochs": 30, "buffer_iterations": 5, "estimator_lr": 0.01, "uniform_share": 0.0}
    algo = build(config(fragment=7, **settings))
    losses = [float(algo.train()["learners"]["influence"]["loss"]) for _ in range(12)]
    assert np.mean(losses[-5:]) < 0.1 * losses[0]
    episode = algo.env_runner.sample(num_episodes=1)[0]
    known = algo.config.episode_reciprocity
    steps = known.joint_steps(episode)
    found = influence_of(algo.env_runner.module, known, [episode], [steps])
    inputs = np.asarray(episode.agent_episodes["late"].get_extra_model_outputs(Columns.ACTION_DIST_INPUTS))
    twos = torch.as_tensor(inputs).softmax(-1)[:, 2].numpy()
    exact = steps.actions[2:, 2, 2] - twos
    np.testing.assert_allclose(found[2:, 2, 0].numpy(), exact, atol=0.35)


@pytest.mark.parametrize("learners", [1, 2])
def test_remote_runners_and_learners(build, learners):
    a_config = config(observe_balance=True).learners(num_learners=learners)
    algo = build(a_config.env_runners(num_env_runners=2, rollout_fragment_length=10))
    for _ in range(3):
        result = algo.train()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    local = algo.learner_group.get_weights()["influence"]
    for remote in algo.env_runner_group.foreach_env_runner(
        lambda r: r.module["influence"].get_state(), local_env_runner=False
    ):
        for name, value in local.items():
            np.testing.assert_array_equal(remote[name], value)


def test_a_restored_run_goes_on_with_its_replay(build, tmp_path):
    algo = build(config(buffer_iterations=3))
    for _ in range(2):
        algo.train()
    algo.save_to_path(tmp_path)
    other = build(config(buffer_iterations=3))
    other.restore_from_path(tmp_path)
    one, two = (each.learner_group._learner for each in (algo, other))
    assert len(one._replay) == len(two._replay) == 2
    for mine, theirs in zip(one._replay, two._replay, strict=True):
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name])
    for name, value in algo.learner_group.get_weights()["influence"].items():
        np.testing.assert_array_equal(value, other.learner_group.get_weights()["influence"][name])
    other.train()


@pytest.mark.parametrize("observe_balance", [False, True])
def test_agents_with_spaces_of_their_own(build, observe_balance):
    a_config = plain(env="mixed", agents=("camera", "clerk", "clock"))
    players = {"camera": "reciprocator", "*": "ppo"}
    flat = {"multi_agent": True, "agent_ids": ["clerk", "clock"]}
    a_config.env_runners(env_to_module_connector=lambda env, spaces, device: FlattenObservations(**flat))
    a_config = reciprocate(a_config, players, weight=0.1, observe_balance=observe_balance, estimator_minibatch_size=16)
    result = build(a_config).train()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    assert np.isfinite(float(result["env_runners"]["influence"]["clock_on_camera"]))


def test_policies_with_memory_and_shared_policies(build):
    """A team of two shares an LSTM; one of them reciprocates."""
    a_config = plain().rl_module(
        model_config={"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4, "fcnet_hiddens": [8]}
    )
    algo = build(reciprocate(a_config, {"*": "team/red", "late": "ppo"}, weight=0.1))
    result = [algo.train() for _ in range(2)][-1]
    assert set(result["learners"]) == {"red", "late", "influence", "__all_modules__"}
    assert np.isfinite(float(result["learners"]["red"]["total_loss"]))
    assert set(result["env_runners"]["reciprocal_reward"]) == {"stays", "early"}


def test_shared_policies_of_the_users_own(build):
    """As RLlib's parameter-sharing examples have them: the configuration's own mapping is left alone."""
    a_config = plain().multi_agent(policies=["team", "late"], policy_mapping_fn=team_policy, policies_to_train=["team"])
    result = build(reciprocate(a_config, weight=0.1)).train()
    assert set(result["env_runners"]["reciprocal_reward"]) == {"stays", "early"}
    assert "total_loss" not in result["learners"].get("late", {})


def test_every_kind_of_player(build, tmp_path):
    first = build(plain())
    first.train()
    path = first.save_to_path(tmp_path)
    players = {
        "stays": {"player": "reciprocator", "lr": 0.1, "model_config": {"fcnet_hiddens": [5]}},
        "early": "scripted/random",
        "late": f"checkpoint/{path}",
    }
    algo = build(config(players))
    before = algo.learner_group.get_weights()
    for _ in range(2):
        result = algo.train()
    after, frozen = algo.learner_group.get_weights(), first.learner_group.get_weights()["late"]
    assert {name for name, values in result["learners"].items() if "policy_loss" in values} == {"stays"}
    assert float(result["learners"]["stays"]["default_optimizer_learning_rate"]) == pytest.approx(0.1)
    assert any(value.shape[0] == 5 for value in after["stays"].values())
    assert any(not np.array_equal(before["stays"][name], value) for name, value in after["stays"].items())
    for name, value in frozen.items():
        np.testing.assert_array_equal(after["late"][name], value)


def test_every_player_has_its_own_discount(build):
    """By hand: advantages of one step, and of all steps, in an episode of seven."""
    players = {"stays": {"gamma": 0.0}, "early": {"player": "ppo", "gamma": 0.5, "lambda": 1.0}, "*": "ppo"}
    learner = build(config(players, fragment=7)).learner_group._learner
    runs = runner(config(players, fragment=7)).sample(num_episodes=1)
    rewards = {agent: runs[0].agent_episodes[agent].get_rewards() for agent in AGENTS}
    own = runs[0].agent_episodes["stays"].get_extra_model_outputs(INTRINSIC_REWARD)
    batch = learner._learner_connector(rl_module=learner.module, batch={}, episodes=runs, shared_data={})
    targets = {agent: batch[agent]["value_targets"][batch[agent][Columns.LOSS_MASK].bool()].numpy() for agent in AGENTS}
    np.testing.assert_allclose(targets["stays"], rewards["stays"] + own, atol=1e-5)
    to_go = [
        sum(0.5**k * reward for k, reward in enumerate(rewards["early"][t:])) for t in range(len(rewards["early"]))
    ]
    np.testing.assert_allclose(targets["early"], to_go, atol=1e-5)
    assert learner.config.get_config_for_module("late").gamma == learner.config.gamma == 0.99


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scripted_players_of_matrix_games_in_rllibs_own_runners(build, strategy):
    settings = {"players": {"player_0": "reciprocator", "player_1": f"scripted/{strategy}"}, "reciprocity": {}}
    a_config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 6})
    a_config.env_runners(num_env_runners=0, rollout_fragment_length=4).rl_module(model_config={"fcnet_hiddens": [8]})
    a_config.training(train_batch_size_per_learner=24, minibatch_size=12, num_epochs=2)
    algo = build(a_config.update_from_dict(settings))
    algo.train()
    episode = algo.env_runner.sample(num_episodes=1)[0]
    theirs, moves = (episode.agent_episodes[f"player_{k}"].get_actions() for k in range(2))
    assert len(moves) == 6
    if strategy == "tit_for_tat":
        assert list(moves) == [0, *theirs[:-1]]
    if strategy == "grim_trigger":
        assert list(moves) == [int(any(theirs[:t])) for t in range(6)]


def test_a_module_class_of_the_users_own(build):
    path = "tests.helpers.multi_agent_envs:TinyModule"
    algo = build(config({"*": f"module/{path}"}))
    algo.train()
    assert type(algo.env_runner.module["stays"]).__name__ == "TinyModule"


def estimators_of_runners(algo):
    return algo.env_runner_group.foreach_env_runner(lambda r: r.module["influence"].get_state(), local_env_runner=False)


def until_learned(algo, rounds=40):
    """Until the estimator has been fitted, and the env runners have what it learned."""
    (before,) = estimators_of_runners(algo)
    for _ in range(rounds):
        result = algo.train()
        (now,) = estimators_of_runners(algo)
        sent = any(not np.array_equal(now[name], value) for name, value in before.items())
        if sent and np.isfinite(float(result.get("learners", {}).get("influence", {}).get("loss", np.nan))):
            return result
    raise AssertionError("the estimator has not been fitted, or not been sent")


@pytest.mark.parametrize("kind", [IMPALAConfig, pytest.param(APPOConfig, marks=pytest.mark.slow)])
def test_asynchronous_algorithms(build, kind):
    players = {"*": "reciprocator", "early": kind.__name__.removesuffix("Config").lower()}
    a_config = config(players, kind=kind, observe_balance=True).env_runners(num_env_runners=1)
    a_config.reporting(min_time_s_per_iteration=1)
    a_config.use_env_runner_state_server = False
    result = until_learned(build(a_config))
    assert np.isfinite(float(result["env_runners"]["influence"]["stays_on_late"]))


@pytest.mark.parametrize(
    ("kind", "runners"), [(PPOConfig, 2), (IMPALAConfig, 0), pytest.param(APPOConfig, 0, marks=pytest.mark.slow)]
)
def test_a_scheduled_weight_follows_training_iterations(build, tmp_path, kind, runners):
    """Not updates of the learner, of which asynchronous algorithms make many in an iteration."""

    def fresh():
        weight = {"start": 1.0, "end": 100.0, "per_iteration": 1.0}
        a_config = config(kind=kind, weight=weight, fragment=10).env_runners(num_env_runners=runners)
        a_config.reporting(min_time_s_per_iteration=0 if kind is PPOConfig else 0.5)
        return build(a_config)

    algo = fresh()
    weights = [float(algo.train()["env_runners"]["reciprocal_weight"]) for _ in range(3)]
    assert weights == [1.0, 2.0, 3.0]
    algo.save_to_path(tmp_path)
    resumed = fresh()
    resumed.restore_from_path(tmp_path)
    assert float(resumed.train()["env_runners"]["reciprocal_weight"]) == 4.0


def test_rewards_that_are_no_numbers_end_training_with_agent_and_step(build):
    algo = build(config(fragment=7, env_config={"poison": 3}))
    with pytest.raises(ValueError, match="gave stays a reward of nan at step 2"):
        algo.train()


def test_an_environment_that_raises_ends_training(build):
    with pytest.raises(RuntimeError) as caught:
        build(config(fragment=7, env_config={"breaks": 5})).train()
    assert "the simulator broke" in str(caught.value.__cause__)


def test_an_environment_that_raised_starts_a_new_episode_if_it_may(build, tmp_path):
    a_config = config(fragment=7, env_config={"breaks": 5, "flag": str(tmp_path / "broke")}, observe_balance=True)
    algo = build(a_config.fault_tolerance(restart_failed_sub_environments=True))
    result = algo.train()
    assert (tmp_path / "broke").exists()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    assert algo.train()["env_runners"]["episode_len_mean"] == 7


def test_a_killed_runner_comes_back_with_the_estimator(build):
    import ray

    a_config = config(observe_balance=True).env_runners(num_env_runners=2, rollout_fragment_length=10)
    a_config.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=0.1)
    algo = build(a_config)
    algo.train()
    ray.kill(algo.env_runner_group._worker_manager.actors()[1], no_restart=False)
    deadline = time.monotonic() + 90
    while True:
        result = algo.train()
        if algo.env_runner_group.num_healthy_remote_workers() == 2 and result["env_runners"][SAMPLED] == 40:
            break
        assert time.monotonic() < deadline
    weights = algo.learner_group.get_weights()["influence"]
    states = algo.env_runner_group.foreach_env_runner(
        lambda r: r.module["influence"].get_state(), local_env_runner=False
    )
    assert len(states) == 2
    for state in states:
        for name, value in weights.items():
            np.testing.assert_array_equal(state[name], value)


def test_balances_of_episodes_that_are_not_going_on_are_forgotten():
    one = runner(config())
    for _ in range(5):
        one.sample(num_timesteps=6)
    (callback,) = [each for each in one._callbacks if isinstance(each, EpisodeInfluenceCallback)]
    assert set(callback._balances) <= {episode.id_ for episode in one._ongoing_episodes}
    assert callback._balances


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda: reciprocate(DQNConfig().environment("come_and_go")), "DQN is not supported, since influence"),
        (lambda: reciprocate(ReciprocatorConfig()), "Reciprocator supports reciprocity itself"),
        (lambda: config({"stay": "reciprocator"}), "players.stay: .* has no such agent; did you mean 'stays'"),
        (lambda: config({"*": "ppo"}), "no player reciprocates"),
        (lambda: config({"*": "scripted/random"}), "no player is trained"),
        (lambda: config({"stays": "reciprocator"}), "no key assigns a player to early"),
        (lambda: config({"*": "module/tests.helpers.multi_agent_envs:Missing"}), "cannot be imported"),
        (lambda: config({"*": "module/tests.helpers.multi_agent_envs"}), "give PACKAGE.MODULE:CLASS"),
        (lambda: config({"*": "module/tests.helpers.multi_agent_envs:Mixed"}), "is not a subclass of RLModule"),
        (lambda: config({"*": {"player": "ppo", "learning_rate": 1}}), "learning_rate: not known"),
        (lambda: config({"*": {"lambda": 0.9}}, kind=IMPALAConfig), "IMPALA has no such setting"),
        (lambda: config({"*": "reciprocator", "late": "scripted/tit_for_tat"}), "needs the actions cooperate"),
        (lambda: config({"*": "team/a", "late": {"team": "a", "lr": 0.1}}), "settings differ from those of stays"),
        (lambda: config({"*": {"player": "scripted/random", "lr": 0.1}}), "does not learn"),
        (lambda: config({"*": "team/x"}, env="mixed"), "observation space differs from that of camera"),
        (lambda: reciprocate(plain(IMPALAConfig).learners(num_aggregator_actors_per_learner=1)), "set it to 0"),
        (lambda: config(prior=2.0), "reciprocity.prior: not supported by PPO"),
        (lambda: config(rewards="petty"), "did you mean 'reward'"),
        (lambda: config(reward="pety"), "petty"),
        (lambda: config(influence="tabular"), "tabular requires run: Reciprocator"),
        (lambda: reciprocate(PPOConfig().environment("CartPole-v1")), "not a registered multi-agent environment"),
        (lambda: reciprocate(PPOConfig()), "env: None is not"),
    ],
)
def test_what_cannot_be_is_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        change()


def test_settings_from_a_dict_twice_are_there_once(build):
    """Callbacks and connectors are not added to what was added before."""
    a_config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 4})
    a_config.env_runners(num_env_runners=0, rollout_fragment_length=4).debugging(seed=1)
    a_config.training(train_batch_size_per_learner=16, minibatch_size=8, num_epochs=1)
    settings = {"players": {"*": "reciprocator"}, "reciprocity": {"observe_balance": True, "weight": 2.0}}
    a_config.update_from_dict(settings)
    once = list(a_config.callbacks_class)
    a_config.update_from_dict(settings)
    assert a_config.callbacks_class == once
    assert len(set(once)) == len(once)
    algo = build(a_config)
    learner, runner = algo.learner_group._learner, algo.env_runner
    pieces = [type(piece).__name__ for piece in learner._learner_connector.connectors]
    assert pieces.count("AddReciprocalRewards") == 1
    assert [type(piece).__name__ for piece in runner._env_to_module.connectors].count("ObserveBalance") == 1
    assert np.isfinite(algo.train()["env_runners"]["reward_per_step"]["player_0"])


@pytest.mark.parametrize("env", ["ipd_v0", "coins_v0", "public_goods_v0"])
def test_both_ways_of_sampling_have_the_same_defaults(env):
    batched = ReciprocatorConfig().environment(env).training(gamma=0.97)
    batched.validate()
    stock = algorithm_class("PPO").get_default_config().environment(env).training(gamma=0.97)
    stock.update_from_dict({"players": {"*": "reciprocator"}})
    by_player = batched.intrinsic_by_player()["reciprocity"][0, 0]
    of_episodes = stock.episode_reciprocity.settings
    for name in ("reward", "weight", "balance_decay", "observe_balance", "balance_scale"):
        assert getattr(by_player, name) == getattr(of_episodes, name), name
    expected = ("petty", 0.0, False) if env != "coins_v0" else ("petty_payoff", 0.97, True)
    assert (by_player.reward, by_player.balance_decay, by_player.observe_balance) == expected


def test_the_reward_of_a_step_by_hand(build):
    """In an environment of agents that come and go, and of one agent."""
    algo = build(config({"stays": "reciprocator", "*": "ppo"}, fragment=7))
    algo.env_runner.get_metrics()
    episodes = algo.env_runner.sample(num_timesteps=14)
    found = {}

    class Logger:
        def log_value(self, key, value, **kwargs):
            found[key] = value

    RewardPerStepCallback().on_sample_end(env_runner=None, metrics_logger=Logger(), samples=episodes)
    steps = sum(map(len, episodes))
    for agent in AGENTS:
        total = sum(sum(each.agent_episodes[agent].get_rewards()) for each in episodes if agent in each.agent_episodes)
        assert found["reward_per_step", agent] == pytest.approx(total / steps)
