import numpy as np
import pytest
from PIL import Image

from rllib_reciprocator.analysis import open_table
from rllib_reciprocator.analysis.animation import Film, check_format, write_film
from rllib_reciprocator.analysis.trace import write_trace
from rllib_reciprocator.experiments.errors import UserError

pytestmark = pytest.mark.xdist_group("ray")
CHECKPOINTS = ["ipd", "coins", "stock"]


@pytest.fixture
def checkpoint(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, indirect=True)
def test_a_trace_is_of_the_episodes_that_were_evaluated(checkpoint):
    table = open_table(checkpoint)
    report, trace = table.evaluate(20), table.trace(20)
    steps = len(trace) // 20
    assert list(trace["episode"]) == [episode for episode in range(20) for _ in range(steps)]
    assert list(trace["step"]) == list(range(steps)) * 20
    for agent, row in report["players"].items():
        mean = trace.groupby("episode")[f"reward/{agent}"].sum().mean()
        assert mean == pytest.approx(row["return"]["mean"], abs=1e-4)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, indirect=True)
def test_balances_in_a_trace_are_what_influence_adds_up_to(checkpoint):
    trace = open_table(checkpoint, seed=2).trace(5)
    influence = trace["influence/player_1_on_player_0"]
    balance = trace["balance/player_0_towards_player_1"]
    assert influence.abs().max() > 0
    for _, rows in trace.groupby("episode"):
        own, seen = influence[rows.index].to_numpy(), balance[rows.index].to_numpy()
        assert seen[0] == 0.0
        if "scripted" not in str(checkpoint):
            # The rule "petty" of the matrix game credits what was received; others debit too, and differ.
            changes = seen[1:] - 0.9 * seen[:-1]
            assert np.isfinite(changes).all()
        assert len(own) == len(seen)


def test_a_trace_by_hand(ipd):
    """The rule petty: a balance is nine tenths of the last one and the influence of the last step."""
    trace = open_table(ipd, seed=2).trace(3)
    for _, rows in trace.groupby("episode"):
        influence = rows["influence/player_1_on_player_0"].to_numpy()
        balance = rows["balance/player_0_towards_player_1"].to_numpy()
        np.testing.assert_allclose(balance[1:], 0.9 * balance[:-1] + influence[:-1], atol=1e-5)
        given = rows["influence/player_0_on_player_1"].to_numpy()
        np.testing.assert_allclose(rows["reciprocal_reward/player_0"], balance * given, atol=1e-5)
    assert "reciprocal_reward/player_1" not in trace
    assert set(trace["action/player_1"]) <= {"cooperate", "defect"}


def test_where_there_is_no_estimator_there_is_no_influence(ray_cluster, tmp_path):
    from rllib_reciprocator import ReciprocatorConfig

    config = ReciprocatorConfig().environment("ipd_v0").players({"player_*": "ppo"})
    algo = config.env_runners(num_envs_per_env_runner=4).build_algo()
    path = algo.save_to_path(tmp_path)
    algo.stop()
    trace = open_table(path).trace(2)
    assert not [name for name in trace.columns if name.startswith(("influence", "balance", "reciprocal"))]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, indirect=True)
def test_a_film_has_every_step(checkpoint):
    film = open_table(checkpoint, seed=3).film()
    steps = len(film.actions)
    assert len(film.pictures) == steps + 1
    assert len(film.rewards) == steps
    frames = film.frames()
    assert len({frame.size for frame in frames}) == 1
    assert film.players[0] == "player_0 (reciprocator)"
    assert steps == len(open_table(checkpoint).trace(1))


def film(steps=5):
    pictures = [np.full((48, 96, 3), 8 * step, np.uint8) for step in range(steps + 1)]
    return Film(["A", "B"], pictures, [["left", "right"]] * steps, [[1.0, -2.0]] * steps)


def test_films_as_files(tmp_path):
    write_film(film(), tmp_path / "deep" / "a.gif")
    with Image.open(tmp_path / "deep" / "a.gif") as gif:
        assert gif.n_frames == 6
    write_film(film(30), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as sheet, Image.open(tmp_path / "deep" / "a.gif") as gif:
        assert sheet.size == (4 * gif.size[0], 3 * gif.size[1])
    write_film(film(), tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"


def test_what_a_frame_shows():
    """The picture, scaled; below it a tick for each step so far, up and green for gains, down and red for losses."""
    first, *_, last = film().frames()
    colours = [set(frame.getdata()) for frame in (first, last)]
    assert (0, 0, 0) in colours[0]
    assert (200, 200, 200) in colours[1]
    assert ((46, 139, 87) in colours[0], (46, 139, 87) in colours[1]) == (False, True)


def test_files_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"give a file that ends in \.gif, \.mp4, \.png"):
        check_format(tmp_path / "a.avi")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_film(film(), tmp_path / "file" / "a.gif")


def test_others_on_the_seats_of_rllibs_own_runners(stock, tmp_path):
    table = open_table(stock, {"player_1": "scripted/always_defect"}, seed=1)
    report = table.evaluate(10)
    assert report["players"]["player_1"]["player"] == "scripted/always_defect"
    assert report["players"]["player_1"]["cooperation_rate"] == {"mean": 0.0, "ci95": 0.0}
    assert report["players"]["player_0"]["player"] == "reciprocator"
    both = open_table(stock, {"player_1": f"checkpoint/{stock}#player_1"}, seed=1)
    same = open_table(stock, seed=1)
    assert both.evaluate(5)["players"]["player_0"] == same.evaluate(5)["players"]["player_0"]
    write_trace(table.trace(2), tmp_path / "deep" / "t.csv")
    assert (tmp_path / "deep" / "t.csv").read_text().count("\n") == 13


@pytest.mark.parametrize(
    ("players", "complaint"),
    [
        ({"player_2": "scripted/random"}, "--players.player_2: the game has no such seat"),
        ({"player_1": "ppo"}, "--players player_1: nobody learns here"),
        ({"player_1": "scripted/tit_for_tt"}, "did you mean 'tit_for_tat'"),
        ({"player_1": "axelrod/TitForTat"}, "beside Reciprocator only"),
    ],
)
def test_players_that_rllibs_own_runners_cannot_have(stock, players, complaint):
    with pytest.raises(UserError, match=complaint):
        open_table(stock, players)


def test_policies_of_matrix_games(ipd, coins, stock):
    policy = open_table(ipd, {"player_0": "scripted/win_stay_lose_shift"}).policy()
    assert list(policy.loc["player_1"]) == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert list(policy.loc["player_0"]) == [1.0, 1.0, 0.0, 0.0, 1.0]
    learned = open_table(ipd).policy().loc["player_0"]
    assert ((learned > 0) & (learned < 1)).all()
    assert open_table(stock).policy().shape == (2, 5)
    assert open_table(coins).policy() is None


def test_tables_name_players_as_the_file_does(stock):
    played = {agent: row["player"] for agent, row in open_table(stock, seed=1).evaluate(2)["players"].items()}
    assert played == {"player_0": "reciprocator", "player_1": "ppo"}
    guests = open_table(stock, {"player_*": "scripted/random"}, seed=1).evaluate(2)["players"]
    assert {row["player"] for row in guests.values()} == {"scripted/random"}


def test_weights_that_are_broken(ipd, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(ipd, broken)
    for file in broken.rglob("learner_group/learner/rl_module/player_0/module_state.p*"):
        file.write_bytes(b"half")
    with pytest.raises(UserError, match=r"player_0.module_state\.pkl: cannot be read"):
        open_table(broken)
