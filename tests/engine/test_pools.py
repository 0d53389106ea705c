"""Tests of pools of players: draws of members, and steps of other members in losses."""

import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from tests.helpers.batches import prepared
from tests.helpers.training import pooled, training_config


def test_each_environment_draws_a_pool_member(build):
    players = pooled(scripted__always_defect=0.25, ppo=0.75)
    a_config = training_config(players, env="ipd_v0", games=4000)
    algo = build(a_config)
    result = algo.train()
    (sample,) = algo.env_runner.sample()
    members = sample.pool_members[..., 1]
    assert torch.equal(members, members[:, :1].expand_as(members))
    assert float((members == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    # The scripted member always defects in its environments, and the learner masks its steps.
    assert (sample.actions[..., 1][members == 0] == 1).all()
    assert (sample.actions[..., 1][members == 1] == 0).any()
    batch = prepared(algo, sample)["player_1"]
    assert torch.equal(batch[Columns.LOSS_MASK], (members == 1).flatten())
    advantages = batch[Postprocessing.ADVANTAGES][batch[Columns.LOSS_MASK]]
    assert float(advantages.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(advantages.std(correction=0)) == pytest.approx(1.0, abs=1e-3)
    by_member = result["env_runners"]["pool"]["player_1"]
    assert float(by_member["player_1+always_defect"]["share_of_steps"]) == pytest.approx(0.25, abs=0.03)
    whole = float(result["env_runners"]["reward_per_step"]["player_0"])
    parts = [
        float(metrics["share_of_steps"]) * float(metrics["reward_per_step"]["player_0"])
        for metrics in by_member.values()
    ]
    assert sum(parts) == pytest.approx(whole, abs=1e-4)


def test_pool_members_change_between_episodes_only(build):
    algo = build(training_config(pooled(scripted__random=0.5, ppo=0.5), env="countdown_v0", fragment=5, games=64))
    samples = [algo.env_runner.sample()[0] for _ in range(4)]
    members = torch.cat([sample.pool_members[..., 1] for sample in samples], 1)
    first = torch.cat([sample.is_first for sample in samples], 1)
    changes = members[:, 1:] != members[:, :-1]
    assert changes.any()
    assert not (changes & ~first[:, 1:]).any()


def test_two_pool_members_with_balances_raise(build, tmp_path):
    path = build(training_config(games=4)).save_to_path(tmp_path / "run")
    frozen = f"checkpoint__{path}"
    with pytest.raises(ValueError, match=r"players.player_1.pool: more than one member uses reciprocity"):
        training_config(pooled(**{frozen: 0.5, "reciprocator": 0.5})).validate()


def test_losses_ignore_steps_of_other_pool_members(build):
    algo = build(training_config(pooled(scripted__always_defect=0.5, ppo=0.5), env="ipd_v0", games=64))
    (sample,) = algo.env_runner.sample()
    learner = algo.learner_group._learner
    batch = prepared(algo, sample)["player_1"]
    loss = lambda columns: float(  # noqa: E731
        learner.compute_loss_for_module(
            module_id="player_1",
            config=learner.config.get_config_for_module("player_1"),
            batch=columns,
            fwd_out=learner.module["player_1"].forward_train(columns),
        )
    )
    mask = batch[Columns.LOSS_MASK]
    masked_batch = {name: value[mask] for name, value in batch.items()}
    assert loss(batch) == pytest.approx(loss(masked_batch), abs=1e-5)
    changed_batch = {**batch, Postprocessing.ADVANTAGES: torch.where(mask, batch[Postprocessing.ADVANTAGES], 99.0)}
    assert loss(changed_batch) == pytest.approx(loss(batch), abs=1e-5)
