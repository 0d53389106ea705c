"""Tests that NaN and infinite values end training, name the player and never count as cooperation."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.impala import IMPALAConfig

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.experiments.validation import build_config
from rllib_reciprocator.models.distributions import Bernoulli, Categorical
from rllib_reciprocator.utils.checkpoints import MODULE_PATH
from rllib_reciprocator.utils.divergence import LARGEST_WEIGHT, DivergedError, check_finite
from rllib_reciprocator.utils.errors import UserError
from tests.helpers.commands import invoke

SMALL = {"num_envs_per_env_runner": 16, "seed": 1}
STOCK = {
    "num_env_runners": 0,
    "rollout_fragment_length": 32,
    "train_batch_size_per_learner": 64,
    "minibatch_size": 32,
    "num_epochs": 1,
    "seed": 1,
}


def build_algo(run, env="ipd_v0", **settings):
    return build_config(algorithm_class(run), env, settings).build_algo()


@pytest.mark.processes
@pytest.mark.parametrize("epochs", [1, 10])
@pytest.mark.parametrize("learners", [0, 1])
def test_diverging_weights_end_training(ray_cluster, learners, epochs):
    algo = build_algo("Reciprocator", **SMALL, lr=1e30, num_epochs=epochs, num_learners=learners)
    with pytest.raises(DivergedError, match=r"^player_\d diverged in iteration 1: "):
        algo.train()
    algo.stop()


def test_diverged_player_is_named(ray_cluster):
    algo = build_algo("Reciprocator", **SMALL, players={"player_0": "ppo", "player_1": {"player": "ppo", "lr": 1e30}})
    with pytest.raises(DivergedError, match="player_1 diverged in iteration 1: "):
        algo.train()
    algo.stop()


def test_diverged_estimator_and_iteration_are_named(ray_cluster):
    algo = build_algo("Reciprocator", "coins_v0", **SMALL)
    algo.train()
    estimator = algo.learner_group._learner.module["influence"]
    with torch.no_grad():
        next(estimator.parameters()).fill_(math.nan)
    with pytest.raises(DivergedError, match=r"influence diverged in iteration 2: "):
        algo.train()
    algo.stop()


@pytest.mark.parametrize("players", [{"*": "ppo"}, {"*": "reciprocator"}, None])
def test_divergence_in_rllibs_env_runners(ray_cluster, players):
    overrides = {"players": players} if players else {}
    algo = build_algo("PPO", "ipd_v0" if players else "CartPole-v1", **STOCK, **overrides, lr=1e30)
    with pytest.raises(DivergedError, match=r"(player_0|player_1|default_policy) diverged in iteration 1: "):
        algo.train()
    algo.stop()


def test_large_finite_weights_end_training(ray_cluster):
    algo = build_algo("Reciprocator", **SMALL)
    module = algo.learner_group._learner.module["player_0"]
    with torch.no_grad():
        next(module.parameters()).fill_(2 * LARGEST_WEIGHT)
    with pytest.raises(DivergedError, match=r"player_0 diverged in iteration 1: its largest weight is 2e\+10"):
        algo.train()
    algo.stop()


@pytest.mark.parametrize(("kind", "width"), [(Bernoulli, 1), (Categorical, 3)])
def test_distributions_refuse_nan_logits(kind, width):
    logits = torch.zeros(4, width)
    kind(logits).sample()
    kind(logits).to_deterministic()
    logits[2, 0] = math.nan
    with pytest.raises(RuntimeError, match="a policy's logits are not numbers"):
        kind(logits).sample()
    with pytest.raises(RuntimeError, match="a policy's logits are not numbers"):
        kind(logits).to_deterministic()


def test_checkpoints_with_nan_weights_are_refused(ray_cluster, tmp_path):
    import pickle

    algo = build_algo("Reciprocator", **SMALL)
    good = tmp_path / "good"
    algo.save_to_path(good)
    algo.stop()
    broken = tmp_path / "broken"
    shutil.copytree(good, broken)
    file = broken / MODULE_PATH / "player_1" / "module_state.pkl"
    state = pickle.loads(file.read_bytes())
    name = next(iter(state))
    state[name] = np.full_like(state[name], np.nan)
    file.write_bytes(pickle.dumps(state))
    complaint = "player_1 diverged: its weights .* are not finite"
    with pytest.raises(UserError, match=complaint):
        open_evaluator(broken)
    with pytest.raises(UserError, match=complaint):
        open_evaluator(good, {"player_0": f"checkpoint/{broken}#player_1"})
    open_evaluator(good, {"player_0": f"checkpoint/{broken}#player_0"})
    with pytest.raises(UserError, match=complaint):
        build_config(
            algorithm_class("Reciprocator"),
            "ipd_v0",
            {"players": {"player_0": "ppo", "player_1": f"checkpoint/{broken}"}},
        )
    from rllib_reciprocator.evaluation.tournament import enter, tournament

    with pytest.raises(UserError, match=complaint):
        tournament(enter([str(broken), "scripted/tit_for_tat"]))


@pytest.mark.processes
def test_diverged_trial_is_reported_and_other_trials_continue(ray_cluster, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        """
sweep:
  run: Reciprocator
  env: ipd_v0
  stop: {training_iteration: 3}
  checkpoint_freq: 1
  config:
    num_envs_per_env_runner: 16
    seed: 1
    lr: {grid_search: [0.001, [[0, 0.001], [500, 0.001], [520, 1.0e+30]]]}
