import numpy as np
import pytest
import torch
from pydantic import ValidationError
from ray.rllib.core.columns import Columns

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.models.actor_critic import OBSERVATIONS
from rllib_reciprocator.players import KNOWN_LEARNERS, LearningModule, LearningSettings, described_learner
from rllib_reciprocator.players.learning import learned_from
from tests.helpers.weights import assert_same_weights

GROUPS, COPIES, STEPS = 3, 4, 5


def build_module(env="ipd_v0", copies=COPIES, groups=GROUPS, seed=0, **settings):
    game = social_dilemmas.make(env, groups * copies, num_steps=STEPS)
    policy = LearningModule(
        observation_space=game.observation_space,
        action_space=game.action_space,
        model_config={
            "learning": LearningSettings.model_validate(settings).model_dump(),
            "copies": copies,
            OBSERVATIONS: None if game.observations is None else game.observations.tolist(),
        },
    )
    policy.restart(groups * copies, torch.Generator().manual_seed(seed))
    return game, policy


def episode(game, seed):
    """Samples an episode of random actions; returns observations, actions and rewards of agent 1, ``[B, T, ..]``."""
    generator, obs, steps = torch.Generator().manual_seed(seed), game.reset(seed=seed), []
    for _ in range(STEPS):
        actions = torch.randint(int(game.action_space.n), (game.num_games, 2), generator=generator)
        step = game.step(actions)
        steps.append((obs[:, 1], actions[:, 1], step.rewards[:, 1]))
        obs = step.obs
    return [torch.stack(column, 1) for column in zip(*steps, strict=True)]


SETTINGS = [
    ("ipd_v0", {"initial_std": 1.0}),
    ("ipd_v0", {"algorithm": "a2c", "optimizer": "adam", "lr": 0.1, "initial_std": 1.0, "lambda": 0.9}),
    ("ipd_v0", {"model_config": {"fcnet_hiddens": [8]}, "lr": 0.1, "grad_clip": 0.05}),
    ("coins_v0", {"algorithm": "a2c", "model_config": {"conv_filters": [4], "fcnet_hiddens": [8]}, "lr": 0.1}),
    ("cleanup_v0", {"algorithm": "a2c", "model_config": {"fcnet_hiddens": [8]}, "optimizer": "adam", "lr": 0.01}),
    ("cleanup_v0", {"model_config": {"conv_filters": [4], "fcnet_hiddens": [8]}, "entropy_coeff": 0.1, "lr": 0.1}),
]


@pytest.mark.parametrize(("env", "settings"), SETTINGS)
def test_groups_learn_independently(env, settings):
    game, joint_policy = build_module(env, **settings)
    single_game, _ = build_module(env, groups=1, **settings)
    initial_params = joint_policy.learned()["parameters"]
    rounds = [episode(game, seed) for seed in (1, 2)]
    for values in rounds:
        joint_policy.learn(*values)
    logits = joint_policy._forward({Columns.OBS: rounds[0][0][:, 0]})[Columns.ACTION_DIST_INPUTS]
    assert not logits.requires_grad
    for group in range(GROUPS):
        _, single_policy = build_module(env, groups=1, **settings)
        single_policy.take(
            {
                "parameters": {name: param[group : group + 1] for name, param in initial_params.items()},
                "optimizer": single_policy.learned()["optimizer"],
            }
        )
        rows = slice(group * COPIES, (group + 1) * COPIES)
        for values in rounds:
            single_policy.learn(*(column[rows] for column in values))
        single_logits = single_policy._forward({Columns.OBS: rounds[0][0][rows, 0]})[Columns.ACTION_DIST_INPUTS]
        torch.testing.assert_close(single_logits, logits[rows], atol=1e-5, rtol=1e-5)
        for name, values in joint_policy.learned()["parameters"].items():
            assert not torch.equal(values[group], initial_params[name][group]), name
            torch.testing.assert_close(
                single_policy.learned()["parameters"][name][0], values[group], atol=1e-5, rtol=1e-5
            )
    assert single_game.num_games == COPIES


def test_a_step_of_a_table_by_hand():
    """Checks one step of one environment: the logit of defection changes by ``lr * (action - p) * reward``."""
    game, table = build_module(copies=1, groups=2, lr=0.5, gamma=1.0, normalize_advantages=False)
    game = social_dilemmas.make("ipd_v0", 2, num_steps=1)
    obs, actions = game.reset(), torch.tensor([[0, 1], [0, 0]])
    rewards = game.step(actions).rewards
    table.learn(obs[:, None, 1], actions[:, 1:], rewards[:, 1:])
    logits = table.learned()["parameters"]["logits"][..., 0]
    # The reward is 0 for defecting alone and -1 for mutual cooperation.
    assert logits[:, 0].tolist() == [0.5 * 0.5 * 0.0, 0.5 * -0.5 * -1.0]
    assert not logits[:, 1:].any()


