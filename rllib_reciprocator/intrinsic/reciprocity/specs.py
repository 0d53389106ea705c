"""Specs of the influence estimator that settings select, and settings of policies that use it."""

from __future__ import annotations

from typing import Any

from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_reciprocator.intrinsic.reciprocity.estimators.counterfactual import CounterfactualInfluence
from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import InfluenceEstimator
from rllib_reciprocator.intrinsic.reciprocity.estimators.own_view import OwnViewInfluence
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
from rllib_reciprocator.utils.import_paths import import_attribute
from social_dilemmas.batched_game import BatchedGame

INFLUENCE_MODULE_ID = "influence"
# Policy input, [.., N - 1]: the agent's influence balance towards each agent after it.
BALANCE_INPUT = "influence_balance"
# Settings of learned estimators only, and of the tabular estimator only.
LEARNED = (
    "estimator_hiddens", "estimator_lr", "estimator_epochs", "estimator_minibatch_size", "estimator_lambda", "tau",
    "future_weight", "counterfactual", "estimator_shared",
)  # fmt: skip
TABLE = ("prior", "exploration")
_LEARNED_ESTIMATORS: dict[str, type[InfluenceEstimator]] = {
    "counterfactual": CounterfactualInfluence,
    "transition": TransitionInfluence,
    "value": ValueInfluence,
}


def estimator_specs(game: BatchedGame, settings: ReciprocitySettings, gamma: float) -> dict[str, RLModuleSpec]:
    """Builds the spec of the influence estimator that the settings select, by its module id.

    Args:
        game: The game, with a single environment.
        settings: The settings, as :meth:`ReciprocitySettings.for_game` returns them.
        gamma: Discount factor.

    Raises:
        ValueError: If the estimator does not support the environment, or a setting has no effect on it.
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
    regression: type[InfluenceEstimator]
    if settings.influence == "tabular" or (settings.influence == "auto" and game.payoffs is not None):
        if game.payoffs is None:
            raise ValueError("reciprocity.influence: tabular needs an environment with a payoff table; use reward")
        if sees != STATE:
            raise ValueError(
                f"reciprocity.estimator_sees: tabular supports state only; use influence reward with {sees}"
            )
        _check_idle(settings, LEARNED, "not used by tabular, which has no trainable parameters; remove it")
        if settings.uniform_share:
            raise ValueError("reciprocity.uniform_share: not used by tabular; set exploration instead")
        estimator = TabularInfluence
        model_config |= {
            "payoffs": game.payoffs.tolist(),
            "prior": settings.prior,
            "exploration": settings.exploration,
        }
    else:
        regression = estimator_class(settings.influence)
        if sees == OWN:
            _check_own_view(settings)
            regression = OwnViewInfluence
        _check_idle(settings, TABLE, "used by tabular only; remove it")
        if regression is CounterfactualInfluence:
            _check_idle(settings, ("counterfactual",), "used by reward, value and transition only; remove it")
        if settings.estimator_shared and (
            sees != OBSERVATIONS
            or regression not in (RewardModelInfluence, ValueInfluence)
            or settings.counterfactual == MODELLED
        ):
            raise ValueError(
                "reciprocity.estimator_shared: needs estimator_sees observations, influence reward or value, and"
                " counterfactual policy or uniform"
            )
        if regression is ValueInfluence:
            _check_idle(settings, ("future_weight",), "not used by value, which includes future rewards; remove it")
        else:
            _check_idle(settings, ("estimator_lambda",), "used by value only; remove it")
        regression.check_space(space)
        estimator = regression
        model_config |= {
            "lr": settings.estimator_lr,
            "horizon": game.horizon,
            "counterfactual": settings.counterfactual or (MODELLED if sees == OWN else POLICY),
            "uniform_share": uniform_share(regression, settings),
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


def estimator_class(name: str) -> type[InfluenceEstimator]:
    """Returns the class of a learned estimator.

    Args:
        name: Value of ``influence``: a known name, or ``module:class`` of a subclass of :class:`InfluenceEstimator`.

    Raises:
        ValueError: If the class cannot be imported or is no estimator.
    """
    if ":" not in name:
        return _LEARNED_ESTIMATORS.get(name, RewardModelInfluence)
    try:
        estimator = import_attribute(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"reciprocity.influence: {name!r} cannot be imported ({error})") from None
    if not (isinstance(estimator, type) and issubclass(estimator, InfluenceEstimator)):
        raise ValueError(f"reciprocity.influence: {name!r} is not a subclass of InfluenceEstimator")
    return estimator


def uniform_share(estimator: type[InfluenceEstimator], settings: ReciprocitySettings) -> float:
    """Returns the share of uniform action choice in an estimator's counterfactuals: the setting, or the class default.

    Args:
        estimator: Class of the estimator.
        settings: The settings of reciprocity.

    Raises:
        ValueError: If the share is set although the estimator does not use it.
    """
    share = settings.uniform_share
    if settings.counterfactual == UNIFORM:
        if share:
            raise ValueError("reciprocity.uniform_share: not used with counterfactual uniform; remove it")
        return 0.0
    if share and issubclass(estimator, CounterfactualInfluence):
        raise ValueError("reciprocity.uniform_share: used by reward, value and transition only; set it to 0")
    return estimator.default_uniform_share if share is None else share


def _check_idle(settings: ReciprocitySettings, names: tuple[str, ...], why: str) -> None:
    """Raises ValueError if one of these settings is set although it has no effect."""
    for name in names:
        if name in settings.model_fields_set and getattr(settings, name) is not None:
            raise ValueError(f"reciprocity.{name}: {why}")


def _check_own_view(settings: ReciprocitySettings) -> None:
    """Raises ValueError if these settings are not supported with ``estimator_sees: own``."""
    if settings.influence not in ("auto", "reward"):
        raise ValueError(f"reciprocity.estimator_sees: own needs influence reward, not {settings.influence}")
    if settings.counterfactual == POLICY:
        raise ValueError(
            "reciprocity.counterfactual: estimator_sees own hides the other agents' policies; use modelled or uniform"
        )
    if settings.rule.debits_own:
        raise ValueError(
            f"reciprocity.reward: {settings.reward} needs others' influence on themselves, hidden by estimator_sees own"
        )
