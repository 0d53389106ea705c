"""Outcomes that are defined for whole episodes, with rollouts that are fragments of episodes."""

import math

import pytest

import social_dilemmas
from rllib_reciprocator.experiments.schema import typed
from rllib_reciprocator.experiments.stopping import StopAt
from rllib_reciprocator.experiments.validation import build_config, check
from social_dilemmas.conformance import check_game
from tests.helpers.games import CLOCK, Clock

SIZES = {
    "Reciprocator": {"num_envs_per_env_runner": 4, "stagger_episodes": False},
    "PPO": {
        "num_env_runners": 0,
        "num_envs_per_env_runner": 2,
        "train_batch_size_per_learner": 4,
        "minibatch_size": 4,
        "num_epochs": 1,
    },
}
METRIC = "env_runners/outcomes/player_0/mean_step"


def make_config(run, env="clock_v0", **more):
    social_dilemmas.register(CLOCK)
    settings = {"players": {"player_*": "ppo"}, "rollout_fragment_length": 2, **SIZES[run], **more, "seed": 1}
    entry = {"run": run, "env": env, "stop": {"training_iteration": 9, METRIC: 99.0}, "config": settings}
    if env != "clock_v0":
        del entry["stop"][METRIC]
    experiment = typed("x", entry, "file")
    return build_config(check(experiment, "file"), env, settings)


def outcomes(result, name):
    by_agent = result["env_runners"]["outcomes"]
    return tuple(float(by_agent[agent].get(name, math.nan)) for agent in ("player_0", "player_1"))


@pytest.mark.parametrize("run", ["Reciprocator", "PPO"])
def test_outcomes_of_episodes_split_into_fragments(build, run):
    """Player 0 has events in steps 1 to 8, player 1 in steps 2, 4, 6 and 8.

    The mean steps are 4.5 and 5; those of the last fragment alone would be 7.5 and 8.
    """
    algo = build(make_config(run))
    stop = StopAt({METRIC: 99.0})
    for iteration in range(1, 9):
        result = algo.train()
        assert outcomes(result, "events_per_step") == (1.0, 0.5)
        if iteration % 4:
            assert all(map(math.isnan, outcomes(result, "mean_step")))
        else:
            assert outcomes(result, "mean_step") == (4.5, 5.0)
        assert not stop("trial", result), stop.problem


def test_checkpoints_contain_unfinished_episodes(build, tmp_path):
    first, second = build(make_config("Reciprocator")), build(make_config("Reciprocator"))
    for _ in range(3):
        first.train()
    second.restore_from_path(first.save_to_path(tmp_path / "checkpoint"))
    assert outcomes(second.train(), "mean_step") == (4.5, 5.0)


@pytest.mark.parametrize(
    ("run", "env"), [("Reciprocator", "harvest_v0"), ("PPO", "harvest_v0"), ("Reciprocator", "centralized_v0")]
)
def test_sustainability_is_reported_per_episode(build, run, env):
    """Sustainability is the mean step at which apples are eaten: the first fragment, half an episode, has none."""
    harvest = {"map": "small", "num_steps": 4}
    is_centralized = env == "centralized_v0"
    env_config = {"game": "harvest_v0", "settings": harvest} if is_centralized else harvest
    algo = build(make_config(run, env, env_config=env_config))
    outcome_names = [set(algo.train()["env_runners"]["outcomes"]["player_0"]) for _ in range(2)]
    assert ["sustainability" in names for names in outcome_names] == [False, True]


def test_names_of_episode_outcomes_are_checked():
    check_game(lambda num_games: Clock(num_games=num_games))

    class Misspelled(Clock):
        episode_outcomes = frozenset({"mean_stp"})

    with pytest.raises(AssertionError, match="episode_outcomes: summarize does not return mean_stp"):
        check_game(lambda num_games: Misspelled(num_games=num_games))
