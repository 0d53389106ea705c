"""Runs checked experiments through Ray Tune."""

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
from rllib_reciprocator.experiments.errors import UserError, user_path
from rllib_reciprocator.experiments.interruption import Interrupted, interruptible
from rllib_reciprocator.experiments.json_text import StandardJsonLogger
from rllib_reciprocator.experiments.metrics import ITERATIONS
from rllib_reciprocator.experiments.progress import ProgressCallback
from rllib_reciprocator.experiments.schema import Experiment, variants
from rllib_reciprocator.experiments.search import scheduler, searcher, with_distributions
from rllib_reciprocator.experiments.stopping import StopAt
from rllib_reciprocator.experiments.tensorboard import TensorBoardLogger
from rllib_reciprocator.experiments.validation import algorithm_settings, build_config
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
from rllib_reciprocator.utils.ray_internals import running_cluster, speaks_grpc

_SECONDS_TO_ANSWER = 5.0
# Bytes of results that there must at least be room for.
_MIN_FREE_BYTES = 2**20
_LOGGER_HINTS = {
    "wandb": "run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline",
    "mlflow": "set MLFLOW_TRACKING_URI to a server or a database, as sqlite:///mlflow.db",
}
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO)


@dataclass(frozen=True)
class RayOptions:
    """How to reach or start Ray.

    Attributes:
        address: Of a running cluster, as ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto``; if None, the environment
            variable ``RAY_ADDRESS``. A local Ray is started if that is not set either, and for ``local``.
        num_cpus: CPUs of a local cluster; those of the machine if None.
        num_gpus: GPUs of a local cluster; those of the machine if None.
        verbosity: 0 quiet, 1 with Ray's warnings, 2 with everything that workers print.
    """

    address: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    verbosity: int = 0

    @property
    def cluster(self) -> tuple[str, str] | None:
        """The address of the cluster to connect to and where it is set; None if Ray is to be started here."""
        for address, source in ((self.address, "--ray-address"), (os.environ.get("RAY_ADDRESS"), "RAY_ADDRESS")):
            if address:
                return None if address == "local" else (address, source)
        return None


def storage_root(experiment: Experiment) -> str:
    """Where experiments' folders are: an absolute path, or a URI as ``s3://bucket/results``."""
    root = experiment.storage_path or os.environ.get("RAY_AIR_LOCAL_CACHE_DIR") or "~/ray_results"
    return root.rstrip("/") if "://" in root else str(Path(root).expanduser().resolve())


def storage_of(experiment: Experiment) -> str:
    """The experiment's folder, a path or a URI."""
    return f"{storage_root(experiment)}/{experiment.name}"


def set_verbosity(verbosity: int) -> None:
    """Says how much of Ray's own logging is shown: 0 errors, 1 warnings too, 2 everything."""
    for name in ("ray", "ray.rllib", "ray.tune"):  # Ray sets levels of its own for the inner two
        logging.getLogger(name).setLevel(_LEVELS[min(verbosity, 2)])
    # Tune prints the traceback of a trial that fails, and keeps it in the trial's error.txt; the outcome says why.
    for name in ("ray.tune.execution.tune_controller", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL if not verbosity else logging.NOTSET)
    if not verbosity:
        warnings.filterwarnings("ignore", module=r"(ray|gymnasium)\..*")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")


@contextmanager
def ray_running(options: RayOptions, experiments: list[tuple[Experiment, type[Algorithm]]]) -> Iterator[str]:
    """Connects to Ray, or starts it with room for the largest trial; lets go of it, or ends it, afterwards.

    Where Ray is up already, as in a notebook, it is used and stays.

    Yields:
        A line that says which Ray is used.

    Raises:
        UserError: If the cluster at the address cannot be reached, or a trial asks for GPUs that are not there.
    """
    # A trial's newest checkpoint is only known to --resume once Tune has written it down.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Whether results have the figures that schedulers go by is looked at with the first of them (StopAt).
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    was_up = ray.is_initialized()
    cpus, gpus = _largest_trial(experiments)
    line = "the one that this process has started or joined before" if was_up else _start_ray(options, cpus)
    try:
        offered = ray.cluster_resources().get("GPU", 0.0)
        if gpus > offered and (was_up or options.cluster is None):
            raise UserError(f"a trial asks for {gpus:g} GPUs; this machine offers {offered:g}")
        yield f"ray          {line}"
    finally:
        if not was_up:
            ray.shutdown()


