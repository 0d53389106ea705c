"""Private names and behavior of Ray that this package depends on.

Other versions of Ray may rename or remove them; ``tests/test_ray_internals.py`` reports which ones are missing. The
package requires ``ray < 2.61`` until a later version has been tested.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import torch.utils.deterministic
from ray._common.deprecation import DEPRECATED_VALUE
from ray._private.dict import flatten_dict
from ray._private.services import canonicalize_bootstrap_address
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.tune.registry import ENV_CREATOR, _global_registry

__all__ = [
    "DEPRECATED_VALUE",
    "PRIVATE_NAMES",
    "answers",
    "drop_warnings",
    "env_creator",
    "flatten_dict",
    "leave_new_memory",
    "running_cluster",
    "speaks_grpc",
]

# Private attributes of Ray's classes that this package overrides or reads directly, by the module that defines them.
PRIVATE_NAMES: dict[str, tuple[str, ...]] = {
    "ray.rllib.algorithms.algorithm_config": (
        "_env_to_module_connector", "_is_frozen", "_learner_connector", "_model_config", "_per_module_overrides",
        "_rl_module_spec", "_train_batch_size_per_learner",
    ),
    "ray.rllib.core.learner.learner": (
        "_check_is_built", "_create_iterator_if_necessary", "_device", "_learner_connector", "_make_batch_if_necessary",
        "_module_optimizers", "_params", "_update", "_weights_seq_no",
    ),
    "ray.rllib.core.learner.learner_group": ("_worker_manager",),
    "ray.rllib.core.learner.torch.torch_learner": (
        "_grad_scalers", "_lr_scheduler_classes", "_make_modules_ddp_if_necessary", "_uncompiled_update",
    ),
    "ray.rllib.env.env_runner_group": ("_worker_manager",),
    "ray.rllib.env.env_runner": ("_seed",),
    "ray.rllib.env.multi_agent_env_runner": ("_callbacks", "_env_to_module", "_ongoing_episodes"),
    "ray.rllib.utils.checkpoints": ("_check_component", "_get_subcomponents"),
    "ray.rllib.connectors.common.add_time_dim_to_batch_and_zero_pad": ("_added_loss_mask_for_valid_episode_ts",),
    "ray.tune.execution.tune_controller": ("_cached_trial_decisions", "_stopper"),
    "ray.tune.impl.tuner_internal": ("_run_config",),
}  # fmt: skip

# Warnings about Ray itself that every run logs: name of the logger, and start of the message.
_ALWAYS_THERE = (
    ("ray.rllib.algorithms.algorithm_config", "You are running"),
    ("ray._private.authentication.authentication_token_setup", "Token authentication is enabled"),
    ("ray._common.deprecation", "DeprecationWarning: `RLModule(config="),
    ("ray.tune.utils.util", "Install gputil"),
)


def env_creator(name: str) -> Callable[[Any], Any] | None:
    """Returns the env creator that is registered with Tune under a name; None if there is none."""
    if not isinstance(name, str) or not _global_registry.contains(ENV_CREATOR, name):
        return None
    return _global_registry.get(ENV_CREATOR, name)


def answers(group: EnvRunnerGroup, function: Callable[[Any], Any], timeout_seconds: float | None) -> Iterator[Any]:
    """Calls a function on all actors of a group, including lost ones, and yields the results.

    Args:
        group: An ``EnvRunnerGroup`` or a remote ``LearnerGroup``.
        function: Function that is called with each actor.
        timeout_seconds: Maximum time to wait for the results in seconds; None for no limit.

    Yields:
        Results with the attribute ``ok`` and the method ``get()``.
    """
    yield from group._worker_manager.foreach_actor(function, healthy_only=False, timeout_seconds=timeout_seconds)


def running_cluster() -> str | None:
    """Returns the address ``HOST:PORT`` to which Ray resolves ``auto``; None if no cluster runs on this machine."""
    try:
        return canonicalize_bootstrap_address("auto")
    except ConnectionError:
        return None


def speaks_grpc(host: str, port: int, timeout_seconds: float) -> bool:
    """Returns True if a gRPC server, such as a Ray server, answers at an address.

    Ray terminates the whole process if another kind of server answers. A gRPC server first sends an HTTP/2 SETTINGS
    frame. If Ray uses TLS, only the connection is tested.

    Args:
        host: Host name or IP address.
        port: TCP port.
        timeout_seconds: Timeout of the connection and of each answer in seconds.

    Raises:
        OSError: If there is no connection or no answer in time.
    """
    preface, settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(3) + b"\x04" + bytes(5)
    with socket.create_connection((host, port), timeout=timeout_seconds) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return True
        connection.sendall(preface + settings)
        header = b""
        while len(header) < 9:
            data = connection.recv(9 - len(header))
            if not data:
                return False
            header += data
    return header[3:4] == b"\x04"


class _Drop(logging.Filter):
    """Log filter that drops records whose message starts with the filter's name."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns True if the record is to be logged."""
        return not record.getMessage().startswith(self.name)


def drop_warnings() -> None:
    """Suppresses the warnings that Ray logs in every run, independently of the user's settings, in this process."""
    for name, prefix in _ALWAYS_THERE:
        logger = logging.getLogger(name)
        if not any(isinstance(log_filter, _Drop) and log_filter.name == prefix for log_filter in logger.filters):
            logger.addFilter(_Drop(prefix))


def leave_new_memory() -> None:
    """Disables PyTorch's initialization of uninitialized memory in this process.

    If a seed is set, RLlib enables deterministic algorithms, and PyTorch then also fills new memory before it is used.
    This takes 7% of the time of learners with convolutions, and matters only for code that reads uninitialized memory.
    """
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
