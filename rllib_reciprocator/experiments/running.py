"""Runs checked experiments through Ray Tune."""

from __future__ import annotations

import json
import logging
import os
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from pyarrow.fs import FileSelector, FileSystem
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.result_grid import ResultGrid

from rllib_reciprocator.experiments.errors import UserError
from rllib_reciprocator.experiments.progress import ProgressCallback
from rllib_reciprocator.experiments.schema import Experiment, variants
from rllib_reciprocator.experiments.search import scheduler, searcher, with_distributions
from rllib_reciprocator.experiments.tensorboard import TensorBoardLogger
from rllib_reciprocator.experiments.validation import algorithm_settings, build_config

_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO)


@dataclass(frozen=True)
class RayOptions:
    """How to reach or start Ray.

    Attributes:
        address: Of a running cluster; a local one is started if None.
        num_cpus: CPUs of a local cluster; those of the machine if None.
        num_gpus: GPUs of a local cluster; those of the machine if None.
        verbosity: 0 quiet, 1 with Ray's warnings, 2 with everything that workers print.
    """

    address: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    verbosity: int = 0


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
    if not verbosity:
        warnings.filterwarnings("ignore", module=r"(ray|gymnasium)\..*")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")


def start_ray(options: RayOptions, experiments: list[tuple[Experiment, type[Algorithm]]]) -> None:
    """Connects to Ray, or starts it with room for the largest trial.

    Raises:
        UserError: If the cluster at the address cannot be reached.
    """
    # A trial's newest checkpoint is only known to --resume once Tune has written it down.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    common: dict[str, Any] = {
        "logging_level": _LEVELS[min(options.verbosity, 2)],
        "log_to_driver": options.verbosity > 1,
        "ignore_reinit_error": True,
    }
    if options.address:
        _check_address(options.address)
        try:
            ray.init(address=options.address, **common)
        except ConnectionError as error:
            raise UserError(f"--ray-address {options.address}: {error}") from None
        return
    cpus, gpus = _largest_trial(experiments)
    available = options.num_cpus or os.cpu_count() or 1
    ray.init(num_cpus=max(available, cpus), num_gpus=options.num_gpus, include_dashboard=False, **common)
    offered = ray.cluster_resources().get("GPU", 0.0)
    if gpus > offered:
        ray.shutdown()
        raise UserError(f"a trial asks for {gpus:g} GPUs; this machine offers {offered:g}")


def _check_address(address: str) -> None:
    """Looks whether anybody listens there, which Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # "auto", or a name that Ray resolves
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise UserError(f"--ray-address {address}: nobody answers there ({error})") from None


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


def check_resumable(experiment: Experiment) -> None:
    """Checks that an earlier run of the experiment can be continued.

    Raises:
        UserError: If there is none.
    """
    folder = storage_of(experiment)
    if not tune.Tuner.can_restore(folder):
        raise UserError(f"--resume: {folder} has no experiment to continue")


def check_restore(experiment: Experiment) -> None:
    """Checks that the checkpoint to start from is one.

    Raises:
        UserError: If it is not.
    """
    if experiment.restore and not (Path(experiment.restore).expanduser() / "rllib_checkpoint.json").is_file():
        raise UserError(f"restore: {experiment.restore} is not a checkpoint (it has no rllib_checkpoint.json)")


def run(experiment: Experiment, algorithm: type[Algorithm], *, resume: bool = False) -> ResultGrid:
    """Runs all trials of an experiment; Ray must be up.

    Args:
        experiment: A checked experiment.
        algorithm: Its algorithm.
        resume: Whether to continue an earlier run of that name from its last checkpoints.

    Returns:
        The trials' results.
    """
    folder = storage_of(experiment)
    space = {"env": experiment.env, **with_distributions(algorithm_settings(experiment.config))}
    if experiment.seeds:
        space["seed"] = tune.grid_search(list(range(1, experiment.seeds + 1)))
    if experiment.restore:
        algorithm = _restored(algorithm, str(Path(experiment.restore).expanduser().resolve()))
    if resume:
        _forget_stops(folder)
        tuner = tune.Tuner.restore(folder, algorithm, param_space=space, resume_unfinished=True, resume_errored=True)
        return tuner.fit()
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
            stop=dict(experiment.stop),
            verbose=0,
            callbacks=[
                ProgressCallback(experiment.name, experiment.stop.get("training_iteration")),
                TensorBoardLogger(),
                *_loggers(experiment),
            ],
            failure_config=tune.FailureConfig(max_failures=experiment.max_failures),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=experiment.checkpoint_freq,
                checkpoint_at_end=experiment.checkpoint_at_end,
                num_to_keep=experiment.keep_checkpoints_num,
            ),
        ),
    )
    return tuner.fit()


def _forget_stops(folder: str) -> None:
    """Takes decisions to stop trials out of what Tune kept of a run.

    Tune keeps that of a trial which failed while its checkpoint was written, and would after a restart end the trial
    with its first checkpoint, as if it were done.
    """
    storage, path = FileSystem.from_uri(folder)
    states = [
        file.path
        for file in storage.get_file_info(FileSelector(path))
        if file.base_name.startswith("experiment_state-") and file.base_name.endswith(".json")
    ]
    with storage.open_input_stream(max(states)) as stream:
        state = json.loads(stream.read())
    if state["runner_data"].get("_cached_trial_decisions"):
        state["runner_data"]["_cached_trial_decisions"] = {}
        with storage.open_output_stream(max(states)) as stream:
            stream.write(json.dumps(state).encode())


def _loggers(experiment: Experiment) -> list[Any]:
    """Ray's own callbacks for the loggers that are asked for."""
    made: list[Any] = []
    if "wandb" in experiment.loggers:
        from ray.air.integrations.wandb import WandbLoggerCallback

        made.append(WandbLoggerCallback(project=experiment.name))
    if "mlflow" in experiment.loggers:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        made.append(MLflowLoggerCallback(experiment_name=experiment.name))
    return made


def _folder_name(trial: Trial) -> str:
    """A trial's folder: short, and without the slashes of some environments' names."""
    return f"{trial.trainable_name}_{trial.trial_id}"


def _restored(algorithm: type[Algorithm], checkpoint: str) -> type[Algorithm]:
    """The algorithm, starting from a checkpoint's state."""

    class Restored(algorithm):
        def setup(self, config: Any) -> None:
            super().setup(config)
            self.restore_from_path(checkpoint)

    Restored.__name__ = algorithm.__name__
    return Restored
