"""Tests of masks of pools: steps of other pool members change no update."""

import numpy as np
import pytest

from tests.helpers.masks import (
    RUNS,
    assert_same,
    changed_keys,
    corrupt,
    learn,
    map_columns,
    masked_config,
    pooled_samples,
)
from tests.helpers.weights import weights


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ppo", {}),
        ("ppo", {"normalize_returns": True}),
        ("pg", {}),
        ("ac", {}),
        ("lio", {}),
        ("lio", {"normalize_advantages": True, "grad_clip": 0.1}),
        ("lio_ac", {}),
        ("reciprocator", {"normalize": True}),
        ("advantage_alignment", {}),
    ],
)
def test_pool_members_do_not_learn_from_steps_of_other_members(build, name, settings):
    """Covers normalized returns and rewards, whose statistics include only the member's steps."""
    settings = dict(settings)
    normalize = settings.pop("normalize", False)
    if settings.get("normalize_returns"):
        settings |= {"lambda_": 1.0, "bootstrap_at_horizon": False}

    def build_run():
        a_config = masked_config(name, **{key: value for key, value in settings.items() if key != "grad_clip"})
        a_config.training(grad_clip=settings.get("grad_clip"))
        if normalize:
            a_config.intrinsic("reciprocity", normalize=True)
        return build(a_config)

    algo, other_algo = build_run(), build_run()
    start = weights(algo)
    samples, other_member_masks = pooled_samples(algo)
    expected = learn(algo, *samples)
    other_samples = [
        corrupt(sample, mask, "player_1", 1) for sample, mask in zip(samples, other_member_masks, strict=True)
    ]
    actual = learn(other_algo, *other_samples)
    assert changed_keys(start, expected, "player_1/")
    assert not changed_keys(expected, actual, "player_1/")
    # The incentive function of the giver outside the pool is not trained on these steps either.
    if name.startswith("lio"):
        assert changed_keys(start, expected, "incentives/")
        assert_same(expected, actual, "incentives/functions", of_giver=0)


@pytest.mark.parametrize("player", ["lio", "lio_ac"])
def test_pooled_givers_do_not_learn_from_steps_of_other_members(build, player):
    """Covers its policy, its incentive function and its critic of extrinsic rewards."""
    players = {"player_0": {"pool": {player: 0.5, "scripted/random": 0.5}}, "player_1": player}
    algo, other_algo = (build(masked_config(player, players)) for _ in range(2))
    samples = [algo.sample() for _ in range(2)]
    other_member_masks = [sample.pool_members[..., 0] == 1 for sample in samples]
    start = weights(algo)
    expected = learn(algo, *samples)
    other_samples = [
        corrupt(sample, mask, "player_0", 0) for sample, mask in zip(samples, other_member_masks, strict=True)
    ]
    actual = learn(other_algo, *other_samples)
    assert changed_keys(start, expected, "player_0/")
    assert changed_keys(start, expected, "incentives/functions")
    assert not changed_keys(expected, actual, "player_0/")
    for prefix in ("incentives/functions", "incentives/critics")[: 2 if player == "lio_ac" else 1]:
        assert_same(expected, actual, prefix, of_giver=0)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("name", "other_member"),
    [
        ("ppo", "scripted/random"),
        ("ppo", "team/other"),
        ("pg", "scripted/random"),
        ("ac", "team/other"),
        ("lio", "scripted/random"),
        ("lio_ac", "scripted/random"),
    ],
)
def test_updates_of_a_pool_member_use_its_own_environments_only(build, name, other_member, whole):
    """Compares an update on all environments with one on the environments of the member."""
    settings = {"entropy_coeff": 0.1, "normalize_advantages": name == "ppo", "whole": whole}
    player = RUNS[name][1]
    players = {"player_0": player, "player_1": {"pool": {player: 0.5, other_member: 0.5}}}
    algo, other_algo = (build(masked_config(name, players, **settings)) for _ in range(2))
    samples, other_member_masks = pooled_samples(algo)
    start = weights(algo)
    expected = learn(algo, *samples)
    member_samples = [
        map_columns(sample, lambda column, *_, keep=~mask[:, 0]: column[keep])
        for sample, mask in zip(samples, other_member_masks, strict=True)
    ]
    actual = learn(other_algo, *member_samples)
    assert changed_keys(start, expected, "player_1/")
    for key in (key for key in expected if key.startswith("player_1/")):
        np.testing.assert_allclose(expected[key], actual[key], atol=2e-5, rtol=1e-3, err_msg=key)


@pytest.mark.parametrize("name", ["ppo", "ac"])
def test_pool_members_use_their_own_critics(build, name):
    """Changes the critic of the other member, and expects the same update of this one."""
    player = RUNS[name][1]
    players = {"player_0": player, "player_1": {"pool": {player: 0.5, "team/other": 0.5}}}
    algo, other_algo = (build(masked_config(name, players)) for _ in range(2))
    samples, _ = pooled_samples(algo, 1)
    state = other_algo.learner_group.get_weights()
    state["other"] = {key: 3.0 * value if key.startswith("critic") else value for key, value in state["other"].items()}
    other_algo.learner_group.set_weights(state)
    start, expected, actual = weights(algo), learn(algo, *samples), learn(other_algo, *samples)
    assert changed_keys(start, expected, "player_1/")
    assert not changed_keys(expected, actual, "player_1/")
    assert changed_keys(expected, actual, "other/")


def test_pool_members_with_and_without_critics(build):
    """Pools PPO with policy gradients, and expects the latter's update without a pool."""
    players = {"player_0": "ppo", "player_1": {"pool": {"team/critic": 0.5, "team/returns": 0.5}}}
    with pytest.raises(ValueError, match=r"team"):
        masked_config("ppo", {**players, "player_1": {"pool": {"tam": 1.0}}}).validate()
    pool = {"player_0": "ppo", "player_1": {"pool": {"ppo": 0.5, "pg": 0.5}}}
    plain = {"player_0": "ppo", "player_1": "pg"}
    pooled_algo, plain_algo = build(masked_config("ppo", pool)), build(masked_config("ppo", plain))
    samples, _ = pooled_samples(pooled_algo, 1)
    module_id = next(key for key in samples[0].modules if key not in ("player_0", "player_1"))
    playing_mask = samples[0].pool_members[:, 0, 1] == 1
    start = {
        key.partition("/")[2]: value for key, value in weights(pooled_algo).items() if key.startswith(f"{module_id}/")
    }
    state = plain_algo.learner_group.get_weights()
    state["player_1"] = {name: np.array(value) for name, value in start.items()}
    plain_algo.learner_group.set_weights(state)
    after = learn(pooled_algo, *samples)
    rows = map_columns(samples[0], lambda column, *_: column[playing_mask])
    rows.modules["player_1"], rows.pool_members = rows.modules.pop(module_id), None
    expected = learn(plain_algo, rows)
    for name, value in start.items():
        np.testing.assert_allclose(after[f"{module_id}/{name}"], expected[f"player_1/{name}"], atol=1e-6, rtol=1e-4)
        assert name.startswith("critic") or not np.array_equal(value, after[f"{module_id}/{name}"])
