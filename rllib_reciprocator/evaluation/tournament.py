"""Tournaments in which every entrant plays with every other entrant."""

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
from rllib_reciprocator.players import AXELROD, CHECKPOINT, LEARNER, LEARNING, SCRIPTED
from rllib_reciprocator.players.frozen import remembered_inner_episodes
from rllib_reciprocator.results.csv_text import write_csv
from rllib_reciprocator.results.intervals import stratified_mean_and_half_width
from rllib_reciprocator.utils.checkpoints import MODULE_PATH
from rllib_reciprocator.utils.errors import UserError, writing
from social_dilemmas.registry import did_you_mean

# Maximum number of partners whose returns are columns of the printed table. The files contain all of them.
MAX_COLUMNS = 6
# Columns of the results that are not metrics.
_ENTRANT, _OTHERS, _TURN, _GAMES = "entrant", "others", "turn", "games"
_NOT_METRICS = (_ENTRANT, _OTHERS, _TURN, _GAMES)
# Metrics that only exist in groups with at least one agent that gives incentives.
_INCENTIVES = ("received", "given")


@dataclass(frozen=True)
class Entrant:
    """Participant of a tournament.

    Attributes:
        name: Name in tables and files.
        player: Specification of the player, as in a ``players`` mapping.
        checkpoint: Folder of the checkpoint that the player is loaded from, or None.
    """

    name: str
    player: str
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Tournament:
    """Settings of a tournament.

    Attributes:
        config: Configuration of the environment, the meta-episodes and the online learners.
        entrants: The entrants.
        games: Number of games per group.
        seed: Seed of all random numbers.
        explore: If True, actions are sampled; if False, the most probable ones are taken.
        pool: Names of the entrants that all entrants are ranked against. If empty, there is no ranking.
    """

    config: BatchedConfig
    entrants: tuple[Entrant, ...]
    games: int
    seed: int = 0
    explore: bool = True
    pool: tuple[str, ...] = ()

    def groups(self) -> list[tuple[int, ...]]:
        """Returns all groups of N entrants, by index, for the N agents of the game.

        A group may contain the same entrant more than once, so that entrants also play with themselves.
        """
        return list(combinations_with_replacement(range(len(self.entrants)), len(self.agents)))

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents of the game."""
        return self.config.make_game().agents

    def play(self, group: tuple[int, ...]) -> pd.DataFrame:
        """Plays the games of a group, in which every entrant plays every agent in turn.

        Args:
            group: Indices of the entrants.

        Returns:
            The results, with the columns that :func:`hold` returns.
        """
        # Rotations of the group. A group of one entrant with itself needs only one.
        turns = [group] if len(set(group)) == 1 else [group[k:] + group[:k] for k in range(len(group))]
        frames = []
        for turn, order in enumerate(turns):
            games = self.games // len(turns) + (turn < self.games % len(turns))
            if games:
                frames.append(self._played(order, games, turn))
        return pd.concat(frames, ignore_index=True)

    def _played(self, order: tuple[int, ...], games: int, turn: int) -> pd.DataFrame:
        entrants = [self.entrants[index] for index in order]
        # Seeded by turn and order, so that the results do not depend on which Ray task plays the group.
        seed = int(np.random.SeedSequence([self.seed, turn, *order]).generate_state(1)[0])
        players = {agent: entrant.player for agent, entrant in zip(self.agents, entrants, strict=True)}
        runner = frozen_runner(self.config, players, episodes=games, seed=seed)
        inner = runner.config.inner_episodes()
        # Games per independent sample: one meta-episode of all environments that share an online learner.
        size = inner * runner.config.group_size()
        batches = [
            episode_figures(runner.game, sample.split(inner))
            for sample in runner.sample(num_episodes=games, explore=self.explore)
        ]
        metrics = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        if size == 1:
            # The last rollout may contain more games than requested.
            metrics = {name: values[:games] for name, values in metrics.items()}
        names = [entrant.name for entrant in entrants]
        frames = []
        for name in dict.fromkeys(names):
            agents = [agent for agent, player in enumerate(names) if player == name]
            co_players = names.copy()
            co_players.remove(name)
            # Means over the agents that the entrant plays and over the games of a sample.
            averages = {
                metric: values[:, agents].double().mean(1).unflatten(0, (-1, size)).mean(1).numpy()
                for metric, values in metrics.items()
            }
            samples = len(averages[RETURN])
            columns = {_ENTRANT: name, _OTHERS: [tuple(sorted(co_players))] * samples, _TURN: turn, _GAMES: size}
            frames.append(pd.DataFrame({**columns, **averages}))
        return pd.concat(frames, ignore_index=True)


def enter(written: Sequence[str]) -> tuple[Entrant, ...]:
    """Builds entrants from command line arguments.

    Args:
        written: Arguments of the form ``[NAME=]CHECKPOINT[#AGENT]``, ``[NAME=]scripted/STRATEGY``,
            ``[NAME=]axelrod/STRATEGY`` or ``[NAME=]learner/NAME``. If no agent is given, all trained policies of the
            checkpoint take part.

    Raises:
        UserError: If a checkpoint cannot be read, two entrants have the same name, or there are fewer than two.
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
    players: dict[str, str] = {}
    for entrant in entrants:
        if entrant.name in players:
            raise UserError(
                f"{entrant.player}: the name {entrant.name!r} is taken already; choose another: other={entrant.player}"
            )
        players[entrant.name] = entrant.player
    if len(entrants) < 2:
        raise UserError("a tournament needs at least two entrants")
    return tuple(entrants)


def _of_checkpoint(name: str, written: str) -> Iterator[Entrant]:
    path, _, agent = written.partition("#")
    folder = find(path)
    config = read_config(folder)
    modules = sorted(entry.name for entry in (folder / MODULE_PATH).iterdir() if entry.is_dir())
    policies = [agent] if agent else [name for name in modules if name in (config.policies_to_train or modules)]
    label = name or folder.parent.parent.name or folder.name
    for policy in policies:
        # Modules that are not policies, e.g. influence estimators, cannot play.
        if policy not in config.policies:
            continue
        yield Entrant(label if agent and name else f"{label}#{policy}", f"{CHECKPOINT}/{folder}#{policy}", folder)


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
    """Builds a tournament in one of this package's games.

    Args:
        entrants: The entrants.
        env: Id of the game. Defaults to that of the first checkpoint.
        env_config: Settings of the game. Defaults to those of the first checkpoint if it is of the same game.
        games: Number of games per group, divided between its rotations over the agents.
        seed: Seed of all random numbers.
        explore: If True, actions are sampled; if False, the most probable ones are taken.
        pool: Names of the entrants that all entrants are ranked against. If empty, there is no ranking.
        meta: Settings of meta-episodes, ``inner_episodes`` and ``copies``. Defaults to those that the entrants were
            trained with.
        learning_players: Settings of online learners, by name. Defaults to those in the entrants' runs.
        allow_other_env_config: If True, entrants may have been trained in another game or with other settings of it.

    Raises:
        UserError: If the game is not known, or an entrant cannot play it.
    """
    configs = {entrant.name: read_config(entrant.checkpoint) for entrant in entrants if entrant.checkpoint}
    runs = {name: config for name, config in configs.items() if isinstance(config, BatchedConfig)}
    run = next(iter(runs.values()), None)
    if env is None and run is None:
        raise UserError("--env: give the game; no entrant is from a run in one of this package's games")
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
    result = Tournament(config, tuple(entrants), games, seed, explore, tuple(dict.fromkeys(pool)))
    # Builds a runner for every entrant, so that invalid ones are reported before the first game.
    for entrant in entrants:
        try:
            frozen_runner(config, dict.fromkeys(agents, entrant.player), episodes=1)
        except UserError as error:
            raise UserError(f"{entrant.name}: {error}") from None
    return result


def _check_env_config(name: str, trained_env: Any, trained_config: Mapping[str, Any], env: str, config: Any) -> None:
    """Raises UserError if an entrant was trained in a different game or with different settings of the game."""
    option = "to let it play, add --allow-other-env-config"
    if trained_env != env:
        raise UserError(f"{name}: was trained in {trained_env}, and the game is {env}; {option}")
    defaults = {key: default for key, (_, default) in social_dilemmas.spec(env).settings().items()}
    for key, default in defaults.items():
        trained_value, value = trained_config.get(key, default), config.get(key, default)
        if _as_lists(trained_value) != _as_lists(value):
            raise UserError(f"{name}: was trained with {key} {trained_value!r}, and the game has {value!r}; {option}")


def _as_lists(value: Any) -> Any:
    """Converts tuples and arrays in a setting to lists, to compare settings."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _set_learning_players(
    config: BatchedConfig,
    entrants: Sequence[Entrant],
    runs: Mapping[str, BatchedConfig],
    given: Mapping[str, Mapping[str, Any]],
) -> None:
    """Sets the settings of online learners: those given, or else those of the runs of the other entrants.

    Raises:
        UserError: If two runs have different settings of an online learner, or a setting is not valid.
    """
    for name in given:
        try:
            config.learning_player(name, **given[name])
        except (TypeError, ValidationError) as error:
            raise UserError(f"--learning-players.{name}{_first_problem(error)}") from None
    for name in _online_learners(entrants):
        settings_by_entrant = {
            entrant: run.learning_settings()[name]
            for entrant, run in runs.items()
            if name in run.own_learning_settings or name in _online_learners_of(run)
        }
        if name in given or not settings_by_entrant:
            continue
        (first, settings), *rest = settings_by_entrant.items()
        for entrant, learning_settings in rest:
            if learning_settings.model_dump() != settings.model_dump():
                raise UserError(
                    f"learner/{name}: the runs of {first} and {entrant} have different settings of this online learner;"
                    f' give them, e.g. --learning-players \'{{"{name}": {{"lr": 1.0}}}}\''
                )
        config.own_learning_settings = {**config.own_learning_settings, name: settings}


def _set_meta_episodes(
    config: BatchedConfig, entrants: Sequence[Entrant], runs: Mapping[str, BatchedConfig], given: Mapping[str, Any]
) -> None:
    """Sets the settings of meta-episodes: those given, or else those of the entrants' runs.

    The runs that count are those of policies that remember inner episodes and, if an online learner takes part, all
    runs with meta-episodes.

    Raises:
        UserError: If two of these runs differ, or a setting is not valid.
    """
    meta_runs = {name: run for name, run in runs.items() if _online_learners(entrants) and run.plays_meta_episodes()}
    try:
        inner_episodes = {
            entrant.name: remembered_inner_episodes(folder / MODULE_PATH / entrant.player.rpartition("#")[2])
            for entrant in entrants
            if (folder := entrant.checkpoint)
        }
    except ValueError as error:
        raise UserError(str(error)) from None
    values_by_key = {
        "inner_episodes": {
            **{name: run.inner_episodes() for name, run in meta_runs.items()},
            **{name: number for name, number in inner_episodes.items() if number is not None},
        },
        "copies": {name: run.meta_settings.copies for name, run in meta_runs.items()},
    }
    settings = dict(given)
    for key, values in values_by_key.items():
        if key in given or not values:
            continue
        (first, value), *rest = values.items()
        for entrant, entrant_value in rest:
            if entrant_value != value:
                raise UserError(
                    f"{entrant}: was trained with meta.{key} {entrant_value}, and {first} with {value};"
                    f" give it, e.g. --meta '{{\"{key}\": {value}}}'"
                )
        settings[key] = value
    try:
        config.meta(**settings)
    except (TypeError, ValidationError) as error:
        raise UserError(f"--meta{_first_problem(error)}") from None


def _first_problem(error: TypeError | ValidationError) -> str:
    """Returns the first problem with invalid settings, as the end of an error message."""
    if isinstance(error, TypeError):
        return f": {error}"
    problem = error.errors()[0]
    return f".{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _online_learners(entrants: Sequence[Entrant]) -> list[str]:
    """Returns the names of the online learners among the entrants."""
    return [entrant.player.partition("/")[2] for entrant in entrants if entrant.player.startswith(f"{LEARNER}/")]


def _online_learners_of(run: BatchedConfig) -> set[str]:
    """Returns the names of the online learners that played in a run."""
    members = [member for player in run.assigned_players for member, _ in player.pool_members]
    return {member.source for member in members if member.kind == LEARNING}


def hold(made: Tournament, workers: int = 0) -> pd.DataFrame:
    """Plays a tournament.

    Args:
        made: The tournament.
        workers: Number of Ray tasks that play in parallel, for which Ray must be initialized. If 0, games are played in
            this process.

    Returns:
        One row per independent sample and entrant: ``entrant``; ``others``, the names of the entrants that play the
        other agents; ``turn``, the index of the rotation; ``games``, the number of games in the sample; and metrics,
        which are means over these games and over the agents that the entrant plays in them. A sample is one game. If
        policies remember inner episodes, it is one meta-episode; if an online learner plays, it is one meta-episode of
        all environments that share this learner.
    """
    groups = made.groups()
    if workers:
        import ray

        reference = ray.put(made)
        task = ray.remote(_play_all)
        # Task k plays groups k, k + workers, ..; the frames are put back into the order of the groups.
        results_by_task = ray.get([task.remote(reference, groups[k::workers]) for k in range(workers)])
        frames = [results_by_task[k % workers][k // workers] for k in range(len(groups))]
    else:
        frames = _play_all(made, groups)
    results = pd.concat(frames, ignore_index=True)
    for name in _INCENTIVES:
        if name in results:
            # The metric is missing in groups in which no agent gives incentives.
            results[name] = results[name].fillna(0.0)
    return results


def _play_all(made: Tournament, groups: Sequence[tuple[int, ...]]) -> list[pd.DataFrame]:
    return [made.play(group) for group in groups]


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """Returns the names of the metrics in results, standings or a ranking. The first one is the return."""
    names = [name for name in frame.columns if name not in (*_NOT_METRICS, "partner", "samples")]
    return [name for name in names if not name.endswith("_ci95")]


def standings(results: pd.DataFrame) -> pd.DataFrame:
    """Summarizes results by pairs of entrants.

    Args:
        results: As returned by :func:`hold`.

    Returns:
        One row per entrant and partner: ``entrant``, ``partner``, ``games``, ``samples`` (the number of
        independent samples), and for every metric the mean and, with the suffix ``_ci95``, the half-width of its 95%
        confidence interval. In games for more than two agents, groups that contain both entrants have equal weights.
    """
    rows = []
    groups = _groups(results)
    for name, frames in groups.items():
        for partner in groups:
            selection = [frame for co_players, frame in frames.items() if partner in co_players]
            if selection:
                rows.append({_ENTRANT: name, "partner": partner, **_summary(selection)})
    return pd.DataFrame(rows)


def ranking(results: pd.DataFrame, pool: Sequence[str]) -> pd.DataFrame:
    """Ranks entrants by their mean return against a pool.

    Args:
        results: As returned by :func:`hold`.
        pool: Names of entrants. An entrant is ranked by the groups in which all other agents are played by members of
            the pool other than itself. These groups have equal weights.

    Returns:
        One row per entrant, sorted by return in descending order: ``games``, ``samples``, and for every metric the mean
        and ``_ci95`` as in :func:`standings`. Entrants without such a group are left out.
    """
    rows = {}
    for name, frames in _groups(results).items():
        opponents = set(pool) - {name}
        selection = [frame for co_players, frame in frames.items() if opponents.issuperset(co_players)]
        if selection:
            rows[name] = _summary(selection)
    ranked = pd.DataFrame.from_dict(rows, orient="index").rename_axis(_ENTRANT)
    return ranked.sort_values(RETURN, ascending=False, kind="stable") if len(ranked) else ranked


def _groups(results: pd.DataFrame) -> dict[str, dict[tuple[str, ...], pd.DataFrame]]:
    """Splits results by entrant and by the names of the other entrants in its group."""
    groups: dict[str, dict[tuple[str, ...], pd.DataFrame]] = {}
    for (name, co_players), frame in results.groupby([_ENTRANT, _OTHERS], sort=False):
        groups.setdefault(name, {})[co_players] = frame
    return groups


def _summary(groups: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """Computes the numbers of games and samples, and stratified means with confidence intervals.

    The strata are the groups, with equal weights, and within a group its turns, unless one of them has a single sample.
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
    """Builds a table of the ranking, if there is a pool, and of the mean returns with the first partners.

    Args:
        results: As returned by :func:`hold`.
        title: Title of the table.
        pool: As for :func:`ranking`.
    """
    cells = standings(results).set_index([_ENTRANT, "partner"])
    names = list(dict.fromkeys(results[_ENTRANT]))
    ranked = ranking(results, pool) if pool else None
    if ranked is not None:
        title += f"; ranked by the mean return against {', '.join(pool)} (without self-play)"
    partners = list(pool) if pool else names
    if len(partners) > MAX_COLUMNS:
        title += f"; returns with the first {MAX_COLUMNS} of {len(partners)}, the files contain all"
        partners = partners[:MAX_COLUMNS]
    rich_table = Table(title=title, title_justify="left")
    rich_table.add_column("entrant")
    metrics = metrics_of(cells) if pool else []
    for metric in metrics:
        rich_table.add_column(metric.replace("_", " "), justify="right")
    for partner in partners:
        rich_table.add_column(f"return with {partner}", justify="right")
    for name in _order(names, ranked):
        row = None if ranked is None or name not in ranked.index else ranked.loc[name]
        summary = ["" if row is None else f"{row[key]:.3f} ± {row[f'{key}_ci95']:.3f}" for key in metrics]
        means = []
        for partner in partners:
            cell = cells.loc[(name, partner)] if (name, partner) in cells.index else None
            means.append("" if cell is None else f"{cell[RETURN]:.2f} ± {cell[f'{RETURN}_ci95']:.2f}")
        rich_table.add_row(name, *summary, *means)
    return rich_table


def _order(names: Sequence[str], ranked: pd.DataFrame | None) -> list[str]:
    """Returns the names of the entrants in the order of the ranking, followed by those without a rank."""
    ranked_names = [] if ranked is None else list(ranked.index)
    return [*ranked_names, *(name for name in names if name not in ranked_names)]


def write(results: pd.DataFrame, folder: Path, title: str, pool: Sequence[str] = ()) -> list[Path]:
    """Writes standings and, if there is a pool, the ranking as CSV, and a heat map of every metric.

    Args:
        results: As returned by :func:`hold`.
        folder: Folder to write to. It is created if it does not exist.
        title: Title of the heat maps.
        pool: As for :func:`ranking`.

    Returns:
        Paths of the files.

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
    """Draws a heat map of a metric. Rows are entrants, columns their partners.

    Args:
        frame: The standings.
        names: Names of the entrants, in the order of rows and columns. Pairs without a value are left empty.
        metric: Name of the metric.
        title: Title of the heat map.
        file: Image file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = (
        frame.pivot(index=_ENTRANT, columns="partner", values=metric).reindex(index=names, columns=names).to_numpy()
    )
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
        # The colors at both ends of the scale are too dark for black text.
        dark = abs(value - (low + high) / 2) > 0.38 * (high - low)
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("played with")
    canvas.colorbar(image, ax=axes, shrink=0.8)
    axes.set_title(f"{title}: {metric.replace('_', ' ')} of the row's player", fontsize=10)
    canvas.savefig(file, dpi=130)
