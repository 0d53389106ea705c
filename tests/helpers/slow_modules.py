"""Modules that are slow to load weights, for tests of the order in which remote env runners do things."""

import time

import ray
from ray.rllib.core.rl_module.torch import TorchRLModule

from rllib_reciprocator.models.distributions import Categorical
from tests.helpers.multi_agent_envs import TinyModule


class SlowToLoad(TorchRLModule):
    """Takes a second to load weights in an env runner: those of its first synchronization are then in flight."""

    def set_state(self, *args, **kwargs):
        if ray.get_runtime_context().get_actor_id() is not None:
            time.sleep(1.0)
        super().set_state(*args, **kwargs)


class SlowBatchedModule(SlowToLoad, TinyModule):
    """For the batched engine."""

    def setup(self):
        super().setup()
        self.action_dist_cls = Categorical


class SlowTinyModule(SlowToLoad, TinyModule):
    """For RLlib's env runners."""
