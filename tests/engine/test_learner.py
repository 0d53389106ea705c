import copy
from itertools import pairwise

import pytest
import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
from tests.helpers.batches import minibatches, prepared
from tests.helpers.games import COUNTDOWN

MODELS = {
    "MLP": {"fcnet_hiddens": [8]},
    "GRU": {"fcnet_hiddens": [8], "use_gru": True, "gru_cell_size": 6},
    "LRU": {"fcnet_hiddens": [8], "use_lru": True, "lru_cell_size": 6},
    "shared": {"fcnet_hiddens": [8], "use_gru": True, "gru_cell_size": 6, "vf_share_layers": True},
    "RLlib's MLP": {"model": "rllib", "fcnet_hiddens": [8]},
    "RLlib's LSTM": {"model": "rllib", "fcnet_hiddens": [8], "use_lstm": True, "lstm_cell_size": 6},
    "RLlib's LSTMs": {"model": "rllib", "use_lstm": True, "lstm_cell_size": 6, "vf_share_layers": False},
}
WITH_PLANES = {
    "GRU on planes": {"conv_filters": [4, 4], "fcnet_hiddens": [8], "use_gru": True, "gru_cell_size": 6},
    "RLlib's CNN": {"model": "rllib", "conv_filters": [[8, 2, 1], [8, 2, 1]], "vf_share_layers": False},
    "RLlib's CNN and LSTM": {
        "model": "rllib", "conv_filters": [[8, 2, 1]], "use_lstm": True, "lstm_cell_size": 6,
    },
}  # fmt: skip
# Streams of whole episodes, streams that are cut within episodes, and environments that end at different steps.
STREAMS = {"whole": ("coins_v0", "auto"), "cut": ("coins_v0", 3), "long": ("coins_v0", 7), "early": ("countdown_v0", 5)}


@pytest.fixture(autouse=True)
def countdown():
    social_dilemmas.register(COUNTDOWN)


def config(players=None, env="coins_v0", fragment="auto", games=24, **training):
    return (
        ReciprocatorConfig()
        .environment(env, env_config={"num_steps": 4 if env != "countdown_v0" else 8})
        .players(players or {"*": "reciprocator"})
        .training(num_epochs=2, **training)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .env_runners(num_envs_per_env_runner=games, rollout_fragment_length=fragment)
        .debugging(seed=1)
    )


@pytest.mark.parametrize("minibatch_size", [None, 8])
@pytest.mark.parametrize(
    ("model", "streams"),
    [*((model, streams) for model in MODELS for streams in STREAMS), *((model, "cut") for model in WITH_PLANES)],
)
def test_learner_recomputes_the_log_probabilities_of_sampling(build, model, streams, minibatch_size):
    """Compares log-probabilities of the learner with those of sampling, in every minibatch of the third sample."""
    env, fragment = STREAMS[streams]
    a_config = config(env=env, fragment=fragment).rl_module(model_config={**MODELS, **WITH_PLANES}[model])
    algo = build(a_config)
    for _ in range(2):
        algo.train()
    (sample,) = algo.env_runner.sample()
    num_rows = 0
    for minibatch in minibatches(algo, prepared(algo, sample), minibatch_size):
        for module_id, columns in minibatch.items():
            module = algo.learner_group._learner.module[module_id].unwrapped()
            inputs = module.forward_train(columns)[Columns.ACTION_DIST_INPUTS]
            log_probs = module.get_train_action_dist_cls().from_logits(inputs).logp(columns[Columns.ACTIONS])
            torch.testing.assert_close(log_probs, columns[Columns.ACTION_LOGP], atol=1e-5, rtol=0)
            num_rows += len(log_probs)
    assert num_rows == sample.agent_steps()


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("model", ["GRU", "RLlib's LSTM"])
def test_memories_are_reset_per_episode_and_change_the_outputs(build, model, streams):
    """Recomputes every step by itself, with the memory after the previous steps of its episode."""
    env, fragment = STREAMS[streams]
    a_config = config({"*": "ppo"}, env=env, fragment=fragment).rl_module(model_config=MODELS[model])
    algo = build(a_config.env_runners(stagger_episodes=False))
    module = algo.env_runner.module["player_0"]
    initial_memory = {
        name: torch.as_tensor(value).expand(24, *value.shape) for name, value in module.get_initial_state().items()
    }
    memory, difference = initial_memory, 0.0
    for _ in range(3):
        (sample,) = algo.env_runner.sample()
        for t in range(sample.rewards.shape[1]):
            first = sample.joint["is_first"][:, t]
            memory = {
                name: torch.where(first.view(-1, *[1] * (value.dim() - 1)), initial_memory[name], value)
                for name, value in memory.items()
            }
            obs = sample.modules["player_0"][Columns.OBS][:, 0, t]
            out = module.forward_exploration({Columns.OBS: obs, Columns.STATE_IN: memory})
            memory, inputs = out[Columns.STATE_OUT], out[Columns.ACTION_DIST_INPUTS]
            expected = sample.modules["player_0"][Columns.ACTION_DIST_INPUTS][:, 0, t]
            torch.testing.assert_close(inputs, expected, atol=1e-5, rtol=1e-4)
            empty = module.forward_exploration({Columns.OBS: obs, Columns.STATE_IN: initial_memory})
            difference = max(difference, float((empty[Columns.ACTION_DIST_INPUTS] - expected).abs().max()))
    assert difference > 1e-3