def test_advantages_by_hand():
    rewards = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    plain = LearningSettings(gamma=0.5, normalize_advantages=False)
    advantages, targets = learned_from(rewards, torch.zeros_like(rewards), plain)
    assert targets.tolist() == [[[2.0, 2.0], [6.0, 6.0]]]
    assert advantages.tolist() == [[[-2.0, -2.0], [2.0, 2.0]]]
    values = torch.tensor([[[1.0, 1.0], [2.0, 2.0]]])
    critic = LearningSettings.model_validate(
        {"algorithm": "a2c", "gamma": 0.5, "lambda": 0.0, "normalize_advantages": False}
    )
    advantages, targets = learned_from(rewards, values, critic)
    assert advantages.tolist() == [[[1.0 + 0.5 - 1.0, 2.0 - 1.0], [3.0 + 1.0 - 2.0, 6.0 - 2.0]]]
    assert targets.tolist() == (advantages + values).tolist()
    advantages, _ = learned_from(rewards, values, LearningSettings(gamma=0.5))
    assert float(advantages.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(advantages.square().mean()) == pytest.approx(1.0, abs=1e-3)


def test_networks_are_reset_per_meta_episode_and_depend_on_the_seed_only():
    settings = {"model_config": {"fcnet_hiddens": [8]}}
    _, policy = build_module(seed=1, **settings)
    _, same_policy = build_module(seed=1, **settings)
    params = policy.learned()["parameters"]
    for name, param in same_policy.learned()["parameters"].items():
        assert torch.equal(param, params[name])
    weight = next(name for name in params if name.endswith("head.weight"))
    assert len(params[weight].flatten(1).unique(dim=0)) == GROUPS
    policy.restart(GROUPS * COPIES, torch.Generator().manual_seed(2))
    assert not torch.equal(policy.learned()["parameters"][weight], params[weight])


def test_naive_learners_end_in_mutual_defection():
    game, first = build_module(copies=16, groups=8)
    _, second = build_module(copies=16, groups=8)
    generator = torch.Generator().manual_seed(0)
    rates = []
    for _ in range(20):
        obs, steps = game.reset(), []
        for _ in range(STEPS):
            logits = [
                learner._forward({Columns.OBS: obs[:, k]})[Columns.ACTION_DIST_INPUTS][:, 0]
                for k, learner in enumerate((first, second))
            ]
            actions = (torch.rand(len(obs), 2, generator=generator) < torch.stack(logits, 1).sigmoid()).long()
            step = game.step(actions)
            steps.append((obs, actions, step.rewards))
            obs = step.obs
        all_obs, all_actions, all_rewards = (torch.stack(column, 1) for column in zip(*steps, strict=True))
        for k, learner in enumerate((first, second)):
            learner.learn(all_obs[:, :, k], all_actions[..., k], all_rewards[..., k])
        rates.append(1.0 - float(all_actions.float().mean()))
    assert rates[0] == pytest.approx(0.5, abs=0.1)
    assert rates[-1] < 0.1


# --- with other algorithms ------------------------------------------------------------------------------------------


def config_with_reciprocator(**settings):
    return (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": STEPS})
        .players({"player_0": "reciprocator", "player_1": "learner/a2c"})
        .meta(inner_episodes=3, copies=4)
        .env_runners(num_envs_per_env_runner=16)
        .debugging(seed=1)
        .training(num_epochs=1, **settings)
    )


def test_restored_run_is_bit_exact_in_the_middle_of_a_meta_episode(build, tmp_path):
    original = build(config_with_reciprocator())
    original.train()
    original.train()
    original.save_to_path(tmp_path)
    expected = [original.train()["env_runners"] for _ in range(3)]
    for number, result in enumerate(expected):
        rates = result["inner_episodes"]["player_1"]["cooperation_rate"]
        assert [name for name, rate in rates.items() if np.isfinite(rate)] == [str((2 + number) % 3)]
    restored_algo = build(config_with_reciprocator())
    restored_algo.restore_from_path(tmp_path)
    for result in expected:
        restored_result = restored_algo.train()["env_runners"]
        assert restored_result["outcomes"] == result["outcomes"]
        for name, by_number in restored_result["inner_episodes"]["player_1"].items():
            for number, value in by_number.items():
                np.testing.assert_equal(value, result["inner_episodes"]["player_1"][name][number])
    assert_same_weights(original, restored_algo)


@pytest.mark.processes
def test_env_runners_have_separate_online_learners(build):
    config = config_with_reciprocator().env_runners(num_env_runners=2)
    result = build(config).train()["env_runners"]
    assert result["num_env_steps_sampled"] == 2 * 16 * STEPS


@pytest.mark.parametrize(
    ("env", "name", "settings", "message"),
    [
        ("coins_v0", "pg", {}, "learning_players.pg.model_config: missing; coins_v0 has too many observations"),
        ("ipd_v0", "pg", {"model_config": {"use_gru": True}}, "learning_players.pg.model_config: use_gru"),
        ("ipd_v0", "pg", {"model_config": {"conv_filters": [4]}}, "learning_players.pg.model_config.conv_filters"),
        ("coins_v0", "pg", {"model_config": {"one_hot": True}}, "learning_players.pg.model_config.one_hot"),
    ],
)
def test_unsupported_settings_are_refused(env, name, settings, message):
    config = ReciprocatorConfig().environment(env).players({"player_0": "ppo", "player_1": f"learner/{name}"})
    config.learning_player(name, **settings)
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_online_learners_are_configured_by_name():
    assert described_learner("pg", {}, {"lr": 1.0}).lr == 1.0
    assert described_learner("a2c", {}, {"lr": 1.0}).networks == KNOWN_LEARNERS["a2c"].networks
    slow = described_learner("slow", {}, {"algorithm": "a2c", "lr": 0.001})
    assert slow.optimizer == "adam"
    assert described_learner("slow", {"slow": slow}, {"gamma": 0.5}).lr == 0.001
    with pytest.raises(ValidationError):
        described_learner("pg", {}, {"lr": -1.0})
