"""Tests which settings `reciprocate` accepts, and their defaults."""

import numpy as np
import pytest
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig

from rllib_reciprocator import ReciprocatorConfig, reciprocate
from rllib_reciprocator.algorithms.registry import algorithm_class
from tests.helpers.reciprocate import config, plain


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda: reciprocate(DQNConfig().environment("come_and_go")), "DQN is not supported, since influence"),
        (lambda: reciprocate(ReciprocatorConfig()), "Reciprocator supports reciprocity itself"),
        (lambda: config({"stay": "reciprocator"}), "players.stay: .* has no such agent; did you mean 'stays'"),
        (lambda: config({"*": "ppo"}), "no player reciprocates"),
        (lambda: config({"*": "scripted/random"}), "no player is trained"),
        (lambda: config({"stays": "reciprocator"}), "no key assigns a player to early"),
        (lambda: config({"*": "module/tests.helpers.multi_agent_envs:Missing"}), "cannot be imported"),
        (lambda: config({"*": "module/tests.helpers.multi_agent_envs"}), "give PACKAGE.MODULE:CLASS"),
        (lambda: config({"*": "module/tests.helpers.multi_agent_envs:Mixed"}), "is not a subclass of RLModule"),
        (lambda: config({"*": {"player": "ppo", "learning_rate": 1}}), "learning_rate: not known"),
        (lambda: config({"*": {"lambda": 0.9}}, kind=IMPALAConfig), "IMPALA has no such setting"),
        (lambda: config({"*": "reciprocator", "late": "scripted/tit_for_tat"}), "needs the actions cooperate"),
        (lambda: config({"*": "team/a", "late": {"team": "a", "lr": 0.1}}), "settings differ from those of stays"),
        (lambda: config({"*": {"player": "scripted/random", "lr": 0.1}}), "does not learn"),
        (lambda: config({"*": "team/x"}, env="mixed"), "observation space differs from that of camera"),
        (lambda: reciprocate(plain(IMPALAConfig).learners(num_aggregator_actors_per_learner=1)), "set it to 0"),
        (lambda: config(prior=2.0), "reciprocity.prior: not supported by PPO"),
        (lambda: config(rewards="petty"), "did you mean 'reward'"),
        (lambda: config(reward="pety"), "petty"),
        (lambda: config(influence="tabular"), "tabular requires run: Reciprocator"),
        (lambda: reciprocate(PPOConfig().environment("CartPole-v1")), "not a registered multi-agent environment"),
        (lambda: reciprocate(PPOConfig()), "env: None is not"),
    ],
)
def test_unsupported_settings_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        change()


def test_repeated_settings_from_a_dict_are_applied_once(build):
    """Checks that callbacks and connectors are not added again."""
    a_config = algorithm_class("PPO").get_default_config().environment("ipd_v0", env_config={"num_steps": 4})
    a_config.env_runners(num_env_runners=0, rollout_fragment_length=4).debugging(seed=1)
    a_config.training(train_batch_size_per_learner=16, minibatch_size=8, num_epochs=1)
    settings = {"players": {"*": "reciprocator"}, "reciprocity": {"observe_balance": True, "weight": 2.0}}
    a_config.update_from_dict(settings)
    callbacks = list(a_config.callbacks_class)
    a_config.update_from_dict(settings)
    assert a_config.callbacks_class == callbacks
    assert len(set(callbacks)) == len(callbacks)
    algo = build(a_config)
    learner, runner = algo.learner_group._learner, algo.env_runner
    connectors = [type(piece).__name__ for piece in learner._learner_connector.connectors]
    assert connectors.count("AddReciprocalRewards") == 1
    assert [type(piece).__name__ for piece in runner._env_to_module.connectors].count("ObserveBalance") == 1
    assert np.isfinite(algo.train()["env_runners"]["reward_per_step"]["player_0"])


@pytest.mark.parametrize("env", ["ipd_v0", "coins_v0", "public_goods_v0"])
def test_batched_and_episode_sampling_have_the_same_defaults(env):
    batched_config = ReciprocatorConfig().environment(env).training(gamma=0.97)
    batched_config.validate()
    rllib_config = algorithm_class("PPO").get_default_config().environment(env).training(gamma=0.97)
    rllib_config.update_from_dict({"players": {"*": "reciprocator"}})
    batched_settings = batched_config.intrinsic_by_player()["reciprocity"][0, 0]
    episode_settings = rllib_config.episode_reciprocity.settings
    for name in ("reward", "weight", "balance_decay", "observe_balance", "balance_scale"):
        assert getattr(batched_settings, name) == getattr(episode_settings, name), name
    expected = ("petty", 0.0, False) if env != "coins_v0" else ("petty_payoff", 0.97, True)
    assert (batched_settings.reward, batched_settings.balance_decay, batched_settings.observe_balance) == expected
