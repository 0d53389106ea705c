"""Tests of RLlib's multi-agent examples with ``reciprocate()``: their environments, policies and modules.

Two of them use PettingZoo's turn-based waterworld, which PettingZoo no longer has; here they use ``ipd_v0``.
"""

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv, PettingZooEnv
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole, MultiAgentPendulum
from ray.rllib.examples.envs.classes.multi_agent.rock_paper_scissors import RockPaperScissors
from ray.tune import register_env

import social_dilemmas
from rllib_reciprocator import reciprocate
from tests.helpers.multi_agent_envs import own_policy, shared_policy

pytestmark = pytest.mark.slow


def independent(policies):
    return {
        "policies": policies,
        "policy_mapping_fn": own_policy,
        "spec": MultiRLModuleSpec(rl_module_specs={policy: RLModuleSpec() for policy in policies}),
    }


SHARED = {
    "policies": {"p0"},
    "policy_mapping_fn": shared_policy,
    "spec": MultiRLModuleSpec(rl_module_specs={"p0": RLModuleSpec()}),
}


def flattened(env, spaces, device):
    """Flattens observations, as RLlib's example with rock, paper and scissors does."""
    return FlattenObservations(multi_agent=True)


EXAMPLES = {
    "pettingzoo_independent_learning": (
        lambda _: PettingZooEnv(social_dilemmas.ipd_v0.env()),
        independent({"player_0", "player_1"}),
    ),
    "pettingzoo_parameter_sharing": (lambda _: PettingZooEnv(social_dilemmas.ipd_v0.env()), SHARED),
    "the same in parallel": (lambda _: ParallelPettingZooEnv(social_dilemmas.ipd_v0.parallel_env()), SHARED),
    "rock_paper_scissors": (RockPaperScissors, independent({"player1", "player2"})),
    "multi_agent_cartpole": (lambda _: MultiAgentCartPole({"num_agents": 2}), SHARED),
    "multi_agent_pendulum": (lambda _: MultiAgentPendulum({"num_agents": 2}), SHARED),
}


@pytest.mark.parametrize("observe_balance", [False, True])
@pytest.mark.parametrize("example", EXAMPLES)
def test_runs_with_reciprocity(ray_cluster, example, observe_balance):
    env, setup = EXAMPLES[example]
    register_env("example", env)
    config = (
        PPOConfig()
        .environment("example")
        .multi_agent(policies=setup["policies"], policy_mapping_fn=setup["policy_mapping_fn"])
        .rl_module(rl_module_spec=setup["spec"])
        .env_runners(num_env_runners=0, rollout_fragment_length=100, env_to_module_connector=flattened)
        .training(train_batch_size_per_learner=200, minibatch_size=100, num_epochs=1)
    )
    algo = reciprocate(config, weight=0.1, observe_balance=observe_balance).build_algo()
    try:
        for _ in range(2):
            result = algo.train()
    finally:
        algo.stop()
    assert np.isfinite(float(result["learners"]["influence"]["loss"]))
    influence = result["env_runners"]["influence_std"]
    if "pettingzoo" in example:
        # Agents act in turns, so that no agent acts in another agent's step.
        assert all(float(value) == 0.0 for value in influence.values())
    else:
        assert all(float(value) > 0.0 for value in influence.values())
