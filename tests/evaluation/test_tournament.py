import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.cli.main import app
from rllib_reciprocator.evaluation.frozen_runner import frozen_runner
from rllib_reciprocator.evaluation.tournament import (
    enter,
    hold,
    metrics_of,
    ranking,
    standings,
    table,
    tournament,
    write,
)
from rllib_reciprocator.experiments.errors import UserError
from tests.helpers.games import COUNTDOWN

SCRIPTS = ["scripted/always_cooperate", "scripted/always_defect", "scripted/tit_for_tat"]
IPD = {"env": "ipd_v0", "env_config": {"num_steps": 10}}


def cell(frame, entrant, partner, figure="return"):
    (row,) = frame[(frame["entrant"] == entrant) & (frame["partner"] == partner)].to_dict("records")
    return row[figure]


def play(made, workers=0):
    return standings(hold(made, workers))


def test_strategies_by_hand():
    """Ten rounds of the prisoner's dilemma with payoffs -1, -3, 0 and -2."""
    results = hold(tournament(enter(SCRIPTS), games=5, **IPD))
    frame = standings(results)
    assert len(frame) == 9
    assert set(frame["games"]) == {5}
    assert cell(frame, "always_cooperate", "always_cooperate") == -10
    assert cell(frame, "always_cooperate", "always_defect") == -30
    assert cell(frame, "always_defect", "always_cooperate") == 0
    assert cell(frame, "always_defect", "always_defect") == -20
    assert cell(frame, "tit_for_tat", "always_defect") == -3 - 9 * 2
    assert cell(frame, "always_defect", "tit_for_tat") == 0 - 9 * 2
    assert cell(frame, "tit_for_tat", "always_defect", "cooperation_rate") == pytest.approx(0.1)
    assert cell(frame, "tit_for_tat", "always_defect", "return_ci95") == 0
    assert metrics_of(frame) == ["return", "cooperation_rate"]


def test_ranking_against_a_pool_without_self_play():
    """Without the returns of two defectors with each other, -20 each, or of two cooperators, -10."""
    results = hold(tournament(enter(SCRIPTS), games=4, **IPD))
    ranked = ranking(results, ["always_cooperate", "always_defect"])
    assert ranked["return"].to_dict() == {
        "always_defect": 0.0,
        "tit_for_tat": (-10 - 21) / 2,
        "always_cooperate": -30.0,
    }
    assert list(ranked.index) == ["always_defect", "tit_for_tat", "always_cooperate"]
    assert ranked["games"].to_dict() == {"always_defect": 4, "tit_for_tat": 8, "always_cooperate": 4}
    assert list(ranking(results, ["tit_for_tat"]).index) == ["always_cooperate", "always_defect"]
    shown = table(results, "x", ["tit_for_tat", "always_defect"])
    assert "ranked by the mean return against tit_for_tat, always_defect (without self-play)" in str(shown.title)
    columns = {column.header: list(column.cells) for column in shown.columns}
    assert columns["entrant"] == ["always_defect", "always_cooperate", "tit_for_tat"]
    assert columns["return"] == ["-18.000 ± 0.000", "-20.000 ± 0.000", "-21.000 ± 0.000"]
    assert columns["return with tit_for_tat"] == ["-18.00 ± 0.00", "-10.00 ± 0.00", "-10.00 ± 0.00"]
    assert [column.header for column in table(results, "x").columns[:2]] == ["entrant", "return with always_cooperate"]


def test_rankings_of_three_players_are_of_groups_within_the_pool():
    made = tournament(enter(SCRIPTS), games=3, env="public_goods_v0", env_config={"num_agents": 3, "num_steps": 1})
    ranked = ranking(hold(made), ["always_cooperate", "tit_for_tat"])
    # With two cooperators a defector gets 1.6 * 2 / 3; each cooperator with two others gets 1.6 - 1.
    assert ranked["return"]["always_defect"] == pytest.approx(1.6 * 2 / 3, abs=1e-5)
    assert ranked["return"]["always_cooperate"] == pytest.approx(0.6, abs=1e-5)
    assert ranked["samples"].to_dict() == {"always_defect": 9, "always_cooperate": 3, "tit_for_tat": 3}


