"""The steps that other pool members play, and those after the end of an episode, change nothing that is learned."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

import social_dilemmas
from rllib_reciprocator.algorithms.lio.lio import INCENTIVES_PHASE, POLICIES_PHASE
from rllib_reciprocator.algorithms.registry import algorithm_class
from rllib_reciprocator.engine.sample import Sample
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
    """Learns from samples: LIO's policies from the first, its incentive functions from the second."""
    if hasattr(algo, "_pending"):
        for phase, sample in zip((POLICIES_PHASE, INCENTIVES_PHASE), samples, strict=True):
            algo.learn(sample, phase=phase)
    else:
        algo.learn(samples[0])
    return weights(algo)


def mapped(sample, function):
    """A sample with other columns: ``function(column, axis of steps, module id or None, name)``."""

    def columns(part, module_id, steps):
        return {name: function(column.clone(), steps, module_id, name) for name, column in part.items()}

    return Sample(
        modules={key: columns(part, key, 2) for key, part in sample.modules.items()},
        streams={key: columns(part, key, None) for key, part in sample.streams.items()},
        joint=columns(sample.joint, None, 1),
        outcomes=columns(sample.outcomes, None, 1),
    )


def spoiled(sample, where, module_id=None, agent=None):
    """A sample with other observations, actions and rewards in some steps, ``[B, T]``, of one module or of all."""

    def spoil(column, steps, of_module, name):
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
                mask[..., [other for other in range(column.shape[-1]) if other != agent]] = False
            return torch.where(mask, 7.0 - 3.0 * column, column)
        return column

    return mapped(sample, spoil)


def changed(before, after, prefix=""):
    return [key for key in before if key.startswith(prefix) and not np.array_equal(before[key], after[key])]


def pooled_samples(algo, count=2):
    samples = [algo.sample() for _ in range(count)]
    elsewhere = [sample.joint["members"][..., 1] == 1 for sample in samples]
    assert all(0.2 < float(mask.float().mean()) < 0.8 for mask in elsewhere)
    return samples, elsewhere


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
def test_a_pool_member_learns_nothing_from_steps_that_others_play(build, name, settings):
    """Also with standardised returns and rewards, whose statistics are the member's own."""
    settings = dict(settings)
    normalize = settings.pop("normalize", False)
    if settings.get("normalize_returns"):
        settings |= {"lambda_": 1.0, "bootstrap_at_horizon": False}

    def fresh():
        a_config = config(name, **{key: value for key, value in settings.items() if key != "grad_clip"})
        a_config.training(grad_clip=settings.get("grad_clip"))
        if normalize:
            a_config.intrinsic("reciprocity", normalize=True)
        return build(a_config)

    one, other = fresh(), fresh()
    start = weights(one)
    samples, elsewhere = pooled_samples(one)
    plain = learn(one, *samples)
    other_samples = [spoiled(sample, mask, "player_1", 1) for sample, mask in zip(samples, elsewhere, strict=True)]
    after = learn(other, *other_samples)
    assert changed(start, plain, "player_1/")
    assert not changed(plain, after, "player_1/")
    # The incentive functions of the giver that is in no pool do not look there either.
    if name.startswith("lio"):
        assert changed(start, plain, "incentives/")
        assert_same(plain, after, "incentives/functions", of_giver=0)


def assert_same(before, after, prefix, of_giver):
    for key in (key for key in before if key.startswith(prefix)):
        np.testing.assert_array_equal(before[key][of_giver], after[key][of_giver], err_msg=key)


