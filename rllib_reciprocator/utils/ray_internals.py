"""What this package uses of Ray that Ray does not promise to keep.

Another version of Ray may call it otherwise; ``tests/test_ray_internals.py`` says what is gone. Until a version has
been tried, the package asks for ``ray < 2.61``.
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

# Private names of Ray's that are overridden or read where a class or an object of Ray's is at hand, by the module that
# has them.
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

# Loggers whose warnings are about Ray itself, and how their messages begin.
_ALWAYS_THERE = (
    ("ray.rllib.algorithms.algorithm_config", "You are running"),
    ("ray._private.authentication.authentication_token_setup", "Token authentication is enabled"),
    ("ray._common.deprecation", "DeprecationWarning: `RLModule(config="),
    ("ray.tune.utils.util", "Install gputil"),
)


def env_creator(name: Any) -> Callable[[Any], Any] | None:
    """What makes the environment that is registered with Tune under a name; None if there is none."""
    if not isinstance(name, str) or not _global_registry.contains(ENV_CREATOR, name):
        return None
    return _global_registry.get(ENV_CREATOR, name)


def answers(group: Any, function: Callable[[Any], Any], timeout_seconds: float | None) -> Iterator[Any]:
    """What all actors of a group answer to a call, lost ones too: objects with ``ok`` and ``get()``.

    Args:
        group: An ``EnvRunnerGroup`` or a remote ``LearnerGroup``.
        function: What is called with each actor.
        timeout_seconds: How long each may take.
    """
    yield from group._worker_manager.foreach_actor(function, healthy_only=False, timeout_seconds=timeout_seconds)


def running_cluster() -> str | None:
    """Returns the address ``HOST:PORT`` that Ray takes ``auto`` for; None if no cluster runs on this machine."""
    try:
        return canonicalize_bootstrap_address("auto")
    except ConnectionError:
        return None


def speaks_grpc(host: str, port: int, timeout_seconds: float) -> bool:
    """If True, a server of gRPC, as those of Ray are, answers at an address.

    Ray itself ends the whole process where something else does. A server of gRPC begins with an HTTP/2 frame of
    settings; nothing is asked where Ray encrypts its traffic.

    Args:
        host: Name or IP address.
        port: TCP port.
        timeout_seconds: How long to wait for a connection, and for an answer.

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
            received = connection.recv(9 - len(header))
            if not received:
                return False
            header += received
    return header[3:4] == b"\x04"


class _Drop(logging.Filter):
    """Drops the records whose message begins so."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be logged."""
        return not record.getMessage().startswith(self.name)


def drop_warnings() -> None:
    """Keeps warnings that come with every run, whatever a user does, and no others, out of this process's log."""
    for name, beginning in _ALWAYS_THERE:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Drop) and each.name == beginning for each in logger.filters):
            logger.addFilter(_Drop(beginning))


def leave_new_memory() -> None:
    """Lets this process use new memory as it is.

    Where there is a seed RLlib makes torch deterministic, which then also writes over all memory before it is used: 7%
    of the time of learners with convolutions, for the sake of code that reads what nobody wrote.
    """
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
