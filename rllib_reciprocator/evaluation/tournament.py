"""Everybody against everybody: returns and outcomes of every entrant beside every other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.table import Table

import social_dilemmas
from rllib_reciprocator.batched import BatchedConfig
from rllib_reciprocator.checkpoints import MODULE_PATH
from rllib_reciprocator.evaluation.batched_evaluator import RETURN, episode_figures
from rllib_reciprocator.evaluation.checkpoints import find, read_config
from rllib_reciprocator.evaluation.frozen_runner import frozen_runner
from rllib_reciprocator.experiments.csv_text import write_csv
from rllib_reciprocator.experiments.errors import UserError, writing
from rllib_reciprocator.experiments.intervals import mean_and_half_width
from rllib_reciprocator.players import AXELROD, CHECKPOINT, LEARNER, SCRIPTED

# With more entrants the table is the ranking alone; the files have everything.
MOST_COLUMNS = 6


@dataclass(frozen=True)
class Entrant:
    """Who takes part.

    Attributes:
        name: In tables.
        player: As in a ``players`` mapping.
        checkpoint: The checkpoint it is of, if any.
    """

    name: str
    player: str
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Tournament:
    """Who meets whom, in which game.

    Attributes:
        config: The game.
        entrants: Who takes part.
        games: How many games each group plays.
        seed: Seeds everything.
        explore: Whether players draw their actions; if not, they take the likeliest.
    """

    config: BatchedConfig
    entrants: tuple[Entrant, ...]
    games: int
    seed: int = 0
    explore: bool = True

    def groups(self) -> list[tuple[int, ...]]:
        """Every group of as many entrants as the game has agents, each with itself too."""
        return list(combinations_with_replacement(range(len(self.entrants)), len(self.agents)))

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents of the game."""
        return self.config.make_game().agents

    def play(self, group: tuple[int, ...]) -> pd.DataFrame:
        """Lets a group play, by turns as every agent, and tells how each entrant fared beside each other.

        Returns:
            A row for each game, entrant and other entrant in it, with ``entrant``, ``beside`` and the figures.
        """
        turns = [group] if len(set(group)) == 1 else [group[k:] + group[:k] for k in range(len(group))]
        parts = []
        for number, order in enumerate(turns):
            games = self.games // len(turns) + (number < self.games % len(turns))
            if games:
                parts.append(self._played(order, games, number))
        return pd.concat(parts, ignore_index=True)

    def _played(self, order: tuple[int, ...], games: int, turn: int) -> pd.DataFrame:
        playing = [self.entrants[index] for index in order]
        seed = int(np.random.SeedSequence([self.seed, turn, *order]).generate_state(1)[0])
        players = {agent: entrant.player for agent, entrant in zip(self.agents, playing, strict=True)}
        runner = frozen_runner(self.config, players, episodes=games, seed=seed)
        # Where somebody learns between inner episodes each of these counts as a game.
        inner = runner.config.inner_episodes()
        found = [
            episode_figures(runner.game, sample.split(inner))
            for sample in runner.sample(num_episodes=games, explore=self.explore)
        ]
        figures = {name: torch.cat([each[name] for each in found])[:games] for name in found[0]}
        rows = []
        for place, entrant in enumerate(playing):
            own = {name: values[:, place].numpy() for name, values in figures.items()}
            others = {other.name for k, other in enumerate(playing) if k != place}
            rows += [pd.DataFrame({"entrant": entrant.name, "beside": other, **own}) for other in others]
        return pd.concat(rows, ignore_index=True)


def enter(written: Sequence[str]) -> tuple[Entrant, ...]:
    """Entrants from what a command's arguments say.

    Args:
        written: Each ``[NAME=]CHECKPOINT[#AGENT]``, ``[NAME=]scripted/STRATEGY``, ``[NAME=]axelrod/STRATEGY``
            or ``[NAME=]learner/NAME``. Without an agent all of a checkpoint's players that learned take part.

    Raises:
        UserError: If a checkpoint cannot be read, or two have the same name.
    """
    entrants: list[Entrant] = []
    for argument in written:
        name, equals, player = argument.partition("=")
        name, player = (name, player) if equals else ("", argument)
        kind, _, source = player.partition("/")
        if kind in (SCRIPTED, AXELROD, LEARNER):
            entrants.append(Entrant(name or (player if kind == LEARNER else source), player))
        else:
            entrants += _of_checkpoint(name, player.removeprefix(f"{CHECKPOINT}/"))
    taken: dict[str, str] = {}
    for each in entrants:
        if each.name in taken:
            raise UserError(f"{each.player}: there is a {each.name!r} already; name it, as other={each.player}")
        taken[each.name] = each.player
    if len(entrants) < 2:
        raise UserError("a tournament needs two entrants at least")
    return tuple(entrants)


def _of_checkpoint(name: str, written: str) -> Iterator[Entrant]:
    path, _, one = written.partition("#")
    folder = find(path)
    config = read_config(folder)
    modules = sorted(each.name for each in (folder / MODULE_PATH).iterdir() if each.is_dir())
    learned = [one] if one else [each for each in modules if each in (config.policies_to_train or modules)]
    label = name or folder.parent.parent.name or folder.name
    for each in learned:
        if each not in config.policies:
            continue
        yield Entrant(label if one and name else f"{label}#{each}", f"{CHECKPOINT}/{folder}#{each}", folder)


