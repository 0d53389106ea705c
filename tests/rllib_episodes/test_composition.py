"""Tests that settings made before or after ``reciprocate()`` are kept, together with reciprocity."""

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune import register_env

from rllib_reciprocator import reciprocate
from rllib_reciprocator.algorithms.registry import algorithm_class
from tests.helpers.multi_agent_envs import TinyModule, TwoAgents, own_policy
from tests.helpers.weights import assert_same_weights


class Counting(RLlibCallback):
    """Callback that counts sampled steps."""

    def on_sample_end(self, *, metrics_logger, samples, **kwargs):
        metrics_logger.log_value("counted", sum(map(len, samples)), reduce="sum")


class Untouched(ConnectorV2):
    """Connector that leaves the batch unchanged."""

    def __call__(self, *, batch, **kwargs):
        return batch


class UsersLearner(PPOTorchLearner):
    """User-defined learner class."""


class UsersPPOConfig(PPOConfig):
    """User-defined config class."""

    def __init__(self, algo_class=None):
        super().__init__(algo_class=algo_class or UsersPPO)


class UsersPPO(PPO):
    """User-defined algorithm class."""


def untouched(*args, **kwargs):
    return Untouched()


@pytest.fixture(autouse=True)
def environment():
    register_env("two_agents", TwoAgents)


def plain(kind=PPOConfig):
    return (
        kind()
        .environment("two_agents")
        .multi_agent(policies=["a", "b"], policy_mapping_fn=own_policy)
        .env_runners(num_env_runners=0, rollout_fragment_length=5)
        .training(train_batch_size_per_learner=20, minibatch_size=10, num_epochs=1)
        .rl_module(model_config={"fcnet_hiddens": [4]})
        .debugging(seed=1)
    )


SETTERS = {
    "callbacks": lambda config: config.callbacks(Counting),
    "env_to_module_connector": lambda config: config.env_runners(env_to_module_connector=untouched),
    "learner_connector": lambda config: config.training(learner_connector=untouched),
    "rl_module_spec": lambda config: config.rl_module(
        rl_module_spec=MultiRLModuleSpec(rl_module_specs={"a": RLModuleSpec(model_config={"fcnet_hiddens": [3]})})
    ),
    "rl_module_spec of all": lambda config: config.rl_module(
        rl_module_spec=RLModuleSpec(model_config={"fcnet_hiddens": [5]})
    ),
    "learner_class": lambda config: config.learners(learner_class=UsersLearner),
    "gamma": lambda config: config.training(gamma=0.5),
}
MIXED = {"a": "reciprocator", "b": "ppo"}


def train(build, config):
    algo = build(config)
    return algo, algo.train()


@pytest.mark.parametrize("setter", SETTERS)
@pytest.mark.parametrize("players", [None, MIXED], ids=["policies", "players"])
def test_the_order_of_calls_does_not_matter(build, setter, players):
    settings = {"weight": 0.5, "observe_balance": True, "estimator_minibatch_size": 10}
    before, result = train(build, reciprocate(SETTERS[setter](plain()), players, **settings))
    after, after_result = train(build, SETTERS[setter](reciprocate(plain(), players, **settings)))
    assert_same_weights(before, after)
    assert {"reciprocal_reward", "influence", "balance"} <= set(after_result["env_runners"])
    assert after_result["env_runners"]["reciprocal_reward"] == result["env_runners"]["reciprocal_reward"]
    assert float(after_result["learners"]["influence"]["loss"]) == float(result["learners"]["influence"]["loss"])
    for algo, metrics in ((before, result), (after, after_result)):
        env_connectors = [type(piece).__name__ for piece in algo.env_runner._env_to_module.connectors]
        assert env_connectors.count("ObserveBalance") == 1
        assert ("Untouched" in env_connectors) == (setter == "env_to_module_connector")
        learner = algo.learner_group._learner
        learner_connectors = [type(piece).__name__ for piece in learner._learner_connector.connectors]
        assert learner_connectors.count("AddReciprocalRewards") == 1
        assert ("Untouched" in learner_connectors) == (setter == "learner_connector")
        assert isinstance(learner, UsersLearner) == (setter == "learner_class")
        assert ("counted" in metrics["env_runners"]) == (setter == "callbacks")
        widths = {"rl_module_spec": (3, 4), "rl_module_spec of all": (5, 5)}.get(setter, (4, 4))
        weights = algo.get_weights()
        for agent, width in zip("ab", widths, strict=True):
            assert any(value.shape[0] == width for value in weights[agent].values())
            assert not any(value.shape[0] == 9 - width for value in weights[agent].values() if width in (4, 5))


def test_player_settings_override_the_specs(build):
    """Checks that networks are those of the player, else those of the specs, else those of the config."""
    config = plain().rl_module(model_config={"fcnet_hiddens": [4], "fcnet_activation": "relu"})
    players = {"a": {"player": "reciprocator", "model_config": {"fcnet_hiddens": [6]}}, "b": "ppo"}
    config = reciprocate(config, players, weight=0.5)
    config.rl_module(rl_module_spec=RLModuleSpec(model_config={"fcnet_hiddens": [3]}))
    weights = build(config).get_weights()
    for agent, width in (("a", 6), ("b", 3)):
        assert any(value.shape[0] == width for value in weights[agent].values())