next:
  run: Reciprocator
  env: ipd_v0
  stop: {training_iteration: 1}
  config: {num_envs_per_env_runner: 16}
"""
    )
    result = invoke("train", "file", str(file), "--storage-path", str(tmp_path / "out"))
    assert result.exit_code == 1, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert "sweep: 2 trials of 2 settings" in result.stdout
    assert "1 (1 failed)" in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("failed")]
    assert "diverged in iteration 2: its total_loss is nan" in line
    assert "next: Reciprocator on ipd_v0, 1 iterations" in result.stdout
    by_rate = {}
    for trial in (tmp_path / "out" / "sweep").glob("Reciprocator_*"):
        rate = json.loads((trial / "params.json").read_text())["lr"]
        by_rate[isinstance(rate, list)] = sorted(trial.glob("checkpoint_*"))
    assert [len(by_rate[has_diverged]) for has_diverged in (False, True)] == [3, 1]
    open_evaluator(by_rate[True][0], seed=1).evaluate(4)
    assert (tmp_path / "out" / "sweep" / "learning_curves.png").is_file()


def build_result(steps, **influence):
    module_result = {"total_loss": math.nan, "num_module_steps_trained": steps}
    return {"learners": {"player_0": module_result, "influence": {"loss": math.nan, **influence}}}


@pytest.mark.parametrize("steps", [0, math.nan])
@pytest.mark.parametrize("not_finite", [0.0, math.nan])
def test_nan_loss_without_updates_is_accepted(steps, not_finite):
    algorithm = SimpleNamespace(iteration=5, learner_group=None, config=None)
    check_finite(algorithm, build_result(steps, not_finite=not_finite))


def test_nan_loss_with_updates_ends_training():
    algorithm = SimpleNamespace(iteration=5, learner_group=None, config=None)
    with pytest.raises(DivergedError, match="player_0 diverged in iteration 6: its total_loss is nan"):
        check_finite(algorithm, build_result(64))
    with pytest.raises(DivergedError, match="influence diverged in iteration 6: its loss is not a number"):
        check_finite(algorithm, build_result(0, not_finite=1.0))


def test_one_missing_loss_of_learner_threads_is_accepted():
    algorithm = SimpleNamespace(iteration=5, learner_group=None, config=IMPALAConfig())
    for steps in (64, 0, 64):
        check_finite(algorithm, build_result(steps))
    with pytest.raises(DivergedError, match="player_0 diverged"):
        check_finite(algorithm, build_result(64))
