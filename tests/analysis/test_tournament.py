import numpy as np
import pandas as pd
import pytest

from rllib_reciprocator.analysis.tournament import enter, figures_of, hold, ranking, table, tournament, write
from rllib_reciprocator.experiments.errors import UserError

pytestmark = pytest.mark.xdist_group("ray")
SCRIPTS = ["scripted/always_cooperate", "scripted/always_defect", "scripted/tit_for_tat"]
IPD = {"env": "ipd_v0", "env_config": {"num_steps": 10}}


def cell(standings, entrant, beside, figure="return"):
    (row,) = standings[(standings["entrant"] == entrant) & (standings["beside"] == beside)].to_dict("records")
    return row[figure]


def test_strategies_by_hand():
    """Ten rounds of the prisoner's dilemma with payoffs -1, -3, 0 and -2."""
    standings = hold(tournament(enter(SCRIPTS), games=5, **IPD))
    assert len(standings) == 9
    assert set(standings["games"]) == {5, 10}
    assert cell(standings, "always_cooperate", "always_cooperate") == -10
    assert cell(standings, "always_cooperate", "always_defect") == -30
    assert cell(standings, "always_defect", "always_cooperate") == 0
    assert cell(standings, "always_defect", "always_defect") == -20
    assert cell(standings, "tit_for_tat", "always_defect") == -3 - 9 * 2
    assert cell(standings, "always_defect", "tit_for_tat") == 0 - 9 * 2
    assert cell(standings, "tit_for_tat", "always_defect", "cooperation_rate") == pytest.approx(0.1)
    assert cell(standings, "tit_for_tat", "always_defect", "return_ci95") == 0
    assert figures_of(standings) == ["return", "cooperation_rate"]
    means = ranking(standings)["return"]
    assert means["tit_for_tat"] == pytest.approx((-10 - 21 - 10) / 3)
    assert means["always_defect"] == pytest.approx((0 - 20 - 18) / 3)


def test_every_entrant_sits_on_every_seat():
    """A game that is better for the first seat: both entrants fare alike on the whole."""
    payoffs = [[[5.0, 0.0], [5.0, 0.0]], [[5.0, 0.0], [5.0, 0.0]]]
    standings = hold(tournament(enter(SCRIPTS[:2]), games=4, env="ipd_v0", env_config={"payoffs": payoffs}))
    assert cell(standings, "always_cooperate", "always_defect") == cell(standings, "always_defect", "always_cooperate")
    assert cell(standings, "always_cooperate", "always_defect") == 32 * 5.0 / 2


def test_groups_of_three():
    made = tournament(enter(SCRIPTS), games=3, env="public_goods_v0", env_config={"num_agents": 3, "num_steps": 1})
    assert len(made.groups()) == 10
    standings = hold(made)
    assert len(standings) == 9
    # A defector beside a cooperator: with two of them, or one and tit-for-tat (which begins with cooperating), or with
    # itself: 1.6 * 2 / 3, 1.6 * 2 / 3 and 1.6 / 3 twice, once a seat, of three games each.
    rewards = [1.6 * 2 / 3] * 3 + [1.6 * 2 / 3] * 3 + [1.6 / 3] * 6
    assert cell(standings, "always_defect", "always_cooperate") == pytest.approx(np.mean(rewards), abs=1e-5)


def test_players_of_a_checkpoint_and_of_the_axelrod_library(ipd):
    pytest.importorskip("axelrod")
    entrants = enter([f"mine={ipd}", "axelrod/TitForTat", "axelrod/Alternator", "tft=scripted/tit_for_tat"])
    assert [each.name for each in entrants] == ["mine#player_0", "TitForTat", "Alternator", "tft"]
    standings = hold(tournament(entrants, games=6, seed=1))
    alternating = [cell(standings, name, "Alternator") for name in ("TitForTat", "tft")]
    assert alternating[0] == alternating[1]
    assert cell(standings, "Alternator", "Alternator", "cooperation_rate") == 0.5
    again = hold(tournament(entrants, games=6, seed=1))
    pd.testing.assert_frame_equal(standings, again)


def test_with_workers_it_is_the_same(ray_cluster, ipd):
    made = tournament(enter([str(ipd), *SCRIPTS, "scripted/random"]), games=20, seed=3)
    pd.testing.assert_frame_equal(hold(made), hold(made, workers=2))


def test_those_who_see_their_balance_in_coins(coins):
    standings = hold(tournament(enter([str(coins), "scripted/random"]), games=8))
    assert len(standings) == 9
    assert standings["own_coin_share"].between(0, 1).all()


def test_settings_alone_are_of_the_game_of_the_first_checkpoint(ipd):
    made = tournament(enter([str(ipd), *SCRIPTS]), env_config={"num_steps": 5})
    assert (made.config.env, made.config.env_config) == ("ipd_v0", {"num_steps": 5})


def test_as_table_and_files(tmp_path):
    standings = hold(tournament(enter(SCRIPTS), games=2, **IPD))
    assert table(standings, "x").row_count == 3
    files = write(standings, tmp_path / "deep", "x")
    assert [file.name for file in files] == ["tournament.csv", "return.png", "cooperation_rate.png"]
    assert all(file.stat().st_size > 0 for file in files)
    read = pd.read_csv(files[0])
    assert list(read.columns) == list(standings.columns)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(standings, tmp_path / "file", "x")


@pytest.mark.parametrize(
    ("entrants", "options", "complaint"),
    [
        (SCRIPTS[:1], IPD, "two entrants at least"),
        ([SCRIPTS[0]] * 2, IPD, "there is a 'always_cooperate' already; name it, as other="),
        (SCRIPTS, {}, "--env: give the game"),
        (SCRIPTS, {"env": "ipd"}, "there is no game 'ipd'"),
        (SCRIPTS, {"env": "ipd_v0", "env_config": {"steps": 3}}, "--env-config: ipd_v0 has no setting 'steps'"),
        (SCRIPTS, {"env": "coins_v0"}, "always_cooperate: .*plays games of cooperate and defect"),
        ([*SCRIPTS, "scripted/tit_for_tt"], IPD, "did you mean 'tit_for_tat'"),
        ([*SCRIPTS, "/nowhere"], IPD, "/nowhere: no such checkpoint"),
    ],
)
def test_what_cannot_be_held(entrants, options, complaint):
    with pytest.raises(UserError, match=complaint):
        tournament(enter(entrants), **options)


def test_cheats_of_the_axelrod_library_do_not_take_part():
    pytest.importorskip("axelrod")
    with pytest.raises(UserError, match="no strategy 'MindReader'"):
        tournament(enter([*SCRIPTS, "axelrod/MindReader"]), **IPD)
