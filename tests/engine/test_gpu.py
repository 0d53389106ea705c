"""Tests of env runners and learners on a GPU: results are as on a CPU, and samples are on the configured device."""

import numpy as np
import pytest
import torch

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.engine import BatchedEnvRunner
from tests.helpers.batches import prepared

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
GAMES = [("ipd_v0", {}), ("coins_v0", {}), ("coins_v0", {"use_gru": True})]


def config(env="coins_v0", model=None, gpus=0, device="auto", **runners):
    return (
        ReciprocatorConfig()
        .environment(env, env_config={"num_steps": 8})
        .rl_module(model_config={"fcnet_hiddens": [8], **(model or {})})
        .training(num_epochs=2)
        .env_runners(num_envs_per_env_runner=64, local_runner_device=device, **runners)
        .learners(num_gpus_per_learner=gpus)
        .debugging(seed=1)
    )


@pytest.mark.parametrize(("env", "model"), GAMES)
def test_a_runner_samples_on_the_gpu(env, model):
    a_config = config(env, model, device="cuda")
    a_config.validate()
    env_runner = BatchedEnvRunner(config=a_config, worker_index=0)
    (sample,) = env_runner.sample()
    assert sample.rewards.is_cuda
    assert np.isfinite(float(env_runner.get_metrics()["reward_per_step"]["player_0"].peek()))


@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize(("env", "model"), GAMES)
def test_a_learner_on_the_gpu_learns(build, env, model, device):
    algo = build(config(env, model, gpus=1, device=device))
    for _ in range(2):
        result = algo.train()
    assert np.isfinite(float(result["learners"]["player_0"]["total_loss"]))
    (sample,) = algo.env_runner.sample()
    assert sample.rewards.is_cuda == (device == "auto")
    assert all(value.is_cuda for value in prepared(algo, sample)["player_0"].values())


def test_remote_runners_return_cpu_tensors(build):
    algo = build(config(gpus=1, num_env_runners=1, num_gpus_per_env_runner=0.25))
    (sample,) = algo.env_runner_group.foreach_env_runner(lambda runner: runner.sample()[0], local_env_runner=False)
    assert not sample.rewards.is_cuda
    assert np.isfinite(float(algo.train()["learners"]["player_0"]["total_loss"]))


def test_advantages_match_those_on_the_cpu(build):
    """Prepares the same sample with the same weights on both devices."""
    on_cpu, on_gpu = build(config()), build(config(gpus=1, device="cpu"))
    on_gpu.learner_group.set_weights(on_cpu.learner_group.get_weights())
    (sample,) = on_cpu.env_runner.sample()
    advantages = [prepared(algo, sample)["player_0"]["advantages"].cpu() for algo in (on_cpu, on_gpu)]
    torch.testing.assert_close(*advantages, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("fragment", ["auto", 3])
def test_a_run_on_the_gpu_is_resumed(build, tmp_path, fragment):
    def build_run():
        return build(config(gpus=1, rollout_fragment_length=fragment))

    whole = build_run()
    for _ in range(2):
        whole.train()
    whole.save_to_path(tmp_path)
    resumed_algo = build_run()
    resumed_algo.restore_from_path(tmp_path)
    a, b = whole.train(), resumed_algo.train()
    for agent in ("player_0", "player_1"):
        expected = float(a["env_runners"]["reward_per_step"][agent])
        assert float(b["env_runners"]["reward_per_step"][agent]) == pytest.approx(expected, abs=1e-6)
