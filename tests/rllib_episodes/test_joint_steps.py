import numpy as np
import pytest
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from rllib_reciprocator.rllib_episodes.joint_steps import JointSpaces, check_rewards, joint_steps, last_joint_step
from tests.helpers.multi_agent_envs import ComeAndGo, Mixed

ENV = ComeAndGo()
JOINT = JointSpaces(ENV.observation_spaces, ENV.action_spaces)


def play(steps, episode=None, env=None, **settings):
    """Continues an episode with action 2 of all agents; returns also the last joint step after each step."""
    env = env or ComeAndGo(settings)
    if episode is None:
        obs, _ = env.reset()
        episode = MultiAgentEpisode(agent_to_module_mapping_fn=lambda agent, episode: agent)
        episode.add_env_reset(observations=obs)
    last_steps = []
    for _ in range(steps):
        actions = dict.fromkeys(env._present_agents(), 2)
        obs, rewards, terminated, truncated, _ = env.step(actions)
        episode.add_env_step(obs, actions, rewards, terminateds=terminated, truncateds=truncated)
        last_steps.append(last_joint_step(episode, JOINT, horizon=7))
    return env, episode, last_steps


def test_joint_steps_by_hand():
    _, episode, _ = play(7)
    steps = joint_steps(episode, JOINT, horizon=7)
    # stays, early, late
    assert steps.present.tolist() == [[True, True, False]] * 2 + [[True, True, True]] + [[True, False, True]] * 4
    np.testing.assert_allclose(steps.rewards[1], [1.2, 1.2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(steps.rewards[2], [2.3, 2.3, 2.3], rtol=1e-6)
    np.testing.assert_allclose(steps.rewards[5], [1.6, 0.0, 1.6], rtol=1e-6)
    # Observation and presence of each agent, then the remaining time.
    np.testing.assert_allclose(steps.state[1], [1, 1, 1, 1, 0, 0, 6 / 7], rtol=1e-6)
    np.testing.assert_allclose(steps.state[4], [4, 1, 0, 0, 4, 1, 3 / 7], rtol=1e-6)
    assert steps.actions[4].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert steps.rows["late"].tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("lookback", [0, 1, 3])
@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_chunks_equal_parts_of_the_episode(cut, lookback):
    whole = joint_steps(play(7)[1], JOINT, horizon=7)
    env, first, _ = play(cut)
    second = first.cut(len_lookback_buffer=lookback)
    play(7 - cut, second, env)
    parts = [joint_steps(chunk.to_numpy(), JOINT, horizon=7) for chunk in (first, second)]
    for name in ("state", "actions", "rewards", "present"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))


def test_shards_equal_parts_of_the_episode():
    whole = joint_steps(play(7)[1], JOINT, horizon=7)
    episode = play(7)[1].to_numpy()
    parts = [joint_steps(part, JOINT, horizon=7) for part in (episode[:4], episode.slice(slice(4, None)))]
    for name in ("actions", "rewards", "present"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))


def test_last_joint_step_equals_that_of_the_episode():
    _, episode, last_steps = play(7)
    whole = joint_steps(episode, JOINT, horizon=7)
    for t, step in enumerate(last_steps):
        np.testing.assert_array_equal(step.state[0], whole.state[t])
        np.testing.assert_array_equal(step.actions[0], whole.actions[t])
        np.testing.assert_array_equal(step.present[0], whole.present[t])


def test_nan_rewards_are_reported():
    _, episode, _ = play(7, poison=3)
    with pytest.raises(ValueError, match="gave stays a reward of nan at step 2 of its episode"):
        check_rewards(episode, joint_steps(episode, JOINT), JOINT)


def test_sizes_of_mixed_spaces():
    joint = JointSpaces(Mixed().observation_spaces, Mixed().action_spaces)
    assert joint.state.shape == (11 * 11 * 3 + 1 + 5 + 1 + 6 + 1 + 1,)
    assert joint.action.shape == (3, 5)
    assert joint.num_options == (0, 0, 4)