@pytest.mark.parametrize("player", ["lio", "lio_ac"])
def test_a_pooled_giver_learns_nothing_from_steps_that_others_play(build, player):
    """Neither its policy nor its incentive function and its critic of extrinsic rewards."""
    players = {"player_0": {"pool": {player: 0.5, "scripted/random": 0.5}}, "player_1": player}
    one, other = (build(config(player, players)) for _ in range(2))
    samples = [one.sample() for _ in range(2)]
    elsewhere = [sample.joint["members"][..., 0] == 1 for sample in samples]
    start = weights(one)
    plain = learn(one, *samples)
    spoiled_samples = [spoiled(sample, mask, "player_0", 0) for sample, mask in zip(samples, elsewhere, strict=True)]
    after = learn(other, *spoiled_samples)
    assert changed(start, plain, "player_0/")
    assert changed(start, plain, "incentives/functions")
    assert not changed(plain, after, "player_0/")
    for prefix in ("incentives/functions", "incentives/critics")[: 2 if player == "lio_ac" else 1]:
        assert_same(plain, after, prefix, of_giver=0)


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
def test_a_pool_member_learns_as_if_there_were_only_its_own_environments(build, name, other_member, whole):
    """Steps, statistics, baselines and values: learning from all environments is learning from those of the member."""
    settings = {"entropy_coeff": 0.1, "normalize_advantages": name == "ppo", "whole": whole}
    player = RUNS[name][1]
    players = {"player_0": player, "player_1": {"pool": {player: 0.5, other_member: 0.5}}}
    one, other = (build(config(name, players, **settings)) for _ in range(2))
    samples, elsewhere = pooled_samples(one)
    start = weights(one)
    plain = learn(one, *samples)
    alone = [
        mapped(sample, lambda column, *_, keep=~mask[:, 0]: column[keep])
        for sample, mask in zip(samples, elsewhere, strict=True)
    ]
    after = learn(other, *alone)
    assert changed(start, plain, "player_1/")
    for key in (key for key in plain if key.startswith("player_1/")):
        np.testing.assert_allclose(plain[key], after[key], atol=2e-5, rtol=1e-3, err_msg=key)


@pytest.mark.parametrize("name", ["ppo", "ac"])
def test_a_pool_member_learns_by_its_own_critic(build, name):
    """Another critic of the other member changes nothing of what this one learns."""
    player = RUNS[name][1]
    players = {"player_0": player, "player_1": {"pool": {player: 0.5, "team/other": 0.5}}}
    one, other = (build(config(name, players)) for _ in range(2))
    samples, _ = pooled_samples(one, 1)
    state = other.learner_group.get_weights()
    state["other"] = {key: 3.0 * value if key.startswith("critic") else value for key, value in state["other"].items()}
    other.learner_group.set_weights(state)
    start, plain, after = weights(one), learn(one, *samples), learn(other, *samples)
    assert changed(start, plain, "player_1/")
    assert not changed(plain, after, "player_1/")
    assert changed(plain, after, "other/")


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_learned_from_steps_after_the_end(build, name):
    """Neither by policies and critics nor by estimators and incentive functions."""
    player = RUNS[name][1]

    def fresh():
        return build(config(name, {"player_*": player}, env="countdown_v0", games=24))

    one, other = fresh(), fresh()
    start = weights(one)
    samples = [one.sample() for _ in range(2)]
    after_end = [~sample.in_first_episode() for sample in samples]
    assert all(bool(mask.any()) for mask in after_end)
    plain = learn(one, *samples)
    spoiled_samples = [spoiled(sample, mask) for sample, mask in zip(samples, after_end, strict=True)]
    after = learn(other, *spoiled_samples)
    assert changed(start, plain)
    if name == "reciprocator":
        assert changed(start, plain, "influence/")
    assert not changed(plain, after)


def test_members_of_a_pool_keep_their_own_discounts_and_critics(build):
    """A critic's advantages and discounted returns in one pool are those of either member alone."""
    players = {"player_0": "ppo", "player_1": {"pool": {"team/critic": 0.5, "team/returns": 0.5}}}
    with pytest.raises(ValueError, match=r"team"):
        config("ppo", {**players, "player_1": {"pool": {"tam": 1.0}}}).validate()
    pool = {"player_0": "ppo", "player_1": {"pool": {"ppo": 0.5, "pg": 0.5}}}
    pooled, alone = build(config("ppo", pool)), build(config("ppo", {"player_0": "ppo", "player_1": "pg"}))
    samples, _ = pooled_samples(pooled, 1)
    module_id = next(key for key in samples[0].modules if key not in ("player_0", "player_1"))
    plays = samples[0].joint["members"][:, 0, 1] == 1
    start = {key.partition("/")[2]: value for key, value in weights(pooled).items() if key.startswith(f"{module_id}/")}
    state = alone.learner_group.get_weights()
    state["player_1"] = {name: np.array(value) for name, value in start.items()}
    alone.learner_group.set_weights(state)
    after = learn(pooled, *samples)
    rows = mapped(samples[0], lambda column, *_: column[plays])
    rows.modules["player_1"], rows.streams["player_1"] = rows.modules.pop(module_id), rows.streams.pop(module_id)
    rows.joint.pop("members")
    expected = learn(alone, rows)
    for name, value in start.items():
        np.testing.assert_allclose(after[f"{module_id}/{name}"], expected[f"player_1/{name}"], atol=1e-6, rtol=1e-4)
        assert name.startswith("critic") or not np.array_equal(value, after[f"{module_id}/{name}"])


