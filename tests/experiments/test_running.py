import pytest

from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.experiments.storage import storage_of


@pytest.mark.parametrize(
    ("storage", "folder"),
    [("s3://bucket/results/", "s3://bucket/results/x"), ("/tmp/../tmp/results", "/tmp/results/x")],
)
def test_storage_is_a_path_or_a_uri(storage, folder):
    assert storage_of(Experiment(name="x", run="PPO", storage_path=storage)) == folder
