"""The configuration of the Reciprocator algorithm."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.utils.annotations import override

from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings
from rllib_reciprocator.players import RECIPROCATOR, RECIPROCITY


class ReciprocatorConfig(BatchedConfig):
    """Reciprocators, and whoever plays with them, in one of the batched games.

    .. code-block:: python

        config = (
            ReciprocatorConfig()
            .environment("ipd_v0", env_config={"num_steps": 32})
            .players({"player_0": "reciprocator", "player_1": "ppo"})
            .reciprocity(reward="petty", weight=5.0)
            .training(lr=0.005, gamma=0.96)
        )
        algorithm = config.build_algo()
    """

    default_player = RECIPROCATOR

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults; those of PPO are the paper's for the iterated prisoner's dilemma, with wider networks."""
        from rllib_reciprocator.algorithms.reciprocator.reciprocator import Reciprocator

        super().__init__(algo_class=algo_class or Reciprocator)

    def reciprocity(
        self,
        *,
        reward: str | None = NotProvided,
        weight: float | dict[str, float] | None = NotProvided,
        balance_decay: float | None = NotProvided,
        initial_balance: float = NotProvided,
        normalize: bool = NotProvided,
        observe_balance: bool | None = NotProvided,
        balance_scale: float = NotProvided,
        predict_balance_coeff: float = NotProvided,
        influence: str = NotProvided,
        future_weight: float = NotProvided,
        estimator_sees: str = NotProvided,
        estimator_shared: bool = NotProvided,
        counterfactual: str | None = NotProvided,
        uniform_share: float | None = NotProvided,
        estimator_hiddens: list[int] = NotProvided,
        estimator_lr: float = NotProvided,
        estimator_epochs: int = NotProvided,
        estimator_minibatch_size: int = NotProvided,
        estimator_lambda: float = NotProvided,
        tau: float = NotProvided,
        warmup_iterations: int = NotProvided,
        buffer_iterations: int = NotProvided,
        update_period_iters: int = NotProvided,
        prior: float = NotProvided,
        exploration: float = NotProvided,
        always_estimate: bool = NotProvided,
    ) -> ReciprocatorConfig:
        """Sets how Reciprocators reciprocate. Unset settings keep their values.

        Args:
            reward: Form of the reciprocal reward, one of ``rllib_reciprocator.intrinsic.REWARDS``. None for ``petty``
                where the game has a payoff table, that of the paper's matrix-game code, and elsewhere for the paper's
                own, ``petty_payoff``, which debits what one gave. With it two players who always cooperate owe each
                other nothing, and in the prisoner's dilemma neither learns to (cooperation stays near a half for 50
                iterations, with decays from 0 to 0.96).
            weight: Of the reciprocal beside the extrinsic reward: a number, or ``start``, ``end`` and
                ``per_iteration`` of one that moves, up or down. None for ``(N - 1) ** 2`` times 5.0 where the game has
                a payoff table (the paper's for matrix games), and times 0.5 elsewhere (the paper's for Coins is 1.0):
                each of N - 1 others is that share of the mean that a Reciprocator is paid for, and what one's action
                does to the others is shared among as many.
            balance_decay: Share of the influence balance that is kept from step to step (the paper's decay d), from 0
                to 1. None for the paper's: 0 where the game has a payoff table, gamma elsewhere.
            initial_balance: Towards each other player, with which an episode starts (the paper's: 0). With more a
                Reciprocator is kind first, and as long as it has not given more than that without a return.
            normalize: Whether reciprocal rewards are standardised over the batch before they are weighted.
            observe_balance: Whether a Reciprocator sees its balance towards each other player; None for yes, unless
                the game has a payoff table. (What is to be answered in a matrix game is seen in the last actions.)
            balance_scale: It sees ``tanh(balance / balance_scale)``.
            predict_balance_coeff: Above 0, of an auxiliary loss: Reciprocators that do not see their balance predict it
                from what they remember, so that their memory learns to keep what tells it.
            influence: The influence estimator: ``tabular`` for games with a payoff table; for any game ``reward`` (a
                learned model, with exact expectations over the influencer's policy) or ``counterfactual`` (the paper's
                general form, with learned counterfactual networks); for Coins ``transition`` (the paper's form for it:
                the future through a learned transition model); ``value``, where what one does matters later: a learned
                value of joint actions, for any game. ``auto``: tabular where it can be, else reward.
            future_weight: Of the influence on returns after the step, discounted by gamma, beside that on the reward
                of the step (the paper's: 1). 0 by default: in Coins the returns after a step depend far more on
                what is done later than on the step, and what the estimator makes of that noise freezes play.
            estimator_sees: ``state``, the joint state; ``observations``, those of all players; or ``own``: each
                Reciprocator learns from its own observations and rewards, and the actions that it sees, and uses
                nothing else (:class:`rllib_reciprocator.intrinsic.reciprocity.estimators.OwnViewInfluence`). Needs
                ``reward``.
            estimator_shared: Whether one network, of ``reward`` or ``value``, tells what actions are worth to any agent
                from its place, where ``estimator_sees`` is ``observations``: then all are measured alike. If not, each
                has outputs of its own.
            counterfactual: What ``reward`` and ``transition`` put in the place of an action: ``policy``, the
                probabilities with which the influencer chose; ``modelled``, what it is learned to do where it sees what
                the estimator sees; or ``uniform``. None for policy, or modelled where each sees its own.
            uniform_share: How much of a uniform choice is mixed into these probabilities, from 0 to 1. With 0 a
                deterministic policy has no influence: a trained defector takes what it wants and is not answered. None
                for 0.3 with ``reward`` and ``value`` where ``estimator_sees`` is ``state`` or ``observations``, and
                for 0 (the paper's) with ``transition`` and with ``own``. ``counterfactual`` has 0 only.
            estimator_hiddens: Widths of the hidden layers of a learned estimator.
            estimator_lr: Its learning rate.
            estimator_epochs: How often an update of it goes through its buffer.
            estimator_minibatch_size: Rows of a gradient step of it.
            estimator_lambda: Of ``value``: how far returns are those that came, from 0 (what it expects after one step)
                to 1.
            tau: Below 1, influence is read from copies of the estimator's networks, which move by this share towards
                them with every update.
            warmup_iterations: How many iterations at the start change the estimator only (the paper's 2 in Coins).
            buffer_iterations: How many iterations ``tabular`` counts behaviour in, and a learned estimator learns from.
            update_period_iters: Every how many iterations the estimator is updated.
            prior: How often ``tabular`` takes each action to have been seen in each state before any was.
            exploration: Share of uniform play in the counterfactual of ``tabular``. Above 0 it keeps influence, and
                with it the reciprocal reward, alive where a player always does the same.
            always_estimate: Whether influence is estimated even where nobody reciprocates, for whoever looks on.

        Returns:
            This configuration.

        Raises:
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        given = {name: value for name, value in locals().items() if name != "self" and value is not NotProvided}
        self.intrinsic(RECIPROCITY, **given)
        return self

    @classmethod
    @override(AlgorithmConfig)
    def from_state(cls, state: dict[str, Any]) -> ReciprocatorConfig:
        """A configuration from its state; version 0.1.0 kept all settings of reciprocity under another name."""
        config = super().from_state(state)
        if "reciprocity_settings" in vars(config):
            former = vars(config).pop("reciprocity_settings").model_dump()
            today = ReciprocitySettings.model_validate({}).model_dump()
            config.reciprocity(**{name: value for name, value in former.items() if value != today[name]})
            config.validate()
        return config