def _start_ray(options: RayOptions, cpus: int) -> str:
    """Connects to a cluster or starts a local Ray with at least ``cpus`` CPUs; returns a line that says which."""
    common: dict[str, Any] = {
        "logging_level": _LEVELS[min(options.verbosity, 2)],
        "log_to_driver": options.verbosity > 1,
    }
    if is_trusted():
        common["runtime_env"] = {"env_vars": {TRUST: "1"}}
    if options.cluster is not None:
        address, source = options.cluster
        resolved = _check_address(address, f"{source} {address}")
        try:
            ray.init(address=resolved, **common)
        except (ConnectionError, RuntimeError, ValueError) as error:  # also clusters of other versions of Ray or Python
            raise UserError(f"{source} {address}: cannot connect ({error})") from None
        return f"cluster at {resolved} ({source})"
    num_cpus = max(options.num_cpus or os.cpu_count() or 1, cpus)
    # Without an address Ray would join a cluster that runs on this machine.
    ray.init(address="local", num_cpus=num_cpus, num_gpus=options.num_gpus, include_dashboard=False, **common)
    return f"started on this machine with {num_cpus} CPUs"


def _check_address(address: str, where: str) -> str:
    """Checks that a Ray cluster answers at an address, which Ray itself would try for minutes.

    Args:
        address: As in :class:`RayOptions`.
        where: What the address was given with, for messages.

    Returns:
        The address, without ``auto``.

    Raises:
        UserError: If nothing answers, or something else than Ray does.
    """
    if address == "auto":
        local_cluster = running_cluster()
        if local_cluster is None:
            raise UserError(f"{where}: no Ray cluster runs on this machine; give HOST:PORT, or leave it out")
        address = local_cluster
    scheme, _, rest = address.rpartition("://")
    if scheme not in ("", "ray"):  # of a service that Ray has a module for
        return address
    host, _, port = rest.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"{where}: is no address; give HOST:PORT, ray://HOST:PORT or auto")
    try:
        answers_as_ray = speaks_grpc(host.strip("[]"), int(port), _SECONDS_TO_ANSWER)
    except (OSError, OverflowError) as error:
        raise UserError(f"{where}: nothing answers there ({error})") from None
    if not answers_as_ray:
        raise UserError(f"{where}: what answers there is not Ray")
    return address


