"""Connects to a Ray cluster or starts Ray on this machine."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.tune.execution.placement_groups import PlacementGroupFactory

from rllib_reciprocator.experiments.schema import Experiment, variants
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.utils.checkpoints import TRUST, is_trusted
from rllib_reciprocator.utils.errors import UserError
from rllib_reciprocator.utils.ray_internals import running_cluster, speaks_grpc

_SECONDS_TO_ANSWER = 5.0
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO)


@dataclass(frozen=True)
class RayOptions:
    """Settings for connecting to Ray or starting it.

    Attributes:
        address: Address of a running cluster, as ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto``. If None, the
            environment variable ``RAY_ADDRESS`` is used. Ray is started locally if neither is set, and for ``local``.
        num_cpus: Number of CPUs of a local cluster. If None, all CPUs of the machine.
        num_gpus: Number of GPUs of a local cluster. If None, all GPUs of the machine.
        verbosity: 0 for errors only, 1 to add Ray's warnings, 2 to add everything that workers print.
    """

    address: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    verbosity: int = 0

    @property
    def cluster(self) -> tuple[str, str] | None:
        """Returns the address of the cluster to connect to and the setting it comes from; None to start Ray locally."""
        for address, source in ((self.address, "--ray-address"), (os.environ.get("RAY_ADDRESS"), "RAY_ADDRESS")):
            if address:
                return None if address == "local" else (address, source)
        return None


def set_verbosity(verbosity: int) -> None:
    """Sets how much of Ray's logging is shown: 0 for errors, 1 to add warnings, 2 for everything."""
    for name in ("ray", "ray.rllib", "ray.tune"):  # Ray sets the levels of the two child loggers itself
        logging.getLogger(name).setLevel(_LEVELS[min(verbosity, 2)])
    # Hides tracebacks of failed trials: Tune also saves them to error.txt, and the outcome reports the cause.
    for name in ("ray.tune.execution.tune_controller", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL if not verbosity else logging.NOTSET)
    if not verbosity:
        warnings.filterwarnings("ignore", module=r"(ray|gymnasium)\..*")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")


@contextmanager
def ray_running(options: RayOptions, experiments: list[tuple[Experiment, type[Algorithm]]]) -> Iterator[str]:
    """Connects to Ray, or starts it with enough CPUs for the largest trial; disconnects or shuts it down afterwards.

    If Ray is already initialized, e.g. in a notebook, it is used and keeps running.

    Yields:
        A line that describes the Ray cluster in use.

    Raises:
        UserError: If the cluster at the address cannot be reached, or a trial requests GPUs that are not available.
    """
    # --resume only finds a trial's newest checkpoint once Tune has saved its state, so it is saved every second.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # StopAt checks at the first result whether the metric that the scheduler uses is reported.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    was_initialized = ray.is_initialized()
    cpus, gpus = _largest_trial(experiments)
    line = "already started or joined by this process" if was_initialized else _start_ray(options, cpus)
    try:
        available_gpus = ray.cluster_resources().get("GPU", 0.0)
        if gpus > available_gpus and (was_initialized or options.cluster is None):
            raise UserError(f"a trial requests {gpus:g} GPUs; this machine has {available_gpus:g}")
        yield f"ray          {line}"
    finally:
        if not was_initialized:
            ray.shutdown()


def _start_ray(options: RayOptions, cpus: int) -> str:
    """Connects to a cluster or starts a local Ray with at least ``cpus`` CPUs, and returns a line that describes it."""
    init_options: dict[str, Any] = {
        "logging_level": _LEVELS[min(options.verbosity, 2)],
        "log_to_driver": options.verbosity > 1,
    }
    if is_trusted():
        init_options["runtime_env"] = {"env_vars": {TRUST: "1"}}
    if options.cluster is not None:
        address, source = options.cluster
        cluster_address = _check_address(address, f"{source} {address}")
        try:
            ray.init(address=cluster_address, **init_options)
        except (ConnectionError, RuntimeError, ValueError) as error:  # also other versions of Ray or Python
            raise UserError(f"{source} {address}: cannot connect ({error})") from None
        return f"cluster at {cluster_address} ({source})"
    num_cpus = max(options.num_cpus or os.cpu_count() or 1, cpus)
    # Without an address Ray would join a cluster that runs on this machine.
    ray.init(address="local", num_cpus=num_cpus, num_gpus=options.num_gpus, include_dashboard=False, **init_options)
    return f"started on this machine with {num_cpus} CPUs"


def _check_address(address: str, where: str) -> str:
    """Checks that a Ray cluster answers at an address, because Ray itself would retry for minutes.

    Args:
        address: Address as in :class:`RayOptions`.
        where: Option or variable that set the address, and the address, for messages.

    Returns:
        The address, with ``auto`` replaced by the address of the running cluster.

    Raises:
        UserError: If nothing answers at the address, or if the service there is not Ray.
    """
    if address == "auto":
        local_cluster = running_cluster()
        if local_cluster is None:
            raise UserError(f"{where}: no Ray cluster runs on this machine; give HOST:PORT, or omit it")
        address = local_cluster
    scheme, _, host_and_port = address.rpartition("://")
    if scheme not in ("", "ray"):  # addresses of services for which Ray has a client module
        return address
    host, _, port = host_and_port.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"{where}: is not an address; use HOST:PORT, ray://HOST:PORT or auto")
    try:
        answers_as_ray = speaks_grpc(host.strip("[]"), int(port), _SECONDS_TO_ANSWER)
    except (OSError, OverflowError) as error:
        raise UserError(f"{where}: no answer from there ({error})") from None
    if not answers_as_ray:
        raise UserError(f"{where}: the service there is not Ray")
    return address


def _largest_trial(experiments: list[tuple[Experiment, type[Algorithm]]]) -> tuple[int, float]:
    """Returns the numbers of CPUs and GPUs that the largest trial needs."""
    cpus, gpus = 1.0, 0.0
    for experiment, algorithm in experiments:
        for settings in variants(experiment.config):
            config = build_config(algorithm, experiment.env, settings)
            request = algorithm.default_resource_request(config)
            if isinstance(request, PlacementGroupFactory):
                cpus = max(cpus, request.required_resources.get("CPU", 0.0))
                gpus = max(gpus, request.required_resources.get("GPU", 0.0))
    return int(-(-cpus // 1)), gpus
