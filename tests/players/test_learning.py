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


def module(env="ipd_v0", copies=COPIES, groups=GROUPS, seed=0, **settings):
    game = social_dilemmas.make(env, groups * copies, num_steps=STEPS)
    made = LearningModule(
        observation_space=game.observation_space,
        action_space=game.action_space,
        model_config={
            "learning": LearningSettings.model_validate(settings).model_dump(),
            "copies": copies,
            OBSERVATIONS: None if game.observations is None else game.observations.tolist(),
        },
    )
    made.restart(groups * copies, torch.Generator().manual_seed(seed))
    return game, made


def episode(game, seed):
    """What agent 1 sees, does and gets in an episode of random play, ``[B, T, ..]``."""
    generator, obs, steps = torch.Generator().manual_seed(seed), game.reset(seed=seed), []
    for _ in range(STEPS):
        actions = torch.randint(int(game.action_space.n), (game.num_games, 2), generator=generator)
        step = game.step(actions)
        steps.append((obs[:, 1], actions[:, 1], step.rewards[:, 1]))
        obs = step.obs
    return [torch.stack(each, 1) for each in zip(*steps, strict=True)]


SETTINGS = [
    ("ipd_v0", {"initial_std": 1.0}),
    ("ipd_v0", {"algorithm": "a2c", "optimizer": "adam", "lr": 0.1, "initial_std": 1.0, "lambda": 0.9}),
    ("ipd_v0", {"model_config": {"fcnet_hiddens": [8]}, "lr": 0.1, "grad_clip": 0.05}),
    ("coins_v0", {"algorithm": "a2c", "model_config": {"conv_filters": [4], "fcnet_hiddens": [8]}, "lr": 0.1}),
    ("cleanup_v0", {"algorithm": "a2c", "model_config": {"fcnet_hiddens": [8]}, "optimizer": "adam", "lr": 0.01}),
    ("cleanup_v0", {"model_config": {"conv_filters": [4], "fcnet_hiddens": [8]}, "entropy_coeff": 0.1, "lr": 0.1}),
]


@pytest.mark.parametrize(("env", "settings"), SETTINGS)
def test_groups_learn_as_if_each_were_alone(env, settings):
    game, together = module(env, **settings)
    single_game, _ = module(env, groups=1, **settings)
    before = together.learned()["parameters"]
    rounds = [episode(game, seed) for seed in (1, 2)]
    for each in rounds:
        together.learn(*each)
    logits = together._forward({Columns.OBS: rounds[0][0][:, 0]})[Columns.ACTION_DIST_INPUTS]
    assert not logits.requires_grad
    for group in range(GROUPS):
        _, alone = module(env, groups=1, **settings)
        alone.take(
            {
                "parameters": {name: each[group : group + 1] for name, each in before.items()},
                "optimizer": alone.learned()["optimizer"],
            }
        )
        rows = slice(group * COPIES, (group + 1) * COPIES)
        for each in rounds:
            alone.learn(*(column[rows] for column in each))
        found = alone._forward({Columns.OBS: rounds[0][0][rows, 0]})[Columns.ACTION_DIST_INPUTS]
        torch.testing.assert_close(found, logits[rows], atol=1e-5, rtol=1e-5)
        for name, each in together.learned()["parameters"].items():
            assert not torch.equal(each[group], before[name][group]), name
            torch.testing.assert_close(alone.learned()["parameters"][name][0], each[group], atol=1e-5, rtol=1e-5)
    assert single_game.num_games == COPIES


def test_a_step_of_a_table_by_hand():
    """One copy, one step: the logit of defection moves by ``lr * (action - p) * reward``."""
    game, table = module(copies=1, groups=2, lr=0.5, gamma=1.0, normalize_advantages=False)
    game = social_dilemmas.make("ipd_v0", 2, num_steps=1)
    obs, actions = game.reset(), torch.tensor([[0, 1], [0, 0]])
    rewards = game.step(actions).rewards
    table.learn(obs[:, None, 1], actions[:, 1:], rewards[:, 1:])
    logits = table.learned()["parameters"]["logits"][..., 0]
    # Who defects alone gets 0, and who cooperates with a cooperator -1.
    assert logits[:, 0].tolist() == [0.5 * 0.5 * 0.0, 0.5 * -0.5 * -1.0]
    assert not logits[:, 1:].any()


