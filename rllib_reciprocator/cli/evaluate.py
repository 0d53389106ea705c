"""The command ``rllib evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from rllib_reciprocator.cli.options import AnySeed, Trust, trust_pickles


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
    from rllib_reciprocator.evaluation import open_evaluator, printing, video
    from rllib_reciprocator.evaluation.trace import write_trace
    from rllib_reciprocator.experiments import ray_cluster
    from rllib_reciprocator.results.printing import print_table
    from rllib_reciprocator.utils.errors import UserError, output_path

    ray_cluster.set_verbosity(0)
    trust_pickles(trust)
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
        video.check_format(video_file)
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
        video.write_videos(evaluator.videos(render_episodes), video_file)
        typer.echo(f"written to {render}")
