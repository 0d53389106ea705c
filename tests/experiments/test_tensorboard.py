import json

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rllib_reciprocator.experiments.tensorboard import TensorBoardLogger
from rllib_reciprocator.results.metrics import distributions, iterate_metrics

RESULT = {
    "training_iteration": 1,
    "timestamp": 5,
    "timers": {"sampling": 0.5},
    "env_runners": {
        "outcomes": {"player_0": {"cooperation_rate": 0.25}},
        "agent_episode_returns_mean": {"player_0": -40.0},
        "episode_return_mean": -80.0,
        "influence": {"player_0_on_player_1": 0.5},
        "influence_quantiles": {"player_0_on_player_1": [-1.0, 0.0, 1.0]},
    },
    "learners": {"player_0": {"policy_loss": float("nan"), "reciprocal_reward_quantiles": [0.0, 2.0]}},
}


class Trial:
    def __init__(self, folder):
        self.local_path, self.evaluated_params = str(folder), {"lr": 0.1}

    def init_local_path(self):
        pass


def test_logged_scalars_and_histograms(tmp_path):
    trial = Trial(tmp_path)
    logger = TensorBoardLogger()
    for iteration in (1, 2):
        logger.log_trial_result(iteration, trial, {**RESULT, "training_iteration": iteration})
    logger.log_trial_end(trial)
    events = EventAccumulator(str(tmp_path)).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"cooperation_rate/player_0", "return/player_0", "collective_return/all"} <= scalars
    assert {"influence/player_0_on_player_1", "rllib/timers/sampling"} <= scalars
    assert not any("timestamp" in tag for tag in scalars)
    assert [(event.step, event.value) for event in events.Scalars("cooperation_rate/player_0")] == [
        (1, 0.25),
        (2, 0.25),
    ]
    assert set(events.Tags()["histograms"]) == {"influence/player_0_on_player_1", "reciprocal_reward/player_0"}
    histogram = events.Histograms("influence/player_0_on_player_1")[0].histogram_value
    assert (histogram.min, histogram.max, histogram.num) == (-1.0, 1.0, 3.0)
    layout = events.Tensors("custom_scalars__config__")
    assert len(layout) == 1
    assert b"^cooperation_rate/.*" in layout[0].tensor_proto.string_val[0]


def test_metrics_and_distributions_survive_json():
    decoded_result = json.loads(json.dumps(RESULT))
    assert ("influence", "player_0_on_player_1", 0.5) in list(iterate_metrics(decoded_result))
    assert {name: values for name, _, values in distributions(decoded_result)} == {
        "influence": [-1.0, 0.0, 1.0],
        "reciprocal_reward": [0.0, 2.0],
    }
    assert np.isnan({name: value for name, _, value in iterate_metrics(decoded_result)}["policy_loss"])


def test_missing_metrics_are_not_logged(tmp_path, caplog):
    """An iteration can pass without an update if learners run in a separate thread."""
    trial, logger = Trial(tmp_path), TensorBoardLogger()
    learner_metrics = {"policy_loss": float("nan"), "reciprocal_reward_quantiles": []}
    logger.log_trial_result(1, trial, {**RESULT, "learners": {"player_0": learner_metrics}})
    logger.log_trial_end(trial)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert "policy_loss/player_0" not in events.Tags()["scalars"]
    assert set(events.Tags()["histograms"]) == {"influence/player_0_on_player_1"}
    assert not caplog.messages
