"""Which influence estimator settings ask for, and what policies that go by it are given."""

from __future__ import annotations

from typing import Any

from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_reciprocator.intrinsic.reciprocity.estimators.counterfactual import CounterfactualInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import InfluenceEstimator
from rllib_reciprocator.intrinsic.reciprocity.estimators.own_view import OwnViewInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.regression import RegressionInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.reward_model import (
    MODELLED,
    POLICY,
    UNIFORM,
    RewardModelInfluence,
)
from rllib_reciprocator.intrinsic.reciprocity.estimators.tabular import TabularInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.transition_model import TransitionInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.value_model import ValueInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.view import OBSERVATIONS, OWN, STATE, view_space
from rllib_reciprocator.intrinsic.reciprocity.settings import ReciprocitySettings
from rllib_reciprocator.models import OBSERVES, PREDICTS
from social_dilemmas.batched_game import BatchedGame

INFLUENCE_MODULE_ID = "influence"
# Settings that only learned estimators, and only the table, have.
LEARNED = (
    "estimator_hiddens", "estimator_lr", "estimator_epochs", "estimator_minibatch_size", "estimator_lambda", "tau",
    "future_weight", "counterfactual", "estimator_shared",
)  # fmt: skip
TABLE = ("prior", "exploration")
_LEARNED_ESTIMATORS: dict[str, type[RegressionInfluence]] = {
    "counterfactual": CounterfactualInfluence,
    "transition": TransitionInfluence,
    "value": ValueInfluence,
}


def estimator_specs(game: BatchedGame, settings: ReciprocitySettings, gamma: float) -> dict[str, RLModuleSpec]:
    """The influence estimator that settings name, by its id.

    Args:
        game: One copy of the game.
        settings: The settings, with what follows from the game decided.
        gamma: The discount of rewards.

    Raises:
        ValueError: If the game has no such estimator, or a setting does nothing for it.
    """
    sees = settings.estimator_sees
    model_config: dict[str, Any] = {
        "num_agents": game.num_agents,
        "buffer_iterations": settings.buffer_iterations,
        "update_period_iters": settings.update_period_iters,
        "warmup_iterations": settings.warmup_iterations,
    }
    try:
        space = view_space(game, sees)
    except ValueError as error:
        raise ValueError(f"reciprocity.estimator_sees: {error}") from None
    estimator: type[InfluenceEstimator]
    learned: type[RegressionInfluence]
    if settings.influence == "tabular" or (settings.influence == "auto" and game.payoffs is not None):
        if game.payoffs is None:
            raise ValueError("reciprocity.influence: tabular needs a game with a payoff table; use reward")
        if sees != STATE:
            raise ValueError(f"reciprocity.estimator_sees: tabular looks states up; use influence reward with {sees}")
        _check_idle(settings, LEARNED, "not for tabular, which learns nothing by gradient")
        if settings.uniform_share:
            raise ValueError("reciprocity.uniform_share: not for tabular; set exploration")
        estimator = TabularInfluence
        model_config |= {
            "payoffs": game.payoffs.tolist(),
            "prior": settings.prior,
            "exploration": settings.exploration,
        }
    else:
        learned = _LEARNED_ESTIMATORS.get(settings.influence, RewardModelInfluence)
        if sees == OWN:
            _check_own_view(settings)
            learned = OwnViewInfluence
        _check_idle(settings, TABLE, "for tabular; this estimator is learned")
        if learned is CounterfactualInfluence:
            _check_idle(settings, ("counterfactual",), "for reward, value and transition")
        if settings.estimator_shared and (
            sees != OBSERVATIONS
            or learned not in (RewardModelInfluence, ValueInfluence)
            or settings.counterfactual == MODELLED
        ):
            raise ValueError(
                "reciprocity.estimator_shared: needs estimator_sees observations, influence reward or value, and"
                " counterfactual policy or uniform"
            )
        if learned is ValueInfluence:
            _check_idle(settings, ("future_weight",), "value has the future in it")
        else:
            _check_idle(settings, ("estimator_lambda",), "for value")
        learned.check_space(space)
        estimator = learned
        model_config |= {
            "lr": settings.estimator_lr,
            "horizon": game.horizon,
            "counterfactual": settings.counterfactual or (MODELLED if sees == OWN else POLICY),
            "uniform_share": uniform_share(learned, settings),
            "shared": settings.estimator_shared,
            "tau": settings.tau,
            "lambda": settings.estimator_lambda,
            "future_weight": settings.future_weight,
            "gamma": gamma,
            "hiddens": settings.estimator_hiddens,
            "epochs": settings.estimator_epochs,
            "minibatch_size": settings.estimator_minibatch_size,
        }
    spec = RLModuleSpec(estimator, observation_space=space, action_space=game.action_space, model_config=model_config)
    return {INFLUENCE_MODULE_ID: spec}


def uniform_share(estimator: type[RegressionInfluence], settings: ReciprocitySettings) -> float:
    """Returns the share of a uniform choice in an estimator's counterfactuals: the given one, or its class's default.

    Args:
        estimator: The estimator's class.
        settings: The settings of reciprocity.

    Raises:
        ValueError: If a share is given to an estimator that has no use for it.
    """
    share = settings.uniform_share
    if settings.counterfactual == UNIFORM:
        if share:
            raise ValueError("reciprocity.uniform_share: counterfactual uniform has nothing else to mix; leave it out")
        return 0.0
    if share and issubclass(estimator, CounterfactualInfluence):
        raise ValueError("reciprocity.uniform_share: for reward, value and transition; counterfactual can have 0 only")
    return estimator.default_uniform_share if share is None else share


def _check_idle(settings: ReciprocitySettings, names: tuple[str, ...], why: str) -> None:
    """Raises ValueError if one of these settings was given although it does nothing."""
    for name in names:
        if name in settings.model_fields_set and getattr(settings, name) is not None:
            raise ValueError(f"reciprocity.{name}: {why}")


def _check_own_view(settings: ReciprocitySettings) -> None:
    """Raises ValueError if agents that each see their own cannot have these settings."""
    if settings.influence not in ("auto", "reward"):
        raise ValueError(f"reciprocity.estimator_sees: own goes with influence reward, not {settings.influence}")
    if settings.counterfactual == POLICY:
        raise ValueError("reciprocity.counterfactual: who sees its own knows no policies; use modelled or uniform")
    if settings.rule.debits_own:
        raise ValueError(f"reciprocity.reward: {settings.reward} counts what others do to themselves, unseen")


def model_settings(game: BatchedGame, settings: ReciprocitySettings) -> dict[str, Any]:
    """What the networks of a Reciprocator are told: whether they see its balance, or predict it.

    Raises:
        ValueError: If it should do both.
    """
    predicts, observes = settings.predict_balance_coeff > 0, settings.observe_balance
    if predicts and observes:
        raise ValueError("reciprocity.predict_balance_coeff: who observes the balance has nothing to predict")
    return {
        "num_balances": game.num_agents - 1 if observes or predicts else 0,
        "balance_scale": settings.balance_scale,
        "balance_use": PREDICTS if predicts else OBSERVES,
        "predict_balance_coeff": settings.predict_balance_coeff,
    }
