"""Tests of the settings of Reciprocators: which are refused, and what follows from others."""

import inspect

import pytest
from pydantic import ValidationError

import social_dilemmas
from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings
from tests.helpers.games import COUNTDOWN
from tests.helpers.reciprocators import reciprocator_config


def test_reciprocity_with_a_single_agent_raises():
    with pytest.raises(
        ValueError, match=r"players.player_0: reciprocity needs other agents, and centralized_v0 has one"
    ):
        ReciprocatorConfig().environment("centralized_v0").validate()


def test_default_weight_grows_with_the_number_of_agents(build):
    for env, players, weight in (("ipd_v0", None, 5.0), ("public_goods_v0", 4, 45.0), ("coins_v0", 3, 2.0)):
        a_config = reciprocator_config(env=env)
        if players:
            a_config.environment(env_config={"num_agents": players, "num_steps": 4})
        assert build(a_config).train()["learners"]["influence"]["reciprocal_weight"] == weight


def test_every_reciprocity_setting_has_a_field_a_docstring_entry_and_a_check():
    setter = inspect.signature(ReciprocatorConfig.reciprocity).parameters
    assert set(setter) - {"self"} == set(ReciprocitySettings.model_fields)
    for name in ReciprocitySettings.model_fields:
        assert f"            {name}: " in ReciprocatorConfig.reciprocity.__doc__, name
        with pytest.raises(ValidationError, match=name):
            ReciprocatorConfig().reciprocity(**{name: object()})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c.players({"*": "scripted/random"}), "no player is trained"),
        (lambda c: c.environment("ipd_v1"), "did you mean 'ipd_v0'"),
        (lambda c: c.environment(None), "env: Reciprocator needs the id of a registered environment"),
        (lambda c: c.environment("coins_v0").reciprocity(influence="tabular"), "needs an environment with a payoff"),
        (lambda c: c.reciprocity(influence="transition"), "needs a state of one-hot planes"),
        (
            lambda c: c.reciprocity(influence="reward", future_weight=1.0).env_runners(rollout_fragment_length=2),
            "needs complete episodes",
        ),
        (
            lambda c: c.environment("countdown_v0").reciprocity(future_weight=1.0),
            "needs complete episodes of fixed length",
        ),
        (lambda c: c.reciprocity(tau=0.5), "reciprocity.tau: not used by tabular"),
        (lambda c: c.reciprocity(estimator_lr=0.1), "reciprocity.estimator_lr: not used by tabular"),
        (lambda c: c.reciprocity(influence="reward", prior=2.0), "reciprocity.prior: used by tabular"),
        (lambda c: c.environment("coins_v0").reciprocity(exploration=0.1), "reciprocity.exploration: used by tabular"),
        (lambda c: c.env_runners(local_runner_device="gpu"), "'gpu' is not auto, cpu or cuda"),
        (lambda c: setattr(c, "num_envs_per_env_runner", 0), "0 is not a positive number of environments"),
        (lambda c: c.env_runners(num_envs_per_env_runner=3).learners(num_learners=2), "cannot be split evenly among 2"),
        (
            lambda c: c.training(train_batch_size_per_learner=100),
            "100 does not match; 1 env runners x 32 environments x 4 steps",
        ),
        (lambda c: c.training(minibatch_size=129), "129 is not between 1 and the 128 rows"),
        (lambda c: c.training(normalize_returns=True, lambda_=0.9), "needs lambda 1"),
        (lambda c: c.rl_module(model_config={"fcnet_hidden": [4]}), "fcnet_hidden"),
        (lambda c: c.rl_module(model_config={"conv_filters": [4]}), "not planes x height x width"),
        (lambda c: c.rl_module(model_config={"use_gru": True}).training(minibatch_size=3), "a sequence of 4 steps"),
        (
            lambda c: c.rl_module(model_config={"use_gru": True}).training(bootstrap_at_horizon=True),
            "bootstrap_at_horizon: not supported with recurrent modules",
        ),
        (
            lambda c: c.rl_module(model_config={"model": "rllib", "use_lstm": True}).training(minibatch_size=3),
            "a sequence of 4 steps",
        ),
        (lambda c: c.rl_module(model_config={"model": "rllib", "fcnet_hidden": [4]}), "fcnet_hidden"),
        (
            lambda c: c.environment("coins_v0").rl_module(model_config={"model": "rllib", "fcnet_activation": "rilu"}),
            "model_config: RLlib cannot build the module",
        ),
        (lambda c: c.reciprocity(estimator_sees="own"), "tabular supports state only"),
        (lambda c: c.reciprocity(estimator_shared=True), "estimator_shared: not used by tabular"),
        (lambda c: c.reciprocity(influence="value", estimator_shared=True), "needs estimator_sees observations"),
        (lambda c: c.reciprocity(influence="counterfactual", estimator_sees="own"), "own needs influence reward"),
        (
            lambda c: c.reciprocity(influence="reward", estimator_sees="own", counterfactual="policy"),
            "hides the other agents' policies",
        ),
        (
            lambda c: c.reciprocity(influence="reward", estimator_sees="own", reward="grudge_minus_debit"),
            "needs others' influence on themselves",
        ),
        (
            lambda c: c.environment("countdown_v0").reciprocity(estimator_sees="own"),
            "own needs an environment in which agents can infer",
        ),
        (
            lambda c: c.reciprocity(predict_balance_coeff=1.0, observe_balance=True),
            "the balance is observed; set it to 0, or observe_balance to false",
        ),
    ],
)
def test_invalid_settings_raise(change, complaint):
    social_dilemmas.register(COUNTDOWN)
    a_config = reciprocator_config()
    change(a_config)
    with pytest.raises(ValueError, match=complaint):
        a_config.validate()


def test_batch_size_follows_from_other_settings():
    a_config = reciprocator_config(games=6).env_runners(num_env_runners=3).learners(num_learners=2)
    a_config.validate()
    assert a_config.train_batch_size_per_learner == 3 * 6 * 4 // 2
    a_config.training(train_batch_size_per_learner=36)
    a_config.validate()
