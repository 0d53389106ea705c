import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.evaluation.trace import write_trace
from rllib_reciprocator.evaluation.video import Video, check_format, side_by_side, write_videos
from rllib_reciprocator.utils.errors import UserError
from tests.helpers.games import COUNTDOWN, Countdown

CHECKPOINTS = ["ipd", "coins", "stock"]


@pytest.fixture
def checkpoint(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, indirect=True)
def test_trace_has_the_evaluated_episodes(checkpoint):
    evaluator = open_evaluator(checkpoint)
    report, trace = evaluator.evaluate(20), evaluator.trace(20)
    steps = len(trace) // 20
    assert list(trace["episode"]) == [episode for episode in range(20) for _ in range(steps)]
    assert list(trace["step"]) == list(range(steps)) * 20
    for agent, row in report["players"].items():
        mean = trace.groupby("episode")[f"reward/{agent}"].sum().mean()
        assert mean == pytest.approx(row["return"]["mean"], abs=1e-4)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, indirect=True)
def test_balances_in_a_trace_are_discounted_sums_of_influence(checkpoint):
    """A balance is 0.9 times the last balance plus the influence of the last step.

    In Coins, the influence on the other agent in the last step is subtracted.
    """
    trace = open_evaluator(checkpoint, seed=2).trace(5)
    influence_of_other = trace["influence/player_1_on_player_0"]
    influence_of_agent = trace["influence/player_0_on_player_1"]
    balance = trace["balance/player_0_towards_player_1"]
    assert influence_of_other.abs().max() > 0
    debit = 1.0 if "coins" in str(checkpoint) else 0.0
    for _, rows in trace.groupby("episode"):
        balances, gains, losses = (
            column[rows.index].to_numpy() for column in (balance, influence_of_other, influence_of_agent)
        )
        assert balances[0] == 0.0
        np.testing.assert_allclose(balances[1:], 0.9 * balances[:-1] + gains[:-1] - debit * losses[:-1], atol=1e-5)


def test_petty_balances_and_rewards_in_a_trace(ipd):
    """With the rule ``petty``, a balance is 0.9 times the last balance plus the influence of the last step."""
    trace = open_evaluator(ipd, seed=2).trace(3)
    for _, rows in trace.groupby("episode"):
        influence = rows["influence/player_1_on_player_0"].to_numpy()
        balance = rows["balance/player_0_towards_player_1"].to_numpy()
        np.testing.assert_allclose(balance[1:], 0.9 * balance[:-1] + influence[:-1], atol=1e-5)
        influence_of_agent = rows["influence/player_0_on_player_1"].to_numpy()
        np.testing.assert_allclose(rows["reciprocal_reward/player_0"], balance * influence_of_agent, atol=1e-5)
    assert "reciprocal_reward/player_1" not in trace
    assert set(trace["action/player_1"]) <= {"cooperate", "defect"}


def test_trace_without_an_estimator_has_no_influence(ray_cluster, tmp_path):
    config = ReciprocatorConfig().environment("ipd_v0").players({"player_*": "ppo"})
    algo = config.env_runners(num_envs_per_env_runner=4).build_algo()
    path = algo.save_to_path(tmp_path)
    algo.stop()
    trace = open_evaluator(path).trace(2)
    assert not [name for name in trace.columns if name.startswith(("influence", "balance", "reciprocal"))]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, indirect=True)
def test_video_has_every_step(checkpoint):
    (video,) = open_evaluator(checkpoint, seed=3).videos()
    steps = len(video.actions)
    assert len(video.images) == steps + 1
    assert len(video.rewards) == steps
    frames = video.frames()
    assert len({frame.size for frame in frames}) == 1
    assert video.players[0] == "player_0 (reciprocator)"
    assert steps == len(open_evaluator(checkpoint).trace(1))


def make_video(steps=5):
    pictures = [np.full((48, 96, 3), 8 * step, np.uint8) for step in range(steps + 1)]
    return Video(["A", "B"], pictures, [["left", "right"]] * steps, [[1.0, -2.0]] * steps)


