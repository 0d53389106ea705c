"""Tests that learners recompute what env runners computed, over fragments of episodes and with memories."""

from itertools import pairwise

import pytest
import torch
from ray.rllib.core.columns import Columns

from tests.helpers.batches import minibatches, prepared
from tests.helpers.training import ROLLOUTS, training_config

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


@pytest.mark.parametrize("minibatch_size", [None, 8])
@pytest.mark.parametrize(
    ("model", "rollouts"),
    [*((model, rollouts) for model in MODELS for rollouts in ROLLOUTS), *((model, "cut") for model in WITH_PLANES)],
)
def test_learner_recomputes_the_log_probabilities_of_sampling(build, model, rollouts, minibatch_size):
    """Compares log-probabilities of the learner with those of sampling, in every minibatch of the third sample."""
    env, fragment = ROLLOUTS[rollouts]
    a_config = training_config(env=env, fragment=fragment).rl_module(model_config={**MODELS, **WITH_PLANES}[model])
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


@pytest.mark.parametrize("rollouts", ROLLOUTS)
@pytest.mark.parametrize("model", ["GRU", "RLlib's LSTM"])
def test_memories_are_reset_per_episode_and_change_the_outputs(build, model, rollouts):
    """Recomputes every step by itself, with the memory after the previous steps of its episode."""
    env, fragment = ROLLOUTS[rollouts]
    a_config = training_config({"*": "ppo"}, env=env, fragment=fragment).rl_module(model_config=MODELS[model])
    algo = build(a_config.env_runners(stagger_episodes=False))
    module = algo.env_runner.module["player_0"]
    initial_memory = {
        name: torch.as_tensor(value).expand(24, *value.shape) for name, value in module.get_initial_state().items()
    }
    memory, difference = initial_memory, 0.0
    for _ in range(3):
        (sample,) = algo.env_runner.sample()
        for t in range(sample.rewards.shape[1]):
            first = sample.is_first[:, t]
            memory = {
                name: torch.where(first.view(-1, *[1] * (value.dim() - 1)), initial_memory[name], value)
                for name, value in memory.items()
            }
            obs = sample.modules["player_0"].steps[Columns.OBS][:, 0, t]
            out = module.forward_exploration({Columns.OBS: obs, Columns.STATE_IN: memory})
            memory, inputs = out[Columns.STATE_OUT], out[Columns.ACTION_DIST_INPUTS]
            expected = sample.modules["player_0"].steps[Columns.ACTION_DIST_INPUTS][:, 0, t]
            torch.testing.assert_close(inputs, expected, atol=1e-5, rtol=1e-4)
            empty = module.forward_exploration({Columns.OBS: obs, Columns.STATE_IN: initial_memory})
            difference = max(difference, float((empty[Columns.ACTION_DIST_INPUTS] - expected).abs().max()))
    assert difference > 1e-3


def test_fragment_length_does_not_change_episodes(build):
    """Expects episodes to continue across samples, without lost steps."""
    short, long = (
        build(training_config({"*": "ppo"}, env="countdown_v0", fragment=length).env_runners(stagger_episodes=False))
        for length in (5, 15)
    )
    mean_lengths = []
    for algo in (short, long):
        samples = [algo.env_runner.sample()[0] for _ in range(60 // (5 if algo is short else 15))]
        obs = torch.cat([sample.modules["player_0"].steps[Columns.OBS][:, 0, :, 0] for sample in samples], 1)
        ended = torch.cat([sample.ended for sample in samples], 1)
        first = torch.cat([sample.is_first for sample in samples], 1)
        assert torch.equal(first[:, 1:], ended[:, :-1])
        assert (obs[first] >= 2).all()
        actions = torch.cat([sample.actions[..., 0] for sample in samples], 1)
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


def test_per_player_settings_follow_the_last_validation():
    a_config = training_config({"player_0": {"player": "ppo", "lr": 0.1}, "player_1": "ppo"})
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