def loop_advantages(sample, module, gamma, lambda_, bootstrap, horizon):
    """Computes GAE advantages of player 0 in a loop over environments and steps, ``[B, T]``."""
    obs = sample.modules["player_0"][Columns.OBS][:, 0]
    value = lambda observation: float(module.compute_values({Columns.OBS: observation[None]}))  # noqa: E731
    games, steps = obs.shape[:2]
    advantages = torch.zeros(games, steps)
    for b in range(games):
        running = 0.0
        for t in reversed(range(steps)):
            terminated, truncated = (bool(sample.joint[name][b, t]) for name in ("terminated", "truncated"))
            if t == steps - 1:
                next_value = value(sample.streams["player_0"]["last/obs"][b, 0])
            elif truncated and not terminated and bootstrap:
                next_value = value(sample.streams["player_0"]["final/obs"][b, 0, t // horizon])
            else:
                next_value = value(obs[b, t + 1])
            if terminated or (truncated and not bootstrap):
                next_value = 0.0
            ended = terminated or truncated
            error = float(sample.rewards[b, t, 0]) + gamma * next_value - value(obs[b, t])
            running = error + (0.0 if ended else gamma * lambda_ * running)
            advantages[b, t] = running
    return advantages


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("streams", STREAMS)
def test_advantages_by_hand(build, streams, bootstrap):
    """Covers terminations, truncations and ends of samples, with and without a bootstrap value at the horizon."""
    env, fragment = STREAMS[streams]
    settings = {"normalize_advantages": False, "lambda_": 0.7, "gamma": 0.9, "bootstrap_at_horizon": bootstrap}
    algo = build(config({"*": "ppo"}, env=env, fragment=fragment, games=12, **settings))
    algo.train()
    (sample,) = algo.env_runner.sample()
    module = algo.learner_group._learner.module["player_0"].unwrapped()
    expected = loop_advantages(sample, module, 0.9, 0.7, bootstrap, algo.env_runner.game.horizon)
    batch = prepared(algo, sample)["player_0"]
    torch.testing.assert_close(batch[Postprocessing.ADVANTAGES].view(12, -1), expected, atol=1e-4, rtol=1e-4)
    assert sample.ended[:, :-1].any() or streams == "whole"


def test_value_at_the_horizon_is_that_of_the_final_observation(build):
    """Expects the observation after the last step of a truncated episode, not the first one of the next episode."""
    algo = build(config({"*": "ppo"}, fragment=7, bootstrap_at_horizon=True))
    (sample,) = algo.env_runner.sample()
    final = sample.streams["player_0"]["final/obs"]
    assert final.shape[2] == 2
    assert sample.joint["truncated"][:, 3].all()
    assert not torch.equal(final[:, :, 0], sample.modules["player_0"][Columns.OBS][:, :, 4])
    game = social_dilemmas.make("coins_v0", 24, num_steps=4)
    game._cells = torch.cat(
        [sample.modules["player_0"][Columns.OBS][:, 0, 3, k].flatten(1).argmax(1)[None] for k in range(4)]
    )
    expected = game.step(sample.joint["actions"][:, 3]).obs[:, 0]
    has_collected = sample.outcomes["own_coins"][:, 3].sum(1) + sample.outcomes["others_coins"][:, 3].sum(1) > 0
    assert torch.equal(final[:, 0, 0][~has_collected], expected[~has_collected])


def test_fragment_length_does_not_change_episodes(build):
    """Expects episodes to continue across samples, without lost steps."""
    short, long = (
        build(config({"*": "ppo"}, env="countdown_v0", fragment=length).env_runners(stagger_episodes=False))
        for length in (5, 15)
    )
    mean_lengths = []
    for algo in (short, long):
        samples = [algo.env_runner.sample()[0] for _ in range(60 // (5 if algo is short else 15))]
        obs = torch.cat([sample.modules["player_0"][Columns.OBS][:, 0, :, 0] for sample in samples], 1)
        ended = torch.cat([sample.ended for sample in samples], 1)
        first = torch.cat([sample.joint["is_first"] for sample in samples], 1)
        assert torch.equal(first[:, 1:], ended[:, :-1])
        assert (obs[first] >= 2).all()
        actions = torch.cat([sample.joint["actions"][..., 0] for sample in samples], 1)
        continues = ~ended[:, :-1]
        assert torch.equal(obs[:, 1:][continues], (obs[:, :-1] - 1 - actions[:, :-1])[continues])
        metric = algo.env_runner.get_metrics()["episode_len_mean"].peek()
        starts = first.nonzero()
        episode_lengths = [int(b[1] - a[1]) for a, b in pairwise(starts) if a[0] == b[0]]
        episode_lengths += [
            60 - int(s[1]) for s in starts if ended[s[0], -1] and not first[s[0], int(s[1]) + 1 :].any()
        ]
        mean_lengths.append(sum(episode_lengths) / len(episode_lengths))
        assert len(episode_lengths) == int(ended.sum())
        assert metric == pytest.approx(mean_lengths[-1], abs=0.6)
    assert mean_lengths[0] == pytest.approx(mean_lengths[1], abs=0.4)


def test_agents_of_a_team_share_a_forward_pass_and_an_update(build):
    a_config = config({"*": "team/all"}, games=8, normalize_advantages=False)
    a_config.environment(env_config={"num_agents": 3, "grid_size": 4, "num_steps": 4})
    algo = build(a_config)
    result = algo.train()
    (sample,) = algo.env_runner.sample()
    assert set(sample.modules) == {"all"}
    columns = sample.modules["all"]
    assert columns[Columns.OBS].shape[:3] == (8, 3, 4)
    assert torch.equal(columns[Columns.ACTIONS].transpose(1, 2), sample.joint["actions"])
    batch = prepared(algo, sample)["all"]
    learner = algo.learner_group._learner
    values = learner.module["all"].unwrapped().compute_values(batch).view(8, 3, 4)
    reciprocal = learner.shape_rewards(sample.joint)
    targets = batch[Postprocessing.VALUE_TARGETS].view(8, 3, 4)
    to_go = [sum(0.96**k * reciprocal[:, t + k, 2] for k in range(4 - t)) for t in range(4)]
    torch.testing.assert_close(targets[:, 2], torch.stack(to_go, 1), atol=1e-4, rtol=1e-4)
    advantages = batch[Postprocessing.ADVANTAGES].view(8, 3, 4)
    torch.testing.assert_close(advantages, targets - values, atol=1e-4, rtol=1e-4)
    assert result["env_runners"]["num_module_steps_sampled"]["all"] == 3 * 8 * 4
    assert set(result["env_runners"]["agent_episode_returns_mean"]) == {"player_0", "player_1", "player_2"}


def test_team_of_one_acts_like_an_individual_player(build):
    """Copies the weights, so that only the names of the modules differ."""
    individual = build(config({"player_0": "reciprocator", "player_1": "scripted/random"}))
    team = build(config({"player_0": "team/one", "player_1": "scripted/random"}))
    team.learner_group._learner.module["one"].load_state_dict(
        copy.deepcopy(individual.learner_group._learner.module["player_0"].state_dict())
    )
    team.env_runner_group.sync_weights(from_worker_or_learner_group=team.learner_group)
    for algo in (individual, team):
        algo.env_runner.weights_seq_no = 0
    (a,), (b,) = individual.env_runner.sample(), team.env_runner.sample()
    for name in (Columns.OBS, Columns.ACTIONS, Columns.ACTION_LOGP):
        assert torch.equal(a.modules["player_0"][name], b.modules["one"][name])


def pooled(**shares):
    return {"player_0": "ppo", "player_1": {"pool": {key.replace("__", "/"): share for key, share in shares.items()}}}


def test_each_environment_draws_a_pool_member(build):
    players = pooled(scripted__always_defect=0.25, ppo=0.75)
    a_config = config(players, env="ipd_v0", games=4000)
    algo = build(a_config)
    result = algo.train()
    (sample,) = algo.env_runner.sample()
    members = sample.joint["members"][..., 1]
    assert torch.equal(members, members[:, :1].expand_as(members))
    assert float((members == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    # The scripted member always defects in its environments, and the learner masks its steps.
    assert (sample.joint["actions"][..., 1][members == 0] == 1).all()
    assert (sample.joint["actions"][..., 1][members == 1] == 0).any()
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
    algo = build(config(pooled(scripted__random=0.5, ppo=0.5), env="countdown_v0", fragment=5, games=64))
    samples = [algo.env_runner.sample()[0] for _ in range(4)]
    members = torch.cat([sample.joint["members"][..., 1] for sample in samples], 1)
    first = torch.cat([sample.joint["is_first"] for sample in samples], 1)
    changed = members[:, 1:] != members[:, :-1]
    assert changed.any()
    assert not (changed & ~first[:, 1:]).any()


def test_two_pool_members_with_balances_raise(build, tmp_path):
    path = build(config(games=4)).save_to_path(tmp_path / "run")
    frozen = f"checkpoint__{path}"
    with pytest.raises(ValueError, match=r"players.player_1.pool: more than one member uses reciprocity"):
        config(pooled(**{frozen: 0.5, "reciprocator": 0.5})).validate()


def test_losses_ignore_steps_of_other_pool_members(build):
    algo = build(config(pooled(scripted__always_defect=0.5, ppo=0.5), env="ipd_v0", games=64))
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


@pytest.mark.parametrize("vf_clip_param", [0.05, float("inf")])
@pytest.mark.parametrize("use_kl_loss", [True, False])
@pytest.mark.parametrize("pool", [True, False])
def test_ppo_loss_and_its_parts_match_rllib(build, vf_clip_param, use_kl_loss, pool):
    """Evaluates RLlib's loss function on the same rows, after a step away from the behavior policy."""
    players = pooled(scripted__always_defect=0.5, ppo=0.5) if pool else {"player_*": "ppo"}
    training = {"vf_clip_param": vf_clip_param, "vf_loss_coeff": 0.7, "use_kl_loss": use_kl_loss, "kl_coeff": 0.5}
    algo = build(config(players, env="ipd_v0", games=64, clip_param=0.05, entropy_coeff=0.03, lr=0.02, **training))
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

    def logged_parts():
        return {name: float(learner.metrics.peek(("player_1", name))) for name in names}

    learner.metrics.reduce()
    expected = float(PPOTorchLearner.compute_loss_for_module(learner, **arguments))
    expected_parts = logged_parts()
    learner.metrics.reduce()
    learner._loss_stats = {}
    assert float(learner.compute_loss_for_module(**arguments)) == pytest.approx(expected, rel=1e-4)
    learner._log_losses("player_1", learner._loss_stats["player_1"])
    assert logged_parts() == pytest.approx(expected_parts, rel=1e-3, abs=1e-5)
    clipped = expected_parts["vf_loss"] < 0.9 * expected_parts["vf_loss_unclipped"]
    assert clipped == (vf_clip_param < 1.0)


@pytest.mark.parametrize("minibatch_size", [None, 10, 96, 7])
def test_every_step_is_used_once_per_epoch(build, minibatch_size):
    algo = build(config({"player_0": "ppo", "player_1": "team/b"}))
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


def test_per_player_settings_follow_the_last_validation():
    a_config = config({"player_0": {"player": "ppo", "lr": 0.1}, "player_1": "ppo"})
    a_config.multi_agent(algorithm_config_overrides_per_module={"player_1": {"clip_param": 0.3}})
    a_config.validate()
    assert a_config.get_config_for_module("player_0").lr == 0.1
    a_config.players({"player_0": "ppo", "player_1": {"player": "ppo", "lr": 0.2}})
    a_config.validate()
    assert a_config.get_config_for_module("player_0").lr == a_config.lr
    assert a_config.get_config_for_module("player_1").lr == 0.2
    assert a_config.get_config_for_module("player_1").clip_param == 0.3
    a_config.validate()
    assert a_config.get_config_for_module("player_1").clip_param == 0.3


def test_encoder_converts_byte_planes():
    """Passes observations in the environment's dtype to the encoder."""
    from rllib_reciprocator.models.encoder import Encoder

    torch.manual_seed(0)
    for filters in ([], [4]):
        encoder = Encoder((2, 3, 3), 0, filters, [8], "relu")
        planes = torch.randint(0, 2, (5, 2, 3, 3), dtype=torch.uint8)
        assert torch.equal(encoder(planes), encoder(planes.float()))
