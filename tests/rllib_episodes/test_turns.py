"""Agents that take turns, die and appear, with and without memory, in episodes that are whole or cut."""

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
    """Agents take turns, and the environment does not say so."""

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
def test_learns(build, env, memory, cut):
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
        # No agent acts in a step of another.
        assert all(value == 0.0 for value in influence)


def sampled(a_config, episodes):
    a_config.validate()
    runner = MultiAgentEnvRunner(config=a_config, worker_index=0)
    if a_config.batch_mode == "complete_episodes":
        return [[episode] for episode in runner.sample(num_episodes=episodes)]
    chunks = {}
    while sum(parts[-1].is_done for parts in chunks.values()) < episodes:
        for chunk in runner.sample(num_timesteps=6):
            chunks.setdefault(chunk.id_, []).append(chunk)
    return [parts for parts in chunks.values() if parts[-1].is_done]


def of_agent(parts, agent, get):
    """Joins what the chunks of an episode have of an agent."""
    chunks = [part.agent_episodes[agent] for part in parts if agent in part.agent_episodes]
    return [value for chunk in chunks for value in np.asarray(get(chunk)).tolist()]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("enters", [0, 1])
def test_each_agent_is_paid_for_what_follows_its_turn(cut, enters):
    """By hand: the environment, played with the same actions, pays the same between an agent's turns."""
    for parts in sampled(config(TURNS, cut=cut, env_config={"enters": enters}), 4):
        left = {agent: of_agent(parts, agent, lambda own: own.get_actions()) for agent in Turns().possible_agents}
        env = Turns(enters=enters)
        env.reset()
        paid = {agent: [] for agent in left}
        lengths = {agent: len(actions) for agent, actions in left.items()}
        while env.agents:
            mover = env.agent_selection
            if env.terminations[mover] or env.truncations[mover]:
                env.step(None)
                continue
            paid[mover].append(0.0)
            env.step(left[mover].pop(0))
            for agent in env.agents:
                # Before an agent's first turn there is no step of its own that a reward could belong to.
                if paid[agent]:
                    paid[agent][-1] += env.rewards[agent]
        assert lengths == {"first": 4, "short": 2, "last": 4 - enters}
        for agent, rewards in paid.items():
            assert of_agent(parts, agent, lambda own: own.get_rewards()) == rewards, agent
            written = of_agent(
                parts, agent, lambda own: own.get_extra_model_outputs(INTRINSIC_REWARD, slice(0, len(own)))
            )
            assert written == [0.0] * len(rewards)


def test_an_agent_whose_turn_never_comes_has_no_steps(build):
    algo = build(config(TURNS, env_config={"enters": 9}))
    result = algo.train()
    assert "total_loss" not in result["learners"].get("last", {})
    for name in ("first", "short"):
        assert np.isfinite(float(result["learners"][name]["total_loss"]))


def test_memories_that_take_turns_in_cut_episodes_are_refused():
    complaint = "agents of .*turn_taking take turns and first is stateful; set batch_mode to complete_episodes"
    with pytest.raises(ValueError, match=complaint):
        config(TURNS, memory=True, cut=True).validate()
    # Of those that take turns only the ones with a memory, and of the memories only these.
    config(TURNS, memory=True).validate()
    config("come_and_go", memory=True, cut=True).validate()


def test_where_the_environment_does_not_say_it_training_ends_with_the_agent(build):
    algo = build(config("unannounced", memory=True, cut=True))
    with pytest.raises(ValueError, match=r"batch_mode: \w+ is stateful and does not act in every step"):
        algo.train()
