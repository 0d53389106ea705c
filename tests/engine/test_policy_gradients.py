import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.engine.advantages import subtract_mean
from rllib_reciprocator.models import LOGITS
from tests.helpers.batches import prepared, prepared_batch
from tests.helpers.weights import weights


def config(player="pg", env="countdown_v0", games=24, **training):
    return (
        ReciprocatorConfig()
        .environment(env, env_config={"num_steps": 8})
        .players({"player_0": player, "player_1": "ppo"})
        .training(**{"num_epochs": 1, "normalize_advantages": False, "gamma": 0.9, "lr": 0.01, **training})
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=games, batch_mode="complete_episodes")
        .debugging(seed=1)
    )


def test_subtract_mean_by_hand():
    returns = torch.tensor([[[1.0, 10.0], [2.0, 20.0]], [[3.0, 30.0], [100.0, 100.0]]])
    play_mask = torch.tensor([[True, True], [True, False]])
    centered_returns = subtract_mean(returns, play_mask)
    assert centered_returns[:, 0].tolist() == [[-1.0, -10.0], [1.0, 10.0]]
    assert centered_returns[0, 1].tolist() == [0.0, 0.0]  # a single valid return equals the mean
    assert subtract_mean(returns, None)[1, 1].tolist() == [49.0, 40.0]


def first_episodes(sample):
    """Returns the rewards of player 0 in the first episode of every environment."""
    lengths = sample.in_first_episode().sum(1).tolist()
    return [sample.rewards[b, :length, 0].tolist() for b, length in enumerate(lengths)]


def test_advantages_are_returns_of_first_episodes_minus_their_mean(build):
    algo = build(config())
    (sample,) = algo.env_runner.sample()
    episodes = first_episodes(sample)
    assert len({len(rewards) for rewards in episodes}) > 3
    columns = prepared(algo, sample)["player_0"]
    advantages, mask = columns[Postprocessing.ADVANTAGES].view(24, 8), columns[Columns.LOSS_MASK].view(24, 8)
    to_go = [
        [sum(0.9 ** (k - t) * r for k, r in enumerate(rewards) if k >= t) for t in range(len(rewards))]
        for rewards in episodes
    ]
    for t in range(8):
        step_returns = [returns[t] for returns in to_go if len(returns) > t]
        for b, returns in enumerate(to_go):
            assert bool(mask[b, t]) == (len(returns) > t)
            if len(returns) > t:
                assert float(advantages[b, t]) == pytest.approx(returns[t] - np.mean(step_returns), abs=1e-5)


@pytest.mark.parametrize("form", ["entropy", "uniform_kl"])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_step_is_the_gradient_summed_over_steps_and_averaged_over_episodes(build, form, clip):
    algo = build(config(epsilon=0.25, entropy_coeff=0.1, entropy_form=form, grad_clip=clip))
    (sample,) = algo.env_runner.sample()
    batch, info = prepared_batch(algo, sample)
    columns = info.rows["player_0"]
    learner = algo.learner_group._learner
    module = learner.module["player_0"].unwrapped()
    logit = module.actor.head(module.actor.encode(columns)).squeeze(-1)
    second = 0.75 * logit.sigmoid() + 0.125
    logp = torch.where(columns[Columns.ACTIONS] > 0, second, 1.0 - second).log()
    bonus = -(second * second.log() + (1.0 - second) * (1.0 - second).log())
    if form == "uniform_kl":
        bonus = (logit.sigmoid().log() + (-logit).sigmoid().log()) / 2
    rows = -(logp * columns[Postprocessing.ADVANTAGES] + 0.1 * bonus) * columns[Columns.LOSS_MASK]
    parameters = list(module.actor.parameters())
    gradient = torch.autograd.grad(rows.sum() / 24, parameters)
    norm = float(torch.cat([part.flatten() for part in gradient]).norm())
    assert norm > 0.05
    scale = 1.0 if clip is None else clip / norm
    expected = [p - 0.01 * scale * g for p, g in zip(parameters, gradient, strict=True)]
    rule = learner.rule_of["player_0"]
    rule.update(learner, batch, info)
    for parameter, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter, value, atol=1e-6, rtol=1e-4)
    assert float(rule.step_sizes["player_0"]) == pytest.approx(0.01 * scale / 24, rel=1e-4)


