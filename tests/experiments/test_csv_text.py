import pandas as pd
import pytest

from rllib_reciprocator.evaluation.tournament import enter, hold, tournament, write
from rllib_reciprocator.evaluation.trace import write_trace
from rllib_reciprocator.results.csv_text import escape_cell


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-a", "@SUM(A1)", "\t=1", "-1 =2"])
def test_spreadsheet_formulas_are_escaped(text):
    assert escape_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["cooperate", "-1", "-0.5 0.25", "1e-3", -2.5, None, 3, ""])
def test_numbers_and_other_texts_are_unchanged(value):
    assert escape_cell(value) is value


def test_traces_are_escaped(tmp_path):
    columns = {"=A": [1.5, -2.0], "action/player_0": ["=HYPERLINK(1)", "stay"], "step": [0, -1], "x": ["-0.5 1", None]}
    write_trace(pd.DataFrame(columns), tmp_path / "trace.csv")
    assert (tmp_path / "trace.csv").read_text().splitlines() == [
        "'=A,action/player_0,step,x",
        "1.5,'=HYPERLINK(1),0,-0.5 1",
        "-2,stay,-1,",
    ]


def test_names_in_tournaments_are_escaped(tmp_path):
    entrants = enter(["@SUM(A1)=scripted/always_defect", "scripted/always_cooperate"])
    write(hold(tournament(entrants, env="ipd_v0", env_config={"num_steps": 2}, games=2)), tmp_path / "out", "")
    names = {line.split(",")[0] for line in (tmp_path / "out" / "tournament.csv").read_text().splitlines()[1:]}
    assert names == {"'@SUM(A1)", "always_cooperate"}
