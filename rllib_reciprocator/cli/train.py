"""The commands ``rllib train`` and ``rllib train file``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rllib_reciprocator.cli.options import one_line_errors, trust_pickles, with_train_options

if TYPE_CHECKING:
    from rllib_reciprocator.experiments.schema import Experiment

app = typer.Typer(
    help="Train an algorithm, from a YAML file or from options.", invoke_without_command=True, rich_markup_mode=None
)


@app.callback()
@with_train_options
@one_line_errors
def train(
    context: typer.Context,
    algo: Annotated[
        str | None,
        typer.Option("--algo", "--run", help="Algorithm of this package or RLlib, or MODULE:CLASS."),
    ] = None,
    env: Annotated[str | None, typer.Option(help="Id of the environment.")] = None,
    config: Annotated[str, typer.Option(help="Algorithm settings, e.g. '{\"lr\": 0.01}'.")] = "{}",
) -> None:
    """Train an algorithm on an environment, or train from a file with `rllib train file F.yaml`."""
    if context.invoked_subcommand is not None:
        _refuse_early_options(context)
        return
    from rllib_reciprocator.experiments.schema import typed
    from rllib_reciprocator.experiments.yaml_text import parse
    from rllib_reciprocator.utils.errors import UserError

    if algo is None:
        raise UserError("train: give --algo NAME and --env ID, or `rllib train file F.yaml`")
    entry = {"run": algo, "env": env, "config": parse(config, "--config")}
    name = context.params["experiment_name"] or re.sub(r"[^\w.-]+", "-", f"{algo}-{env}".lower())
    run_experiments([typed(name, entry, "command line")], "command line", context.params)


def _refuse_early_options(context: typer.Context) -> None:
    """Raises UserError if options precede the subcommand of `rllib train`, which would not receive them."""
    from rllib_reciprocator.utils.errors import UserError

    early_options = [
        parameter.opts[0]
        for parameter in context.command.params
        if (source := context.get_parameter_source(str(parameter.name))) is not None and source.name == "COMMANDLINE"
    ]
    if early_options:
        command = f"rllib train {context.invoked_subcommand}"
        train_options = [option for option in early_options if option in ("--algo", "--env", "--config")]
        where = (
            f"{', '.join(train_options)} cannot be used with it"
            if train_options
            else f"as in `{command} F.yaml {early_options[0]} ..`"
        )
        raise UserError(f"{', '.join(early_options)}: options go after `{command}`, {where}")


@app.command("file")
@with_train_options
@one_line_errors
def train_file(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="YAML file with one or more experiments.")],
) -> None:
    """Train the experiments of a YAML file; options override the keys of the file.

    Modules that the file names, as MODULE:NAME, are imported: inspect a file from others before you run it.
    """
    from rllib_reciprocator.experiments.schema import read_file

    run_experiments(read_file(file), file, context.params)


def run_experiments(experiments: list[Experiment], where: str, options: dict[str, Any]) -> None:
    """Applies the options, validates all experiments, then starts Ray and runs the experiments one by one."""
    from rllib_reciprocator.experiments import (
        loggers,
        outcome,
        ray_cluster,
        restoring,
        resuming,
        running,
        storage,
        validation,
    )
    from rllib_reciprocator.experiments.schema import Experiment, typed
    from rllib_reciprocator.experiments.yaml_text import parse
    from rllib_reciprocator.utils.errors import UserError

    ray_cluster.set_verbosity(options["verbose"])
    trust_pickles(options["trust"])
    overrides = {key: value for key, value in options.items() if key in Experiment.model_fields and value is not None}
    overrides = {key: value for key, value in overrides.items() if key not in ("name", "env", "config")}
    name, seed, resume = options["experiment_name"], options["seed"], options["resume"]
    if name and len(experiments) > 1:
        raise UserError(f"--experiment-name: {where} has {len(experiments)} experiments, which cannot share a folder")
    if "stop" in overrides:
        overrides["stop"] = parse(overrides["stop"], "--stop")
    runs, names_to_resume = [], []
    for experiment in experiments:
        entry = {**experiment.model_dump(exclude={"name"}), **overrides}
        if seed is not None:
            entry["config"] = {**entry["config"], "seed": seed}
        experiment = typed(name or experiment.name, entry, where)
        runs.append((experiment, validation.check(experiment, where)))
        restoring.check_restore(experiment)
        if resume and resuming.check_resumable(experiment, storage.storage_of(experiment)):
            names_to_resume.append(experiment.name)
    for experiment, _ in runs:
        storage.check_storage(experiment)
    ray_keys = {key: options[f"ray_{key}"] for key in ("address", "num_cpus", "num_gpus")}
    ray_options = ray_cluster.RayOptions(**ray_keys, verbosity=options["verbose"])
    if ray_options.cluster is None:
        for experiment, algorithm in runs:
            validation.check_memory(experiment, algorithm, where)
    for experiment, _ in runs:
        loggers.check_loggers(experiment)

    console = Console()
    has_failure = False
    with ray_cluster.ray_running(ray_options, runs) as ray_line:
        console.print(ray_line, highlight=False, soft_wrap=True)
        for experiment, algorithm in runs:
            trials = outcome.trials_of(
                running.run(experiment, algorithm, resume=experiment.name in names_to_resume), experiment, algorithm
            )
            outcome.show(experiment, trials, console)
            has_failure = has_failure or any(trial.error for trial in trials)
    if has_failure:
        raise typer.Exit(1)
