import logging
import math

import pytest

from rllib_reciprocator.experiments.schema import typed
from rllib_reciprocator.experiments.stopping import StopAt
from rllib_reciprocator.experiments.validation import check
from rllib_reciprocator.results.metric_checks import missing
from rllib_reciprocator.utils.errors import UserError

RESULT = {
    "training_iteration": 3,
    "env_runners": {
        "num_episodes": 0,
        "outcomes": {"player_0": {"cooperation_rate": 0.5}},
        "agent_episode_returns_mean": {},
    },
    "learners": {"player_0": {"policy_loss": 0.1, "curr_kl_coeff": 1.0}},
}


def experiment(stop, run="Reciprocator", **keys):
    return typed("x", {"run": run, "env": "ipd_v0", "stop": stop, **keys}, "f")


@pytest.mark.parametrize(
    ("old", "current"),
    [
        ("timesteps_total", "num_env_steps_sampled_lifetime"),
        ("episodes_total", "env_runners/num_episodes_lifetime"),
        ("episode_reward_mean", "env_runners/episode_return_mean"),
        ("sampler_results/episode_reward_max", "env_runners/episode_return_max"),
        ("episode_return_mean", "env_runners/episode_return_mean"),
    ],
)
def test_old_names_are_translated_with_a_note(caplog, old, current):
    with caplog.at_level(logging.WARNING, logger="rllib_reciprocator"):
        assert experiment({old: 5}).stop == {current: 5}
    assert caplog.messages == [f"f: x.stop: {old} is an old name; {current} is used instead"]


@pytest.mark.parametrize(
    ("stop", "complaint"),
    [
        ({"training_iteration": math.nan}, "training_iteration: nan is never reached"),
        ({"training_iteration": math.inf}, "training_iteration: inf is never reached"),
        ({"training_iteration": -1}, "training_iteration: -1 is reached before training starts"),
        ({"training_iteration": 0}, "training_iteration: 0 is reached before training starts"),
        ({"training_iteration": 1.5}, "training_iteration: 1.5 is not a whole number"),
        ({"env_runners/num_episodes_lifetime": 0}, "is reached before training starts"),
        ({"env_runner/episode_return_mean": 1}, "not known; did you mean 'env_runners/episode_return_mean'"),
        ({"env_runners/": 1}, "not known"),
        ({"env_runners/episode_retrn_mean": 1}, "did you mean 'env_runners/episode_return_mean'"),
        ({"env_runners/outcomes/player_0/coperation_rate": 1}, "'env_runners/outcomes/player_0/cooperation_rate'"),
        ({"env_runners/outcomes/player_7/cooperation_rate": 1}, "did you mean 'env_runners/outcomes/player_"),
        ({"env_runners/balance/player_0_towards_player_0": 1}, "did you mean 'env_runners/balance/player_"),
        ({"learners/player_7/policy_loss": 1}, "there is no such module; did you mean 'player_"),
        ({"evaluation/env_runners/episode_return_mean": 1}, "evaluation is disabled; set config.evaluation_interval"),
        ({}, "x.stop: missing"),
    ],
)
def test_unreachable_or_immediate_stop_criteria_are_refused(stop, complaint):
    with pytest.raises(UserError, match=complaint):
        check(experiment(stop), "f")


@pytest.mark.parametrize(
    "metric",
    [
        "env_runners/episode_return_mean",
        "env_runners/outcomes/player_1/cooperation_rate",
        "env_runners/social/reward_gap",
        "env_runners/influence/player_0_on_player_1",
        "env_runners/balance/player_1_towards_player_0",
        "env_runners/agent_episode_returns_mean/player_0",
        "env_runners/env_step_timer",
        "learners/player_0/policy_loss",
        "learners/influence/loss",
        "learners/__all_modules__/num_env_steps_trained_lifetime",
        "num_env_steps_sampled_lifetime",
        "time_total_s",
    ],
)
@pytest.mark.parametrize("run", ["Reciprocator", "PPO"])
def test_valid_stop_criteria(metric, run):
    config = {"players": {"*": "reciprocator"}, "num_env_runners": 0} if run == "PPO" else {}
    check(experiment({metric: 1}, run, config=config), "f")


def test_scheduler_metrics_are_checked_too():
    keys = {"metric": "env_runners/foo", "mode": "max", "scheduler": {"type": "asha"}}
    with pytest.raises(UserError, match=r"x\.metric: env_runners/foo: not known"):
        check(experiment({"training_iteration": 1}, **keys), "f")


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        ("training_iteration", None),
        ("learners/player_0/policy_loss", None),
        ("learners/player_0/policy_lss", "did you mean 'learners/player_0/policy_loss'"),
        ("env_runners/episode_return_mean", None),  # reported once an episode has ended
        ("env_runners/agent_episode_returns_mean/player_0", None),
        ("env_runners/outcomes/player_0/rate", "did you mean 'env_runners/outcomes/player_0/cooperation_rate'"),
        ("evaluation/env_runners/episode_return_mean", None),
    ],
)
def test_metrics_missing_from_a_result(metric, problem):
    message = missing(metric, RESULT)
    assert (message is None) if problem is None else (problem in message)


def test_stop_at_a_metric():
    stop = StopAt({"training_iteration": 4, "env_runners/outcomes/player_0/cooperation_rate": 0.6})
    assert not stop("a", RESULT)
    assert stop("a", {**RESULT, "training_iteration": 4})
    improved_result = {**RESULT, "env_runners": {"outcomes": {"player_0": {"cooperation_rate": 0.6}}}}
    assert stop("a", improved_result)
    assert not stop("a", {"training_iteration": math.nan})
    assert stop.problem is None
    misspelled_stop = StopAt({"learners/player_0/foo": 1.0})
    assert misspelled_stop("a", RESULT)
    assert misspelled_stop.stop_all()
    assert misspelled_stop.problem.startswith("stop.learners/player_0/foo is not in the results")
