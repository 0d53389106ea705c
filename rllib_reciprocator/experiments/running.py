"""Runs validated experiments with Ray Tune."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from pyarrow.fs import FileSystem
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.result_grid import ResultGrid

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.experiments import resuming
from rllib_reciprocator.experiments.interruption import Interrupted, interruptible
from rllib_reciprocator.experiments.progress import ProgressCallback
from rllib_reciprocator.experiments.schema import Experiment, variants
from rllib_reciprocator.experiments.search import scheduler, searcher, with_distributions
from rllib_reciprocator.experiments.stopping import StopAt
from rllib_reciprocator.experiments.tensorboard import TensorBoardLogger
from rllib_reciprocator.experiments.validation import algorithm_settings, build_config
from rllib_reciprocator.results.json_text import StandardJsonLogger
from rllib_reciprocator.results.metric_checks import ITERATIONS
from rllib_reciprocator.rllib_episodes.rewards_callback import RewardPerStepCallback
from rllib_reciprocator.utils.checkpoints import (
    TRUST,
    check_pickles,
    check_weights,
    describe,
    find_checkpoint,
    is_trusted,
    warn_of_later_version,
)
from rllib_reciprocator.utils.divergence import DivergenceCallback, DivergenceGuard
from rllib_reciprocator.utils.errors import UserError, user_path
from rllib_reciprocator.utils.ray_internals import running_cluster, speaks_grpc

_SECONDS_TO_ANSWER = 5.0
# Minimum free space for results, in bytes.
_MIN_FREE_BYTES = 2**20
_LOGGER_HINTS = {
    "wandb": "run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline",
    "mlflow": "set MLFLOW_TRACKING_URI to a server or a database, as sqlite:///mlflow.db",
}
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


def storage_root(experiment: Experiment) -> str:
    """Returns the parent folder of all experiments: an absolute path, or a URI such as ``s3://bucket/results``."""
    root = experiment.storage_path or os.environ.get("RAY_AIR_LOCAL_CACHE_DIR") or "~/ray_results"
    return root.rstrip("/") if "://" in root else str(Path(root).expanduser().resolve())


def storage_of(experiment: Experiment) -> str:
    """Returns the folder of an experiment, a path or a URI."""
    return f"{storage_root(experiment)}/{experiment.name}"


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


def check_restore(experiment: Experiment) -> None:
    """Checks that the checkpoint to start from can be read and is of the same algorithm and environment.

    Raises:
        UserError: If the checkpoint cannot be used.
    """
    if experiment.restore:
        try:
            checkpoint = _restored_from(experiment)
            warn_of_later_version(checkpoint)
            _check_same(checkpoint, experiment)
            check_pickles(checkpoint)
            check_weights(checkpoint)
        except ValueError as error:
            raise UserError(f"restore: {error}") from None


def _check_same(checkpoint: Path, experiment: Experiment) -> None:
    """Raises ValueError if the algorithm or environment of a checkpoint differs from that of an experiment."""
    metadata = describe(checkpoint)
    algorithm = algorithm_class(experiment.run).__name__
    if metadata.algorithm != algorithm:
        raise ValueError(
            f"{checkpoint}: is a checkpoint of {metadata.algorithm}, which {experiment.run} cannot start from; give one"
            f" of {experiment.run}, or run: {metadata.algorithm}"
        )
    trained_env = _game_of(metadata.env, metadata.env_config)
    for settings in variants(experiment.config):
        env_name = _game_of(experiment.env, settings.get("env_config"))
        if env_name != trained_env:
            raise ValueError(
                f"{checkpoint}: was trained in {trained_env}, but this run is in {env_name}; give a checkpoint of"
                f" {env_name}"
            )


def _game_of(env: str | None, env_config: Any) -> str:
    """Returns the name of an environment; if it wraps a game, the name of the game is included."""
    name = str(env).rpartition(":")[2]
    game = env_config.get("game") if isinstance(env_config, dict) else None
    return f"{name} around {game.rpartition(':')[2]}" if isinstance(game, str) else name


def _restored_from(experiment: Experiment) -> Path:
    """Returns the checkpoint to start from."""
    return find_checkpoint(user_path(str(experiment.restore), "restore").resolve())


def check_storage(experiment: Experiment) -> None:
    """Checks that results can be written, as far as this is possible without network access.

    Raises:
        UserError: If results cannot be written.
    """
    root = storage_root(experiment)
    try:
        FileSystem.from_uri(root)
        if "://" not in root:
            Path(root).mkdir(parents=True, exist_ok=True)
            if not os.access(root, os.W_OK | os.X_OK):
                raise PermissionError("no write permission")
            with tempfile.TemporaryFile(dir=root) as file:  # fails if the disk is full
                file.write(bytes(_MIN_FREE_BYTES))
    except (OSError, ValueError) as error:
        raise UserError(f"--storage-path {root}: results cannot be written there ({error})") from None


