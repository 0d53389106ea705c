"""Tests of modules in RLlib's form in the batched engine."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.models.actor_critic import IS_FIRST
from rllib_reciprocator.models.distributions import sample_actions
from rllib_reciprocator.models.rllib_form import AdaptedModule


class RecurrentModule(TorchRLModule, ValueFunctionAPI):
    """Recurrent module as RLlib's documentation writes it: inputs [B, T, ..], RLlib's distributions."""

    def setup(self):
        self.rnn = torch.nn.RNN(self.observation_space.shape[0], 4, batch_first=True)
        self.logits = torch.nn.Linear(4, int(self.action_space.n))
        self.value = torch.nn.Linear(4, 1)

    def get_initial_state(self):
        return {"h": torch.zeros(4)}

    def _forward(self, batch, **kwargs):
        features, state = self.rnn(batch[Columns.OBS].float(), batch[Columns.STATE_IN]["h"][None])
        return {
            Columns.ACTION_DIST_INPUTS: self.logits(features),
            Columns.STATE_OUT: {"h": state[0]},
            Columns.EMBEDDINGS: features,
        }

    def compute_values(self, batch, embeddings=None):
        if embeddings is None:
            embeddings = self._forward(batch)[Columns.EMBEDDINGS]
        return self.value(embeddings).squeeze(-1)


class FixedActionModule(RecurrentModule):
    """Module with separate forward passes, of which those outside training always take the first action."""

    def _forward(self, batch, **kwargs):
        raise NotImplementedError

    def _forward_inference(self, batch, **kwargs):
        out = RecurrentModule._forward(self, batch)
        out[Columns.ACTION_DIST_INPUTS] = torch.zeros_like(out[Columns.ACTION_DIST_INPUTS])
        out[Columns.ACTION_DIST_INPUTS][..., 0] = 100.0
        return out

    _forward_exploration = _forward_inference

    def _forward_train(self, batch, **kwargs):
        return RecurrentModule._forward(self, batch)


class ArrayStateModule(RecurrentModule):
    """Module whose initial state is a NumPy array."""

    def get_initial_state(self):
        return {"h": np.zeros(4, np.float32)}


class BalanceModule(RecurrentModule):
    """Module that stores the shapes of the policy input that it received."""

    shapes: ClassVar[set] = set()

    def _forward(self, batch, **kwargs):
        if "influence_balance" in batch:
            self.shapes.add(tuple(batch["influence_balance"].shape))
        return super()._forward(batch, **kwargs)


class BrokenModule(RecurrentModule):
    """Module that fails in its forward pass."""

    def _forward(self, batch, **kwargs):
        raise RuntimeError("not written yet")


def config(module, **settings):
    players = {"player_0": f"module/tests.models.test_rllib_form:{module}", "player_1": "ppo"}
    return (
        ReciprocatorConfig()
        .environment("ipd_v0", env_config={"num_steps": 6})
        .players(players)
        .env_runners(num_envs_per_env_runner=8, **settings)
        .training(num_epochs=1)
        .debugging(seed=1)
    )


@pytest.mark.parametrize("length", ["auto", 4])
def test_recurrent_modules_in_rllib_form_are_trained(build, length):
    algo = build(config("RecurrentModule", rollout_fragment_length=length))
    module = algo.learner_group._learner.module["player_0"].unwrapped()
    assert isinstance(module, AdaptedModule)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for _ in range(2):
        algo.train()
    assert all(not torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_memory_restarts_with_episodes_inside_a_sequence(build):
    algo = build(config("RecurrentModule", rollout_fragment_length=4))
    (batch,) = [algo.env_runner.sample()[0] for _ in range(2)][1:]
    module, columns = algo.env_runner.module["player_0"], batch.modules["player_0"]
    rows = {
        Columns.OBS: columns.steps[Columns.OBS].flatten(0, 2),
        IS_FIRST: batch.is_first,
        Columns.STATE_IN: {"h": columns.memory_before["h"].flatten(0, 1)},
    }
    assert batch.is_first[:, 1:].any()
    expected = columns.steps[Columns.ACTION_DIST_INPUTS].flatten(0, 2)
    torch.testing.assert_close(module.forward_train(rows)[Columns.ACTION_DIST_INPUTS], expected)


def test_separate_forward_passes_are_used(build):
    algo = build(config("FixedActionModule"))
    algo.train()
    assert not algo.env_runner.sample()[0].actions[..., 0].any()


def test_initial_states_may_be_arrays(build):
    build(config("ArrayStateModule")).train()


def test_modules_receive_policy_inputs_with_a_time_axis(build):
    players = {
        "player_0": {"player": "reciprocator", "module": "tests.models.test_rllib_form:BalanceModule"},
        "player_1": "ppo",
    }
    algo = build(config("BalanceModule").players(players).reciprocity(observe_balance=True))
    algo.train()
    shapes = algo.env_runner.module["player_0"].model.shapes
    assert {(8, 1, 1), (8, 6, 1)} <= shapes


def test_settings_that_need_memoryless_modules_are_refused():
    with pytest.raises(ValueError, match="bootstrap_at_horizon: not supported with recurrent modules"):
        config("RecurrentModule").training(bootstrap_at_horizon=True).validate()


def test_errors_of_modules_name_the_player():
    with pytest.raises(ValueError, match=r"players.player_0: .*BrokenModule cannot build the module .*not written yet"):
        config("BrokenModule").validate()


def test_distributions_without_generator_sample_reproducibly():
    distribution = TorchCategorical(logits=torch.zeros(1000, 3))
    draws = [sample_actions(distribution, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].bincount().min() > 250
