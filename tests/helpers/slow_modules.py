"""Modules that load weights slowly, for tests of the order of calls to remote env runners."""

import time

import ray
from ray.rllib.core.rl_module.torch import TorchRLModule

from rllib_reciprocator.models.distributions import Categorical
from tests.helpers.multi_agent_envs import TinyModule


class SlowToLoad(TorchRLModule):
    """Module that takes a second to load weights in a remote env runner.

    The weights of the env runner's first synchronization are then still in flight.
    """

    def set_state(self, *args, **kwargs):
        if ray.get_runtime_context().get_actor_id() is not None:
            time.sleep(1.0)
        super().set_state(*args, **kwargs)


class SlowBatchedModule(SlowToLoad, TinyModule):
    """Slow module for the batched engine."""

    def setup(self):
        super().setup()
        self.action_dist_cls = Categorical


class SlowTinyModule(SlowToLoad, TinyModule):
    """Slow module for RLlib's env runners."""
