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
    plain_settings = {
        name: settings.pop(name) for name in ("kind", "env", "agents", "fragment", "env_config") if name in settings
    }
    defaults = {"weight": 0.5, "balance_decay": 0.9, "estimator_minibatch_size": 16}
    return reciprocate(plain(**plain_settings), players, horizon=horizon, **{**defaults, **settings})


def runner(a_config):
    a_config.validate()
    return MultiAgentEnvRunner(config=a_config, worker_index=0)


def forward_cycling_actions(module, batch, **kwargs):
    """Returns actions without probabilities that differ between steps and between episodes."""
    module.played = getattr(module, "played", 0) + 1
    return {Columns.ACTIONS: (torch.arange(len(batch[Columns.OBS])) + module.played) % 3}


def group_by_episode(chunks):
    """Groups the chunks of finished episodes, in the order of their steps."""
    episodes = {}
    for chunk in sorted(chunks, key=lambda c: c.env_t_started):
        episodes.setdefault(chunk.id_, []).append(chunk)
    return [parts for parts in episodes.values() if parts[-1].is_done]


@pytest.mark.parametrize("co_player", ["ppo", "scripted/random", "deterministic"])
@pytest.mark.parametrize("observe_balance", [False, True])
def test_rewards_of_chunks_equal_those_of_the_whole_episode(observe_balance, co_player, monkeypatch):
    """Compares the rewards of chunks, with agents that enter and leave, with those of whole episodes.

    Observed balances equal those that determine the rewards, also for co-players that return no probabilities.
    """
    counterfactual = None
    if co_player == "deterministic":
        monkeypatch.setattr(ScriptedModule, "_forward", forward_cycling_actions)
        co_player, counterfactual = "scripted/random", "uniform"
    players = {"*": "reciprocator", "early": co_player}
    a_config = config(players, observe_balance=observe_balance, counterfactual=counterfactual)
    test_runner = runner(a_config)
    chunks = [chunk for _ in range(4) for chunk in test_runner.sample(num_timesteps=10)]
    reciprocity = a_config.episode_reciprocity
    episodes = group_by_episode(chunks)
    assert len(episodes) >= 3
    for parts in episodes:
        steps = [reciprocity.joint_steps(part) for part in parts]
        influence = influence_of(test_runner.module, reciprocity, parts, steps)
        starts = torch.zeros(len(influence), dtype=torch.bool)
        starts[0] = True
        balances = balance(influence, reciprocity.rule, 0.9, starts)
        reciprocal = 0.5 * reciprocal_reward(balances, influence, reciprocity.rule)
        assert reciprocal.abs().sum() > 0
        offset = 0
        for part, joint_steps in zip(parts, steps, strict=True):
            for index, agent in enumerate(AGENTS):
                if agent not in joint_steps.rows:
                    continue
                agent_episode = part.agent_episodes[agent]
                rewards = np.asarray(
                    agent_episode.get_extra_model_outputs(INTRINSIC_REWARD, slice(0, len(agent_episode)))
                )
                expected = (
                    reciprocal[offset + joint_steps.rows[agent], index].numpy() if agent != "early" else 0.0 * rewards
                )
                np.testing.assert_allclose(rewards, expected, atol=1e-6)
                if observe_balance and agent != "early":
                    other_indices = [k for k in range(3) if k != index]
                    observations = np.asarray(agent_episode.get_observations(slice(0, len(agent_episode))))[:, 1:]
                    expected_observations = torch.tanh(
                        balances[offset + joint_steps.rows[agent]][:, other_indices, index] / 4.0
                    ).numpy()
                    np.testing.assert_allclose(observations, expected_observations, atol=1e-6)
            offset += len(joint_steps.state)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_influence_equals_a_sum_over_single_alternatives(share):
    a_config = config(fragment=7, uniform_share=share)
    test_runner = runner(a_config)
    episode = test_runner.sample(num_episodes=1)[0]
    reciprocity = a_config.episode_reciprocity
    steps = reciprocity.joint_steps(episode)
    estimator = test_runner.module["influence"]
    influence = influence_of(test_runner.module, reciprocity, [episode], [steps])
    network = estimator.online["reward"]
    state, actions = torch.from_numpy(steps.state), torch.from_numpy(steps.actions)
    with torch.no_grad():
        for j, agent in enumerate(AGENTS):
            inputs = episode.agent_episodes[agent].get_extra_model_outputs(Columns.ACTION_DIST_INPUTS)
            probs = (1.0 - share) * torch.as_tensor(np.asarray(inputs)).softmax(-1) + share / 3
            rows = steps.rows[agent]
            expected = network(state, actions)[rows]
            for action in range(3):
                joint_actions = actions.clone()
                joint_actions[:, j] = torch.eye(3)[action]
                expected = expected - probs[: len(rows), action, None] * network(state, joint_actions)[rows]
            expected = expected * torch.from_numpy(steps.present[rows]).float()
            torch.testing.assert_close(influence[rows, j], expected, atol=1e-5, rtol=1e-4)
    assert not influence[~torch.from_numpy(steps.present).any(1)].any()


