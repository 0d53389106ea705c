"""Tests of masks: steps of other pool members, and steps after the end of an episode, change no update."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from rllib_reciprocator.engine.sample import Sample

import social_dilemmas
from rllib_reciprocator.algorithms.lio.lio import INCENTIVES_PHASE, POLICIES_PHASE
from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.evaluation import open_evaluator
from rllib_reciprocator.intrinsic.reciprocity import REWARDS, reciprocal_reward
from tests.helpers.games import COUNTDOWN
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


@pytest.fixture(autouse=True)
def countdown():
    social_dilemmas.register(COUNTDOWN)


def config(name, players=None, env="ipd_v0", games=32, whole=True, **training):
    run, player = RUNS[name]
    pooled = {"player_0": player, "player_1": {"pool": {player: 0.5, **POOL}}}
    default = algorithm_class(run).get_default_config()
    if run == "LIO":
        default.incentives(hiddens=[8]).training(updates_per_iteration=1)
    return (
        default.environment(env, env_config={"num_steps": 6})
        .players(players or pooled)
        .training(num_epochs=1, lr=0.05, grad_clip=None, **training)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=games, batch_mode="complete_episodes" if whole else "truncate_episodes")
        .debugging(seed=1)
    )


def learn(algo, *samples):
    """Trains on samples: LIO's policies on the first, its incentive functions on the second. Returns the weights."""
    if hasattr(algo, "_pending"):
        for phase, sample in zip((POLICIES_PHASE, INCENTIVES_PHASE), samples, strict=True):
            algo.learn(sample, phase=phase)
    else:
        algo.learn(samples[0])
    return weights(algo)


