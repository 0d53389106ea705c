import pytest
from ray.tune import register_env

from tests.helpers.multi_agent_envs import ComeAndGo, Mixed


@pytest.fixture(autouse=True)
def environments():
    """Registers the environments of the configurations in ``tests/helpers/reciprocate.py``."""
    register_env("come_and_go", ComeAndGo)
    register_env("mixed", Mixed)
