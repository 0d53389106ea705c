"""Evaluations with online learners, which are trained between inner episodes."""

import json
import shutil

import numpy as np
import pytest
import torch

from rllib_reciprocator.algorithms.coala import COALAConfig
from rllib_reciprocator.evaluation import open_evaluator, printing
from rllib_reciprocator.evaluation.memory_one import cooperation_in_context
from rllib_reciprocator.reports.report import write_report
from tests.conftest import trained

INNER, COPIES, STEPS = 3, 4, 5


@pytest.fixture(scope="module")
def coala(ray_cluster, tmp_path_factory):
    config = (
        COALAConfig()
        .environment("ipd_v0", env_config={"num_steps": STEPS})
        .players({"player_0": "coala", "player_1": "learner/pg"})
        .meta(inner_episodes=INNER, copies=COPIES)
        .rl_module(model_config={"use_gru": True, "gru_cell_size": 8})
        .env_runners(num_envs_per_env_runner=16)
        .debugging(seed=1)
    )
    return trained(config.build_algo(), tmp_path_factory.mktemp("coala") / "checkpoint")


def test_reports_have_metrics_by_inner_episode(coala):
    evaluator = open_evaluator(coala, seed=1)
    report = evaluator.evaluate(50)  # rounded up to 5 groups of 4 environments and 3 inner episodes
    assert report["episodes"] == 60
    assert report["steps"] == STEPS
    for row in report["players"].values():
        by_number = row["inner_episodes"]
        assert {name: len(values) for name, values in by_number.items()} == {"return": 3, "cooperation_rate": 3}
        assert np.mean(by_number["return"]) == pytest.approx(row["return"]["mean"], abs=1e-5)
    naive = report["players"]["player_1"]
    assert naive["player"] == "learner/pg"
    assert naive["inner_episodes"]["cooperation_rate"][0] == pytest.approx(0.5, abs=0.15)
    assert naive["inner_episodes"]["cooperation_rate"][2] < 0.4
    whole, inner = printing.tables(report)
    assert (whole.row_count, inner.row_count) == (2, INNER)


def test_trace_has_the_evaluated_episodes(coala):
    evaluator = open_evaluator(coala, seed=1)
    report, trace = evaluator.evaluate(60), evaluator.trace(60)
    assert sorted(trace["episode"].unique()) == list(range(60))
    mean = trace.groupby("episode")["reward/player_1"].sum().mean()
    assert mean == pytest.approx(report["players"]["player_1"]["return"]["mean"], abs=1e-4)


def test_video_shows_a_whole_meta_episode(coala):
    (video,) = open_evaluator(coala, seed=1).videos()
    assert len(video.actions) == INNER * STEPS


@pytest.mark.parametrize("checkpoint", ["ipd", "coins"])
def test_frozen_policies_can_play_with_online_learners(request, checkpoint):
    folder = request.getfixturevalue(checkpoint)
    report = open_evaluator(folder, {"player_1": "learner/a2c"}, seed=1).evaluate(80)
    assert report["episodes"] == 80
    assert len(report["players"]["player_0"]["inner_episodes"]["return"]) == 10


def test_cooperation_in_context_by_hand():
    """Two inner episodes of three steps; in the second, agent 0 repeats the last action of agent 1."""
    actions = torch.tensor([[[[0, 1], [0, 0], [0, 0]], [[0, 1], [1, 0], [0, 0]]]])
    rates = cooperation_in_context(actions, ("a", "b"))
    assert rates.loc[("a", 0)].tolist()[:3] == [1.0, 1.0, 1.0]
    assert rates.loc[("a", 1), ["start", "CD", "DC"]].tolist() == [1.0, 0.0, 1.0]
    assert rates.loc[("b", 1), ["start", "DC", "CD"]].tolist() == [0.0, 1.0, 1.0]
    assert np.isnan(rates.loc[("a", 1), "DD"])


def test_policies_in_context_are_those_of_inner_episodes(coala, ipd):
    frame = open_evaluator(coala, seed=1).policy_in_context(600)
    assert list(frame.index) == [(f"player_{k}", number) for k in range(2) for number in range(INNER)]
    naive = frame.loc["player_1"]
    assert naive.loc[2].mean() < naive.loc[0].mean()
    assert open_evaluator(ipd, seed=1).policy_in_context() is None


def test_reports_show_inner_episodes(coala, tmp_path):
    trial_folder = tmp_path / "run" / "COALA_1"
    trial_folder.mkdir(parents=True)
    (trial_folder / "params.json").write_text(json.dumps({"env": "ipd_v0", "seed": 1}))
    rewards = {agent: {"reward_per_step": {"0": -1.0, "1": -1.5}} for agent in ("player_0", "player_1")}
    result = {"training_iteration": 1, "env_runners": {"inner_episodes": rewards, "reward_per_step": {"player_0": -1}}}
    (trial_folder / "result.json").write_text(json.dumps(result) + "\n")
    shutil.copytree(coala, trial_folder / "checkpoint_000000")
    write_report([tmp_path / "run"], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "Inner episodes" in page
    assert "Policies in context" in page
