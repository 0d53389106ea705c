import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
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
from rllib_reciprocator.utils.errors import UserError
from tests.helpers.commands import invoke
from tests.helpers.games import COUNTDOWN

SCRIPTS = ["scripted/always_cooperate", "scripted/always_defect", "scripted/tit_for_tat"]
IPD = {"env": "ipd_v0", "env_config": {"num_steps": 10}}


def cell(frame, entrant, co_player, metric="return"):
    (row,) = frame[(frame["entrant"] == entrant) & (frame["partner"] == co_player)].to_dict("records")
    return row[metric]


def play(settings, workers=0):
    return standings(hold(settings, workers))


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
    """Leaves out the returns of self-play, -20 for two defectors and -10 for two cooperators."""
    results = hold(tournament(enter(SCRIPTS), games=4, **IPD))
    ranks = ranking(results, ["always_cooperate", "always_defect"])
    assert ranks["return"].to_dict() == {
        "always_defect": 0.0,
        "tit_for_tat": (-10 - 21) / 2,
        "always_cooperate": -30.0,
    }
    assert list(ranks.index) == ["always_defect", "tit_for_tat", "always_cooperate"]
    assert ranks["games"].to_dict() == {"always_defect": 4, "tit_for_tat": 8, "always_cooperate": 4}
    assert list(ranking(results, ["tit_for_tat"]).index) == ["always_cooperate", "always_defect"]
    result_table = table(results, "x", ["tit_for_tat", "always_defect"])
    assert "ranked by the mean return against tit_for_tat, always_defect (without self-play)" in str(result_table.title)
    columns = {column.header: list(column.cells) for column in result_table.columns}
    assert columns["entrant"] == ["always_defect", "always_cooperate", "tit_for_tat"]
    assert columns["return"] == ["-18.000 ± 0.000", "-20.000 ± 0.000", "-21.000 ± 0.000"]
    assert columns["return with tit_for_tat"] == ["-18.00 ± 0.00", "-10.00 ± 0.00", "-10.00 ± 0.00"]
    assert [column.header for column in table(results, "x").columns[:2]] == ["entrant", "return with always_cooperate"]


def test_rankings_of_three_player_games_use_groups_within_the_pool():
    settings = tournament(enter(SCRIPTS), games=3, env="public_goods_v0", env_config={"num_agents": 3, "num_steps": 1})
    ranks = ranking(hold(settings), ["always_cooperate", "tit_for_tat"])
    # A defector with two cooperators gets 1.6 * 2 / 3; a cooperator with two cooperators gets 1.6 - 1.
    assert ranks["return"]["always_defect"] == pytest.approx(1.6 * 2 / 3, abs=1e-5)
    assert ranks["return"]["always_cooperate"] == pytest.approx(0.6, abs=1e-5)
    assert ranks["samples"].to_dict() == {"always_defect": 9, "always_cooperate": 3, "tit_for_tat": 3}


def test_every_entrant_plays_as_every_agent():
    """In a game that favors the first agent, both entrants have the same mean return."""
    payoffs = [[[5.0, 0.0], [5.0, 0.0]], [[5.0, 0.0], [5.0, 0.0]]]
    frame = play(tournament(enter(SCRIPTS[:2]), games=4, env="ipd_v0", env_config={"payoffs": payoffs}))
    assert cell(frame, "always_cooperate", "always_defect") == cell(frame, "always_defect", "always_cooperate")
    assert cell(frame, "always_cooperate", "always_defect") == 32 * 5.0 / 2


def test_online_learners_can_enter():
    """Online learners learn to defect against a cooperator over ten inner episodes; they exploit tit-for-tat less."""
    entrants = enter(["learner/pg", "scripted/always_cooperate", "scripted/tit_for_tat"])
    settings = tournament(entrants, env="ipd_v0", env_config={"num_steps": 10}, games=160, seed=1)
    frame = play(settings).set_index(["entrant", "partner"])
    assert frame.loc[("learner/pg", "always_cooperate"), "games"] == 160
    exploited_return = frame.loc[("always_cooperate", "learner/pg"), "return"]
    assert exploited_return < -25.0  # -30 if the co-player always defects, -10 if it never does
    assert frame.loc[("tit_for_tat", "learner/pg"), "return"] > exploited_return


