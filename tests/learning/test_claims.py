"""Tests that tuned examples reach what they claim, and that they do not with the method switched off.

Examples have fewer environments and iterations than in their files, so that bounds are lower than the files' claims.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.learning.training import outcomes, rewards_per_step, train_example

pytestmark = pytest.mark.learning

NAIVE_PAIR = {"players": {"player_*": "ppo"}}


@dataclass(frozen=True)
class Claim:
    """Claims that a measure of the last iteration is above a bound, and with the method switched off below it.

    Attributes:
        example: Name of the tuned example.
        iterations: Number of training iterations.
        measure: Computes the measure from the results of the last iteration.
        bound: Lower bound of the measure with the method.
        without: Settings that switch the method off.
        bound_without: Upper bound of the measure without the method.
        changes: Settings that replace the file's, with and without the method.
        is_greedy: If True, agents act greedily in the episodes that are measured.
    """

    example: str
    iterations: int
    measure: Callable[[Mapping], float]
    bound: float
    without: dict[str, Any]
    bound_without: float
    changes: dict[str, Any] = field(default_factory=dict)
    is_greedy: bool = False

    def run(self, *, with_method=True, seed=1):
        """Trains the example and returns the measure."""
        settings = {**self.changes, **({} if with_method else self.without)}
        results = train_example(self.example, self.iterations, seed=seed, is_greedy=self.is_greedy, **settings)
        return self.measure(results)


def cooperation(results):
    """Returns the cooperation rate of the agent that cooperates less."""
    return min(outcomes(results, "cooperation_rate"))


def first_cooperation(results):
    """Returns the cooperation rate of the first agent."""
    return outcomes(results, "cooperation_rate")[0]


def own_coins(results):
    """Returns the lowest own-coin share of the agents."""
    return min(outcomes(results, "own_coin_share"))


def collective_return(results):
    """Returns the sum of all agents' returns."""
    return float(results["episode_return_mean"])


def first_reward(results):
    """Returns the reward per step of the first agent."""
    return rewards_per_step(results)[0]


def social_value_orientation(angle):
    """Returns a pair of PPO agents with a social value orientation."""
    player = {"player": "ppo", "intrinsic": {"social_value_orientation": {"angle": angle, "weight": 10.0}}}
    return {"players": {"player_*": player}}


def guilt(beta):
    """Returns a dictator that is averse to advantageous inequity, and an agent whose actions have no effect."""
    intrinsic = {"inequity_aversion": {"alpha": 5.0, "beta": beta, "decay": 0.0}}
    return {"players": {"player_0": {"player": "ppo", "intrinsic": intrinsic}, "player_1": "scripted/random"}}


# With as many environments as Shaper uses, the gradient steps of PPO would take a minute.
BY_PPO = {"players": {"player_0": "ppo", "player_1": "learner/pg"}, "num_envs_per_env_runner": 256}
# Sharing gives 1.5 to both agents; keeping gives 2 to the first one and nothing to the other.
DICTATOR = [[[1.5, 1.5], [1.5, 1.5]], [[2.0, 0.0], [2.0, 0.0]]]

# Measures with the method and without it, with the number of seeds in parentheses:
#   reciprocator_ipd            0.98 to 0.99 (4); 0.02 (2)
#   reciprocator_coins          0.78 (1); 0.50 (1)
#   lio_escape_room             9.0 (4), and one of 20 seeds never reaches it; -2.0 (1)
#   advantage_alignment_ipd     0.74 to 1.00 between iterations 35 and 50 (2); 0.00 (1)
#   loqa_ipd                    0.98 to 1.00 (5); 0.00 by PPO in the same file (5)
#   coala_ipd_shaping           0.8 (1), and 0.5 with twice as many environments (1); PPO and M-FOS 0.17 (1)
#   shaper_ipd_shaping          0.94 to 0.95 (2); 0.16 (1)
#   social_value_orientation    more than 0.99 (3); 0.01 (1)
#   inequity_aversion           0.99 (3); 0.02 to 0.03 (2)
# The rewards of mutual defection have an angle of 45 degrees too: pairs with that angle defect (weights 3 and 20, two
# seeds each). At 57 degrees, the largest that counts as prosocial (Murphy et al., 2011), being exploited is off by 33
# degrees and exploiting by 57, so that random policies learn to cooperate.
CLAIMS = {
    "reciprocator_ipd": Claim(
        "reciprocator_ipd", 25, cooperation, 0.9, NAIVE_PAIR, 0.2, changes={"num_envs_per_env_runner": 256}
    ),
    "reciprocator_coins": Claim("reciprocator_coins", 22, own_coins, 0.65, NAIVE_PAIR, 0.55),
    "lio_escape_room": Claim(
        "lio_escape_room_2_1", 13, collective_return, 7.9, {"players": {"player_*": "pg"}}, 0.1, is_greedy=True
    ),
    "shared_reward_escape_room": Claim(
        "shared_reward_escape_room_2_1", 4, collective_return, 7.9, {"players": {"player_*": "pg"}}, 0.1, is_greedy=True
    ),
    "advantage_alignment_ipd": Claim(
        "advantage_alignment_ipd", 55, cooperation, 0.6, {"alignment_weight": 0.0}, 0.2
    ),
    "loqa_ipd": Claim("loqa_ipd", 75, cooperation, 0.9, {"shaping_weight": 0.0}, 0.2),
    "coala_ipd_shaping": Claim(
        "coala_ipd_shaping", 45, first_reward, 0.5, {"meta": {"credit": "myopic"}}, 0.3,
        changes={"num_envs_per_env_runner": 512, "minibatch_size": 12800},
    ),
    "shaper_ipd_shaping": Claim("shaper_ipd_shaping", 50, first_reward, 0.6, BY_PPO, 0.3),
    "social_value_orientation": Claim(
        "ppo_ipd", 25, cooperation, 0.9, social_value_orientation(0.0), 0.2,
        changes={"num_envs_per_env_runner": 256, **social_value_orientation(57.0)},
    ),
    "inequity_aversion": Claim(
        "ppo_ipd", 20, first_cooperation, 0.85, guilt(0.0), 0.15,
        changes={"num_envs_per_env_runner": 256, "env_config": {"num_steps": 8, "payoffs": DICTATOR}, **guilt(0.5)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_example_reaches_its_claim(ray_cluster, name):
    claim = CLAIMS[name]
    assert claim.run() >= claim.bound


@pytest.mark.parametrize("name", CLAIMS)
def test_example_does_not_reach_its_claim_without_the_method(ray_cluster, name):
    claim = CLAIMS[name]
    assert claim.run(with_method=False) <= claim.bound_without