def run(experiment: Experiment, algorithm: type[Algorithm], *, resume: bool = False) -> ResultGrid:
    """Runs all trials of an experiment. Ray must be initialized.

    Args:
        experiment: A validated experiment.
        algorithm: The algorithm class of the experiment.
        resume: If True, continues an earlier run of the same name from its last checkpoints.

    Returns:
        The results of the trials.

    Raises:
        UserError: If a metric that the run stops on, or that its scheduler uses, is not in the results.
        Interrupted: If a signal ended the run.
    """
    folder = storage_of(experiment)
    space = {"env": experiment.env, **with_distributions(algorithm_settings(experiment.config))}
    if not issubclass(algorithm, DivergenceGuard):
        space["callbacks_class"] = [DivergenceCallback, RewardPerStepCallback]
    if experiment.seeds:
        space["seed"] = tune.grid_search(list(range(1, experiment.seeds + 1)))
    if experiment.restore:
        algorithm = _restored(algorithm, str(_restored_from(experiment)))
    stop = StopAt(experiment.stop, experiment.metric)
    callbacks = [
        ProgressCallback(experiment.name, experiment.stop.get(ITERATIONS)),
        StandardJsonLogger(),
        TensorBoardLogger(),
        *_loggers(experiment),
    ]
    if resume:
        resuming.prepare(folder, stop, callbacks)
        tuner = tune.Tuner.restore(folder, algorithm, param_space=space, resume_unfinished=True, resume_errored=True)
    else:
        tuner = tune.Tuner(
            algorithm,
            param_space=space,
            tune_config=tune.TuneConfig(
                num_samples=experiment.num_samples,
                metric=experiment.metric,
                mode=experiment.mode,
                scheduler=scheduler(experiment.scheduler, "scheduler"),
                search_alg=searcher(experiment.search_alg, "search_alg"),
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name=experiment.name,
                storage_path=storage_root(experiment),
                stop=stop,
                verbose=0,
                callbacks=callbacks,
                failure_config=tune.FailureConfig(max_failures=experiment.max_failures),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=experiment.checkpoint_freq,
                    checkpoint_at_end=experiment.checkpoint_at_end,
                    num_to_keep=experiment.keep_checkpoints_num,
                ),
            ),
        )
    resuming.describe(experiment, folder)
    with interruptible() as handler:
        grid = tuner.fit()
    if handler.received:
        raise Interrupted(handler.received, _how_far(experiment, grid))
    if stop.problem:
        raise UserError(f"{experiment.name}.{stop.problem}")
    return grid


def _how_far(experiment: Experiment, grid: ResultGrid) -> str:
    """Describes the progress of an interrupted run and how to resume it."""
    parts = []
    for result in grid:
        checkpoint_iterations = [int((metrics or {}).get(ITERATIONS, 0)) for _, metrics in result.best_checkpoints]
        checkpoint_text = (
            f"checkpoint at {max(checkpoint_iterations)}" if checkpoint_iterations else "no checkpoint yet"
        )
        parts.append(f"iteration {(result.metrics or {}).get(ITERATIONS, 0)}, {checkpoint_text}")
    remainder = f"; {len(parts) - 3} more trials" if len(parts) > 3 else ""
    return f"{experiment.name}: interrupted at {'; '.join(parts[:3]) or 'its start'}{remainder}; continue with --resume"


def check_loggers(experiment: Experiment) -> None:
    """Checks that the requested loggers can log, e.g. that an account or a tracking store is configured.

    Raises:
        UserError: If a logger cannot log.
    """
    for name in experiment.loggers:
        try:
            _logger(name, experiment).setup()
        except Exception as error:  # without an account or a server, they raise any type of exception
            # Only the first sentence is shown: the rest is about the classes of these packages.
            problem = re.split(r"(?<=\w)\.\s|\n", str(error).strip() or type(error).__name__)[0].rstrip(".")
            raise UserError(f"{experiment.name}.loggers: {name}: {problem}; {_LOGGER_HINTS[name]}") from None


def _loggers(experiment: Experiment) -> list[Any]:
    """Returns Ray's callbacks for the requested loggers."""
    return [_logger(name, experiment) for name in experiment.loggers]


def _logger(name: str, experiment: Experiment) -> Any:
    """Returns Ray's callback for a logger."""
    if name == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        return WandbLoggerCallback(project=experiment.name)
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(experiment_name=experiment.name)


def _folder_name(trial: Trial) -> str:
    """Returns the folder name of a trial: short, and without the slashes in the names of some environments."""
    return f"{trial.trainable_name}_{trial.trial_id}"


def _restored(algorithm: type[Algorithm], checkpoint: str) -> type[Algorithm]:
    """Returns a subclass of the algorithm that loads the state of a checkpoint in its setup."""

    class Restored(algorithm):
        def setup(self, config: Any) -> None:
            super().setup(config)
            self.restore_from_path(checkpoint)

    # With these names, checkpoints of the subclass refer to the algorithm itself.
    Restored.__name__, Restored.__qualname__ = algorithm.__name__, algorithm.__qualname__
    Restored.__module__ = algorithm.__module__
    return Restored
