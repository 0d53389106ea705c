import json
import math

import numpy as np

from rllib_reciprocator.results.json_text import StandardJsonLogger, settings_from_json
from rllib_reciprocator.results.parsing import parse_results
from tests.experiments.test_tensorboard import Trial

CONFIG = {"vf_clip_param": math.inf, "players": {"player_0": {"lr": -math.inf}}, "lr": 0.1}


class LoggedTrial(Trial):
    config = CONFIG


def test_results_are_standard_json_and_can_be_read_back(tmp_path):
    metrics = {"a": math.nan, "b": np.float32("nan"), "c": np.array([1.0, math.inf]), "d": 2.5}
    logger, trial = StandardJsonLogger(), LoggedTrial(tmp_path)
    logger._restore_from_remote = lambda *_: None
    for iteration in (1, 2):
        logger.log_trial_result(
            iteration, trial, {"training_iteration": iteration, "env_runners": metrics, "config": CONFIG}
        )
    logger.log_trial_end(trial)
    text = (tmp_path / "result.json").read_text()
    first = json.loads(text.splitlines()[0], parse_constant=lambda name: 1 / 0)
    assert first["env_runners"] == {"a": None, "b": None, "c": [1.0, None], "d": 2.5}
    assert first["config"]["vf_clip_param"] == "Infinity"
    results, broken = parse_results(text)
    assert [result["training_iteration"] for result in results] == [1, 2]
    assert not broken
    env_runner_results = results[0]["env_runners"]
    assert math.isnan(env_runner_results["a"])
    assert math.isnan(env_runner_results["c"][1])
    assert env_runner_results["d"] == 2.5
    params = (tmp_path / "params.json").read_text()
    json.loads(params, parse_constant=lambda name: 1 / 0)
    assert settings_from_json(params) == CONFIG
