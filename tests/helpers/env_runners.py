"""Env runners for tests, in a module that Ray workers can import."""

import time

from rllib_reciprocator.engine import BatchedEnvRunner


class SlowSecondRunner(BatchedEnvRunner):
    """Env runner that samples slowly if it is the second remote one. Warms up by sampling once when it is built."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        super().sample()
        self.get_metrics()

    def sample(self, *args, **kwargs):
        if self.worker_index == 2:
            time.sleep(4.0)
        return super().sample(*args, **kwargs)