def test_learner_adds_intrinsic_rewards_and_results_exclude_them(build):
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
    mask = batch["stays"][Columns.LOSS_MASK].numpy()
    np.testing.assert_allclose(batch["stays"][Columns.REWARDS].numpy()[mask], extrinsic + intrinsic, atol=1e-5)
    assert batch["influence"]["rewards"].shape == (21, 3)
    mean_return = np.mean([sum(episode.agent_episodes["early"].get_rewards()) for episode in episodes])
    assert 0.6 <= mean_return <= 0.6 + 5
    assert set(result["env_runners"]["reciprocal_reward"]) == {"stays"}
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    assert len(result["env_runners"]["influence"]) == 6


def test_estimator_learns_the_exact_influence(build):
    """Compares with the exact influence: the third action of an agent gives 1 to each other agent."""
    settings = {"estimator_epochs": 30, "buffer_iterations": 5, "estimator_lr": 0.01, "uniform_share": 0.0}
    algo = build(config(fragment=7, **settings))
    losses = [float(algo.train()["learners"]["influence"]["loss"]) for _ in range(12)]
    assert np.mean(losses[-5:]) < 0.1 * losses[0]
    episode = algo.env_runner.sample(num_episodes=1)[0]
    reciprocity = algo.config.episode_reciprocity
    steps = reciprocity.joint_steps(episode)
    influence = influence_of(algo.env_runner.module, reciprocity, [episode], [steps])
    inputs = np.asarray(episode.agent_episodes["late"].get_extra_model_outputs(Columns.ACTION_DIST_INPUTS))
    probs = torch.as_tensor(inputs).softmax(-1)[:, 2].numpy()
    exact = steps.actions[2:, 2, 2] - probs
    np.testing.assert_allclose(influence[2:, 2, 0].numpy(), exact, atol=0.35)


@pytest.mark.processes
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


def test_restored_run_keeps_its_replay_buffer(build, tmp_path):
    algo = build(config(buffer_iterations=3))
    for _ in range(2):
        algo.train()
    algo.save_to_path(tmp_path)
    restored_algo = build(config(buffer_iterations=3))
    restored_algo.restore_from_path(tmp_path)
    learner, restored_learner = (algorithm.learner_group._learner for algorithm in (algo, restored_algo))
    assert len(learner._trainer.replay) == len(restored_learner._trainer.replay) == 2
    for batch, restored_batch in zip(learner._trainer.replay, restored_learner._trainer.replay, strict=True):
        for name in batch:
            torch.testing.assert_close(batch[name], restored_batch[name])
    for name, value in algo.learner_group.get_weights()["influence"].items():
        np.testing.assert_array_equal(value, restored_algo.learner_group.get_weights()["influence"][name])
    restored_algo.train()


@pytest.mark.parametrize("observe_balance", [False, True])
def test_agents_with_different_spaces(build, observe_balance):
    a_config = plain(env="mixed", agents=("camera", "clerk", "clock"))
    players = {"camera": "reciprocator", "*": "ppo"}
    flat = {"multi_agent": True, "agent_ids": ["clerk", "clock"]}
    a_config.env_runners(env_to_module_connector=lambda env, spaces, device: FlattenObservations(**flat))
    a_config = reciprocate(a_config, players, weight=0.1, observe_balance=observe_balance, estimator_minibatch_size=16)
    result = build(a_config).train()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    assert np.isfinite(float(result["env_runners"]["influence"]["clock_on_camera"]))