def test_videos_as_files(tmp_path):
    write_videos([make_video()], tmp_path / "deep" / "a.gif")
    with Image.open(tmp_path / "deep" / "a.gif") as gif:
        assert gif.n_frames == 6
    write_videos([make_video(30)], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as sheet, Image.open(tmp_path / "deep" / "a.gif") as gif:
        assert sheet.size == (4 * gif.size[0], 3 * gif.size[1])
    write_videos([make_video()], tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, indirect=True)
def test_several_episodes_are_several_videos(checkpoint):
    videos = open_evaluator(checkpoint, seed=3).videos(3)
    assert [len(video.images) for video in videos] == [1 + len(video.actions) for video in videos]
    assert len({str(video.actions) for video in videos}) > 1


@pytest.mark.parametrize("checkpoint", ["ipd", "stock"], indirect=True)
def test_videos_begin_before_the_first_step(checkpoint):
    game = social_dilemmas.make("ipd_v0")
    game.reset()
    for video in open_evaluator(checkpoint, seed=3).videos(2):
        assert np.array_equal(video.images[0], game.render_rgb())
        assert not any(np.array_equal(video.images[0], picture) for picture in video.images[1:])


def test_videos_side_by_side(tmp_path):
    """Shows three videos in two columns; shorter videos stay at their last frame."""
    videos = [make_video(2), make_video(5), make_video(3)]
    frames = side_by_side(videos)
    assert len(frames) == 6
    width, height = videos[0].frames()[0].size
    for step, frame in enumerate(frames):
        assert frame.size == (2 * width, 2 * height)
        for k, video in enumerate(videos):
            tile = frame.crop((k % 2 * width, k // 2 * height, (k % 2 + 1) * width, (k // 2 + 1) * height))
            video_frames = video.frames()
            assert list(tile.getdata()) == list(video_frames[min(step, len(video_frames) - 1)].getdata())
    write_videos(videos, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (4 * width, 4 * height)


def test_frame_contents():
    """A frame has the scaled image and below it a tick per past step: up in green for gains, down in red for losses."""
    first, *_, last = make_video().frames()
    colors = [set(frame.getdata()) for frame in (first, last)]
    assert (0, 0, 0) in colors[0]
    assert (200, 200, 200) in colors[1]
    assert ((46, 139, 87) in colors[0], (46, 139, 87) in colors[1]) == (False, True)


def test_unwritable_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"give a file that ends in \.gif, \.mp4, \.png"):
        check_format(tmp_path / "a.avi")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_videos([make_video()], tmp_path / "file" / "a.gif")


def test_players_can_be_replaced_in_rllib_runs(stock, tmp_path):
    evaluator = open_evaluator(stock, {"player_1": "scripted/always_defect"}, seed=1)
    report = evaluator.evaluate(10)
    assert report["players"]["player_1"]["player"] == "scripted/always_defect"
    assert report["players"]["player_1"]["cooperation_rate"] == {"mean": 0.0, "ci95": 0.0}
    assert report["players"]["player_0"]["player"] == "reciprocator"
    copied_policy = open_evaluator(stock, {"player_1": f"checkpoint/{stock}#player_1"}, seed=1)
    unchanged_evaluator = open_evaluator(stock, seed=1)
    assert copied_policy.evaluate(5)["players"]["player_0"] == unchanged_evaluator.evaluate(5)["players"]["player_0"]
    write_trace(evaluator.trace(2), tmp_path / "deep" / "t.csv")
    assert (tmp_path / "deep" / "t.csv").read_text().count("\n") == 13


@pytest.mark.parametrize(
    ("players", "complaint"),
    [
        ({"player_2": "scripted/random"}, "--players.player_2: the environment has no such agent"),
        ({"player_1": "ppo"}, "--players player_1: policies are not trained here"),
        ({"player_1": "scripted/tit_for_tt"}, "did you mean 'tit_for_tat'"),
        ({"player_1": "axelrod/TitForTat"}, "needs the batched engine"),
    ],
)
def test_invalid_players_are_refused_in_rllib_runs(stock, players, complaint):
    with pytest.raises(UserError, match=complaint):
        open_evaluator(stock, players)


def test_policies_of_matrix_games(ipd, coins, stock):
    policy = open_evaluator(ipd, {"player_0": "scripted/win_stay_lose_shift"}).policy()
    assert list(policy.loc["player_1"]) == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert list(policy.loc["player_0"]) == [1.0, 1.0, 0.0, 0.0, 1.0]
    trained_policy = open_evaluator(ipd).policy().loc["player_0"]
    assert ((trained_policy > 0) & (trained_policy < 1)).all()
    assert open_evaluator(stock).policy().shape == (2, 5)
    assert open_evaluator(coins).policy() is None


def test_reports_name_players_as_in_the_settings(stock):
    trained_players = {
        agent: row["player"] for agent, row in open_evaluator(stock, seed=1).evaluate(2)["players"].items()
    }
    assert trained_players == {"player_0": "reciprocator", "player_1": "ppo"}
    replacements = open_evaluator(stock, {"player_*": "scripted/random"}, seed=1).evaluate(2)["players"]
    assert {row["player"] for row in replacements.values()} == {"scripted/random"}


def test_broken_weights_are_refused(ipd, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(ipd, broken)
    for file in broken.rglob("learner_group/learner/rl_module/player_0/module_state.p*"):
        file.write_bytes(b"half")
    with pytest.raises(UserError, match=r"player_0.module_state\.pkl: cannot be read"):
        open_evaluator(broken)


@pytest.fixture(scope="module")
def countdown(ray_cluster, tmp_path_factory):
    """Saves a checkpoint of naive learners in a game whose environments end at different steps."""
    social_dilemmas.register(COUNTDOWN)
    config = ReciprocatorConfig().environment("countdown_v0", env_config={"num_steps": 12}).players({"*": "ppo"})
    algo = config.env_runners(num_envs_per_env_runner=16).debugging(seed=1).build_algo()
    path = algo.save_to_path(tmp_path_factory.mktemp("countdown") / "checkpoint")
    algo.stop()
    return Path(path)


def returns_and_lengths(path, seed, episodes):
    """Computes the returns, ``[episodes, N]``, and lengths of the first episodes step by step."""
    evaluator = open_evaluator(path, seed=seed)
    (sample,) = evaluator._runner(episodes).sample(num_episodes=episodes, explore=True)
    returns, lengths = [], []
    for game in range(episodes):
        total, steps = torch.zeros(2), 0
        for t in range(12):
            total, steps = total + sample.rewards[game, t], steps + 1
            if sample.ended[game, t]:
                break
        returns.append(total)
        lengths.append(steps)
    return torch.stack(returns), lengths


def test_steps_after_the_end_of_an_episode_are_not_evaluated(countdown):
    returns, lengths = returns_and_lengths(countdown, 5, 40)
    assert len(set(lengths)) > 2
    report = open_evaluator(countdown, seed=5).evaluate(40)
    for index, agent in enumerate(("player_0", "player_1")):
        row = report["players"][agent]
        assert row["return"]["mean"] == pytest.approx(float(returns[:, index].mean()), abs=1e-5)
        # Every step in which an agent hurries has a reward of 1, so that the rate is the return over the length.
        rates = [float(value) / steps for value, steps in zip(returns[:, index], lengths, strict=True)]
        assert row["hurry_rate"]["mean"] == pytest.approx(np.mean(rates), abs=1e-5)
    assert report["steps"] == pytest.approx(np.mean(lengths))


def test_traces_of_games_that_end_early_number_episodes_and_steps(countdown):
    returns, lengths = returns_and_lengths(countdown, 5, 40)
    trace = open_evaluator(countdown, seed=5).trace(40)
    assert list(trace.groupby("episode").size()) == lengths
    for episode, rows in trace.groupby("episode"):
        assert list(rows["step"]) == list(range(lengths[episode]))
        assert rows["reward/player_1"].sum() == pytest.approx(float(returns[episode, 1]))


def test_video_ends_with_the_final_state(countdown, monkeypatch):
    """The last image shows the end of the episode, not the start of the next episode."""
    monkeypatch.setattr(Countdown, "render_rgb", lambda self, copy=0: np.full((2, 2, 3), max(0, int(self._left[copy]))))
    for seed in range(3):
        steps_left = [int(image[0, 0, 0]) for image in open_evaluator(countdown, seed=seed).videos()[0].images]
        assert steps_left[-1] == 0
        assert all(after < before for before, after in pairwise(steps_left))


def test_checkpoints_contain_their_frozen_policies(coins, tmp_path):
    first = tmp_path / "first"
    shutil.copytree(coins, first)
    players = {"player_0": "reciprocator", "player_1": f"checkpoint/{first}"}
    config = ReciprocatorConfig().environment("coins_v0", env_config={"num_steps": 8}).players(players)
    algo = config.env_runners(num_envs_per_env_runner=8).debugging(seed=1).build_algo()
    algo.train()
    path = algo.save_to_path(tmp_path / "second")
    algo.stop()
    before = open_evaluator(path, seed=3).evaluate(20)
    shutil.rmtree(first)
    assert open_evaluator(path, seed=3).evaluate(20)["players"] == before["players"]
    assert open_evaluator(path, seed=3).trace(2)["balance/player_1_towards_player_0"].abs().max() > 0


def test_pools_and_teams_are_evaluated_as_in_training(ray_cluster, tmp_path):
    players = {"player_0": {"pool": {"scripted/always_defect": 0.5, "ppo": 0.5}}, "player_*": "team/both"}
    config = ReciprocatorConfig().environment("public_goods_v0", env_config={"num_agents": 3, "num_steps": 4})
    algo = config.players(players).env_runners(num_envs_per_env_runner=8).debugging(seed=1).build_algo()
    algo.train()
    path = algo.save_to_path(tmp_path / "run")
    algo.stop()
    report = open_evaluator(path, seed=1).evaluate(200)
    assert 0.05 < report["players"]["player_0"]["cooperation_rate"]["mean"] < 0.5
    assert report["players"]["player_1"]["player"] == "team/both"