def map_columns(sample, function):
    """Returns a sample with the columns ``function(column, axis of steps, module id or None, name)``."""

    def columns(part, module_id, steps):
        return {name: function(column.clone(), steps, module_id, name) for name, column in part.items()}

    return Sample(
        modules={key: columns(part, key, 2) for key, part in sample.modules.items()},
        streams={key: columns(part, key, None) for key, part in sample.streams.items()},
        joint=columns(sample.joint, None, 1),
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
    other_member_masks = [sample.joint["members"][..., 1] == 1 for sample in samples]
    assert all(0.2 < float(mask.float().mean()) < 0.8 for mask in other_member_masks)
    return samples, other_member_masks


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
        a_config = config(name, **{key: value for key, value in settings.items() if key != "grad_clip"})
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


def assert_same(before, after, prefix, of_giver):
    for key in (key for key in before if key.startswith(prefix)):
        np.testing.assert_array_equal(before[key][of_giver], after[key][of_giver], err_msg=key)


@pytest.mark.parametrize("player", ["lio", "lio_ac"])
def test_pooled_givers_do_not_learn_from_steps_of_other_members(build, player):
    """Covers its policy, its incentive function and its critic of extrinsic rewards."""
    players = {"player_0": {"pool": {player: 0.5, "scripted/random": 0.5}}, "player_1": player}
    algo, other_algo = (build(config(player, players)) for _ in range(2))
    samples = [algo.sample() for _ in range(2)]
    other_member_masks = [sample.joint["members"][..., 0] == 1 for sample in samples]
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
    algo, other_algo = (build(config(name, players, **settings)) for _ in range(2))
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
    algo, other_algo = (build(config(name, players)) for _ in range(2))
    samples, _ = pooled_samples(algo, 1)
    state = other_algo.learner_group.get_weights()
    state["other"] = {key: 3.0 * value if key.startswith("critic") else value for key, value in state["other"].items()}
    other_algo.learner_group.set_weights(state)
    start, expected, actual = weights(algo), learn(algo, *samples), learn(other_algo, *samples)
    assert changed_keys(start, expected, "player_1/")
    assert not changed_keys(expected, actual, "player_1/")
    assert changed_keys(expected, actual, "other/")


@pytest.mark.parametrize("name", RUNS)
def test_steps_after_the_end_of_an_episode_change_no_update(build, name):
    """Covers policies, critics, influence estimators and incentive functions."""
    player = RUNS[name][1]

    def build_run():
        return build(config(name, {"player_*": player}, env="countdown_v0", games=24))

    algo, other_algo = build_run(), build_run()
    start = weights(algo)
    samples = [algo.sample() for _ in range(2)]
    after_end = [~sample.in_first_episode() for sample in samples]
    assert all(bool(mask.any()) for mask in after_end)
    expected = learn(algo, *samples)
    other_samples = [corrupt(sample, mask) for sample, mask in zip(samples, after_end, strict=True)]
    actual = learn(other_algo, *other_samples)
    assert changed_keys(start, expected)
    if name == "reciprocator":
        assert changed_keys(start, expected, "influence/")
    assert not changed_keys(expected, actual)


def test_pool_members_with_and_without_critics(build):
    """Pools PPO with policy gradients, and expects the latter's update without a pool."""
    players = {"player_0": "ppo", "player_1": {"pool": {"team/critic": 0.5, "team/returns": 0.5}}}
    with pytest.raises(ValueError, match=r"team"):
        config("ppo", {**players, "player_1": {"pool": {"tam": 1.0}}}).validate()
    pool = {"player_0": "ppo", "player_1": {"pool": {"ppo": 0.5, "pg": 0.5}}}
    pooled_algo, plain_algo = build(config("ppo", pool)), build(config("ppo", {"player_0": "ppo", "player_1": "pg"}))
    samples, _ = pooled_samples(pooled_algo, 1)
    module_id = next(key for key in samples[0].modules if key not in ("player_0", "player_1"))
    playing_mask = samples[0].joint["members"][:, 0, 1] == 1
    start = {
        key.partition("/")[2]: value for key, value in weights(pooled_algo).items() if key.startswith(f"{module_id}/")
    }
    state = plain_algo.learner_group.get_weights()
    state["player_1"] = {name: np.array(value) for name, value in start.items()}
    plain_algo.learner_group.set_weights(state)
    after = learn(pooled_algo, *samples)
    rows = map_columns(samples[0], lambda column, *_: column[playing_mask])
    rows.modules["player_1"], rows.streams["player_1"] = rows.modules.pop(module_id), rows.streams.pop(module_id)
    rows.joint.pop("members")
    expected = learn(plain_algo, rows)
    for name, value in start.items():
        np.testing.assert_allclose(after[f"{module_id}/{name}"], expected[f"player_1/{name}"], atol=1e-6, rtol=1e-4)
        assert name.startswith("critic") or not np.array_equal(value, after[f"{module_id}/{name}"])


def test_givers_in_pools_give_to_trained_members_only(build):
    pool = {"player_0": {"pool": {"lio": 0.5, "scripted/random": 0.5}}}
    players = {**pool, "player_1": {"pool": {"lio": 0.4, "pg": 0.3, "scripted/random": 0.3}}}
    algo = build(config("lio", players, games=200))
    sample = algo.sample()
    incentives, members = sample.joint["incentives"], sample.joint["members"]
    first_gives = members[..., 0] == 0
    second_gives, second_receives = members[..., 1] == 0, members[..., 1] < 2
    assert torch.equal(incentives[..., 0, 1] > 0, first_gives & second_receives)
    assert torch.equal(incentives[..., 1, 0] > 0, second_gives & first_gives)
    torch.testing.assert_close(sample.joint["received"], incentives.sum(-2))
    metrics = algo.metrics.peek(("env_runners", "incentives"))
    for pair, values in (
        ("player_0_to_player_1", incentives[..., 0, 1]),
        ("player_1_to_player_0", incentives[..., 1, 0]),
    ):
        assert float(metrics[pair]) == pytest.approx(float(values[values > 0].mean()), rel=1e-4)


def test_normalized_returns_with_complete_episodes(build):
    """Expects the same update with complete episodes, whose mask includes all steps, as with truncated ones."""
    settings = {"normalize_returns": True, "lambda_": 1.0, "bootstrap_at_horizon": False}
    final_weights = []
    for whole in (True, False):
        algo = build(config("ppo", {"player_*": "ppo"}, whole=whole, **settings))
        algo.train()
        final_weights.append(weights(algo))
    for key in final_weights[0]:
        np.testing.assert_allclose(final_weights[0][key], final_weights[1][key], atol=1e-5, err_msg=key)


def test_pooled_recipients_receive_incentives_in_evaluations(build, tmp_path):
    players = {"player_0": "lio", "player_1": {"pool": {"pg": 0.5, "scripted/random": 0.5}}}
    algo = build(config("lio", players))
    algo.train()
    path = algo.save_to_path(tmp_path / "run")
    report = open_evaluator(Path(path), {}, seed=1).evaluate(64)["players"]
    assert report["player_1"]["received"]["mean"] > 0.1
    assert report["player_0"]["given"]["mean"] > 0.1


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_masked_steps_are_not_counted(build):
    """Counts environment steps until the end of the episode, and module steps where the pool member plays."""
    algo = build(config("reciprocator", env="countdown_v0", games=64))
    result = algo.train()
    metrics = result["env_runners"]
    steps = int(metrics["num_env_steps_sampled"])
    assert steps < 64 * 6
    assert steps == int(result["num_env_steps_sampled_lifetime"])
    assert steps == pytest.approx(float(metrics["num_episodes"]) * float(metrics["episode_len_mean"]), abs=1e-3)
    by_member = metrics["pool"]["player_1"]
    shares = {key: float(value["share_of_steps"]) for key, value in by_member.items()}
    assert sum(shares.values()) == pytest.approx(1.0)
    for key, share in shares.items():
        assert int(metrics["num_module_steps_sampled"][key]) == round(share * steps)
    assert int(metrics["num_agent_steps_sampled"]["player_1"]) == steps
    learner_metrics = result["learners"]
    assert int(learner_metrics["player_1"]["num_module_steps_trained"]) == round(shares["player_1"] * steps)
    assert int(learner_metrics["player_0"]["num_module_steps_trained"]) == steps
    assert int(learner_metrics["__all_modules__"]["num_env_steps_trained"]) == steps


def test_reciprocal_reward_metrics_ignore_masked_steps(build):
    algo = build(config("reciprocator", env="countdown_v0", games=64))
    sample = algo.sample()
    algo.learn(sample)
    results = algo.metrics.peek(("learners", "player_1"))
    is_playing = sample.in_first_episode() & (sample.joint["members"][..., 1] == 0)
    rule = REWARDS[algo.config.intrinsic_of_all("reciprocity", algo.config.make_game()).reward]
    rewards = reciprocal_reward(sample.joint["balance"], sample.joint["given"], rule)[..., 1]
    assert float(results["reciprocal_reward_mean"]) == pytest.approx(
        float(rewards[is_playing].mean()), rel=1e-4, abs=1e-6
    )
    assert float(results["reciprocal_reward_std"]) == pytest.approx(
        float(rewards[is_playing].std(correction=0)), rel=1e-4, abs=1e-6
    )
    assert float(rewards[is_playing].std()) > 0.0
