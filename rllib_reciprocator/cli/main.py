"""The `rllib` command: parses and calls, and turns errors of the user's into one line."""

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

# Without markup, help is plain text, which cuts no option's name on a narrow terminal.
app = typer.Typer(
    help="Cooperation between self-interested agents, on RLlib.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(
    help="Train, from a YAML file or from options.", invoke_without_command=True, rich_markup_mode=None
)
example_app = typer.Typer(
    help="The tuned examples that come with the package.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(train_app, name="train")
app.add_typer(example_app, name="example")

Stop = Annotated[str | None, typer.Option(help="When to stop, as '{\"training_iteration\": 100}'.")]
ExperimentName = Annotated[str | None, typer.Option(help="Folder of the results under the storage path.")]
NumSamples = Annotated[int | None, typer.Option(min=1, help="How often to run each setting.")]
StoragePath = Annotated[str | None, typer.Option(help="Where results go; ~/ray_results by default.")]
CheckpointFreq = Annotated[int | None, typer.Option(min=0, help="Checkpoint every so many iterations; 0 never.")]
CheckpointAtEnd = Annotated[
    bool | None, typer.Option("--checkpoint-at-end/--no-checkpoint-at-end", help="Checkpoint at the end.")
]
KeepCheckpoints = Annotated[
    int | None, typer.Option("--keep-checkpoints-num", min=1, help="How many checkpoints to keep.")
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Makes the run repeatable.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on from the last checkpoints of a run of that name. A run folder is code, which this runs: Tune's own"
        " file in it is unpickled whatever it asks for.",
    ),
]
Restore = Annotated[str | None, typer.Option(help="A checkpoint of the same algorithm and game to start from.")]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Of a running Ray cluster, as HOST:PORT or auto; RAY_ADDRESS if not given. A local Ray is started if there"
        " is neither, or for local."
    ),
]
RayCpus = Annotated[int | None, typer.Option("--ray-num-cpus", min=1, help="CPUs of a local cluster.")]
RayGpus = Annotated[int | None, typer.Option("--ray-num-gpus", min=0, help="GPUs of a local cluster.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Read checkpoints that ask for classes and functions that are not on the package's list, and run them.",
    ),
]
AnySeed = Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Makes the games repeatable.")]
Verbose = Annotated[int, typer.Option("-v", count=True, help="Show Ray's warnings; twice for everything.")]


def _one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Prints errors of the user's as one line and ends with exit code 2; ends in order when it is interrupted."""

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
    """Prints what the package has to say beside results and errors, a line each."""
    notes = logging.getLogger("rllib_reciprocator")
    if not notes.handlers:
        notes.addHandler(_Notes())


class _Notes(logging.Handler):
    """Prints a record as errors are printed."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by loggers."""
        typer.echo(f"rllib: {record.getMessage()}", err=True)


def _trust(given: bool) -> None:
    """Lets checkpoints be unpickled whatever they ask for, here and in Ray's workers."""
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
    """The options of every command that trains; they are read from the context."""


def _with_train_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the training options to a command's own parameters."""
    own, options = (inspect.signature(each, eval_str=True) for each in (command, _train_options))

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(**{name: given[name] for name in own.parameters})

    wrapped.__signature__ = own.replace(parameters=[*own.parameters.values(), *options.parameters.values()])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {**_train_options.__annotations__, **command.__annotations__}
    return wrapped


@train_app.callback()
@_with_train_options
@_one_line_errors
def train(
    context: typer.Context,
    algo: Annotated[str | None, typer.Option("--algo", "--run", help="Name of the algorithm, ours or RLlib's.")] = None,
    env: Annotated[str | None, typer.Option(help="Id of the game or environment.")] = None,
    config: Annotated[str, typer.Option(help="Settings, as '{\"lr\": 0.01}'.")] = "{}",
) -> None:
    """Train an algorithm on an environment, or `rllib train file F.yaml`."""
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
    """Raises UserError if `rllib train` has options before its subcommand, which would not see them."""
    from rllib_reciprocator.experiments.errors import UserError

    early = [
        parameter.opts[0]
        for parameter in context.command.params
        if (source := context.get_parameter_source(str(parameter.name))) is not None and source.name == "COMMANDLINE"
    ]
    if early:
        command = f"rllib train {context.invoked_subcommand}"
        only_here = [option for option in early if option in ("--algo", "--env", "--config")]
        where = (
            f"{', '.join(only_here)} cannot be used with it" if only_here else f"as in `{command} F.yaml {early[0]} ..`"
        )
        raise UserError(f"{', '.join(early)}: options go after `{command}`, {where}")


