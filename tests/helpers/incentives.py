"""Small runs of LIO, and single phases of their updates."""

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData

from rllib_reciprocator.algorithms.lio import LIOConfig
from rllib_reciprocator.engine.learner import ITERATION
from rllib_reciprocator.engine.update_rule import LEARN, LOOK_AHEAD
from tests.helpers.weights import weights

LIFETIME = "num_env_steps_sampled_lifetime"


def lio_config(players="lio", agents=2, games=16, learners=0, incentives=None, env="escape_room_v0", **training):
    settings = {"num_levers": agents - 1} if env == "escape_room_v0" else {"num_steps": 5}
    settings |= {"num_agents": agents} if env in ("escape_room_v0", "public_goods_v0") else {}
    config = (
        LIOConfig()
        .environment(env, env_config=settings)
        .players(players if isinstance(players, dict) else {"player_*": players})
        .training(**{"lr": 0.3, "epsilon": 0.3, "updates_per_iteration": 2, **training})
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=games)
        .learners(num_learners=learners)
        .debugging(seed=1)
    )
    return config.incentives(**{"hiddens": [8], "lr": 0.01, **(incentives or {})})


def run_phase(algo, phase, batch, lifetime=0):
    """Runs one phase of an update on a rollout, after ``lifetime`` environment steps."""
    learners = algo.config.num_learners
    algo.learner_group.update(
        training_data=TrainingData(batches=batch.shard(learners)) if learners else TrainingData(batch=batch),
        timesteps={LIFETIME: lifetime, ITERATION: 0},
        num_epochs=1,
        phase=phase,
    )


def run_both_phases(algo, batch, after=None, lifetimes=(0, 0)):
    """Trains policies on a rollout, and incentive functions on the rollout after it, by default the same one."""
    run_phase(algo, LEARN, batch, lifetimes[0])
    run_phase(algo, LOOK_AHEAD, batch if after is None else after, lifetimes[1])


def incentive_rule(algo):
    """Returns the update rule of incentive functions."""
    return algo.learner_group._learner.rule_of["incentives"]


def joint_observations(batch, agents=2):
    """Returns the observations of agents with one module each, ``[B, T, N, ..]``."""
    return torch.stack([batch.modules[f"player_{i}"].steps[Columns.OBS][:, 0] for i in range(agents)], 2)


def changed_modules(algo, before):
    """Returns the ids of the modules with other weights than ``before``."""
    after = weights(algo)
    return {key.split("/")[0] for key, value in after.items() if not np.array_equal(value, before[key])}