def test_a_module_class_in_the_specs(build):
    specs = {"b": RLModuleSpec(TinyModule)}
    config = reciprocate(plain(), MIXED, weight=0.5)
    algo = build(config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs)))
    algo.train()
    modules = {agent: type(algo.env_runner.module[agent]).__name__ for agent in "ab"}
    assert modules["b"] == "TinyModule" != modules["a"]


def test_environment_can_be_changed_afterwards(build):
    config = reciprocate(plain().environment("ipd_v0", env_config={"num_steps": 10}), {"*": "reciprocator"})
    config.environment(env_config={"num_steps": 5})
    assert build(config).config.episode_reciprocity.horizon == 5


def test_repeated_settings_are_applied_once(build):
    config = reciprocate(plain(), observe_balance=True, weight=0.5)
    for _ in range(2):
        config.validate()
        config = reciprocate(config, observe_balance=True, weight=0.5)
    algo, result = train(build, config)
    assert len(set(config.callbacks_class)) == len(config.callbacks_class)
    assert [type(piece).__name__ for piece in algo.env_runner._env_to_module.connectors].count("ObserveBalance") == 1
    assert set(result["env_runners"]["reciprocal_reward"]) == {"a", "b"}


def test_user_defined_algorithms(build, tmp_path):
    """Checks that the algorithm keeps the user's class and can be restored from its checkpoint."""
    algo, _ = train(build, reciprocate(plain(UsersPPOConfig), weight=0.5))
    assert isinstance(algo, UsersPPO)
    assert isinstance(algo.config, UsersPPOConfig)
    path = algo.save_to_path(tmp_path)
    restored_algo = type(algo).from_checkpoint(path)
    assert_same_weights(algo, restored_algo)
    restored_algo.stop()


def test_policies_to_train_can_be_set_afterwards(build):
    config = reciprocate(plain(), weight=0.5).multi_agent(policies_to_train=["a"])
    _, result = train(build, config)
    assert set(result["env_runners"]["reciprocal_reward"]) == {"a"}


def test_reward_per_step_and_outcomes_are_reported(build):
    """Checks runs that are configured in Python."""
    config = plain().environment("ipd_v0", env_config={"num_steps": 5})
    _, result = train(build, reciprocate(config, {"*": "reciprocator"}, weight=0.5))
    assert set(result["env_runners"]["reward_per_step"]) == {"player_0", "player_1"}
    assert "cooperation_rate" in result["env_runners"]["outcomes"]["player_0"]
    _, result = train(build, reciprocate(plain(), weight=0.5))
    assert np.isfinite(result["env_runners"]["reward_per_step"]["a"])
    assert "outcomes" not in result["env_runners"]
    config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 5})
    config.multi_agent(policies=["a"], policy_mapping_fn=lambda *args, **kwargs: "a").env_runners(num_env_runners=0)
    config.training(train_batch_size_per_learner=20, minibatch_size=10, num_epochs=1)
    _, result = train(build, config.env_runners(rollout_fragment_length=5))
    assert "cooperation_rate" in result["env_runners"]["outcomes"]["player_0"]


def with_players(players=MIXED):
    return reciprocate(plain(), players, weight=0.5)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (
            lambda: with_players({"a": "reciprocator", "b": "scripted/random"}).rl_module(
                rl_module_spec=MultiRLModuleSpec(rl_module_specs={"b": RLModuleSpec()})
            ),
            "rl_module_spec.b: scripted/random defines its own module; remove this entry",
        ),
        (
            lambda: with_players().rl_module(
                rl_module_spec=MultiRLModuleSpec(rl_module_specs={"aa": RLModuleSpec(), "b": RLModuleSpec()})
            ),
            "rl_module_spec.aa: no player has this module",
        ),
        (
            lambda: with_players({"*": "module/tests.helpers.multi_agent_envs:TinyModule"}).rl_module(
                rl_module_spec=RLModuleSpec(TinyModule)
            ),
            "players.a.module: rl_module_spec sets a class for a too; set one of them",
        ),
        (
            lambda: with_players().multi_agent(policy_mapping_fn=own_policy),
            "policy_mapping_fn: is derived from players and cannot be set as well; set players only",
        ),
        (lambda: with_players().environment("CartPole-v1"), "is not a registered multi-agent environment"),
    ],
)
def test_conflicting_settings_are_refused(config, complaint):
    a_config = config()
    with pytest.raises(ValueError, match=complaint):
        a_config.validate()


def test_rllib_class_with_overwritten_settings_is_refused(ray_cluster):
    """Builds from a dict as ``Tuner("PPO", param_space=config)`` does, where only our class composes settings."""
    config = reciprocate(plain(), weight=0.5)
    algo = PPO(config.to_dict())
    assert "reciprocal_reward" in algo.train()["env_runners"]
    algo.stop()
    config.callbacks(Counting)
    algo = config.algo_class(config.to_dict())
    assert {"counted", "reciprocal_reward"} <= set(algo.train()["env_runners"])
    algo.stop()
    with pytest.raises(ValueError, match=r"callbacks: overwritten after reciprocate\(\).* pass config.algo_class"):
        PPO(config.to_dict())


def test_training_without_players_equals_rllib(build):
    """Checks that only metrics are added."""
    weights = []
    for kind in (algorithm_class("PPO").get_default_config, PPOConfig):
        algo, _ = train(build, plain(kind))
        weights.append(algo.get_weights())
    for agent, params in weights[0].items():
        for name, value in params.items():
            np.testing.assert_array_equal(value, weights[1][agent][name])
