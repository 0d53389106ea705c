import pytest


@pytest.fixture
def build(ray_cluster):
    """Builds algorithms, and stops them after the test."""
    built = []

    def _build(a_config):
        built.append(a_config.build_algo())
        return built[-1]

    yield _build
    for algo in built:
        algo.stop()
