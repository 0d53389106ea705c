"""Options of the commands, and errors and notes as one line each."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable
from typing import Annotated

import typer

Stop = Annotated[str | None, typer.Option(help="Stopping criteria, e.g. '{\"training_iteration\": 100}'.")]
ExperimentName = Annotated[str | None, typer.Option(help="Name of the results folder under the storage path.")]
NumSamples = Annotated[int | None, typer.Option(min=1, help="Number of times to run each setting.")]
StoragePath = Annotated[str | None, typer.Option(help="Path or URI for results; defaults to ~/ray_results.")]
CheckpointFreq = Annotated[
    int | None, typer.Option(min=0, help="Iterations between checkpoints; 0 for no periodic ones.")
]
CheckpointAtEnd = Annotated[
    bool | None, typer.Option("--checkpoint-at-end/--no-checkpoint-at-end", help="Save a checkpoint at the end.")
]
KeepCheckpoints = Annotated[
    int | None, typer.Option("--keep-checkpoints-num", min=1, help="Number of checkpoints to keep.")
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Random seed; makes the run reproducible.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue a run of this name from its last checkpoints. Resume only run folders that you trust: Tune's own"
        " file in the folder is unpickled without restrictions, which can execute any code.",
    ),
]
Restore = Annotated[str | None, typer.Option(help="Checkpoint of the same algorithm and environment to start from.")]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Address of a running Ray cluster, as HOST:PORT or auto; defaults to RAY_ADDRESS. A local Ray is started"
        " if neither is set, or if the address is local."
    ),
]
RayCpus = Annotated[int | None, typer.Option("--ray-num-cpus", min=1, help="Number of CPUs of a local cluster.")]
RayGpus = Annotated[int | None, typer.Option("--ray-num-gpus", min=0, help="Number of GPUs of a local cluster.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Also load checkpoints that refer to classes and functions outside the package's list of allowed names,"
        " and execute their code.",
    ),
]
AnySeed = Annotated[
    int | None, typer.Option(min=0, max=2**31 - 1, help="Random seed; makes the episodes reproducible.")
]
Verbose = Annotated[int, typer.Option("-v", count=True, help="Show Ray's warnings; -vv shows everything.")]


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a command print user errors as one line and exit with code 2, and exit cleanly when interrupted."""

    @functools.wraps(command)
    def wrapper(*args: object, **kwargs: object) -> None:
        from rllib_reciprocator.experiments.interruption import Interrupted, interruptible
        from rllib_reciprocator.utils.errors import UserError

        _show_notes()
        try:
            with interruptible():
                command(*args, **kwargs)
        except UserError as error:
            typer.echo(f"rllib: {error}", err=True)
            raise typer.Exit(2) from None
        except Interrupted as interruption:
            typer.echo(f"rllib: {interruption}", err=True)
            raise typer.Exit(interruption.exit_code) from None

    return wrapper


def _show_notes() -> None:
    """Prints the log messages of this package to standard error, one line per message."""
    notes = logging.getLogger("rllib_reciprocator")
    if not notes.handlers:
        notes.addHandler(_Notes())


class _Notes(logging.Handler):
    """Logging handler that prints records in the format of user errors."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record. Called by loggers."""
        typer.echo(f"rllib: {record.getMessage()}", err=True)


def trust_pickles(trust: bool) -> None:
    """Lifts the restrictions on unpickling checkpoints, in this process and in Ray's workers, if ``trust`` is True."""
    if trust:
        from rllib_reciprocator.utils.checkpoints import TRUST

        os.environ[TRUST] = "1"


def _train_options(
    stop: Stop = None,
    experiment_name: ExperimentName = None,
    num_samples: NumSamples = None,
    storage_path: StoragePath = None,
    checkpoint_freq: CheckpointFreq = None,
    checkpoint_at_end: CheckpointAtEnd = None,
    keep_checkpoints_num: KeepCheckpoints = None,
    seed: Seed = None,
    resume: Resume = False,
    restore: Restore = None,
    trust: Trust = False,
    ray_address: RayAddress = None,
    ray_num_cpus: RayCpus = None,
    ray_num_gpus: RayGpus = None,
    verbose: Verbose = 0,
) -> None:
    """Declares the options of all commands that train. Their values are read from the context."""


def with_train_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the training options to the parameters of a command."""
    # Annotations are evaluated here, because Typer would look up their names in the module of the command only.
    signature, option_signature = (inspect.signature(func, eval_str=True) for func in (command, _train_options))
    parameters = [*signature.parameters.values(), *option_signature.parameters.values()]

    @functools.wraps(command)
    def wrapper(**arguments: object) -> None:
        command(**{name: arguments[name] for name in signature.parameters})

    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper
