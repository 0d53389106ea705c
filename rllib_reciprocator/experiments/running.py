"""Runs validated experiments with Ray Tune."""

from __future__ import annotations

from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.tune.experiment import Trial
from ray.tune.result_grid import ResultGrid

from rllib_reciprocator.experiments import resuming
from rllib_reciprocator.experiments.interruption import Interrupted, interruptible
from rllib_reciprocator.experiments.loggers import loggers
from rllib_reciprocator.experiments.progress import ProgressCallback
from rllib_reciprocator.experiments.restoring import checkpoint_to_restore, restored_algorithm
from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.experiments.search import scheduler, searcher, with_distributions
from rllib_reciprocator.experiments.stopping import StopAt
from rllib_reciprocator.experiments.storage import storage_of, storage_root
from rllib_reciprocator.experiments.tensorboard import TensorBoardLogger
from rllib_reciprocator.experiments.validation import algorithm_settings
from rllib_reciprocator.results.json_text import StandardJsonLogger
from rllib_reciprocator.results.metric_checks import ITERATIONS
from rllib_reciprocator.rllib_episodes.rewards_callback import RewardPerStepCallback
from rllib_reciprocator.utils.divergence import DivergenceCallback, DivergenceGuard
from rllib_reciprocator.utils.errors import UserError


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
        algorithm = restored_algorithm(algorithm, str(checkpoint_to_restore(experiment)))
    stop = StopAt(experiment.stop, experiment.metric)
    callbacks = [
        ProgressCallback(experiment.name, experiment.stop.get(ITERATIONS)),
        StandardJsonLogger(),
        TensorBoardLogger(),
        *loggers(experiment),
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


def _folder_name(trial: Trial) -> str:
    """Returns the folder name of a trial: short, and without the slashes in the names of some environments."""
    return f"{trial.trainable_name}_{trial.trial_id}"
