"""The `rllib` command: parses arguments, calls the library, and prints user errors as one line."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

# Without markup, help is plain text, which does not truncate option names on narrow terminals.
app = typer.Typer(
    help="Cooperation between self-interested agents, with RLlib.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(
    help="Train an algorithm, from a YAML file or from options.", invoke_without_command=True, rich_markup_mode=None
)
example_app = typer.Typer(
    help="List, print and train the package's tuned examples.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(train_app, name="train")
app.add_typer(example_app, name="example")

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


def _one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a command print user errors as one line and exit with code 2, and exit cleanly when interrupted."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from rllib_reciprocator.experiments.errors import UserError
        from rllib_reciprocator.experiments.interruption import Interrupted, interruptible

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

    return wrapped


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


def _trust(given: bool) -> None:
    """Lifts the restrictions on unpickling checkpoints, in this process and in Ray's workers, if ``given`` is True."""
    if given:
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


def _with_train_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the training options to the parameters of a command."""
    signature, option_signature = (inspect.signature(func, eval_str=True) for func in (command, _train_options))

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        command(**{name: arguments[name] for name in signature.parameters})

    wrapped.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *option_signature.parameters.values()]
    )
    wrapped.__annotations__ = {**_train_options.__annotations__, **command.__annotations__}
    return wrapped


@train_app.callback()
@_with_train_options
@_one_line_errors
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
    from rllib_reciprocator.experiments.errors import UserError
    from rllib_reciprocator.experiments.schema import typed
    from rllib_reciprocator.experiments.yaml_text import parse

    if algo is None:
        raise UserError("train: give --algo NAME and --env ID, or `rllib train file F.yaml`")
    entry = {"run": algo, "env": env, "config": parse(config, "--config")}
    name = context.params["experiment_name"] or re.sub(r"[^\w.-]+", "-", f"{algo}-{env}".lower())
    _train([typed(name, entry, "command line")], "command line", context.params)


def _refuse_early_options(context: typer.Context) -> None:
    """Raises UserError if options precede the subcommand of `rllib train`, which would not receive them."""
    from rllib_reciprocator.experiments.errors import UserError

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


@train_app.command("file")
@_with_train_options
@_one_line_errors
def train_file(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="YAML file with one or more experiments.")],
) -> None:
    """Train the experiments of a YAML file; options override the keys of the file.

    Modules that the file names, as MODULE:NAME, are imported: inspect a file from others before you run it.
    """
    from rllib_reciprocator.experiments.schema import read_file

    _train(read_file(file), file, context.params)


def _train(experiments: list[Any], where: str, options: dict[str, Any]) -> None:
    """Applies the options, validates all experiments, then starts Ray and runs the experiments one by one."""
    from rllib_reciprocator.experiments import outcome, resuming, running, validation
    from rllib_reciprocator.experiments.errors import UserError
    from rllib_reciprocator.experiments.schema import Experiment, typed
    from rllib_reciprocator.experiments.yaml_text import parse

    running.set_verbosity(options["verbose"])
    _trust(options["trust"])
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
        running.check_restore(experiment)
        if resume and resuming.check_resumable(experiment, running.storage_of(experiment)):
            names_to_resume.append(experiment.name)
    for experiment, _ in runs:
        running.check_storage(experiment)
    ray_keys = {key: options[f"ray_{key}"] for key in ("address", "num_cpus", "num_gpus")}
    ray_options = running.RayOptions(**ray_keys, verbosity=options["verbose"])
    if ray_options.cluster is None:
        for experiment, algorithm in runs:
            validation.check_memory(experiment, algorithm, where)
    for experiment, _ in runs:
        running.check_loggers(experiment)

    console = Console()
    failed = False
    with running.ray_running(ray_options, runs) as ray_line:
        console.print(ray_line, highlight=False, soft_wrap=True)
        for experiment, algorithm in runs:
            trials = outcome.trials_of(
                running.run(experiment, algorithm, resume=experiment.name in names_to_resume), experiment, algorithm
            )
            outcome.show(experiment, trials, console)
            failed = failed or any(trial.error for trial in trials)
    if failed:
        raise typer.Exit(1)


@app.command()
@_one_line_errors
def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(help="Folder of a checkpoint, or of a run, whose last checkpoint is used.")
    ],
    episodes: Annotated[int, typer.Option(min=1, max=10_000_000, help="Number of episodes.")] = 1000,
    out: Annotated[str | None, typer.Option(help="Write the result to this JSON file.")] = None,
    players: Annotated[
        list[str] | None,
        typer.Option(help="Replace an agent's player, e.g. player_1=scripted/always_defect, or several by a pattern."),
    ] = None,
    render: Annotated[str | None, typer.Option(help="Render an episode to this .gif, .mp4 or .png file.")] = None,
    render_episodes: Annotated[int, typer.Option(min=1, max=16, help="Number of episodes to render side by side.")] = 1,
    trace: Annotated[
        str | None, typer.Option(help="Write every step, with influence and influence balance, to this CSV file.")
    ] = None,
    explore: Annotated[
        bool, typer.Option("--explore/--greedy", help="Sample actions, or take the most likely ones.")
    ] = True,
    seed: AnySeed = None,
    trust: Trust = False,
) -> None:
    """Evaluate the players of a checkpoint, or replacements for them, without training.

    Checkpoints contain pickles. A checkpoint is read only if it refers to no names outside the package's list of
    allowed names; --trust also reads any other checkpoint, and executes the code in it.
    """
    from rllib_reciprocator.evaluation import film, open_evaluator, printing
    from rllib_reciprocator.evaluation.trace import write_trace
    from rllib_reciprocator.experiments import running
    from rllib_reciprocator.experiments.errors import UserError, output_path
    from rllib_reciprocator.experiments.printing import print_table

    running.set_verbosity(0)
    _trust(trust)
    replacements = {}
    for assignment in players or []:
        agent, equals, player = assignment.partition("=")
        if not equals:
            raise UserError(f"--players {assignment}: give AGENT=PLAYER, e.g. player_1=scripted/always_defect")
        replacements[agent] = player
    video_file, trace_file, report_file = (
        output_path(path, option) for path, option in ((render, "--render"), (trace, "--trace"), (out, "--out"))
    )
    if video_file:
        film.check_format(video_file)
    evaluator = open_evaluator(checkpoint, replacements, seed=seed, explore=explore)
    report = evaluator.evaluate(episodes)
    for table in printing.tables(report):
        print_table(Console(), table)
    if report_file:
        printing.write(report, report_file)
        typer.echo(f"written to {out}")
    if trace_file:
        write_trace(evaluator.trace(episodes), trace_file)
        typer.echo(f"written to {trace}")
    if video_file:
        film.write_films(evaluator.films(render_episodes), video_file)
        typer.echo(f"written to {render}")


@app.command()
@_one_line_errors
def tournament(
    entrants: Annotated[
        list[str],
        typer.Argument(
            help="Folder of a checkpoint or run (append #AGENT to select one of its players), scripted/STRATEGY,"
            " axelrod/STRATEGY or learner/NAME; prefix NAME= to set the entrant's name."
        ),
    ],
    env: Annotated[str | None, typer.Option(help="Id of the game; defaults to that of the first checkpoint.")] = None,
    env_config: Annotated[str | None, typer.Option(help="Settings of the game, e.g. '{\"num_steps\": 64}'.")] = None,
    games: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of games per group of entrants.")] = 1000,
    out: Annotated[str, typer.Option(help="Folder for the CSV table and the heat maps.")] = "tournament",
    pool: Annotated[
        str | None,
        typer.Option(help="Entrants to rank all entrants against, e.g. tit_for_tat,always_defect; without self-play."),
    ] = None,
    meta: Annotated[
        str | None,
        typer.Option(
            help='Meta-episodes, e.g. \'{"inner_episodes": 10, "copies": 8}\'; defaults to those of training.'
        ),
    ] = None,
    learning_players: Annotated[
        str | None,
        typer.Option(help='Settings of online learners, e.g. \'{"pg": {"lr": 1.0}}\'; defaults to those of training.'),
    ] = None,
    allow_other_env_config: Annotated[
        bool,
        typer.Option("--allow-other-env-config", help="Allow entrants that were trained with other game settings."),
    ] = False,
    num_workers: Annotated[
        int, typer.Option(min=0, max=10_000, help="Number of parallel Ray tasks; 0 uses this process.")
    ] = 0,
    ray_address: RayAddress = None,
    explore: Annotated[
        bool, typer.Option("--explore/--greedy", help="Sample actions, or take the most likely ones.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Random seed of the games and the players.")] = 0,
    trust: Trust = False,
) -> None:
    """Hold a round-robin tournament, and report returns and outcomes of every entrant with every other entrant."""
    import social_dilemmas
    from rllib_reciprocator.evaluation import tournament as tournaments
    from rllib_reciprocator.experiments import running
    from rllib_reciprocator.experiments.errors import user_path
    from rllib_reciprocator.experiments.printing import print_table
    from rllib_reciprocator.experiments.yaml_text import parse

    running.set_verbosity(0)
    _trust(trust)
    folder = user_path(out, "--out")
    settings = parse(env_config, "--env-config") if env_config else None
    if env:  # the look-up imports a game module that the user names, so that checkpoints may refer to it
        social_dilemmas.is_game(env)
    tournament_settings = tournaments.tournament(
        tournaments.enter(entrants),
        env=env,
        env_config=settings,
        games=games,
        seed=seed,
        explore=explore,
        pool=[name.strip() for name in pool.split(",")] if pool else (),
        meta=parse(meta, "--meta") if meta else None,
        learning_players=parse(learning_players, "--learning-players") if learning_players else None,
        allow_other_env_config=allow_other_env_config,
    )
    if num_workers or ray_address:
        ray_options = running.RayOptions(address=ray_address, num_cpus=num_workers or None)
        with running.ray_running(ray_options, []) as ray_line:
            Console().print(ray_line, highlight=False, soft_wrap=True)
            results = tournaments.hold(tournament_settings, num_workers or 1)
    else:
        results = tournaments.hold(tournament_settings)
    title = f"{tournament_settings.config.env}: {games} games per group"
    print_table(Console(), tournaments.table(results, title, tournament_settings.pool))
    for file in tournaments.write(results, folder, title, tournament_settings.pool):
        typer.echo(f"written to {file}")


@app.command()
@_one_line_errors
def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders: one of a run or a sweep, or several to compare.")],
    out: Annotated[str, typer.Option(help="HTML file to write.")] = "report.html",
    axis: Annotated[str, typer.Option(help="Unit of the x-axes: iteration, steps or seconds.")] = "iteration",
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Random seed of the game that is shown.")] = 0,
    trust: Trust = False,
) -> None:
    """Write the results of runs to a self-contained HTML file."""
    from rllib_reciprocator.experiments import running
    from rllib_reciprocator.experiments.errors import UserError, output_path, unknown
    from rllib_reciprocator.reports.curves import AXES
    from rllib_reciprocator.reports.report import write_report

    running.set_verbosity(0)
    _trust(trust)
    if axis not in AXES:
        raise UserError(f"--axis {axis}: {unknown(axis, AXES)}")
    page = output_path(out, "--out")
    assert page is not None
    for problem in write_report(runs, page, axis=axis, seed=seed):
        typer.echo(f"rllib: {problem}", err=True)
    typer.echo(f"written to {out}")


@example_app.command("list")
def example_list() -> None:
    """List the tuned examples."""
    from rllib_reciprocator.cli import examples

    for name in examples.names():
        typer.echo(f"{name:32} {examples.summary(name)}")


@example_app.command("get")
@_one_line_errors
def example_get(name: Annotated[str, typer.Argument(help="Name, as listed by `rllib example list`.")]) -> None:
    """Print the YAML of a tuned example."""
    typer.echo(_example(name).read_text(encoding="utf-8"), nl=False)


@example_app.command("run")
@_with_train_options
@_one_line_errors
def example_run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name, as listed by `rllib example list`.")],
) -> None:
    """Train a tuned example."""
    from rllib_reciprocator.experiments.schema import read_file

    file = str(_example(name))
    _train(read_file(file), file, context.params)


def _example(name: str) -> Path:
    from rllib_reciprocator.cli import examples
    from rllib_reciprocator.experiments.errors import UserError, unknown

    if name not in examples.names():
        raise UserError(f"example {name!r} is {unknown(name, examples.names())}")
    return examples.path(name)


def main() -> None:
    """Runs the console script ``rllib``."""
    # As with `python -m`, user-defined games, modules and environments can be imported from the working directory.
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(app())