@train_app.command("file")
@_with_train_options
@_one_line_errors
def train_file(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="A YAML file with one or more experiments.")],
) -> None:
    """Train what a YAML file describes; options replace the file's own keys.

    Modules that it names, as MODULE:NAME, are imported: read a file from others before you run it.
    """
    from rllib_reciprocator.experiments.schema import read_file

    _train(read_file(file), file, context.params)


def _train(experiments: list[Any], where: str, options: dict[str, Any]) -> None:
    """Applies options, checks everything, then starts Ray and runs one experiment after the other."""
    from rllib_reciprocator.experiments import outcome, resuming, running, validation
    from rllib_reciprocator.experiments.errors import UserError
    from rllib_reciprocator.experiments.schema import Experiment, typed
    from rllib_reciprocator.experiments.yaml_text import parse

    running.set_verbosity(options["verbose"])
    _trust(options["trust"])
    given = {key: value for key, value in options.items() if key in Experiment.model_fields and value is not None}
    given = {key: value for key, value in given.items() if key not in ("name", "env", "config")}
    name, seed, resume = options["experiment_name"], options["seed"], options["resume"]
    if name and len(experiments) > 1:
        raise UserError(f"--experiment-name: {where} has {len(experiments)} experiments, which cannot share a folder")
    if "stop" in given:
        given["stop"] = parse(given["stop"], "--stop")
    checked, begun = [], []
    for experiment in experiments:
        entry = {**experiment.model_dump(exclude={"name"}), **given}
        if seed is not None:
            entry["config"] = {**entry["config"], "seed": seed}
        experiment = typed(name or experiment.name, entry, where)
        checked.append((experiment, validation.check(experiment, where)))
        running.check_restore(experiment)
        if resume and resuming.check_resumable(experiment, running.storage_of(experiment)):
            begun.append(experiment.name)
    for experiment, _ in checked:
        running.check_storage(experiment)
    ray_keys = {key: options[f"ray_{key}"] for key in ("address", "num_cpus", "num_gpus")}
    ray_options = running.RayOptions(**ray_keys, verbosity=options["verbose"])
    if ray_options.cluster is None:
        for experiment, algorithm in checked:
            validation.check_memory(experiment, algorithm, where)
    for experiment, _ in checked:
        running.check_loggers(experiment)

    console = Console()
    failed = False
    with running.ray_running(ray_options, checked) as which_ray:
        console.print(which_ray, highlight=False, soft_wrap=True)
        for experiment, algorithm in checked:
            trials = outcome.trials_of(
                running.run(experiment, algorithm, resume=experiment.name in begun), experiment, algorithm
            )
            outcome.show(experiment, trials, console)
            failed = failed or any(trial.error for trial in trials)
    if failed:
        raise typer.Exit(1)


@app.command()
@_one_line_errors
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint's folder, or a run's for its last checkpoint.")],
    episodes: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many episodes to play.")] = 1000,
    out: Annotated[str | None, typer.Option(help="Write the result to this JSON file.")] = None,
    players: Annotated[
        list[str] | None,
        typer.Option(help="Who plays an agent instead, as player_1=scripted/always_defect, or several by a pattern."),
    ] = None,
    render: Annotated[str | None, typer.Option(help="Draw an episode to this .gif, .mp4 or .png file.")] = None,
    render_episodes: Annotated[int, typer.Option(min=1, max=16, help="How many episodes to draw, side by side.")] = 1,
    trace: Annotated[
        str | None, typer.Option(help="Write every step, with influence and balance, to this CSV file.")
    ] = None,
    explore: Annotated[bool, typer.Option("--explore/--greedy", help="Draw actions, or take the likeliest.")] = True,
    seed: AnySeed = None,
    trust: Trust = False,
) -> None:
    """Play a checkpoint's players, or others in their place, without learning.

    A checkpoint is made of pickles. It is read only if it asks for nothing but names on the package's list; --trust
    reads any other too, and runs the code in it.
    """
    from rllib_reciprocator.evaluation import film, open_evaluator, printing
    from rllib_reciprocator.evaluation.trace import write_trace
    from rllib_reciprocator.experiments import running
    from rllib_reciprocator.experiments.errors import UserError, output_path
    from rllib_reciprocator.experiments.printing import print_table

    running.set_verbosity(0)
    _trust(trust)
    others = {}
    for assignment in players or []:
        agent, equals, player = assignment.partition("=")
        if not equals:
            raise UserError(f"--players {assignment}: give AGENT=PLAYER, as player_1=scripted/always_defect")
        others[agent] = player
    picture, steps, figures = (
        output_path(written, option) for written, option in ((render, "--render"), (trace, "--trace"), (out, "--out"))
    )
    if picture:
        film.check_format(picture)
    evaluator = open_evaluator(checkpoint, others, seed=seed, explore=explore)
    report = evaluator.evaluate(episodes)
    for drawn in printing.tables(report):
        print_table(Console(), drawn)
    if figures:
        printing.write(report, figures)
        typer.echo(f"written to {out}")
    if steps:
        write_trace(evaluator.trace(episodes), steps)
        typer.echo(f"written to {trace}")
    if picture:
        film.write_films(evaluator.films(render_episodes), picture)
        typer.echo(f"written to {render}")