def test_every_entrant_plays_every_agent():
    """A game that is better for the first agent: both entrants fare alike on the whole."""
    payoffs = [[[5.0, 0.0], [5.0, 0.0]], [[5.0, 0.0], [5.0, 0.0]]]
    frame = play(tournament(enter(SCRIPTS[:2]), games=4, env="ipd_v0", env_config={"payoffs": payoffs}))
    assert cell(frame, "always_cooperate", "always_defect") == cell(frame, "always_defect", "always_cooperate")
    assert cell(frame, "always_cooperate", "always_defect") == 32 * 5.0 / 2


def test_those_who_learn_take_part():
    """Against who always cooperates they learn to defect, over ten inner episodes each; tit-for-tat is not used so."""
    entered = enter(["learner/pg", "scripted/always_cooperate", "scripted/tit_for_tat"])
    made = tournament(entered, env="ipd_v0", env_config={"num_steps": 10}, games=160, seed=1)
    frame = play(made).set_index(["entrant", "partner"])
    assert frame.loc[("learner/pg", "always_cooperate"), "games"] == 160
    used = frame.loc[("always_cooperate", "learner/pg"), "return"]
    assert used < -25.0  # -30 where the other always defects, -10 where it never does
    assert frame.loc[("tit_for_tat", "learner/pg"), "return"] > used


def test_groups_of_three():
    made = tournament(enter(SCRIPTS), games=3, env="public_goods_v0", env_config={"num_agents": 3, "num_steps": 1})
    assert len(made.groups()) == 10
    frame = play(made)
    assert len(frame) == 9
    # A defector with a cooperator and another one, or tit-for-tat (which begins with cooperating), or a defector. The
    # mean of these groups, in the last of which it plays two agents.
    rewards = [1.6 * 2 / 3, 1.6 * 2 / 3, 1.6 / 3]
    assert cell(frame, "always_defect", "always_cooperate") == pytest.approx(np.mean(rewards), abs=1e-5)


def test_players_of_a_checkpoint_and_of_the_axelrod_library(ipd):
    pytest.importorskip("axelrod")
    entrants = enter([f"mine={ipd}", "axelrod/TitForTat", "axelrod/Alternator", "tft=scripted/tit_for_tat"])
    assert [each.name for each in entrants] == ["mine#player_0", "TitForTat", "Alternator", "tft"]
    frame = play(tournament(entrants, games=6, seed=1))
    alternating = [cell(frame, name, "Alternator") for name in ("TitForTat", "tft")]
    assert alternating[0] == alternating[1]
    assert cell(frame, "Alternator", "Alternator", "cooperation_rate") == 0.5
    again = play(tournament(entrants, games=6, seed=1))
    pd.testing.assert_frame_equal(frame, again)


def test_with_workers_it_is_the_same(ray_cluster, ipd):
    made = tournament(enter([str(ipd), *SCRIPTS, "scripted/random"]), games=20, seed=3)
    pd.testing.assert_frame_equal(hold(made), hold(made, workers=2))


def trained_in_coins(folder, seed, **reciprocity):
    config = ReciprocatorConfig().environment("coins_v0", env_config={"num_steps": 8}).reciprocity(**reciprocity)
    algo = config.env_runners(num_envs_per_env_runner=8).debugging(seed=seed).build_algo()
    algo.train()
    path = algo.save_to_path(folder)
    algo.stop()
    return path


