"""Tests of PPO: its loss and its minibatches."""

import pytest
import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.evaluation.postprocessing import Postprocessing

from rllib_reciprocator.engine.updates.ppo import ppo_loss
from tests.helpers.batches import minibatches, prepared
from tests.helpers.training import pooled, training_config


@pytest.mark.parametrize("vf_clip_param", [0.05, float("inf")])
@pytest.mark.parametrize("use_kl_loss", [True, False])
@pytest.mark.parametrize("pool", [True, False])
def test_ppo_loss_and_its_parts_match_rllib(build, vf_clip_param, use_kl_loss, pool):
    """Evaluates RLlib's loss function on the same rows, after a step away from the behavior policy."""
    players = pooled(scripted__always_defect=0.5, ppo=0.5) if pool else {"player_*": "ppo"}
    training = {"vf_clip_param": vf_clip_param, "vf_loss_coeff": 0.7, "use_kl_loss": use_kl_loss, "kl_coeff": 0.5}
    algo = build(
        training_config(players, env="ipd_v0", games=64, clip_param=0.05, entropy_coeff=0.03, lr=0.02, **training)
    )
    (sample,) = algo.env_runner.sample()
    algo.train()
    learner = algo.learner_group._learner
    batch = prepared(algo, sample)["player_1"]
    arguments = {
        "module_id": "player_1",
        "config": learner.config.get_config_for_module("player_1"),
        "batch": batch,
        "fwd_out": learner.module["player_1"].forward_train(batch),
    }
    names = ["policy_loss", "vf_loss", "vf_loss_unclipped", "entropy"]
    # RLlib's explained variance includes rows that are masked in the losses.
    names += ["mean_kl_loss"] if use_kl_loss else []
    names += [] if pool else ["vf_explained_var"]
    learner.metrics.reduce()
    expected = float(PPOTorchLearner.compute_loss_for_module(learner, **arguments))
    expected_parts = {name: float(learner.metrics.peek(("player_1", name))) for name in names}
    assert float(learner.compute_loss_for_module(**arguments)) == pytest.approx(expected, rel=1e-4)
    stats = {}
    loss = ppo_loss(
        learner.unwrapped("player_1"),
        batch,
        arguments["fwd_out"],
        arguments["config"],
        entropy_coeff=learner.entropy_coeff("player_1"),
        kl_coeff=learner.curr_kl_coeffs_per_module["player_1"],
        stats=stats,
    )
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    parts = {name: float(stats[name]) for name in names}
    assert parts == pytest.approx(expected_parts, rel=1e-3, abs=1e-5)
    is_clipped = expected_parts["vf_loss"] < 0.9 * expected_parts["vf_loss_unclipped"]
    assert is_clipped == (vf_clip_param < 1.0)


@pytest.mark.parametrize("minibatch_size", [None, 10, 96, 7])
def test_every_step_is_used_once_per_epoch(build, minibatch_size):
    algo = build(training_config({"player_0": "ppo", "player_1": "team/b"}))
    (sample,) = algo.env_runner.sample()
    batches = prepared(algo, sample)
    for columns in batches.values():
        columns["number"] = torch.arange(len(columns[Postprocessing.ADVANTAGES]))
    parts = list(minibatches(algo, batches, minibatch_size))
    for key in batches:
        numbers = torch.cat([part[key]["number"] for part in parts])
        assert torch.equal(numbers.sort().values, torch.arange(96))
        sizes = [len(part[key]["number"]) for part in parts]
        assert max(sizes) - min(sizes) <= 1