def test_groups_of_three_entrants():
    settings = tournament(enter(SCRIPTS), games=3, env="public_goods_v0", env_config={"num_agents": 3, "num_steps": 1})
    assert len(settings.groups()) == 10
    frame = play(settings)
    assert len(frame) == 9
    # Rewards of a defector with one cooperator and a second cooperator, tit-for-tat (which starts by cooperating) or a
    # second defector. The entrant's value is the mean over these groups; in the last one, it plays two agents.
    rewards = [1.6 * 2 / 3, 1.6 * 2 / 3, 1.6 / 3]
    assert cell(frame, "always_defect", "always_cooperate") == pytest.approx(np.mean(rewards), abs=1e-5)


def test_entrants_from_checkpoints_and_the_axelrod_library(ipd):
    pytest.importorskip("axelrod")
    entrants = enter([f"mine={ipd}", "axelrod/TitForTat", "axelrod/Alternator", "tft=scripted/tit_for_tat"])
    assert [entrant.name for entrant in entrants] == ["mine#player_0", "TitForTat", "Alternator", "tft"]
    frame = play(tournament(entrants, games=6, seed=1))
    rates = [cell(frame, name, "Alternator") for name in ("TitForTat", "tft")]
    assert rates[0] == rates[1]
    assert cell(frame, "Alternator", "Alternator", "cooperation_rate") == 0.5
    second_frame = play(tournament(entrants, games=6, seed=1))
    pd.testing.assert_frame_equal(frame, second_frame)


@pytest.mark.processes
def test_results_are_the_same_with_workers(ray_cluster, ipd):
    settings = tournament(enter([str(ipd), *SCRIPTS, "scripted/random"]), games=20, seed=3)
    pd.testing.assert_frame_equal(hold(settings), hold(settings, workers=2))


def train_in_coins(folder, seed, **reciprocity):
    config = ReciprocatorConfig().environment("coins_v0", env_config={"num_steps": 8}).reciprocity(**reciprocity)
    algo = config.env_runners(num_envs_per_env_runner=8).debugging(seed=seed).build_algo()
    algo.train()
    path = algo.save_to_path(folder)
    algo.stop()
    return path


def test_entrants_use_the_estimators_and_rules_of_their_runs(coins, tmp_path):
    """Policies that observe their balance get it as in their run, for any co-players and any order of agents."""
    petty = train_in_coins(tmp_path / "other", 2, reward="petty", balance_decay=0.5, balance_scale=1.0)
    settings = tournament(enter([f"a={coins}#player_0", f"b={petty}#player_1"]), games=8)
    # The order of agents differs from that of the entrants.
    players = {"player_0": settings.entrants[1].player, "player_1": settings.entrants[0].player}
    runner = frozen_runner(settings.config, players, episodes=8, seed=1)
    (sample,) = runner.sample(num_episodes=8)
    for agent, run, decay, debit in ((0, petty, 0.5, 0.0), (1, coins, 0.9, 1.0)):
        module_id = f"influence+player_{agent}"
        (weights,) = Path(run).rglob("rl_module/influence/module_state.pkl")
        state = pickle.loads(weights.read_bytes())
        for name, value in runner.module[module_id].get_state().items():
            np.testing.assert_array_equal(value, state[name], err_msg=name)
        columns, co_player = sample.columns, 1 - agent
        balance, influence = columns["balance"][..., co_player, agent], columns["influence"][..., co_player, agent]
        step = decay * balance[:, :-1] + influence[:, :-1] - debit * columns["given"][:, :-1, agent, co_player]
        torch.testing.assert_close(balance[:, 1:], step)
        assert balance.abs().sum() > 0


def test_entrant_without_its_estimator_is_refused(coins, tmp_path):
    shutil.copytree(coins, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "learner_group" / "learner" / "rl_module" / "influence")
    with pytest.raises(UserError, match=r"#player_0: .*half: has no module 'influence', which its player needs"):
        tournament(enter([str(tmp_path / "half"), "scripted/random"]))


def test_random_players_take_coins_of_both_colors_equally_often():
    """Players that move at random take their own coins as often as those of the other player."""
    scripts = ["a=scripted/random", "b=scripted/random"]
    frame = play(tournament(enter(scripts), games=2000, env="coins_v0"))
    assert frame["own_coin_share"].between(0.47, 0.53).all()
    assert frame["coins_per_step"].between(0.15, 0.3).all()