def test_every_entrant_goes_by_its_own_estimator_and_rule(coins, tmp_path):
    """Who sees its balance is measured as in its own run, whoever else is there and in whatever order."""
    other = trained_in_coins(tmp_path / "other", 2, reward="petty", balance_decay=0.5, balance_scale=1.0)
    made = tournament(enter([f"a={coins}#player_0", f"b={other}#player_1"]), games=8)
    players = {"player_0": made.entrants[1].player, "player_1": made.entrants[0].player}
    runner = frozen_runner(made.config, players, episodes=8, seed=1)
    (sample,) = runner.sample(num_episodes=8)
    for agent, run, decay, debit in ((0, other, 0.5, 0.0), (1, coins, 0.9, 1.0)):
        own = f"influence+player_{agent}"
        (weights,) = Path(run).rglob("rl_module/influence/module_state.pkl")
        kept = pickle.loads(weights.read_bytes())
        for name, value in runner.module[own].get_state().items():
            np.testing.assert_array_equal(value, kept[name], err_msg=name)
        joint, them = sample.joint, 1 - agent
        balance, influence = joint["balance"][..., them, agent], joint["influence"][..., them, agent]
        step = decay * balance[:, :-1] + influence[:, :-1] - debit * joint["given"][:, :-1, agent, them]
        torch.testing.assert_close(balance[:, 1:], step)
        assert balance.abs().sum() > 0


def test_an_entrant_without_its_estimator_is_refused(coins, tmp_path):
    shutil.copytree(coins, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "learner_group" / "learner" / "rl_module" / "influence")
    with pytest.raises(UserError, match=r"#player_0: .*half: has no module 'influence', which its player needs"):
        tournament(enter([str(tmp_path / "half"), "scripted/random"]))


def test_coins_that_scripted_players_take():
    """Who moves at random takes as many of its own coins as of the other's."""
    scripts = ["a=scripted/random", "b=scripted/random"]
    frame = play(tournament(enter(scripts), games=2000, env="coins_v0"))
    assert frame["own_coin_share"].between(0.47, 0.53).all()
    assert frame["coins_per_step"].between(0.15, 0.3).all()


def test_games_that_end_early_are_counted_up_to_their_end():
    social_dilemmas.register(COUNTDOWN)
    made = tournament(
        enter(["a=scripted/random", "b=scripted/random"]), games=3000, env="countdown_v0", env_config={"num_steps": 12}
    )
    returns = play(made)["return"]
    # From 2 to 11 are left at the start, and player 0 takes 1 or 2 off in each step: by enumeration of what is left the
    # expected number of steps is 4.72; each player hurries in half of them.
    steps = [0.0, 1.0]
    for left in range(2, 12):
        steps.append(1 + 0.5 * steps[left - 1] + 0.5 * steps[left - 2])
    assert returns.mean() == pytest.approx(0.5 * np.mean(steps[2:]), abs=0.06)


def test_settings_alone_are_of_the_game_of_the_first_checkpoint(ipd):
    made = tournament(enter([str(ipd), *SCRIPTS]), env_config={"num_steps": 5}, allow_other_env_config=True)
    assert (made.config.env, made.config.env_config) == ("ipd_v0", {"num_steps": 5})


