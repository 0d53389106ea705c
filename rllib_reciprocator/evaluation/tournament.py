"""Tournaments: every entrant plays with every other entrant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from rich.table import Table

import social_dilemmas
from rllib_reciprocator.engine import BatchedConfig
from rllib_reciprocator.evaluation.batched_evaluator import RETURN, episode_figures
from rllib_reciprocator.evaluation.checkpoints import find, read_config
from rllib_reciprocator.evaluation.frozen_runner import frozen_runner
from rllib_reciprocator.experiments.csv_text import write_csv
from rllib_reciprocator.experiments.errors import UserError, writing
from rllib_reciprocator.experiments.intervals import stratified_mean_and_half_width
from rllib_reciprocator.players import AXELROD, CHECKPOINT, LEARNER, LEARNING, SCRIPTED
from rllib_reciprocator.players.frozen import remembered_inner_episodes
from rllib_reciprocator.utils.checkpoints import MODULE_PATH
from social_dilemmas.registry import did_you_mean

# The table shows the returns with this number of partners at most; the files have all of them.
MAX_COLUMNS = 6
# Columns of results that are no metrics.
_ENTRANT, _OTHERS, _TURN, _GAMES = "entrant", "others", "turn", "games"
_NOT_METRICS = (_ENTRANT, _OTHERS, _TURN, _GAMES)
# Metrics that there are only in groups with an agent that has incentives to give.
_INCENTIVES = ("received", "given")


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
        pool: Names of the entrants that all entrants are ranked against; empty for no ranking.
    """

    config: BatchedConfig
    entrants: tuple[Entrant, ...]
    games: int
    seed: int = 0
    explore: bool = True
    pool: tuple[str, ...] = ()

    def groups(self) -> list[tuple[int, ...]]:
        """Every group of as many entrants as the game has agents, each with itself too."""
        return list(combinations_with_replacement(range(len(self.entrants)), len(self.agents)))

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents of the game."""
        return self.config.make_game().agents

    def play(self, group: tuple[int, ...]) -> pd.DataFrame:
        """Plays the games of a group; its entrants take turns as every agent.

        Args:
            group: Indices of the entrants.

        Returns:
            The results, as :func:`hold` returns them.
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
        inner = runner.config.inner_episodes()
        # Games of an independent sample: a meta-episode of all copies that share an online learner.
        size = inner * runner.config.group_size()
        batches = [
            episode_figures(runner.game, sample.split(inner))
            for sample in runner.sample(num_episodes=games, explore=self.explore)
        ]
        metrics = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        if size == 1:
            metrics = {name: values[:games] for name, values in metrics.items()}
        names = [entrant.name for entrant in playing]
        parts = []
        for name in dict.fromkeys(names):
            agents = [agent for agent, player in enumerate(names) if player == name]
            remaining = names.copy()
            remaining.remove(name)
            averages = {
                metric: values[:, agents].double().mean(1).unflatten(0, (-1, size)).mean(1).numpy()
                for metric, values in metrics.items()
            }
            samples = len(averages[RETURN])
            columns = {_ENTRANT: name, _OTHERS: [tuple(sorted(remaining))] * samples, _TURN: turn, _GAMES: size}
            parts.append(pd.DataFrame({**columns, **averages}))
        return pd.concat(parts, ignore_index=True)


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
    pool: Sequence[str] = (),
    meta: Mapping[str, Any] | None = None,
    learning_players: Mapping[str, Mapping[str, Any]] | None = None,
    allow_other_env_config: bool = False,
) -> Tournament:
    """A tournament of one of our games.

    Args:
        entrants: Who takes part.
        env: The game; that of the first checkpoint if None.
        env_config: Its settings.
        games: How many games each group plays, by turns as every agent.
        seed: Seeds everything.
        explore: Whether players draw their actions; if not, they take the likeliest.
        pool: Names of the entrants that all entrants are ranked against; empty for no ranking.
        meta: Settings of meta-episodes, ``inner_episodes`` and ``copies``. Defaults to those that the entrants were
            trained with.
        learning_players: Settings of online learners, by name. Defaults to those in the entrants' runs.
        allow_other_env_config: If True, entrants may have been trained in another game or with other settings of it.

    Raises:
        UserError: If the game is not known, or a player cannot play it.
    """
    configs = {entrant.name: read_config(entrant.checkpoint) for entrant in entrants if entrant.checkpoint}
    runs = {name: config for name, config in configs.items() if isinstance(config, BatchedConfig)}
    run = next(iter(runs.values()), None)
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
    if not allow_other_env_config:
        for name, trained in configs.items():
            _check_env_config(name, trained.env, trained.env_config, str(env), config.env_config)
    names = [entrant.name for entrant in entrants]
    for name in pool:
        if name not in names:
            raise UserError(f"--pool {name}: no entrant has this name{did_you_mean(name, names)}")
    _set_learning_players(config, entrants, runs, learning_players or {})
    _set_meta_episodes(config, entrants, runs, meta or {})
    config.players(dict.fromkeys(agents, f"{SCRIPTED}/random"))
    made = Tournament(config, tuple(entrants), games, seed, explore, tuple(dict.fromkeys(pool)))
    for each in entrants:
        try:
            frozen_runner(config, dict.fromkeys(agents, each.player), episodes=1)
        except UserError as error:
            raise UserError(f"{each.name}: {error}") from None
    return made


