import json
import math
import shutil
from html.parser import HTMLParser

import pytest

from rllib_reciprocator.reports.curves import draw_curves, early_ends, mean_curve
from rllib_reciprocator.reports.report import write_report
from rllib_reciprocator.results.trial_folders import read_groups
from rllib_reciprocator.utils.errors import UserError
from tests.helpers.commands import invoke


def result(iteration, rate, **extra):
    agents = {"player_0": rate, "player_1": rate / 2}
    return {
        "training_iteration": iteration,
        "num_env_steps_sampled_lifetime": 100 * iteration,
        "time_total_s": 0.5 * iteration,
        "env_runners": {
            "outcomes": {agent: {"cooperation_rate": value} for agent, value in agents.items()},
            "agent_episode_returns_mean": {agent: -30 * value for agent, value in agents.items()},
            "episode_return_mean": -45 * rate,
            "influence": {"player_0_on_player_1": rate, "player_1_on_player_0": -rate},
        },
        "learners": {"player_0": {"policy_loss": 0.1, "entropy": 0.6}},
        **extra,
    }


def trial(folder, number, rate, iterations=5, checkpoint=None, **settings):
    trial_folder = folder / f"Reciprocator_{number}"
    trial_folder.mkdir(parents=True)
    (trial_folder / "params.json").write_text(json.dumps({"env": "ipd_v0", "seed": number, **settings}))
    lines = [json.dumps(result(k, rate * k / iterations)) for k in range(1, iterations + 1)]
    (trial_folder / "result.json").write_text("\n".join(lines) + "\n")
    if checkpoint:
        shutil.copytree(checkpoint, trial_folder / "checkpoint_000000")
    return trial_folder


def test_trials_with_equal_settings_are_a_group(tmp_path):
    run = tmp_path / "run"
    for seed in (1, 2):
        trial(run, seed, 0.5 + 0.1 * seed, lr=0.1)
    trial(run, 3, 0.2, lr=0.01)
    first, second = read_groups([run])
    assert (first.name, second.name) == ("lr 0.1", "lr 0.01")
    assert (len(first.trials), len(second.trials)) == (2, 1)
    (single_group,) = read_groups([run / "Reciprocator_3"])
    assert single_group.name == "run"
    names = [group.name for group in read_groups([run, trial(tmp_path / "other", 1, 0.1).parent])]
    assert names == ["run: lr 0.1", "run: lr 0.01", "other"]


def test_confidence_bands_by_hand(tmp_path):
    """Final rates are 0.6 and 0.7: mean 0.65, half-width 12.706 * 0.05 (Student's t, 1 degree of freedom)."""
    for seed in (1, 2):
        trial(tmp_path / "run", seed, 0.5 + 0.1 * seed)
    (group,) = read_groups([tmp_path / "run"])
    metrics = group.metrics
    rates = metrics[(metrics["metric"] == "cooperation_rate") & (metrics["subject"] == "player_0")]
    curve = mean_curve(rates, "steps")
    assert list(curve["steps"]) == [100, 200, 300, 400, 500]
    last = curve.iloc[-1]
    assert last["mean"] == pytest.approx(0.65)
    assert last["high"] - last["mean"] == pytest.approx(12.7062 * 0.05, abs=1e-3)


def write_stopped_trials(tmp_path, stop=None):
    """Writes three trials with equal settings; a scheduler stopped two of them at iterations 2 and 4 of 5."""
    run = tmp_path / "run"
    trial(run, 1, 1.0)
    for seed, iterations in ((2, 4), (3, 2)):
        file = trial(run, seed, 0.1) / "result.json"
        file.write_text("\n".join(file.read_text().splitlines()[:iterations]) + "\n")
    if stop:
        (run / "experiment.json").write_text(json.dumps({"name": "run", "run": "PPO", "stop": stop}))
    return run


def test_curves_show_the_number_of_trials_and_where_trials_end(tmp_path):
    (group,) = read_groups([write_stopped_trials(tmp_path)])
    metrics = group.metrics
    rates = metrics[(metrics["metric"] == "cooperation_rate") & (metrics["subject"] == "player_0")]
    curve = mean_curve(rates, "iteration")
    assert list(curve["n"]) == [3, 3, 2, 2, 1]
    assert list(curve["high"].notna()) == [True, True, True, True, False]
    assert list(curve["low"].notna()) == [True, True, True, True, False]
    assert early_ends(metrics) == [2, 4]
    figure = draw_curves([group], ["cooperation_rate"])
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert [max(trace.x) for trace in bands] == [4, 4]
    crosses = [trace for trace in figure.data if trace.marker.symbol == "x"]
    assert [list(trace.x) for trace in crosses] == [[2, 4], [2, 4]]
    means = [trace for trace in figure.data if trace.mode == "lines" and not trace.fill]
    assert [list(trace.customdata) for trace in means] == [[3, 3, 2, 2, 1]] * 2


@pytest.mark.parametrize("stop", [None, {"training_iteration": 5}])
def test_summary_leaves_out_trials_that_were_stopped_early(tmp_path, stop):
    write_report([write_stopped_trials(tmp_path, stop)], tmp_path / "r.html")
    text = Text((tmp_path / "r.html").read_text()).text
    start = text.index("collective return") + 1
    # Trials, n, iterations, seconds, and the means of the complete trial: rates of 1 and 0.5, collective return of -45.
    assert text[start : start + 7] == ["run", "3", "1", "5", "6", "0.750", "-45.000"]