def test_in_a_pool_only_the_member_that_learns_to_gives_and_only_trained_members_are_given_to(build):
    pool = {"player_0": {"pool": {"lio": 0.5, "scripted/random": 0.5}}}
    players = {**pool, "player_1": {"pool": {"lio": 0.4, "pg": 0.3, "scripted/random": 0.3}}}
    algo = build(config("lio", players, games=200))
    sample = algo.sample()
    incentives, members = sample.joint["incentives"], sample.joint["members"]
    first_gives = members[..., 0] == 0
    second_gives, second_is_given_to = members[..., 1] == 0, members[..., 1] < 2
    assert torch.equal(incentives[..., 0, 1] > 0, first_gives & second_is_given_to)
    assert torch.equal(incentives[..., 1, 0] > 0, second_gives & first_gives)
    torch.testing.assert_close(sample.joint["received"], incentives.sum(-2))
    logged = algo.metrics.peek(("env_runners", "incentives"))
    for pair, values in (
        ("player_0_to_player_1", incentives[..., 0, 1]),
        ("player_1_to_player_0", incentives[..., 1, 0]),
    ):
        assert float(logged[pair]) == pytest.approx(float(values[values > 0].mean()), rel=1e-4)


def test_standardised_returns_with_complete_episodes(build):
    """Without pools the mask is one of steps; that of all steps changes nothing."""
    settings = {"normalize_returns": True, "lambda_": 1.0, "bootstrap_at_horizon": False}
    trained = []
    for whole in (True, False):
        algo = build(config("ppo", {"player_*": "ppo"}, whole=whole, **settings))
        algo.train()
        trained.append(weights(algo))
    for key in trained[0]:
        np.testing.assert_allclose(trained[0][key], trained[1][key], atol=1e-5, err_msg=key)


def test_pooled_recipients_are_given_to_in_evaluations(build, tmp_path):
    players = {"player_0": "lio", "player_1": {"pool": {"pg": 0.5, "scripted/random": 0.5}}}
    algo = build(config("lio", players))
    algo.train()
    path = algo.save_to_path(tmp_path / "run")
    report = open_evaluator(Path(path), {}, seed=1).evaluate(64)["players"]
    assert report["player_1"]["received"]["mean"] > 0.1
    assert report["player_0"]["given"]["mean"] > 0.1


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_steps_are_counted_where_they_count(build):
    """Of environments before the end of their episode, of pool members in the environments that they play."""
    algo = build(config("reciprocator", env="countdown_v0", games=64))
    result = algo.train()
    sampled = result["env_runners"]
    steps = int(sampled["num_env_steps_sampled"])
    assert steps < 64 * 6
    assert steps == int(result["num_env_steps_sampled_lifetime"])
    assert steps == pytest.approx(float(sampled["num_episodes"]) * float(sampled["episode_len_mean"]), abs=1e-3)
    by_member = sampled["pool"]["player_1"]
    shares = {key: float(value["share_of_steps"]) for key, value in by_member.items()}
    assert sum(shares.values()) == pytest.approx(1.0)
    for key, share in shares.items():
        assert int(sampled["num_module_steps_sampled"][key]) == round(share * steps)
    assert int(sampled["num_agent_steps_sampled"]["player_1"]) == steps
    trained = result["learners"]
    assert int(trained["player_1"]["num_module_steps_trained"]) == round(shares["player_1"] * steps)
    assert int(trained["player_0"]["num_module_steps_trained"]) == steps
    assert int(trained["__all_modules__"]["num_env_steps_trained"]) == steps


def test_the_reciprocal_reward_is_logged_over_the_steps_that_count(build):
    algo = build(config("reciprocator", env="countdown_v0", games=64))
    sample = algo.sample()
    algo.learn(sample)
    results = algo.metrics.peek(("learners", "player_1"))
    plays = sample.in_first_episode() & (sample.joint["members"][..., 1] == 0)
    rule = REWARDS[algo.config.intrinsic_of_all("reciprocity", algo.config.make_game()).reward]
    rewards = reciprocal_reward(sample.joint["balance"], sample.joint["given"], rule)[..., 1]
    assert float(results["reciprocal_reward_mean"]) == pytest.approx(float(rewards[plays].mean()), rel=1e-4, abs=1e-6)
    assert float(results["reciprocal_reward_std"]) == pytest.approx(
        float(rewards[plays].std(correction=0)), rel=1e-4, abs=1e-6
    )
    assert float(rewards[plays].std()) > 0.0