def _check_env_config(name: str, trained_env: Any, trained_config: Mapping[str, Any], env: str, config: Any) -> None:
    """Raises UserError if an entrant was trained in another game than the tournament's, or with other settings."""
    option = "to let it play, add --allow-other-env-config"
    if trained_env != env:
        raise UserError(f"{name}: was trained in {trained_env}, and the game is {env}; {option}")
    defaults = {key: default for key, (_, default) in social_dilemmas.spec(env).settings().items()}
    for key, default in defaults.items():
        trained, played = trained_config.get(key, default), config.get(key, default)
        if _as_lists(trained) != _as_lists(played):
            raise UserError(f"{name}: was trained with {key} {trained!r}, and the game has {played!r}; {option}")


def _as_lists(value: Any) -> Any:
    """Returns a setting with lists for tuples and arrays, to compare it with another."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _set_learning_players(
    config: BatchedConfig,
    entrants: Sequence[Entrant],
    runs: Mapping[str, BatchedConfig],
    given: Mapping[str, Mapping[str, Any]],
) -> None:
    """Sets how online learners learn: as given, or else as in the runs that the other entrants are from.

    Raises:
        UserError: If two runs differ in it, or a setting is not valid.
    """
    for name in given:
        try:
            config.learning_player(name, **given[name])
        except (TypeError, ValidationError) as error:
            raise UserError(f"--learning-players.{name}{_first_problem(error)}") from None
    for name in _online_learners(entrants):
        described = {
            entrant: run.learning_settings()[name]
            for entrant, run in runs.items()
            if name in run.own_learning_settings or name in _online_learners_of(run)
        }
        if name in given or not described:
            continue
        (first, settings), *rest = described.items()
        for entrant, other_settings in rest:
            if other_settings.model_dump() != settings.model_dump():
                raise UserError(
                    f"learner/{name}: the runs of {first} and {entrant} have different settings of it;"
                    f' give them, as --learning-players \'{{"{name}": {{"lr": 1.0}}}}\''
                )
        config.own_learning_settings = {**config.own_learning_settings, name: settings}


def _set_meta_episodes(
    config: BatchedConfig, entrants: Sequence[Entrant], runs: Mapping[str, BatchedConfig], given: Mapping[str, Any]
) -> None:
    """Sets the meta-episodes: as given, or else as in the runs of the entrants for which they matter.

    Raises:
        UserError: If two of them differ, or a setting is not valid.
    """
    learned = {name: run for name, run in runs.items() if _online_learners(entrants) and run.plays_meta_episodes()}
    try:
        remembered = {
            entrant.name: remembered_inner_episodes(folder / MODULE_PATH / entrant.player.rpartition("#")[2])
            for entrant in entrants
            if (folder := entrant.checkpoint)
        }
    except ValueError as error:
        raise UserError(str(error)) from None
    trained = {
        "inner_episodes": {
            **{name: run.inner_episodes() for name, run in learned.items()},
            **{name: number for name, number in remembered.items() if number is not None},
        },
        "copies": {name: run.meta_settings.copies for name, run in learned.items()},
    }
    settings = dict(given)
    for key, numbers in trained.items():
        if key in given or not numbers:
            continue
        (first, number), *rest = numbers.items()
        for entrant, other_number in rest:
            if other_number != number:
                raise UserError(
                    f"{entrant}: was trained with meta.{key} {other_number}, and {first} with {number};"
                    f" give it, as --meta '{{\"{key}\": {number}}}'"
                )
        settings[key] = number
    try:
        config.meta(**settings)
    except (TypeError, ValidationError) as error:
        raise UserError(f"--meta{_first_problem(error)}") from None


def _first_problem(error: TypeError | ValidationError) -> str:
    """Returns the end of an error message on settings that are not valid."""
    if isinstance(error, TypeError):
        return f": {error}"
    problem = error.errors()[0]
    return f".{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _online_learners(entrants: Sequence[Entrant]) -> list[str]:
    """Returns the names of online learners among entrants."""
    return [entrant.player.partition("/")[2] for entrant in entrants if entrant.player.startswith(f"{LEARNER}/")]


def _online_learners_of(run: BatchedConfig) -> set[str]:
    """Returns the names of the online learners that played in a run."""
    members = [member for player in run.assigned_players for member, _ in player.pool_members]
    return {member.source for member in members if member.kind == LEARNING}


def hold(made: Tournament, workers: int = 0) -> pd.DataFrame:
    """Plays a tournament.

    Args:
        made: The tournament.
        workers: Ray tasks that play side by side; 0 for this process. Ray must be up.

    Returns:
        One row per independent sample and entrant: ``entrant``; ``others``, the names of those that play the other
        agents; ``turn``; ``games``, the number of games in the sample; and metrics, which are means over these games
        and over the agents that the entrant plays in them. A sample is a game; where policies remember inner episodes,
        a meta-episode; where an online learner plays, a meta-episode of all copies of the game that share it.
    """
    groups = made.groups()
    if workers:
        import ray

        shared = ray.put(made)
        task = ray.remote(_play_all)
        shares = ray.get([task.remote(shared, groups[k::workers]) for k in range(workers)])
        played = [shares[k % workers][k // workers] for k in range(len(groups))]
    else:
        played = _play_all(made, groups)
    results = pd.concat(played, ignore_index=True)
    for name in _INCENTIVES:
        if name in results:
            # Of groups without an agent that gives.
            results[name] = results[name].fillna(0.0)
    return results


def _play_all(made: Tournament, groups: Sequence[tuple[int, ...]]) -> list[pd.DataFrame]:
    return [made.play(group) for group in groups]


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """Returns the names of the metrics in results, standings or a ranking; the return is the first."""
    names = [name for name in frame.columns if name not in (*_NOT_METRICS, "beside", "samples")]
    return [name for name in names if not name.endswith("_ci95")]


def standings(results: pd.DataFrame) -> pd.DataFrame:
    """Summarizes results by pairs of entrants.

    Args:
        results: As returned by :func:`hold`.

    Returns:
        One row per entrant and partner: ``entrant``, ``beside`` (the partner), ``games``, ``samples`` (the number of
        independent ones), and of every metric the mean and ``_ci95``, the half-width of its 95% confidence interval. In
        games for more than two agents the groups with both of them have equal weights.
    """
    rows = []
    groups = _groups(results)
    for name, of_entrant in groups.items():
        for partner in groups:
            parts = [part for others, part in of_entrant.items() if partner in others]
            if parts:
                rows.append({_ENTRANT: name, "beside": partner, **_summary(parts)})
    return pd.DataFrame(rows)


def ranking(results: pd.DataFrame, pool: Sequence[str]) -> pd.DataFrame:
    """Ranks entrants by their mean return against a pool.

    Args:
        results: As returned by :func:`hold`.
        pool: Names of entrants. Each entrant is ranked by the groups in which all other agents are played by members
            of the pool other than itself; these groups have equal weights.

    Returns:
        One row per entrant, the highest return first: ``games``, ``samples``, and of every metric the mean and
        ``_ci95``. Entrants that no group of the pool has met are left out.
    """
    rows = {}
    for name, of_entrant in _groups(results).items():
        opponents = set(pool) - {name}
        parts = [part for others, part in of_entrant.items() if opponents.issuperset(others)]
        if parts:
            rows[name] = _summary(parts)
    ranked = pd.DataFrame.from_dict(rows, orient="index").rename_axis(_ENTRANT)
    return ranked.sort_values(RETURN, ascending=False, kind="stable") if len(ranked) else ranked


def _groups(results: pd.DataFrame) -> dict[str, dict[tuple[str, ...], pd.DataFrame]]:
    """Returns the results of every entrant, by the names of the others in the group."""
    groups: dict[str, dict[tuple[str, ...], pd.DataFrame]] = {}
    for (name, others), part in results.groupby([_ENTRANT, _OTHERS], sort=False):
        groups.setdefault(name, {})[others] = part
    return groups


def _summary(groups: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """Returns the numbers of games and samples, and means with confidence intervals, with equal weights of groups.

    Within a group the turns are strata too, unless one of them has a single sample.
    """
    strata: list[pd.DataFrame] = []
    weights: list[float] = []
    for group in groups:
        turns = [turn for _, turn in group.groupby(_TURN, sort=False)]
        if min(map(len, turns)) < 2:
            turns = [group]
        strata += turns
        weights += [1.0 / (len(groups) * len(turns))] * len(turns)
    summary: dict[str, Any] = {
        _GAMES: sum(int(group[_GAMES].sum()) for group in groups),
        "samples": sum(map(len, groups)),
    }
    for metric in metrics_of(groups[0]):
        values = [stratum[metric].to_numpy() for stratum in strata]
        summary[metric], summary[f"{metric}_ci95"] = stratified_mean_and_half_width(values, weights)
    return summary


def table(results: pd.DataFrame, title: str, pool: Sequence[str] = ()) -> Table:
    """Draws the ranking if there is a pool, and the mean returns with a few partners, with confidence intervals.

    Args:
        results: As returned by :func:`hold`.
        title: Title of the table.
        pool: As for :func:`ranking`.
    """
    cells = standings(results).set_index([_ENTRANT, "beside"])
    names = list(dict.fromkeys(results[_ENTRANT]))
    ranked = ranking(results, pool) if pool else None
    if ranked is not None:
        title += f"; ranked by the mean return against {', '.join(pool)} (without self-play)"
    partners = list(pool) if pool else names
    if len(partners) > MAX_COLUMNS:
        title += f"; returns with the first {MAX_COLUMNS} of {len(partners)}, the files have all"
        partners = partners[:MAX_COLUMNS]
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("entrant")
    metrics = metrics_of(cells) if pool else []
    for metric in metrics:
        drawn.add_column(metric.replace("_", " "), justify="right")
    for partner in partners:
        drawn.add_column(f"return with {partner}", justify="right")
    for name in _order(names, ranked):
        row = None if ranked is None or name not in ranked.index else ranked.loc[name]
        summary = ["" if row is None else f"{row[key]:.3f} ± {row[f'{key}_ci95']:.3f}" for key in metrics]
        means = []
        for partner in partners:
            cell = cells.loc[(name, partner)] if (name, partner) in cells.index else None
            means.append("" if cell is None else f"{cell[RETURN]:.2f} ± {cell[f'{RETURN}_ci95']:.2f}")
        drawn.add_row(name, *summary, *means)
    return drawn


def _order(names: Sequence[str], ranked: pd.DataFrame | None) -> list[str]:
    """Returns the names of entrants as they are ranked, and then those without a rank."""
    first = [] if ranked is None else list(ranked.index)
    return [*first, *(name for name in names if name not in first)]


def write(results: pd.DataFrame, folder: Path, title: str, pool: Sequence[str] = ()) -> list[Path]:
    """Writes standings and, if there is a pool, the ranking as CSV, and a heat map of every metric.

    Args:
        results: As returned by :func:`hold`.
        folder: Where to.
        title: Title of the heat maps.
        pool: As for :func:`ranking`.

    Raises:
        UserError: If a file cannot be written.
    """
    frame, ranked = standings(results), ranking(results, pool) if pool else None
    names = _order(list(dict.fromkeys(results[_ENTRANT])), ranked)
    with writing("--out", folder):
        folder.mkdir(exist_ok=True)
        files = [folder / "tournament.csv"]
        write_csv(frame, files[0])
        if ranked is not None:
            files.append(folder / "ranking.csv")
            write_csv(ranked.reset_index(), files[-1])
        for metric in metrics_of(frame):
            files.append(folder / f"{metric}.png")
            draw(frame, names, metric, title, files[-1])
    return files


def draw(frame: pd.DataFrame, names: Sequence[str], metric: str, title: str, file: Path) -> None:
    """Draws a heat map of a metric: rows are entrants, columns their partners.

    Args:
        frame: The standings.
        names: Names of the entrants in order; cells without a value are left empty.
        metric: Name of the metric.
        title: Title.
        file: Where to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = frame.pivot(index=_ENTRANT, columns="beside", values=metric).reindex(index=names, columns=names).to_numpy()
    side = max(4.0, 0.62 * len(names) + 2.2)
    canvas = Figure(figsize=(side + 1.2, side), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    rate = metric.endswith(("_rate", "_share"))
    low, high = (0.0, 1.0) if rate or np.isnan(matrix).all() else (float(np.nanmin(matrix)), float(np.nanmax(matrix)))
    image = axes.imshow(matrix, cmap="RdYlGn", vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(matrix):
        if np.isnan(value):
            continue
        far = abs(value - (low + high) / 2) > 0.38 * (high - low)
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if far else "black")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("played with")
    canvas.colorbar(image, ax=axes, shrink=0.8)
    axes.set_title(f"{title}: {metric.replace('_', ' ')} of the row's player", fontsize=10)
    canvas.savefig(file, dpi=130)
