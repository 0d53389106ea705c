"""Tests of rollouts: states in checkpoints, shards of learners, and parts of episodes."""

import pickle

import numpy as np
import pytest
import torch
import tree
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_reciprocator.engine import ModuleColumns, RolloutBatch
from rllib_reciprocator.engine.rollout_batch import concatenate

STEP_COLUMNS = ("actions", "rewards", "terminated", "truncated", "is_first", "time_left", "pool_members", "valid")
SEQUENCE_COLUMNS = ("memory_before", "last", "final", "extra")
COMPUTED = ("extrinsic", "shaped_rewards", "ends", "values", "next_values", "advantages", "value_targets")


def rollout(environments=6, steps=4, agents=2, *, pools=True, valid=True, memory=True, numbered=True, seed=0):
    """Returns a rollout of random columns, in which module ``team`` plays all agents and ``single`` the first one."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.rand(environments, *shape, generator=generator)

    def flags(*shape):
        return numbers(*shape) < 0.3

    def module(played):
        return ModuleColumns(
            steps={"obs": numbers(played, steps, 3), "actions": (4 * numbers(played, steps)).long()},
            memory_before={"h": numbers(played, 5)} if memory else {},
            last={"obs": numbers(played, 3)},
            final={"obs": numbers(played, 2, 3)},
            extra={"perturbation/seed": (1e6 * numbers(played)).long()},
        )

    return RolloutBatch(
        actions=(4 * numbers(steps, agents)).long(),
        rewards=numbers(steps, agents),
        terminated=flags(steps),
        truncated=flags(steps),
        is_first=flags(steps),
        time_left=numbers(steps),
        pool_members=(2 * numbers(steps, agents)).long() if pools else None,
        valid=flags(steps) if valid else None,
        environments=torch.randperm(environments, generator=generator) if numbered else None,
        columns={"balance": numbers(steps, agents, agents), "state": numbers(steps, 7)},
        modules={"team": module(agents), "single": module(1)},
        outcomes={"coins": flags(steps, agents)},
    )


def columns_of(batch):
    """Returns all columns by path; those that are None are missing."""
    parts = {name: value for name, value in vars(batch).items() if name != "modules" and value is not None}
    parts["modules"] = {module_id: vars(module) for module_id, module in batch.modules.items()}
    return {"/".join(map(str, path)): column for path, column in tree.flatten_with_path(parts)}


def assert_equal(batch, other):
    columns, other_columns = columns_of(batch), columns_of(other)
    assert columns.keys() == other_columns.keys()
    for path, column in columns.items():
        assert column.dtype == other_columns[path].dtype, path
        assert torch.equal(column, other_columns[path]), path


CHOICES = {"pools": st.booleans(), "valid": st.booleans(), "memory": st.booleans(), "numbered": st.booleans()}


@given(seed=st.integers(0, 99), **CHOICES)
@settings(max_examples=20, deadline=None)
def test_a_rollout_is_restored_from_its_state(seed, **choices):
    batch = rollout(seed=seed, **choices)
    state = pickle.loads(pickle.dumps(batch.get_state()))
    assert all(isinstance(column, np.ndarray) for column in tree.flatten(state))
    assert_equal(RolloutBatch.from_state(state), batch)


def test_the_state_contains_what_the_learner_computed():
    batch = rollout()
    for index, name in enumerate(COMPUTED):
        setattr(batch, name, batch.rewards + index)
    restored_batch = RolloutBatch.from_state(batch.get_state())
    assert_equal(restored_batch, batch)
    assert torch.equal(restored_batch.value_targets, batch.rewards + 6)


def layout_of_version_0_1(batch):
    """Returns the columns of a rollout as version 0.1 stored them."""
    joint = {name: getattr(batch, name) for name in STEP_COLUMNS if name != "pool_members"}
    joint |= {"members": batch.pool_members, **batch.columns}
    if batch.environments is not None:
        joint["environment"] = batch.environments[:, None].expand(batch.terminated.shape)
    prefixes = dict(zip(("state_in/", "last/", "final/", ""), SEQUENCE_COLUMNS, strict=True))
    state = {
        "modules": {module_id: module.steps for module_id, module in batch.modules.items()},
        "streams": {
            module_id: {
                f"{prefix}{name}": column
                for prefix, kind in prefixes.items()
                for name, column in getattr(module, kind).items()
            }
            for module_id, module in batch.modules.items()
        },
        "joint": {name: column for name, column in joint.items() if column is not None},
        "outcomes": batch.outcomes,
    }
    return tree.map_structure(lambda column: column.numpy(), state)


@given(seed=st.integers(0, 99), **CHOICES)
@settings(max_examples=20, deadline=None)
def test_a_rollout_is_restored_from_the_layout_of_version_0_1(seed, **choices):
    batch = rollout(seed=seed, **choices)
    state = layout_of_version_0_1(batch)
    names = {path: sorted(part) for path, part in state.items()}
    assert_equal(RolloutBatch.from_state(state), batch)
    assert {path: sorted(part) for path, part in state.items()} == names


def test_a_module_without_columns_per_sequence_is_restored_from_version_0_1():
    state = layout_of_version_0_1(rollout())
    state["streams"].pop("single")
    module = RolloutBatch.from_state(state).modules["single"]
    assert module.steps.keys() == {"obs", "actions"}
    assert not any(getattr(module, kind) for kind in SEQUENCE_COLUMNS)


@given(count=st.integers(1, 4), size=st.integers(1, 3), seed=st.integers(0, 99), **CHOICES)
@settings(max_examples=30, deadline=None)
def test_shards_are_concatenated_to_the_whole_rollout(count, size, seed, **choices):
    batch = rollout(environments=count * size, seed=seed, **choices)
    shards = batch.shard(count)
    assert [len(shard.rewards) for shard in shards] == [size] * count
    assert all(column.is_contiguous() for shard in shards for column in columns_of(shard).values())
    assert sum(len(shard) for shard in shards) == len(batch)
    assert_equal(concatenate(shards), batch)


def test_the_first_environments_are_a_shard():
    batch = rollout(environments=6)
    assert_equal(batch.first_environments(3), batch.shard(2)[0])


@given(parts=st.integers(1, 3), length=st.integers(1, 3), **CHOICES)
@settings(max_examples=30, deadline=None)
def test_parts_of_episodes_are_rows(parts, length, **choices):
    """Expects part m of environment b in row ``b * parts + m``, without columns per sequence."""
    batch = rollout(environments=2, steps=parts * length, agents=3, **choices)
    split = batch.split_episodes(parts)
    assert split.rewards.shape == (2 * parts, length, 3)
    assert split.modules["team"].steps["obs"].shape == (2 * parts, 3, length, 3)
    assert split.environments is None
    for b in range(2):
        for m in range(parts):
            row, steps = b * parts + m, slice(m * length, (m + 1) * length)
            for name in STEP_COLUMNS:
                column = getattr(batch, name)
                assert (column is None) == (getattr(split, name) is None)
                assert column is None or torch.equal(getattr(split, name)[row], column[b, steps])
            for kind in ("columns", "outcomes"):
                for name, column in getattr(batch, kind).items():
                    assert torch.equal(getattr(split, kind)[name][row], column[b, steps])
            for module_id, module in batch.modules.items():
                for name, column in module.steps.items():
                    assert torch.equal(split.modules[module_id].steps[name][row], column[b, :, steps])
                assert not any(getattr(split.modules[module_id], kind) for kind in SEQUENCE_COLUMNS)


@pytest.mark.parametrize("valid", [True, False])
def test_steps_that_count(valid):
    batch = rollout(environments=5, steps=3, agents=2, valid=valid)
    steps = int(batch.valid.sum()) if valid else 15
    assert batch.env_steps() == len(batch) == steps
    assert batch.agent_steps() == 2 * steps
    assert repr(batch) == "RolloutBatch(5 environments, 3 steps, 2 agents)"


def test_the_first_episode_includes_its_last_step():
    batch = rollout(environments=3, steps=4)
    batch.terminated = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)
    batch.truncated = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert batch.in_first_episode().int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
