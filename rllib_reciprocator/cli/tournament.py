"""The command ``rllib tournament``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from rllib_reciprocator.cli.options import RayAddress, Trust, trust_pickles


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
    from rllib_reciprocator.experiments import ray_cluster
    from rllib_reciprocator.experiments.yaml_text import parse
    from rllib_reciprocator.results.printing import print_table
    from rllib_reciprocator.utils.errors import user_path

    ray_cluster.set_verbosity(0)
    trust_pickles(trust)
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
        ray_options = ray_cluster.RayOptions(address=ray_address, num_cpus=num_workers or None)
        with ray_cluster.ray_running(ray_options, []) as ray_line:
            Console().print(ray_line, highlight=False, soft_wrap=True)
            results = tournaments.hold(tournament_settings, num_workers or 1)
    else:
        results = tournaments.hold(tournament_settings)
    title = f"{tournament_settings.config.env}: {games} games per group"
    print_table(Console(), tournaments.table(results, title, tournament_settings.pool))
    for file in tournaments.write(results, folder, title, tournament_settings.pool):
        typer.echo(f"written to {file}")