def test_as_table_and_files(tmp_path):
    results = hold(tournament(enter(SCRIPTS), games=2, **IPD))
    assert table(results, "x").row_count == 3
    files = write(results, tmp_path / "deep", "x")
    assert [file.name for file in files] == ["tournament.csv", "return.png", "cooperation_rate.png"]
    assert all(file.stat().st_size > 0 for file in files)
    read = pd.read_csv(files[0])
    assert list(read.columns) == list(standings(results).columns)
    ranked = write(results, tmp_path / "ranked", "x", ["tit_for_tat"])[1]
    assert pd.read_csv(ranked)["entrant"].tolist() == ["always_cooperate", "always_defect"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(results, tmp_path / "file", "x")


@pytest.mark.parametrize(
    ("entrants", "options", "complaint"),
    [
        (SCRIPTS[:1], IPD, "at least two entrants"),
        ([SCRIPTS[0]] * 2, IPD, "the name 'always_cooperate' is taken already; choose another: other="),
        (SCRIPTS, {}, "--env: give the game"),
        (SCRIPTS, {"env": "ipd"}, "there is no game 'ipd'"),
        (SCRIPTS, {"env": "ipd_v0", "env_config": {"steps": 3}}, "--env-config: ipd_v0 has no setting 'steps'"),
        (SCRIPTS, {"env": "coins_v0"}, "always_cooperate: .*needs the actions cooperate and defect"),
        ([*SCRIPTS, "scripted/tit_for_tt"], IPD, "did you mean 'tit_for_tat'"),
        ([*SCRIPTS, "/nowhere"], IPD, "/nowhere: no such checkpoint"),
        (SCRIPTS, {**IPD, "pool": ["tit_for_tt"]}, "--pool tit_for_tt: .* did you mean 'tit_for_tat'"),
        (SCRIPTS, {**IPD, "meta": {"inner_episodes": 0}}, "--meta.inner_episodes: Input should be greater"),
        (SCRIPTS, {**IPD, "learning_players": {"pg": {"lr": "x"}}}, "--learning-players.pg.lr: Input should be"),
    ],
)
def test_what_cannot_be_held(entrants, options, complaint):
    with pytest.raises(UserError, match=complaint):
        tournament(enter(entrants), **options)


def test_cheats_of_the_axelrod_library_do_not_take_part():
    pytest.importorskip("axelrod")
    with pytest.raises(UserError, match="no strategy 'MindReader'"):
        tournament(enter([*SCRIPTS, "axelrod/MindReader"]), **IPD)


def test_entrants_trained_with_other_settings_of_the_game_are_refused(ipd, coins):
    entered = enter([f"mine={ipd}", *SCRIPTS])
    payoffs = [[[-1, -1], [-4, 0]], [[0, -4], [-2, -2]]]
    option = "to let it play, add --allow-other-env-config"
    with pytest.raises(UserError, match=f"mine#player_0: was trained with num_steps 10, and the game has 5; {option}"):
        tournament(entered, env_config={"num_steps": 5})
    with pytest.raises(
        UserError, match=f"mine#player_0: was trained with payoffs .*-3.*, and the game has .*; {option}"
    ):
        tournament(entered, env_config={"num_steps": 10, "payoffs": payoffs})
    with pytest.raises(UserError, match=f"mine#player_0: was trained in ipd_v0, and the game is chicken_v0; {option}"):
        tournament(entered, env="chicken_v0", env_config={"num_steps": 10})
    same = [[[-1, -1], [-3, 0]], [[0, -3], [-2, -2]]]
    assert tournament(entered, env_config={"num_steps": 10, "payoffs": same}).games == 1000
    assert tournament(entered, env="chicken_v0", games=2, allow_other_env_config=True).games == 2


def test_from_the_command_line(tmp_path):
    def run(*options):
        given = [
            "--env",
            "ipd_v0",
            "--env-config",
            '{"num_steps": 10}',
            "--games",
            "24",
            "--out",
            str(tmp_path / "out"),
        ]
        return CliRunner().invoke(app, ["tournament", *SCRIPTS, "learner/pg", *given, *options])

    done = run(
        "--pool", "tit_for_tat, always_defect", "--meta", '{"inner_episodes": 3, "copies": 2}',
        "--learning-players", '{"pg": {"lr": 0.0}}',
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "without self-play" in " ".join(done.stdout.split())
    frame = pd.read_csv(tmp_path / "out" / "tournament.csv")
    assert cell(frame, "learner/pg", "tit_for_tat", "samples") == 24 / 6
    ranked = pd.read_csv(tmp_path / "out" / "ranking.csv")
    assert ranked.set_index("entrant").loc["tit_for_tat", "return"] == -21.0  # with always_defect alone
    refused = run("--pool", "tit_for_tat,nobody")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("rllib: --pool nobody: no entrant has this name")