def test_steps_after_the_end_of_a_game_are_not_counted():
    social_dilemmas.register(COUNTDOWN)
    settings = tournament(
        enter(["a=scripted/random", "b=scripted/random"]), games=3000, env="countdown_v0", env_config={"num_steps": 12}
    )
    returns = play(settings)["return"]
    # The countdown starts from 2 to 11 and player 0 subtracts 1 or 2 per step: by enumeration of the numbers left, the
    # expected number of steps is 4.72. Each player hurries in half of the steps.
    steps = [0.0, 1.0]
    for left in range(2, 12):
        steps.append(1 + 0.5 * steps[left - 1] + 0.5 * steps[left - 2])
    assert returns.mean() == pytest.approx(0.5 * np.mean(steps[2:]), abs=0.06)


def test_env_config_alone_applies_to_the_game_of_the_first_checkpoint(ipd):
    settings = tournament(enter([str(ipd), *SCRIPTS]), env_config={"num_steps": 5}, allow_other_env_config=True)
    assert (settings.config.env, settings.config.env_config) == ("ipd_v0", {"num_steps": 5})


def test_results_as_table_and_files(tmp_path):
    results = hold(tournament(enter(SCRIPTS), games=2, **IPD))
    assert table(results, "x").row_count == 3
    files = write(results, tmp_path / "deep", "x")
    assert [file.name for file in files] == ["tournament.csv", "return.png", "cooperation_rate.png"]
    assert all(file.stat().st_size > 0 for file in files)
    written_frame = pd.read_csv(files[0])
    assert list(written_frame.columns) == list(standings(results).columns)
    ranks = write(results, tmp_path / "ranked", "x", ["tit_for_tat"])[1]
    assert pd.read_csv(ranks)["entrant"].tolist() == ["always_cooperate", "always_defect"]
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
def test_invalid_tournaments_are_refused(entrants, options, complaint):
    with pytest.raises(UserError, match=complaint):
        tournament(enter(entrants), **options)


def test_cheating_axelrod_strategies_are_refused():
    pytest.importorskip("axelrod")
    with pytest.raises(UserError, match="no strategy 'MindReader'"):
        tournament(enter([*SCRIPTS, "axelrod/MindReader"]), **IPD)


def test_entrants_trained_with_different_env_configs_are_refused(ipd, coins):
    entrants = enter([f"mine={ipd}", *SCRIPTS])
    payoffs = [[[-1, -1], [-4, 0]], [[0, -4], [-2, -2]]]
    option = "to let it play, add --allow-other-env-config"
    with pytest.raises(UserError, match=f"mine#player_0: was trained with num_steps 10, and the game has 5; {option}"):
        tournament(entrants, env_config={"num_steps": 5})
    with pytest.raises(
        UserError, match=f"mine#player_0: was trained with payoffs .*-3.*, and the game has .*; {option}"
    ):
        tournament(entrants, env_config={"num_steps": 10, "payoffs": payoffs})
    with pytest.raises(UserError, match=f"mine#player_0: was trained in ipd_v0, and the game is chicken_v0; {option}"):
        tournament(entrants, env="chicken_v0", env_config={"num_steps": 10})
    equal_payoffs = [[[-1, -1], [-3, 0]], [[0, -3], [-2, -2]]]
    assert tournament(entrants, env_config={"num_steps": 10, "payoffs": equal_payoffs}).games == 1000
    assert tournament(entrants, env="chicken_v0", games=2, allow_other_env_config=True).games == 2


def test_tournament_command(tmp_path):
    def run(*options):
        default_options = [
            "--env",
            "ipd_v0",
            "--env-config",
            '{"num_steps": 10}',
            "--games",
            "24",
            "--out",
            str(tmp_path / "out"),
        ]
        return invoke("tournament", *SCRIPTS, "learner/pg", *default_options, *options)

    result = run(
        "--pool", "tit_for_tat, always_defect", "--meta", '{"inner_episodes": 3, "copies": 2}',
        "--learning-players", '{"pg": {"lr": 0.0}}',
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "without self-play" in " ".join(result.stdout.split())
    frame = pd.read_csv(tmp_path / "out" / "tournament.csv")
    assert cell(frame, "learner/pg", "tit_for_tat", "samples") == 24 / 6
    ranks = pd.read_csv(tmp_path / "out" / "ranking.csv")
    assert ranks.set_index("entrant").loc["tit_for_tat", "return"] == -21.0  # with always_defect alone
    invalid = run("--pool", "tit_for_tat,missing")
    assert (invalid.exit_code, invalid.stderr.count("\n")) == (2, 1)
    assert invalid.stderr.startswith("rllib: --pool missing: no entrant has this name")