@app.command()
@_one_line_errors
def tournament(
    entrants: Annotated[
        list[str],
        typer.Argument(
            help="A checkpoint's or run's folder (#AGENT after it for one of its players), scripted/STRATEGY,"
            " axelrod/STRATEGY or learner/NAME; NAME= before it for another name."
        ),
    ],
    env: Annotated[str | None, typer.Option(help="The game; that of the first checkpoint if not given.")] = None,
    env_config: Annotated[str | None, typer.Option(help="The game's settings, as '{\"num_steps\": 64}'.")] = None,
    games: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many games each group plays.")] = 1000,
    out: Annotated[str, typer.Option(help="Folder for the table as CSV and the heat maps.")] = "tournament",
    pool: Annotated[
        str | None,
        typer.Option(help="Entrants to rank all against, as tit_for_tat,always_defect; without self-play."),
    ] = None,
    meta: Annotated[
        str | None,
        typer.Option(help='Meta-episodes, as \'{"inner_episodes": 10, "copies": 8}\'; as trained if not given.'),
    ] = None,
    learning_players: Annotated[
        str | None,
        typer.Option(help='Settings of online learners, as \'{"pg": {"lr": 1.0}}\'; as trained with if not given.'),
    ] = None,
    allow_other_env_config: Annotated[
        bool,
        typer.Option("--allow-other-env-config", help="Let entrants play that were trained with other game settings."),
    ] = False,
    num_workers: Annotated[
        int, typer.Option(min=0, max=10_000, help="Ray tasks side by side; 0 for this process.")
    ] = 0,
    ray_address: RayAddress = None,
    explore: Annotated[bool, typer.Option("--explore/--greedy", help="Draw actions, or take the likeliest.")] = True,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seeds the games and the players.")] = 0,
    trust: Trust = False,
) -> None:
    """Everybody against everybody: returns and outcomes of every entrant beside every other."""
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
    if env:  # a module that the user names may be named by checkpoints, too
        social_dilemmas.is_game(env)
    made = tournaments.tournament(
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
        with running.ray_running(ray_options, []) as which_ray:
            Console().print(which_ray, highlight=False, soft_wrap=True)
            results = tournaments.hold(made, num_workers or 1)
    else:
        results = tournaments.hold(made)
    title = f"{made.config.env}: {games} games a group"
    print_table(Console(), tournaments.table(results, title, made.pool))
    for file in tournaments.write(results, folder, title, made.pool):
        typer.echo(f"written to {file}")


@app.command()
@_one_line_errors
def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders: one for a run or a sweep, several to compare them.")],
    out: Annotated[str, typer.Option(help="The HTML file.")] = "report.html",
    axis: Annotated[str, typer.Option(help="What goes along the axes: iteration, steps or seconds.")] = "iteration",
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the game that is shown.")] = 0,
    trust: Trust = False,
) -> None:
    """What came of runs, as one HTML file that needs nothing else."""
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
def example_get(name: Annotated[str, typer.Argument(help="As `rllib example list` names it.")]) -> None:
    """Print a tuned example's YAML."""
    typer.echo(_example(name).read_text(encoding="utf-8"), nl=False)


@example_app.command("run")
@_with_train_options
@_one_line_errors
def example_run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="As `rllib example list` names it.")],
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
    """The console script ``rllib``."""
    # As for `python -m`: games, modules and environments of the user's own are looked up here.
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(app())
