"""Runs with masked steps, and rollouts with changed columns."""

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.engine import ModuleColumns, RolloutBatch
from rllib_reciprocator.engine.update_rule import LEARN, LOOK_AHEAD
from tests.helpers.weights import weights

POOL = {"scripted/random": 0.5}
RUNS = {
    "ppo": ("Reciprocator", "ppo"),
    "reciprocator": ("Reciprocator", "reciprocator"),
    "pg": ("Reciprocator", "pg"),
    "ac": ("Reciprocator", "ac"),
    "lio": ("LIO", "lio"),
    "lio_ac": ("LIO", "lio_ac"),
    "advantage_alignment": ("AdvantageAlignment", "advantage_alignment"),
}
STEP_COLUMNS = ("actions", "rewards", "terminated", "truncated", "is_first", "time_left", "pool_members", "valid")


def masked_config(name, players=None, env="ipd_v0", games=32, whole=True, **training):
    run, player = RUNS[name]
    pool_players = {"player_0": player, "player_1": {"pool": {player: 0.5, **POOL}}}
    default = algorithm_class(run).get_default_config()
    if run == "LIO":
        default.incentives(hiddens=[8]).training(updates_per_iteration=1)
    return (
        default.environment(env, env_config={"num_steps": 6})
        .players(players or pool_players)
        .training(num_epochs=1, lr=0.05, grad_clip=None, **training)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=games, batch_mode="complete_episodes" if whole else "truncate_episodes")
        .debugging(seed=1)
    )


def learn(algo, *samples):
    """Trains on samples: LIO's policies on the first, its incentive functions on the second. Returns the weights."""
    if algo.config.update_phases() == [LEARN, LOOK_AHEAD]:
        for phase, sample in zip((LEARN, LOOK_AHEAD), samples, strict=True):
            algo.learn(sample, phase=phase)
    else:
        algo.learn(samples[0])
    return weights(algo)


def map_columns(sample, function):
    """Returns a sample with the columns ``function(column, axis of steps, module id or None, name)``."""

    def columns(part, module_id, steps):
        return {name: function(column.clone(), steps, module_id, name) for name, column in part.items()}

    steps = {name: getattr(sample, name) for name in STEP_COLUMNS if getattr(sample, name) is not None}
    return RolloutBatch(
        **columns(steps, None, 1),
        columns=columns(sample.columns, None, 1),
        modules={
            key: ModuleColumns(
                **{kind: columns(part, key, 2 if kind == "steps" else None) for kind, part in vars(module).items()}
            )
            for key, module in sample.modules.items()
        },
        outcomes=columns(sample.outcomes, None, 1),
    )


def corrupt(sample, where, module_id=None, agent=None):
    """Returns a sample with changed observations, actions and rewards of one module, or of all modules.

    ``where`` is the mask of the changed steps, ``[B, T]``.
    """

    def corrupt_column(column, steps, of_module, name):
        if steps is None or (module_id and of_module not in (module_id, None)):
            return column
        if of_module is not None and name in (Columns.OBS, Columns.ACTION_LOGP, Columns.ACTION_DIST_INPUTS):
            mask = where[:, None].expand(column.shape[:3]).view(*column.shape[:3], *[1] * (column.dim() - 3))
            return torch.where(mask, -column - 1.0 if column.is_floating_point() else column.flip(0), column)
        if of_module is not None and name == Columns.ACTIONS:
            return torch.where(where[:, None].expand_as(column), 1 - column, column)
        if name in ("balance", "given"):
            return torch.where(where[..., None, None].expand_as(column), 1.0 + 3.0 * column, column)
        if name == "rewards":
            mask = where[..., None].expand_as(column).clone()
            if agent is not None:
                mask[..., [index for index in range(column.shape[-1]) if index != agent]] = False
            return torch.where(mask, 7.0 - 3.0 * column, column)
        return column

    return map_columns(sample, corrupt_column)


def changed_keys(before, after, prefix=""):
    return [key for key in before if key.startswith(prefix) and not np.array_equal(before[key], after[key])]


def pooled_samples(algo, count=2):
    samples = [algo.sample() for _ in range(count)]
    other_member_masks = [sample.pool_members[..., 1] == 1 for sample in samples]
    assert all(0.2 < float(mask.float().mean()) < 0.8 for mask in other_member_masks)
    return samples, other_member_masks


def assert_same(before, after, prefix, of_giver):
    for key in (key for key in before if key.startswith(prefix)):
        np.testing.assert_array_equal(before[key][of_giver], after[key][of_giver], err_msg=key)
