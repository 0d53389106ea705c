"""Tests the estimator of influence in RLlib's episodes."""

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator.rllib_episodes.influence import influence_of
from rllib_reciprocator.rllib_episodes.influence_callback import EpisodeInfluenceCallback
from tests.helpers.reciprocate import AGENTS, config, runner


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


def test_estimator_learns_the_exact_influence(build):
    """Compares with the exact influence: the third action of an agent gives 1 to each other agent."""
    settings = {"estimator_epochs": 30, "buffer_iterations": 5, "estimator_lr": 0.03, "estimator_minibatch_size": 64}
    algo = build(config(fragment=7, uniform_share=0.0, **settings))
    losses = [float(algo.train()["learners"]["influence"]["loss"]) for _ in range(7)]
    assert np.mean(losses[-5:]) < 0.1 * losses[0]
    episode = algo.env_runner.sample(num_episodes=1)[0]
    reciprocity = algo.config.episode_reciprocity
    steps = reciprocity.joint_steps(episode)
    influence = influence_of(algo.env_runner.module, reciprocity, [episode], [steps])
    inputs = np.asarray(episode.agent_episodes["late"].get_extra_model_outputs(Columns.ACTION_DIST_INPUTS))
    probs = torch.as_tensor(inputs).softmax(-1)[:, 2].numpy()
    exact = steps.actions[2:, 2, 2] - probs
    np.testing.assert_allclose(influence[2:, 2, 0].numpy(), exact, atol=0.35)


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


def test_balances_of_finished_episodes_are_removed():
    test_runner = runner(config())
    for _ in range(5):
        test_runner.sample(num_timesteps=6)
    (callback,) = [item for item in test_runner._callbacks if isinstance(item, EpisodeInfluenceCallback)]
    assert set(callback._balances) <= {episode.id_ for episode in test_runner._ongoing_episodes}
    assert callback._balances
