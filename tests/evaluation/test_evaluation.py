import json
import shutil

import pytest

from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.evaluation.printing import table, write
from rllib_reciprocator.utils.checkpoints import MODULE_PATH
from rllib_reciprocator.utils.errors import UserError


def evaluate(checkpoint, episodes, players=None, **options):
    return open_evaluator(checkpoint, players, **options).evaluate(episodes)


def test_trained_policies_are_evaluated(ipd):
    report = evaluate(ipd, 5000, seed=2)
    assert report["episodes"] == 5000
    assert report["steps"] == 10
    assert {agent: row["player"] for agent, row in report["players"].items()} == {
        "player_0": "reciprocator",
        "player_1": "scripted/tit_for_tat",
    }
    for row in report["players"].values():
        assert -30 <= row["return"]["mean"] <= 0
        assert 0 < row["return"]["ci95"] < 1
        assert 0 <= row["cooperation_rate"]["mean"] <= 1
    assert evaluate(ipd, 5000, seed=2) == report
    assert evaluate(ipd, 5000, seed=3) != report


def test_players_can_be_replaced(ipd):
    players = {"player_0": "scripted/always_cooperate", "player_1": "scripted/always_defect"}
    report = evaluate(ipd, 10, players)
    assert report["players"]["player_0"]["return"] == {"mean": -30.0, "ci95": 0.0}
    assert report["players"]["player_1"]["return"] == {"mean": 0.0, "ci95": 0.0}
    copied_policy = evaluate(ipd, 10, {"player_1": f"checkpoint/{ipd}#player_0"})
    assert copied_policy["players"]["player_1"]["player"].startswith("checkpoint/")


@pytest.mark.parametrize(
    ("players", "complaint"),
    [
        ({"player_2": "ppo"}, "--players.player_2: the environment has no such agent; did you mean 'player_"),
        ({"player_1": "scripted/tit_for_tt"}, "did you mean 'tit_for_tat'"),
        ({"player_1": "ppo"}, "--players.player_1: policies are not trained here, but ppo is trainable"),
    ],
)
def test_invalid_players_are_refused(ipd, players, complaint):
    with pytest.raises(UserError, match=complaint):
        evaluate(ipd, 10, players)


def test_patterns_select_several_agents(ipd):
    report = open_evaluator(
        ipd, {"player_*": "scripted/always_defect", "player_0": "scripted/always_cooperate"}
    ).evaluate(4)
    players = {agent: row["player"] for agent, row in report["players"].items()}
    assert players == {"player_0": "scripted/always_cooperate", "player_1": "scripted/always_defect"}
    with pytest.raises(UserError, match=r"--players\.missing\*: the environment has no such agent"):
        open_evaluator(ipd, {"missing*": "scripted/random"})


def test_invalid_checkpoints_are_refused(ipd, tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        evaluate(tmp_path / "none", 10)
    with pytest.raises(UserError, match="not an Algorithm checkpoint"):
        evaluate(tmp_path, 10)
    broken = tmp_path / "broken"
    shutil.copytree(ipd, broken)
    (broken / "class_and_ctor_args.pkl").write_bytes(b"not a pickle")
    with pytest.raises(UserError, match=r"class_and_ctor_args\.pkl: cannot be read"):
        evaluate(broken, 10)
    shutil.copy(ipd / "class_and_ctor_args.pkl", broken)
    (broken / MODULE_PATH / "player_0" / "class_and_ctor_args.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"player_0/class_and_ctor_args\.pkl: cannot be read"):
        evaluate(broken, 10)


def test_report_as_table_and_file(ipd, tmp_path):
    report = evaluate(ipd, 20)
    assert table(report).row_count == 2
    write(report, tmp_path / "deep" / "out.json")
    assert json.loads((tmp_path / "deep" / "out.json").read_text()) == report
    with pytest.raises(UserError, match="cannot be written"):
        write(report, tmp_path / "deep" / "out.json" / "x.json")