def test_advantages_by_hand():
    rewards = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    plain = LearningSettings(gamma=0.5, normalize_advantages=False)
    found, targets = learned_from(rewards, torch.zeros_like(rewards), plain)
    assert targets.tolist() == [[[2.0, 2.0], [6.0, 6.0]]]
    assert found.tolist() == [[[-2.0, -2.0], [2.0, 2.0]]]
    values = torch.tensor([[[1.0, 1.0], [2.0, 2.0]]])
    critic = LearningSettings.model_validate(
        {"algorithm": "a2c", "gamma": 0.5, "lambda": 0.0, "normalize_advantages": False}
    )
    found, targets = learned_from(rewards, values, critic)
    assert found.tolist() == [[[1.0 + 0.5 - 1.0, 2.0 - 1.0], [3.0 + 1.0 - 2.0, 6.0 - 2.0]]]
    assert targets.tolist() == (found + values).tolist()
    found, _ = learned_from(rewards, values, LearningSettings(gamma=0.5))
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(found.square().mean()) == pytest.approx(1.0, abs=1e-3)


def test_networks_are_new_in_every_meta_episode_and_the_same_for_the_same_seed():
    settings = {"model_config": {"fcnet_hiddens": [8]}}
    _, one = module(seed=1, **settings)
    _, other = module(seed=1, **settings)
    first = one.learned()["parameters"]
    for name, each in other.learned()["parameters"].items():
        assert torch.equal(each, first[name])
    weight = next(name for name in first if name.endswith("head.weight"))
    assert len(first[weight].flatten(1).unique(dim=0)) == GROUPS
    one.restart(GROUPS * COPIES, torch.Generator().manual_seed(2))
    assert not torch.equal(one.learned()["parameters"][weight], first[weight])


def test_naive_learners_end_in_mutual_defection():
    game, first = module(copies=16, groups=8)
    _, second = module(copies=16, groups=8)
    generator = torch.Generator().manual_seed(0)
    rates = []
    for _ in range(20):
        obs, steps = game.reset(), []
        for _ in range(STEPS):
            logits = [
                each._forward({Columns.OBS: obs[:, k]})[Columns.ACTION_DIST_INPUTS][:, 0]
                for k, each in enumerate((first, second))
            ]
            actions = (torch.rand(len(obs), 2, generator=generator) < torch.stack(logits, 1).sigmoid()).long()
            step = game.step(actions)
            steps.append((obs, actions, step.rewards))
            obs = step.obs
        seen, done, got = (torch.stack(each, 1) for each in zip(*steps, strict=True))
        for k, each in enumerate((first, second)):
            each.learn(seen[:, :, k], done[..., k], got[..., k])
        rates.append(1.0 - float(done.float().mean()))
    assert rates[0] == pytest.approx(0.5, abs=0.1)
    assert rates[-1] < 0.1


# --- beside every algorithm ------------------------------------------------------------------------------------------


def beside_a_reciprocator(**settings):
    return (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": STEPS})
        .players({"player_0": "reciprocator", "player_1": "learner/a2c"})
        .meta(inner_episodes=3, copies=4)
        .env_runners(num_envs_per_env_runner=16)
        .debugging(seed=1)
        .training(num_epochs=1, **settings)
    )


def test_a_run_goes_on_bit_by_bit_in_the_middle_of_a_meta_episode(build, tmp_path):
    whole = build(beside_a_reciprocator())
    whole.train()
    whole.train()
    whole.save_to_path(tmp_path)
    expected = [whole.train()["env_runners"] for _ in range(3)]
    for number, result in enumerate(expected):
        rates = result["inner_episodes"]["player_1"]["cooperation_rate"]
        assert [name for name, rate in rates.items() if np.isfinite(rate)] == [str((2 + number) % 3)]
    resumed = build(beside_a_reciprocator())
    resumed.restore_from_path(tmp_path)
    for result in expected:
        again = resumed.train()["env_runners"]
        assert again["outcomes"] == result["outcomes"]
        for name, by_number in again["inner_episodes"]["player_1"].items():
            for number, value in by_number.items():
                np.testing.assert_equal(value, result["inner_episodes"]["player_1"][name][number])
    assert_same_weights(whole, resumed)


def test_several_runners_have_learners_of_their_own(build):
    config = beside_a_reciprocator().env_runners(num_env_runners=2)
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
def test_what_cannot_be_is_refused(env, name, settings, message):
    config = ReciprocatorConfig().environment(env).players({"player_0": "ppo", "player_1": f"learner/{name}"})
    config.learning_player(name, **settings)
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_learners_are_described_by_name():
    assert described_learner("pg", {}, {"lr": 1.0}).lr == 1.0
    assert described_learner("a2c", {}, {"lr": 1.0}).networks == KNOWN_LEARNERS["a2c"].networks
    slow = described_learner("slow", {}, {"algorithm": "a2c", "lr": 0.001})
    assert slow.optimizer == "adam"
    assert described_learner("slow", {"slow": slow}, {"gamma": 0.5}).lr == 0.001
    with pytest.raises(ValidationError):
        described_learner("pg", {}, {"lr": -1.0})
