"""Tests of agents that take turns, terminate and enter, with and without memory, in whole and truncated episodes."""

import numpy as np
import pytest
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.tune import register_env

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.rllib_episodes import environments
from rllib_reciprocator.rllib_episodes.reciprocal_rewards import INTRINSIC_REWARD
from tests.helpers.multi_agent_envs import ComeAndGo
from tests.helpers.turn_taking import Turns

TURNS = "pettingzoo/tests.helpers.turn_taking"


class Unannounced(environments.TurnsMultiAgentEnv):
    """Environment whose agents take turns, but which does not declare it."""

    takes_turns = False


@pytest.fixture(autouse=True)
def environment():
    register_env("come_and_go", ComeAndGo)
    register_env("unannounced", lambda config: Unannounced(Turns(**config)))


def config(env, *, memory=False, cut=False, env_config=None, players=None):
    networks = {"fcnet_hiddens": [8]}
    if memory:
        networks |= {"use_lstm": True, "lstm_cell_size": 4, "max_seq_len": 3}
    a_config = algorithm_class("PPO").get_default_config().environment(env, env_config=env_config or {})
    a_config.env_runners(num_env_runners=0, num_envs_per_env_runner=2)
    a_config.env_runners(
        batch_mode="truncate_episodes" if cut else "complete_episodes", rollout_fragment_length=3 if cut else "auto"
    )
    a_config.training(train_batch_size_per_learner=24, minibatch_size=8, num_epochs=1)
    a_config.rl_module(model_config=networks).debugging(seed=1)
    settings = {"weight": 0.5, "observe_balance": True, "estimator_minibatch_size": 8}
    return a_config.update_from_dict({"players": players or {"*": "reciprocator"}, "reciprocity": settings})


@pytest.mark.parametrize(
    ("env", "memory", "cut"),
    [
        (TURNS, False, False),
        (TURNS, False, True),
        (TURNS, True, False),
        ("come_and_go", True, False),
        ("come_and_go", True, True),
        ("pettingzoo/classic/tictactoe_v3", True, False),
    ],
)
def test_trains_all_modules(build, env, memory, cut):
    algo = build(config(env, memory=memory, cut=cut))
    for _ in range(2):
        result = algo.train()
    modules = [key for key in result["learners"] if key != "__all_modules__"]
    assert len(modules) == len(algo.env_runner.env.envs[0].unwrapped.possible_agents) + 1
    for module_id in modules:
        name = "loss" if module_id == "influence" else "total_loss"
        assert np.isfinite(float(result["learners"][module_id][name])), module_id
    influence = [float(value) for value in result["env_runners"]["influence_std"].values()]
    if env == "come_and_go":
        assert all(value > 0.0 for value in influence)
    else:
        # Only one agent acts per step.
        assert all(value == 0.0 for value in influence)


def sample_episodes(a_config, episodes):
    a_config.validate()
    runner = MultiAgentEnvRunner(config=a_config, worker_index=0)
    if a_config.batch_mode == "complete_episodes":
        return [[episode] for episode in runner.sample(num_episodes=episodes)]
    chunks = {}
    while sum(parts[-1].is_done for parts in chunks.values()) < episodes:
        for chunk in runner.sample(num_timesteps=6):
            chunks.setdefault(chunk.id_, []).append(chunk)
    return [parts for parts in chunks.values() if parts[-1].is_done]


def concatenate_chunks(parts, agent, get):
    """Concatenates the values of an agent over the chunks of an episode."""
    chunks = [part.agent_episodes[agent] for part in parts if agent in part.agent_episodes]
    return [value for chunk in chunks for value in np.asarray(get(chunk)).tolist()]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("enters", [0, 1])
def test_rewards_between_turns_are_summed(cut, enters):
    """Replays the actions in the environment and sums the rewards between the turns of an agent."""
    for parts in sample_episodes(config(TURNS, cut=cut, env_config={"enters": enters}), 4):
        actions_left = {
            agent: concatenate_chunks(parts, agent, lambda chunk: chunk.get_actions())
            for agent in Turns().possible_agents
        }
        env = Turns(enters=enters)
        env.reset()
        expected = {agent: [] for agent in actions_left}
        lengths = {agent: len(actions) for agent, actions in actions_left.items()}
        while env.agents:
            mover = env.agent_selection
            if env.terminations[mover] or env.truncations[mover]:
                env.step(None)
                continue
            expected[mover].append(0.0)
            env.step(actions_left[mover].pop(0))
            for agent in env.agents:
                # Rewards before an agent's first turn belong to none of its steps.
                if expected[agent]:
                    expected[agent][-1] += env.rewards[agent]
        assert lengths == {"first": 4, "short": 2, "last": 4 - enters}
        for agent, rewards in expected.items():
            assert concatenate_chunks(parts, agent, lambda chunk: chunk.get_rewards()) == rewards, agent
            intrinsic_rewards = concatenate_chunks(
                parts, agent, lambda chunk: chunk.get_extra_model_outputs(INTRINSIC_REWARD, slice(0, len(chunk)))
            )
            assert intrinsic_rewards == [0.0] * len(rewards)


def test_agent_without_turns_has_no_steps(build):
    algo = build(config(TURNS, env_config={"enters": 9}))
    result = algo.train()
    assert "total_loss" not in result["learners"].get("last", {})
    for name in ("first", "short"):
        assert np.isfinite(float(result["learners"][name]["total_loss"]))


def test_stateful_modules_with_turns_in_truncated_episodes_are_refused():
    complaint = "agents of .*turn_taking take turns and first is stateful; set batch_mode to complete_episodes"
    with pytest.raises(ValueError, match=complaint):
        config(TURNS, memory=True, cut=True).validate()
    # Whole episodes, and stateful modules of agents that act in every step, are supported.
    config(TURNS, memory=True).validate()
    config("come_and_go", memory=True, cut=True).validate()


def test_undeclared_turns_end_training_and_name_the_agent(build):
    algo = build(config("unannounced", memory=True, cut=True))
    with pytest.raises(ValueError, match=r"batch_mode: \w+ is stateful and does not act in every step"):
        algo.train()