def test_stateful_and_shared_policies(build):
    """Trains a team of two agents that share an LSTM, together with a PPO player."""
    a_config = plain().rl_module(
        model_config={"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4, "fcnet_hiddens": [8]}
    )
    algo = build(reciprocate(a_config, {"*": "team/red", "late": "ppo"}, weight=0.1))
    result = [algo.train() for _ in range(2)][-1]
    assert set(result["learners"]) == {"red", "late", "influence", "__all_modules__"}
    assert np.isfinite(float(result["learners"]["red"]["total_loss"]))
    assert set(result["env_runners"]["reciprocal_reward"]) == {"stays", "early"}


def test_user_defined_shared_policies(build):
    """Checks that the policy mapping of the config is kept, as in RLlib's examples of parameter sharing."""
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
    """Compares value targets with one-step rewards and with discounted sums, in an episode of seven steps."""
    players = {"stays": {"gamma": 0.0}, "early": {"player": "ppo", "gamma": 0.5, "lambda": 1.0}, "*": "ppo"}
    learner = build(config(players, fragment=7)).learner_group._learner
    samples = runner(config(players, fragment=7)).sample(num_episodes=1)
    rewards = {agent: samples[0].agent_episodes[agent].get_rewards() for agent in AGENTS}
    intrinsic_rewards = samples[0].agent_episodes["stays"].get_extra_model_outputs(INTRINSIC_REWARD)
    batch = learner._learner_connector(rl_module=learner.module, batch={}, episodes=samples, shared_data={})
    targets = {agent: batch[agent]["value_targets"][batch[agent][Columns.LOSS_MASK].bool()].numpy() for agent in AGENTS}
    np.testing.assert_allclose(targets["stays"], rewards["stays"] + intrinsic_rewards, atol=1e-5)
    rewards_to_go = [
        sum(0.5**k * reward for k, reward in enumerate(rewards["early"][t:])) for t in range(len(rewards["early"]))
    ]
    np.testing.assert_allclose(targets["early"], rewards_to_go, atol=1e-5)
    assert learner.config.get_config_for_module("late").gamma == learner.config.gamma == 0.99


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scripted_players_in_rllibs_env_runners(build, strategy):
    settings = {"players": {"player_0": "reciprocator", "player_1": f"scripted/{strategy}"}, "reciprocity": {}}
    a_config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 6})
    a_config.env_runners(num_env_runners=0, rollout_fragment_length=4).rl_module(model_config={"fcnet_hiddens": [8]})
    a_config.training(train_batch_size_per_learner=24, minibatch_size=12, num_epochs=2)
    algo = build(a_config.update_from_dict(settings))
    algo.train()
    episode = algo.env_runner.sample(num_episodes=1)[0]
    opponent_moves, moves = (episode.agent_episodes[f"player_{k}"].get_actions() for k in range(2))
    assert len(moves) == 6
    if strategy == "tit_for_tat":
        assert list(moves) == [0, *opponent_moves[:-1]]
    if strategy == "grim_trigger":
        assert list(moves) == [int(any(opponent_moves[:t])) for t in range(6)]


def test_user_defined_module_class(build):
    path = "tests.helpers.multi_agent_envs:TinyModule"
    algo = build(config({"*": f"module/{path}"}))
    algo.train()
    assert type(algo.env_runner.module["stays"]).__name__ == "TinyModule"


def estimators_of_runners(algo):
    return algo.env_runner_group.foreach_env_runner(lambda r: r.module["influence"].get_state(), local_env_runner=False)


def train_until_fitted(algo, rounds=40):
    """Trains until the estimator has been fitted and the env runners have its new weights."""
    (before,) = estimators_of_runners(algo)
    for _ in range(rounds):
        result = algo.train()
        (after,) = estimators_of_runners(algo)
        is_updated = any(not np.array_equal(after[name], value) for name, value in before.items())
        if is_updated and np.isfinite(float(result.get("learners", {}).get("influence", {}).get("loss", np.nan))):
            return result
    raise AssertionError("the estimator has not been fitted, or not been sent")


@pytest.mark.processes
@pytest.mark.parametrize("kind", [IMPALAConfig, pytest.param(APPOConfig, marks=pytest.mark.slow)])
def test_asynchronous_algorithms(build, kind):
    players = {"*": "reciprocator", "early": kind.__name__.removesuffix("Config").lower()}
    a_config = config(players, kind=kind, observe_balance=True).env_runners(num_env_runners=1)
    a_config.reporting(min_time_s_per_iteration=1)
    a_config.use_env_runner_state_server = False
    result = train_until_fitted(build(a_config))
    assert np.isfinite(float(result["env_runners"]["influence"]["stays_on_late"]))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("kind", "runners"), [(PPOConfig, 2), (IMPALAConfig, 0), pytest.param(APPOConfig, 0, marks=pytest.mark.slow)]
)
def test_a_scheduled_weight_follows_training_iterations(build, tmp_path, kind, runners):
    """Checks that updates of the learner do not count: asynchronous algorithms make many of them per iteration."""

    def build_new():
        weight = {"start": 1.0, "end": 100.0, "per_iteration": 1.0}
        a_config = config(kind=kind, weight=weight, fragment=10).env_runners(num_env_runners=runners)
        a_config.reporting(min_time_s_per_iteration=0 if kind is PPOConfig else 0.5)
        return build(a_config)

    algo = build_new()
    weights = [float(algo.train()["env_runners"]["reciprocal_weight"]) for _ in range(3)]
    assert weights == [1.0, 2.0, 3.0]
    algo.save_to_path(tmp_path)
    restored_algo = build_new()
    restored_algo.restore_from_path(tmp_path)
    assert float(restored_algo.train()["env_runners"]["reciprocal_weight"]) == 4.0