def tournament(
    entrants: Sequence[Entrant],
    *,
    env: str | None = None,
    env_config: Mapping[str, Any] | None = None,
    games: int = 1000,
    seed: int = 0,
    explore: bool = True,
) -> Tournament:
    """A tournament of one of our games.

    Args:
        entrants: Who takes part.
        env: The game; that of the first checkpoint if None.
        env_config: Its settings.
        games: How many games each group plays, by turns as every agent.
        seed: Seeds everything.
        explore: Whether players draw their actions; if not, they take the likeliest.

    Raises:
        UserError: If the game is not known, or a player cannot play it.
    """
    configs = [read_config(each.checkpoint) for each in entrants if each.checkpoint]
    run = next((each for each in configs if isinstance(each, BatchedConfig)), None)
    if env is None and run is None:
        raise UserError("--env: give the game; no entrant is of a run that says which of our games it plays")
    if run is not None and env in (None, run.env):
        env, env_config = run.env, run.env_config if env_config is None else env_config
    try:
        social_dilemmas.spec(str(env))
    except ValueError as error:
        raise UserError(f"--env: {error}") from None
    config = BatchedConfig().environment(env, env_config=dict(env_config or {}))
    try:
        agents = config.make_game().agents
    except ValueError as error:
        raise UserError(f"--env-config: {error}") from None
    config.players(dict.fromkeys(agents, f"{SCRIPTED}/random"))
    made = Tournament(config, tuple(entrants), games, seed, explore)
    for each in entrants:
        try:
            frozen_runner(config, dict.fromkeys(agents, each.player), episodes=1)
        except UserError as error:
            raise UserError(f"{each.name}: {error}") from None
    return made


def hold(made: Tournament, workers: int = 0) -> pd.DataFrame:
    """Plays a tournament.

    Args:
        made: The tournament.
        workers: Ray tasks that play side by side; 0 for this process. Ray must be up.

    Returns:
        How every entrant fared beside every other: a row for each pair, with ``entrant``, ``beside``, ``games``, and
        for every figure its mean and ``_ci95``, the half-width of the mean's 95% confidence interval.
    """
    groups = made.groups()
    if workers:
        import ray

        shared = ray.put(made)
        task = ray.remote(_play_all)
        played = ray.get([task.remote(shared, groups[k::workers]) for k in range(workers)])
        games = pd.concat(played, ignore_index=True)
    else:
        games = _play_all(made, groups)
    return _standings(games, [each.name for each in made.entrants])


def _play_all(made: Tournament, groups: Sequence[tuple[int, ...]]) -> pd.DataFrame:
    return pd.concat([made.play(group) for group in groups], ignore_index=True)


def _standings(games: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    figures = [name for name in games.columns if name not in ("entrant", "beside")]
    rows = []
    for (entrant, beside), part in games.groupby(["entrant", "beside"], sort=False):
        row: dict[str, Any] = {"entrant": entrant, "beside": beside, "games": len(part)}
        for name in figures:
            row[name], row[f"{name}_ci95"] = mean_and_half_width(part[name].to_numpy())
        rows.append(row)
    order = {name: place for place, name in enumerate(names)}
    standings = pd.DataFrame(rows).sort_values(["entrant", "beside"], key=lambda column: column.map(order))
    return standings.reset_index(drop=True)


def figures_of(standings: pd.DataFrame) -> list[str]:
    """The figures in a standing, the return first."""
    return [name for name in standings.columns[3:] if not name.endswith("_ci95")]


def ranking(standings: pd.DataFrame) -> pd.DataFrame:
    """Entrants by their mean return beside all, themselves included."""
    means = standings.groupby("entrant", sort=False)[figures_of(standings)].mean()
    return means.sort_values(RETURN, ascending=False)


def table(standings: pd.DataFrame, title: str) -> Table:
    """The ranking, and between a few entrants the mean return beside each other with its confidence interval."""
    ranked = ranking(standings)
    shown = ranked.index if len(ranked) <= MOST_COLUMNS else ()
    cells = standings.set_index(["entrant", "beside"])
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("entrant")
    for name in ranked.columns:
        drawn.add_column(name.replace("_", " "), justify="right")
    for name in shown:
        drawn.add_column(f"beside {name}", justify="right")
    for name in ranked.index:
        met = [cells.loc[(name, other)] for other in shown]
        beside = [f"{cell[RETURN]:.2f} ± {cell[f'{RETURN}_ci95']:.2f}" for cell in met]
        drawn.add_row(name, *(f"{value:.3f}" for value in ranked.loc[name]), *beside)
    return drawn


def write(standings: pd.DataFrame, folder: Path, title: str) -> list[Path]:
    """Writes the standings as CSV, and a heat map of every figure.

    Raises:
        UserError: If a file cannot be written.
    """
    with writing("--out", folder):
        folder.mkdir(exist_ok=True)
        files = [folder / "tournament.csv"]
        write_csv(standings, files[0])
        for figure in figures_of(standings):
            files.append(folder / f"{figure}.png")
            draw(standings, figure, title, files[-1])
    return files


def draw(standings: pd.DataFrame, figure: str, title: str, file: Path) -> None:
    """Draws a figure of every entrant (rows) beside every other (columns), the best above."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(ranking(standings).index)
    matrix = standings.pivot_table(index="entrant", columns="beside", values=figure).loc[names, names].to_numpy()
    side = max(4.0, 0.62 * len(names) + 2.2)
    canvas = Figure(figsize=(side + 1.2, side), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    rate = figure.endswith(("_rate", "_share"))
    low, high = (0.0, 1.0) if rate else (float(np.nanmin(matrix)), float(np.nanmax(matrix)))
    image = axes.imshow(matrix, cmap="RdYlGn", vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(matrix):
        far = abs(value - (low + high) / 2) > 0.38 * (high - low)
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if far else "black")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("beside")
    canvas.colorbar(image, ax=axes, shrink=0.8)
    axes.set_title(f"{title}: {figure.replace('_', ' ')} of the row's player", fontsize=10)
    canvas.savefig(file, dpi=130)