def test_summary_averages_trials_that_reached_their_stop_metric(tmp_path):
    stop = {"env_runners/outcomes/player_0/cooperation_rate": 0.0}
    write_report([write_stopped_trials(tmp_path, stop)], tmp_path / "r.html")
    text = Text((tmp_path / "r.html").read_text()).text
    start = text.index("collective return") + 1
    assert text[start : start + 4] == ["run", "3", "3", "2 to 5"]


def test_report_of_a_run_whose_last_iteration_completed_no_episode(tmp_path):
    folder = trial(tmp_path / "run", 1, 0.5)
    last = result(6, 0.5)
    no_returns = {"agent_episode_returns_mean": {"player_0": math.nan}, "episode_return_mean": math.nan}
    last["env_runners"] |= {**no_returns, "reward_per_step": {"player_0": 0.25, "player_1": 0.75}}
    with (folder / "result.json").open("a") as file:
        file.write(json.dumps(last) + "\n")
    write_report([folder], tmp_path / "r.html")
    text = Text((tmp_path / "r.html").read_text()).text
    assert text[text.index("reward per step") + 1 :][6] == "0.500"
    assert "nan" not in text
    figure = draw_curves(read_groups([folder]), ["return", "collective_return", "reward_per_step"])
    assert [title.text for title in figure.layout.annotations] == ["return", "collective return", "reward per step"]
    assert not any(math.isnan(value) for trace in figure.data for value in trace.y)


def test_incomplete_results_are_left_out(tmp_path):
    trial_folder = trial(tmp_path / "run", 1, 0.5)
    file = trial_folder / "result.json"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:3], lines[3][:40] + lines[3], lines[4][:50]]))
    (group,) = read_groups([trial_folder])
    assert [row["training_iteration"] for row in group.trials[0].results] == [1, 2, 3]
    assert group.trials[0].problems == [
        f"{file}: line {number} is not a complete result and was left out" for number in (4, 5)
    ]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: shutil.rmtree(folder.parent), "no such folder"),
        (lambda folder: shutil.rmtree(folder), r"contains no run \(there is no result.json"),
        (lambda folder: (folder / "result.json").write_text(""), "result.json: is empty; no iteration has ended yet"),
        (lambda folder: (folder / "result.json").write_text('{"a'), "result.json: contains no complete result"),
        (lambda folder: (folder / "result.json").write_bytes(b"\xff\xfe"), "result.json: cannot be read"),
        (lambda folder: (folder / "params.json").unlink(), "params.json: cannot be read"),
        (lambda folder: (folder / "params.json").write_text("{"), "params.json: is not valid JSON"),
    ],
)
def test_broken_runs_are_refused(tmp_path, damage, complaint):
    trial_folder = trial(tmp_path / "run", 1, 0.5)
    damage(trial_folder)
    command_result = invoke("report", str(tmp_path / "run"), "--out", str(tmp_path / "r.html"))
    assert command_result.exit_code == 2
    with pytest.raises(UserError, match=complaint):
        read_groups([tmp_path / "run"])
    assert not (tmp_path / "r.html").exists()


def test_trial_that_failed_before_its_first_result_is_left_out(tmp_path):
    complete_trial = trial(tmp_path / "run", 1, 0.5)
    failed_trial = trial(tmp_path / "run", 2, 0.5)
    (failed_trial / "result.json").write_text("")
    (failed_trial / "error.txt").write_text("Traceback\na.b.DivergedError: player_0 diverged in iteration 1\n")
    (group,) = read_groups([tmp_path / "run"])
    assert [member.folder for member in group.trials] == [complete_trial]
    (problem,) = group.trials[0].problems
    reason = "is empty; the trial failed (player_0 diverged in iteration 1); the trial was left out"
    assert problem == f"{failed_trial / 'result.json'}: {reason}"
    shutil.rmtree(complete_trial)
    with pytest.raises(UserError, match=r"the trial failed \(player_0 diverged"):
        read_groups([tmp_path / "run"])


def test_report_of_a_run_without_metrics(tmp_path):
    trial_folder = trial(tmp_path / "run", 1, 0.5)
    (trial_folder / "result.json").write_text('{"training_iteration": 1}\n')
    write_report([tmp_path / "run"], tmp_path / "r.html")
    assert "Settings" in Text((tmp_path / "r.html").read_text()).text


class Text(HTMLParser):
    """Text of a page outside scripts and styles, and the external resources that the page would load."""

    def __init__(self, page):
        super().__init__()
        self.text, self.loads, self._skipping = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self._skipping = tag in ("script", "style")
        self.loads += [v for k, v in attributes if k in ("src", "href") and v and not v.startswith(("data:", "#"))]

    def handle_endtag(self, tag):
        self._skipping = False

    def handle_data(self, data):
        if not self._skipping and data.strip():
            self.text.append(data.strip())


@pytest.fixture
def page(tmp_path, ipd):
    for seed in (1, 2):
        trial(tmp_path / "with <b>", seed, 0.5 + 0.1 * seed, checkpoint=ipd, lr=0.1)
    trial(tmp_path / "other", 1, 0.9, lr=0.2)
    problems = write_report([tmp_path / "with <b>", tmp_path / "other"], tmp_path / "deep" / "report.html")
    assert problems == ["no episode and no policies are shown for runs without a checkpoint: other"]
    return tmp_path / "deep" / "report.html"


def test_page_is_complete_and_self_contained(page):
    text = Text(page.read_text())
    assert text.loads == []
    for heading in ("Cooperation", "Episodes", "Returns", "Reciprocity", "Learning", "Policies", "Settings"):
        assert heading in text.text
    assert "with <b>" in text.text
    assert "0.487 ± 0.476" in text.text  # over the final means over players, 0.45 and 0.525
    assert {"lr", "0.1", "0.2"} <= set(text.text)
