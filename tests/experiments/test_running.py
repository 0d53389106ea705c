import json

import pytest

from rllib_reciprocator.experiments.running import _forget_stops, storage_of
from rllib_reciprocator.experiments.schema import Experiment


@pytest.mark.parametrize("as_uri", [False, True])
def test_stops_that_tune_kept_are_taken_out_of_the_newest_state(tmp_path, as_uri):
    kept = {"trial_data": [["x"]], "runner_data": {"_cached_trial_decisions": {"a": "STOP"}, "_metric": None}}
    for when in ("2026-01-01_10-00-00", "2026-01-01_11-00-00"):
        (tmp_path / f"experiment_state-{when}.json").write_text(json.dumps(kept))
    _forget_stops(tmp_path.as_uri() if as_uri else str(tmp_path))
    older, newest = (json.loads(file.read_text()) for file in sorted(tmp_path.glob("*.json")))
    assert older == kept
    assert newest == {**kept, "runner_data": {"_cached_trial_decisions": {}, "_metric": None}}


@pytest.mark.parametrize(
    ("storage", "folder"),
    [("s3://bucket/results/", "s3://bucket/results/x"), ("/tmp/../tmp/results", "/tmp/results/x")],
)
def test_storage_is_a_path_or_a_uri(storage, folder):
    assert storage_of(Experiment(name="x", run="PPO", storage_path=storage)) == folder
