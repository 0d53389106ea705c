"""Tests of incentives in pools: who gives, and who receives."""

from pathlib import Path

import pytest
import torch

from rllib_reciprocator.evaluation import open_evaluator
from tests.helpers.masks import masked_config


def test_givers_in_pools_give_to_trained_members_only(build):
    pool = {"player_0": {"pool": {"lio": 0.5, "scripted/random": 0.5}}}
    players = {**pool, "player_1": {"pool": {"lio": 0.4, "pg": 0.3, "scripted/random": 0.3}}}
    algo = build(masked_config("lio", players, games=200))
    sample = algo.sample()
    incentives, members = sample.columns["incentives"], sample.pool_members
    first_gives = members[..., 0] == 0
    second_gives, second_receives = members[..., 1] == 0, members[..., 1] < 2
    assert torch.equal(incentives[..., 0, 1] > 0, first_gives & second_receives)
    assert torch.equal(incentives[..., 1, 0] > 0, second_gives & first_gives)
    torch.testing.assert_close(sample.columns["received"], incentives.sum(-2))
    metrics = algo.metrics.peek(("env_runners", "incentives"))
    for pair, values in (
        ("player_0_to_player_1", incentives[..., 0, 1]),
        ("player_1_to_player_0", incentives[..., 1, 0]),
    ):
        assert float(metrics[pair]) == pytest.approx(float(values[values > 0].mean()), rel=1e-4)


def test_pooled_recipients_receive_incentives_in_evaluations(build, tmp_path):
    players = {"player_0": "lio", "player_1": {"pool": {"pg": 0.5, "scripted/random": 0.5}}}
    algo = build(masked_config("lio", players))
    algo.train()
    path = algo.save_to_path(tmp_path / "run")
    report = open_evaluator(Path(path), {}, seed=1).evaluate(64)["players"]
    assert report["player_1"]["received"]["mean"] > 0.1
    assert report["player_0"]["given"]["mean"] > 0.1
