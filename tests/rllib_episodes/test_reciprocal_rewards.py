"""Tests the reciprocal rewards of episodes, and the rewards that learners and results contain."""

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator.intrinsic.reciprocity import balance, reciprocal_reward
from rllib_reciprocator.players import ScriptedModule
from rllib_reciprocator.rllib_episodes.influence import influence_of
from rllib_reciprocator.rllib_episodes.reciprocal_rewards import INTRINSIC_REWARD
from rllib_reciprocator.rllib_episodes.rewards_callback import RewardPerStepCallback
from tests.helpers.reciprocate import AGENTS, config, runner


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