def test_nan_rewards_end_training_and_name_agent_and_step(build):
    algo = build(config(fragment=7, env_config={"poison": 3}))
    with pytest.raises(ValueError, match="gave stays a reward of nan at step 2"):
        algo.train()


def test_an_environment_that_raises_ends_training(build):
    with pytest.raises(RuntimeError) as error:
        build(config(fragment=7, env_config={"breaks": 5})).train()
    assert "the simulator broke" in str(error.value.__cause__)


def test_failed_environment_is_restarted_if_configured(build, tmp_path):
    a_config = config(fragment=7, env_config={"breaks": 5, "flag": str(tmp_path / "broke")}, observe_balance=True)
    algo = build(a_config.fault_tolerance(restart_failed_sub_environments=True))
    result = algo.train()
    assert (tmp_path / "broke").exists()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    assert algo.train()["env_runners"]["episode_len_mean"] == 7


@pytest.mark.processes
def test_restarted_env_runner_gets_the_estimator(build):
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


def test_balances_of_finished_episodes_are_removed():
    test_runner = runner(config())
    for _ in range(5):
        test_runner.sample(num_timesteps=6)
    (callback,) = [item for item in test_runner._callbacks if isinstance(item, EpisodeInfluenceCallback)]
    assert set(callback._balances) <= {episode.id_ for episode in test_runner._ongoing_episodes}
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
def test_unsupported_settings_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        change()


def test_repeated_settings_from_a_dict_are_applied_once(build):
    """Checks that callbacks and connectors are not added again."""
    a_config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 4})
    a_config.env_runners(num_env_runners=0, rollout_fragment_length=4).debugging(seed=1)
    a_config.training(train_batch_size_per_learner=16, minibatch_size=8, num_epochs=1)
    settings = {"players": {"*": "reciprocator"}, "reciprocity": {"observe_balance": True, "weight": 2.0}}
    a_config.update_from_dict(settings)
    callbacks = list(a_config.callbacks_class)
    a_config.update_from_dict(settings)
    assert a_config.callbacks_class == callbacks
    assert len(set(callbacks)) == len(callbacks)
    algo = build(a_config)
    learner, runner = algo.learner_group._learner, algo.env_runner
    connectors = [type(piece).__name__ for piece in learner._learner_connector.connectors]
    assert connectors.count("AddReciprocalRewards") == 1
    assert [type(piece).__name__ for piece in runner._env_to_module.connectors].count("ObserveBalance") == 1
    assert np.isfinite(algo.train()["env_runners"]["reward_per_step"]["player_0"])


@pytest.mark.parametrize("env", ["ipd_v0", "coins_v0", "public_goods_v0"])
def test_batched_and_episode_sampling_have_the_same_defaults(env):
    batched_config = ReciprocatorConfig().environment(env).training(gamma=0.97)
    batched_config.validate()
    rllib_config = algorithm_class("PPO").get_default_config().environment(env).training(gamma=0.97)
    rllib_config.update_from_dict({"players": {"*": "reciprocator"}})
    batched_settings = batched_config.intrinsic_by_player()["reciprocity"][0, 0]
    episode_settings = rllib_config.episode_reciprocity.settings
    for name in ("reward", "weight", "balance_decay", "observe_balance", "balance_scale"):
        assert getattr(batched_settings, name) == getattr(episode_settings, name), name
    expected = ("petty", 0.0, False) if env != "coins_v0" else ("petty_payoff", 0.97, True)
    assert (batched_settings.reward, batched_settings.balance_decay, batched_settings.observe_balance) == expected


def test_reward_per_step_by_hand(build):
    """Checks the metric in an environment whose agents enter and leave."""
    algo = build(config({"stays": "reciprocator", "*": "ppo"}, fragment=7))
    algo.env_runner.get_metrics()
    episodes = algo.env_runner.sample(num_timesteps=14)
    metrics = {}

    class Logger:
        def log_value(self, key, value, **kwargs):
            metrics[key] = value

    RewardPerStepCallback().on_sample_end(env_runner=None, metrics_logger=Logger(), samples=episodes)
    steps = sum(map(len, episodes))
    for agent in AGENTS:
        total = sum(sum(part.agent_episodes[agent].get_rewards()) for part in episodes if agent in part.agent_episodes)
        assert metrics["reward_per_step", agent] == pytest.approx(total / steps)
