"""Confidence intervals of tournaments cover the true mean in 95% of tournaments."""

import numpy as np
import pandas as pd
import pytest

from rllib_reciprocator.evaluation.tournament import enter, hold, ranking, standings, tournament
from rllib_reciprocator.results.intervals import stratified_mean_and_half_width

# Both players get 1 if their actions are equal: their rewards are the same.
EQUAL_REWARDS = {"num_steps": 1, "payoffs": [[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]}


def split_into_tournaments(results, samples):
    """Splits results into those of many tournaments with the given number of samples per group and turn."""
    number = results.groupby(["entrant", "others", "turn"], sort=False).cumcount() // samples
    for _, part in results.groupby(number):
        yield part


def coverage(frames, column, true_mean):
    hits = [abs(frame[column] - true_mean) <= frame[f"{column}_ci95"] for frame in frames]
    return np.mean(hits)


def test_agents_of_one_game_are_one_sample():
    """In self-play, both agents have the same return in every game.

    If they were counted as 2 samples per game, the intervals would cover the mean in 83% of tournaments only.
    """
    settings = tournament(
        enter(["scripted/random", "other=scripted/random"]), games=20_000, env="ipd_v0", env_config=EQUAL_REWARDS
    )
    results = hold(settings)
    table = standings(results)
    assert set(table["games"]) == set(table["samples"]) == {20_000}
    frames = [standings(part).iloc[0] for part in split_into_tournaments(results[results["others"] == ("random",)], 40)]
    assert frames[0]["entrant"] == frames[0]["partner"] == "random"
    assert 0.93 <= coverage(frames, "return", 0.5) <= 0.97


def test_inner_episodes_of_a_group_are_one_sample():
    """All environments and inner episodes of a group share an online learner and are therefore correlated."""
    config = {"num_steps": 2, "payoffs": [[[2.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [2.0, 2.0]]]}
    settings = tournament(
        enter(["learner/pg", "other=learner/pg"]),
        games=5000 * 3 * 4,
        env="ipd_v0",
        env_config=config,
        meta={"inner_episodes": 3, "copies": 4},
        learning_players={"pg": {"initial_std": 2.0}},
    )
    results = hold(settings)
    group = results[(results["entrant"] == "learner/pg") & (results["others"] == ("learner/pg",))]
    assert set(group["games"]) == {12}
    assert len(group) >= 5000
    true_mean = group["return"].mean()
    frames = [standings(part).iloc[0] for part in split_into_tournaments(group, 10)]
    assert frames[0]["games"] == 120
    assert 0.93 <= coverage(frames, "return", true_mean) <= 0.97


def test_turns_are_strata():
    """In a game that favors one agent, the difference between turns does not widen the intervals."""
    payoffs = [[[5.0, 0.0], [6.0, 0.0]], [[6.0, 0.0], [5.0, 0.0]]]
    settings = tournament(
        enter(["scripted/random", "other=scripted/random"]),
        games=20_000,
        env="ipd_v0",
        env_config={"num_steps": 1, "payoffs": payoffs},
    )
    results = hold(settings)
    frames = [standings(part).iloc[0] for part in split_into_tournaments(results[results["others"] == ("other",)], 20)]
    assert 0.93 <= coverage(frames, "return", 2.75) <= 0.97


def test_simulated_strata():
    """Strata have different sizes, variances and weights."""
    generator = np.random.default_rng(1)
    hits = []
    for _ in range(3000):
        strata = [generator.normal(mean, std, n) for mean, std, n in ((1.0, 5.0, 12), (9.0, 1.0, 40), (-3.0, 2.0, 8))]
        mean, half_width = stratified_mean_and_half_width(strata, [0.5, 0.25, 0.25])
        hits.append(abs(mean - (0.5 + 2.25 - 0.75)) <= half_width)
    assert 0.93 <= np.mean(hits) <= 0.97
    assert np.isnan(stratified_mean_and_half_width([[1.0], [2.0, 3.0]], [0.5, 0.5])[1])
    assert stratified_mean_and_half_width([[1.0, 1.0], [3.0, 3.0]], [0.5, 0.5]) == (2.0, 0.0)


def test_rankings_have_intervals_over_all_groups_of_the_pool():
    """Returns are 1 or 0 with one co-player and 10 or 0 with another."""
    generator = np.random.default_rng(2)
    hits = []
    for _ in range(500):
        columns = [
            {"entrant": "a", "others": (name,), "turn": turn, "games": 1, "return": scale * generator.integers(2)}
            for name, scale in (("b", 1.0), ("c", 10.0), ("a", 99.0))
            for turn in (0, 1)
            for _ in range(15)
        ]
        row = ranking(pd.DataFrame(columns), ["a", "b", "c"]).loc["a"]
        assert row["samples"] == 60
        hits.append(abs(row["return"] - 2.75) <= row["return_ci95"])
    assert 0.93 <= np.mean(hits) <= 0.97


def test_cells_of_one_sample_have_no_interval():
    settings = tournament(
        enter(["scripted/random", "other=scripted/random"]), games=1, env="ipd_v0", env_config=EQUAL_REWARDS
    )
    table = standings(hold(settings))
    assert table["return_ci95"].isna().all()
    assert table["return"].between(0.0, 1.0).all()
    assert pytest.approx(table["samples"]) == 1