def test_epsilon_follows_its_schedule_and_is_not_used_by_greedy_play(build):
    schedule = [[0, 1.0], [150, 0.5]]
    algo = build(config(epsilon=schedule))
    probabilities, sampled_steps = [], [0]
    for _ in range(4):
        expected = max(0.5, 1.0 - 0.5 * sampled_steps[-1] / 150)
        module = algo.env_runner.module["player_0"]
        assert float(module.epsilon) == pytest.approx(expected)
        obs = {Columns.OBS: torch.tensor([[3.0]])}
        mixture = module.forward_exploration(obs)[Columns.ACTION_DIST_INPUTS].sigmoid()
        greedy = module.forward_inference(obs)[Columns.ACTION_DIST_INPUTS].sigmoid()
        torch.testing.assert_close(mixture, (1.0 - expected) * greedy + expected / 2)
        probabilities.append(float(mixture))
        sampled_steps.append(int(algo.train()["num_env_steps_sampled_lifetime"]))
    # Steps after the end of an episode are not counted.
    assert 0 < sampled_steps[1] < 24 * 8
    assert sampled_steps[1] < 150 < sampled_steps[3]
    assert probabilities[0] == pytest.approx(0.5)
    assert "epsilon" not in weights(algo)


def test_learner_recomputes_the_log_probabilities_of_sampling(build):
    algo = build(config("ac", env="coins_v0", epsilon=0.3))
    algo.train()
    (sample,) = algo.env_runner.sample()
    columns = prepared(algo, sample)["player_0"]
    module = algo.learner_group._learner.module["player_0"].unwrapped()
    out = module.forward_train(columns)
    policy = module.get_train_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
    torch.testing.assert_close(policy.logp(columns[Columns.ACTIONS]), columns[Columns.ACTION_LOGP])
    assert not torch.allclose(out[LOGITS], out[Columns.ACTION_DIST_INPUTS])


def test_critics_are_trained_for_ac_and_not_for_pg(build):
    algo = build(config("ac", critic_lr=0.03, critic_epochs=20, lr=0.0))
    losses = [float(algo.train()["learners"]["player_0"]["vf_loss"]) for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    pg_algo = build(config("pg"))
    before = weights(pg_algo)
    pg_algo.train()
    changed_names = {
        key.split(".")[0] for key, value in weights(pg_algo).items() if not np.array_equal(value, before[key])
    }
    assert {key for key in changed_names if key.startswith("player_0")} == {"player_0/actor"}


@pytest.mark.parametrize("player", ["pg", "ac"])
@pytest.mark.parametrize("networks", [{"use_gru": True, "gru_cell_size": 4}, {"fcnet_hiddens": []}])
def test_learns_in_pools_with_and_without_memories(build, player, networks):
    a_config = config(env="ipd_v0").rl_module(model_config=networks)
    a_config.players({"player_0": {"pool": {player: 0.5, "scripted/tit_for_tat": 0.5}}, "player_1": f"{player}"})
    algo = build(a_config)
    before = weights(algo)
    result = algo.train()
    assert np.isfinite(float(result["learners"]["player_0"]["policy_loss"]))
    assert any(not np.array_equal(value, before[key]) for key, value in weights(algo).items() if "player_0" in key)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"player": "pg", "batch_mode": "truncate_episodes"}, "pg needs complete episodes"),
        ({"player": "pg", "rollout_fragment_length": 4}, "must be auto"),
        ({"player": "ac", "clips_by": "value"}, "grad_clip_by: must be global_norm"),
        ({"player": "ac", "model": "rllib"}, "ac needs the networks of model_config.model actor_critic"),
        ({"player": "pg", "model": "rllib", "epsilon": 0.1}, "epsilon needs the networks"),
        ({"player": "pg", "predicts": True}, "predict_balance_coeff: only for players trained by PPO, not for pg"),
    ],
)
def test_invalid_settings_raise(settings, message):
    settings = dict(settings)
    a_config = config(settings.pop("player"), epsilon=settings.pop("epsilon", 0.0))
    if "clips_by" in settings:
        a_config.training(grad_clip=1.0, grad_clip_by=settings.pop("clips_by"))
    if settings.pop("predicts", False):
        a_config.players({"player_*": {"player": "pg", "intrinsic": {"reciprocity": {"predict_balance_coeff": 1.0}}}})
    if "model" in settings:
        a_config.rl_module(model_config={"model": settings.pop("model"), "fcnet_hiddens": [8]})
    with pytest.raises(ValueError, match=message):
        a_config.env_runners(**settings).validate()
