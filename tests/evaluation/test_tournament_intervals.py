"""Confidence intervals of tournaments cover the true mean in 95% of tournaments."""

import numpy as np
import pandas as pd
import pytest

from rllib_reciprocator.evaluation.tournament import enter, hold, ranking, standings, tournament
from rllib_reciprocator.experiments.intervals import stratified_mean_and_half_width

# Both players get 1 if they choose alike: their rewards are the same.
ALIKE = {"num_steps": 1, "payoffs": [[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]}


def parts(results, samples):
    """Results as those of many tournaments of so many samples a group and turn."""
    number = results.groupby(["entrant", "others", "turn"], sort=False).cumcount() // samples
    for _, part in results.groupby(number):
        yield part


def coverage(frames, column, true_mean):
    covered = [abs(frame[column] - true_mean) <= frame[f"{column}_ci95"] for frame in frames]
    return np.mean(covered)


def test_agents_of_one_game_are_one_sample():
    """In self-play both agents have the same return in each game; as 2 samples a game 83% would be covered."""
    made = tournament(enter(["scripted/random", "other=scripted/random"]), games=20_000, env="ipd_v0", env_config=ALIKE)
    results = hold(made)
    table = standings(results)
    assert set(table["games"]) == set(table["samples"]) == {20_000}
    frames = [standings(part).iloc[0] for part in parts(results[results["others"] == ("random",)], 40)]
    assert frames[0]["entrant"] == frames[0]["partner"] == "random"
    assert 0.93 <= coverage(frames, "return", 0.5) <= 0.97


def test_inner_episodes_of_a_group_are_one_sample():
    """All copies and inner episodes share a learner, whose first steps decide what comes after them."""
    config = {"num_steps": 2, "payoffs": [[[2.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [2.0, 2.0]]]}
    made = tournament(
        enter(["learner/pg", "other=learner/pg"]),
        games=5000 * 3 * 4,
        env="ipd_v0",
        env_config=config,
        meta={"inner_episodes": 3, "copies": 4},
        learning_players={"pg": {"initial_std": 2.0}},
    )
    results = hold(made)
    group = results[(results["entrant"] == "learner/pg") & (results["others"] == ("learner/pg",))]
    assert set(group["games"]) == {12}
    assert len(group) >= 5000
    true_mean = group["return"].mean()
    frames = [standings(part).iloc[0] for part in parts(group, 10)]
    assert frames[0]["games"] == 120
    assert 0.93 <= coverage(frames, "return", true_mean) <= 0.97


def test_turns_are_strata():
    """In a game that is better for one agent, the intervals do not count that as noise."""
    payoffs = [[[5.0, 0.0], [6.0, 0.0]], [[6.0, 0.0], [5.0, 0.0]]]
    made = tournament(
        enter(["scripted/random", "other=scripted/random"]),
        games=20_000,
        env="ipd_v0",
        env_config={"num_steps": 1, "payoffs": payoffs},
    )
    results = hold(made)
    frames = [standings(part).iloc[0] for part in parts(results[results["others"] == ("other",)], 20)]
    assert 0.93 <= coverage(frames, "return", 2.75) <= 0.97


def test_simulated_strata():
    """Strata of different sizes and variances, with unequal weights."""
    generator = np.random.default_rng(1)
    covered = []
    for _ in range(3000):
        strata = [generator.normal(mean, std, n) for mean, std, n in ((1.0, 5.0, 12), (9.0, 1.0, 40), (-3.0, 2.0, 8))]
        mean, half = stratified_mean_and_half_width(strata, [0.5, 0.25, 0.25])
        covered.append(abs(mean - (0.5 + 2.25 - 0.75)) <= half)
    assert 0.93 <= np.mean(covered) <= 0.97
    assert np.isnan(stratified_mean_and_half_width([[1.0], [2.0, 3.0]], [0.5, 0.5])[1])
    assert stratified_mean_and_half_width([[1.0, 1.0], [3.0, 3.0]], [0.5, 0.5]) == (2.0, 0.0)


def test_rankings_have_intervals_over_all_groups_of_the_pool():
    """Returns of 1 or 0 with one opponent, of 10 or 0 with another."""
    generator = np.random.default_rng(2)
    covered = []
    for _ in range(500):
        columns = [
            {"entrant": "a", "others": (name,), "turn": turn, "games": 1, "return": scale * generator.integers(2)}
            for name, scale in (("b", 1.0), ("c", 10.0), ("a", 99.0))
            for turn in (0, 1)
            for _ in range(15)
        ]
        row = ranking(pd.DataFrame(columns), ["a", "b", "c"]).loc["a"]
        assert row["samples"] == 60
        covered.append(abs(row["return"] - 2.75) <= row["return_ci95"])
    assert 0.93 <= np.mean(covered) <= 0.97


def test_cells_of_one_sample_have_no_interval():
    made = tournament(enter(["scripted/random", "other=scripted/random"]), games=1, env="ipd_v0", env_config=ALIKE)
    table = standings(hold(made))
    assert table["return_ci95"].isna().all()
    assert table["return"].between(0.0, 1.0).all()
    assert pytest.approx(table["samples"]) == 1
