"""Tests of the iterations and rewards that estimators are fitted to, by results, weights and checkpoints."""

import gymnasium
import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune import register_env

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig, reciprocate
from tests.helpers.games import LENGTHS
from tests.helpers.multi_agent_envs import own_policy

COOPERATE, DEFECT = 0, 1
# The first agent gets 1 if the second one cooperates; all other rewards are 0.
PAYOFFS = [[[1.0, 0.0], [0.0, 0.0]]] * 2
ENVIRONMENTS = 16


def config(num_steps=1, payoffs=PAYOFFS, **reciprocity):
    return (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": num_steps, "payoffs": payoffs})
        .players({"player_0": "reciprocator", "player_1": "ppo"})
        .reciprocity(balance_decay=0.0, **reciprocity)
        .training(num_epochs=1)
        .rl_module(model_config={"fcnet_hiddens": [4]})
        .env_runners(num_envs_per_env_runner=ENVIRONMENTS)
        .debugging(seed=1)
    )


def always_play(algo, action):
    """Sets the weights of the second agent's policy so that it always takes the given action."""
    state = algo.get_module("player_1").get_state()
    actor = {name: np.zeros_like(value) for name, value in state.items() if name.startswith("actor")}
    (bias,) = (name for name, value in actor.items() if value.shape == (1,))
    # The logit of the second of two actions.
    actor[bias][:] = 40.0 if action == DEFECT else -40.0
    algo.set_state({"learner_group": {"learner": {"rl_module": {"player_1": {**state, **actor}}}}})


@pytest.mark.parametrize(("buffer", "period"), [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2)])
def test_table_counts_the_last_iterations_and_is_updated_once_per_period(build, buffer, period):
    """Checks influence on the first agent: its reward minus the frequency with which the second one cooperated."""
    prior = 2.0
    settings = {"influence": "tabular", "buffer_iterations": buffer, "update_period_iters": period, "prior": prior}
    algo = build(config(exploration=0.0, **settings))
    actions = [DEFECT, COOPERATE, COOPERATE, DEFECT, COOPERATE, COOPERATE, COOPERATE]
    frequency = 0.5
    for iteration, action in enumerate(actions):
        always_play(algo, action)
        results = algo.train()["env_runners"]
        cooperates = float(action == COOPERATE)
        assert float(results["outcomes"]["player_1"]["cooperation_rate"]) == cooperates
        influence = float(results["influence"]["player_1_on_player_0"])
        assert influence == pytest.approx(cooperates - frequency, abs=1e-5)
        if iteration % period == 0:
            window = actions[max(0, iteration + 1 - buffer) : iteration + 1]
            num_cooperations = prior + ENVIRONMENTS * window.count(COOPERATE)
            frequency = num_cooperations / (2.0 * prior + ENVIRONMENTS * len(window))


@pytest.mark.parametrize(("buffer", "period"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 3)])
def test_learned_estimator_is_fitted_once_per_period_to_the_last_iterations(build, buffer, period):
    """Counts iterations in the replay buffer and gradient steps: one per iteration in the buffer."""
    settings = {"estimator_minibatch_size": 4 * ENVIRONMENTS, "estimator_epochs": 1, "estimator_hiddens": [4]}
    schedule = {"buffer_iterations": buffer, "update_period_iters": period}
    algo = build(config(num_steps=4, influence="reward", **settings, **schedule))

    def gradient_steps():
        state = algo.learner_group.get_state()["learner"]["optimizer"]
        (optimizer,) = (value for name, value in state.items() if name.startswith("influence"))
        return max((int(param["step"]) for param in optimizer["state"]["state"].values()), default=0)

    expected, before = 0, algo.learner_group.get_weights()["influence"]
    for iteration in range(5):
        algo.train()
        after = algo.learner_group.get_weights()["influence"]
        is_fitted = any(not np.array_equal(after[name], value) for name, value in before.items())
        assert is_fitted == (iteration % period == 0)
        replay_length = min(buffer, iteration + 1)
        (replay,) = algo.get_state()["replays"]
        assert len(replay) == replay_length
        expected += replay_length if is_fitted else 0
        assert gradient_steps() == expected
        before = after


def test_balances_restart_at_the_initial_one_when_an_environment_is_reset(build):
    """Checks that balances decay from the initial one until the end of the episode, since influence is zero."""
    social_dilemmas.register(LENGTHS)
    initial, decay, length, environments = 2.0, 0.5, 12, 6
    a_config = (
        ReciprocatorConfig()
        .environment("lengths_v0", env_config={"num_steps": 8})
        .players({"player_*": "reciprocator"})
        .reciprocity(influence="tabular", initial_balance=initial, balance_decay=decay)
        .rl_module(model_config={"fcnet_hiddens": [4]})
        .env_runners(num_envs_per_env_runner=environments, rollout_fragment_length=length)
        .debugging(seed=1)
    )
    algo = build(a_config)
    # Environment b has episodes of 2, 3 or 4 steps, which divide the fragment length.
    balances = [initial * decay**step for steps in (2, 3, 4) for step in range(steps) for _ in range(length // steps)]
    for _ in range(2):
        balance = algo.train()["env_runners"]["balance"]
        for pair in ("player_0_towards_player_1", "player_1_towards_player_0"):
            assert float(balance[pair]) == pytest.approx(float(np.mean(balances)), abs=1e-5)


class Visitor(MultiAgentEnv):
    """Environment of eight steps, of which ``visitor`` plays only the first. Agents get 100 per step that they play."""

    def __init__(self, config=None):
        super().__init__()
        self.possible_agents = self.agents = ["host", "visitor"]
        self.observation_spaces = {a: gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32) for a in self.agents}
        self.action_spaces = {a: gymnasium.spaces.Discrete(2) for a in self.agents}

    def reset(self, *, seed=None, options=None):
        self._time = 0
        return {agent: np.zeros(1, np.float32) for agent in self.possible_agents}, {}

    def step(self, actions):
        self._time += 1
        rewards = dict.fromkeys(actions, 100.0)
        obs = {agent: np.zeros(1, np.float32) for agent in actions}
        ends = {"visitor": True} if self._time == 1 else {}
        return obs, rewards, {**ends, "__all__": False}, {"__all__": self._time == 8}, {}


def test_rewards_of_absent_agents_are_not_fitted(build):
    """Compares the loss with the squared error of predicting 0 for 100, since the first predictions are small."""
    register_env("visitor", Visitor)
    a_config = (
        PPOConfig()
        .environment("visitor")
        .multi_agent(policies=["host", "visitor"], policy_mapping_fn=own_policy)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=1, rollout_fragment_length=16)
        .training(train_batch_size_per_learner=16, minibatch_size=8, num_epochs=1)
        .rl_module(model_config={"fcnet_hiddens": [4]})
        .debugging(seed=1)
    )
    algo = build(reciprocate(a_config, weight=0.1, balance_decay=0.5, estimator_minibatch_size=8))
    loss = float(algo.train()["learners"]["influence"]["loss"])
    assert loss == pytest.approx(100.0**2, rel=0.1)