def _largest_trial(experiments: list[tuple[Experiment, type[Algorithm]]]) -> tuple[int, float]:
    """CPUs and GPUs that the largest trial needs."""
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
    """Checks that the checkpoint to start from can be read, and is of the same algorithm and game.

    Raises:
        UserError: If not.
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
    """Raises ValueError if a checkpoint is of another algorithm or game than an experiment."""
    written = describe(checkpoint)
    algorithm = algorithm_class(experiment.run).__name__
    if written.algorithm != algorithm:
        raise ValueError(
            f"{checkpoint}: is a checkpoint of {written.algorithm}, which {experiment.run} cannot start from; give one"
            f" of {experiment.run}, or run: {written.algorithm}"
        )
    trained = _game_of(written.env, written.env_config)
    for settings in variants(experiment.config):
        game = _game_of(experiment.env, settings.get("env_config"))
        if game != trained:
            raise ValueError(
                f"{checkpoint}: was trained in {trained}, and this run is in {game}; give a checkpoint of {game}"
            )


def _game_of(env: str | None, env_config: Any) -> str:
    """Returns the name of an environment, with that of the game inside where it is one around a game."""
    name = str(env).rpartition(":")[2]
    inner = env_config.get("game") if isinstance(env_config, dict) else None
    return f"{name} around {inner.rpartition(':')[2]}" if isinstance(inner, str) else name


def _restored_from(experiment: Experiment) -> Path:
    """The checkpoint to start from."""
    return find_checkpoint(user_path(str(experiment.restore), "restore").resolve())


def check_storage(experiment: Experiment) -> None:
    """Checks that results can be written, as far as that can be told without a network.

    Raises:
        UserError: If not.
    """
    root = storage_root(experiment)
    try:
        FileSystem.from_uri(root)
        if "://" not in root:
            Path(root).mkdir(parents=True, exist_ok=True)
            if not os.access(root, os.W_OK | os.X_OK):
                raise PermissionError("no right to write there")
            with tempfile.TemporaryFile(dir=root) as file:  # which a full disk refuses
                file.write(bytes(_MIN_FREE_BYTES))
    except (OSError, ValueError) as error:
        raise UserError(f"--storage-path {root}: results cannot be written there ({error})") from None


def run(experiment: Experiment, algorithm: type[Algorithm], *, resume: bool = False) -> ResultGrid:
    """Runs all trials of an experiment; Ray must be up.

    Args:
        experiment: A checked experiment.
        algorithm: Its algorithm.
        resume: Whether to continue an earlier run of that name from its last checkpoints.

    Returns:
        The trials' results.

    Raises:
        UserError: If a figure to stop on is not in the results.
        Interrupted: If a signal ended it.
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
    """Says how far a run came that was interrupted, and how to go on with it."""
    parts = []
    for result in grid:
        saved = [int((metrics or {}).get(ITERATIONS, 0)) for _, metrics in result.best_checkpoints]
        kept = f"checkpoint at {max(saved)}" if saved else "no checkpoint yet"
        parts.append(f"iteration {(result.metrics or {}).get(ITERATIONS, 0)}, {kept}")
    more = f"; {len(parts) - 3} more trials" if len(parts) > 3 else ""
    return f"{experiment.name}: interrupted at {'; '.join(parts[:3]) or 'its start'}{more}; go on with --resume"


def check_loggers(experiment: Experiment) -> None:
    """Checks that the loggers that are asked for can log, with an account or a store of theirs.

    Raises:
        UserError: If one cannot.
    """
    for name in experiment.loggers:
        try:
            _logger(name, experiment).setup()
        except Exception as error:  # whatever these packages raise without an account, a server or a store
            # The first sentence; what follows is about the classes of these packages.
            problem = re.split(r"(?<=\w)\.\s|\n", str(error).strip() or type(error).__name__)[0].rstrip(".")
            raise UserError(f"{experiment.name}.loggers: {name}: {problem}; {_LOGGER_HINTS[name]}") from None


def _loggers(experiment: Experiment) -> list[Any]:
    """Ray's own callbacks for the loggers that are asked for."""
    return [_logger(name, experiment) for name in experiment.loggers]


def _logger(name: str, experiment: Experiment) -> Any:
    """Ray's own callback for a logger."""
    if name == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        return WandbLoggerCallback(project=experiment.name)
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(experiment_name=experiment.name)


def _folder_name(trial: Trial) -> str:
    """A trial's folder: short, and without the slashes of some environments' names."""
    return f"{trial.trainable_name}_{trial.trial_id}"


def _restored(algorithm: type[Algorithm], checkpoint: str) -> type[Algorithm]:
    """The algorithm, starting from a checkpoint's state."""

    class Restored(algorithm):
        def setup(self, config: Any) -> None:
            super().setup(config)
            self.restore_from_path(checkpoint)

    # Checkpoints then name the algorithm itself.
    Restored.__name__, Restored.__qualname__ = algorithm.__name__, algorithm.__qualname__
    Restored.__module__ = algorithm.__module__
    return Restored
