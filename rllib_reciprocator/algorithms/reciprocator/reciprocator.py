"""The Reciprocator algorithm."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.utils.annotations import override

from rllib_reciprocator.engine.algorithm import BatchedAlgorithm
from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.intrinsic.reciprocity.settings import RECIPROCATOR, RECIPROCITY, ReciprocitySettings


class ReciprocatorConfig(BatchedConfig):
    """Configuration of :class:`Reciprocator`, which trains PPO policies with the reciprocal reward.

    It also accepts the players of :class:`BatchedConfig`, in any of the batched games.

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
        """Sets the defaults: the paper's PPO settings for the iterated prisoner's dilemma, with wider networks."""
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
        """Sets the reciprocal reward and the influence estimator. Unset settings keep their values.

        Args:
            reward: Form of the reciprocal reward, one of ``rllib_reciprocator.intrinsic.reciprocity.rules.REWARDS``.
                None selects ``petty``, the form of the paper's matrix-game code, if the game has a payoff table, and
                otherwise ``petty_payoff``, the paper's own form, which subtracts the agent's influence on its co-player
                from the balance. With ``petty_payoff`` two players that always cooperate have a balance of zero, and in
                the prisoner's dilemma neither learns to cooperate (the cooperation rate stays near 0.5 for 50
                iterations, with decays from 0 to 0.96).
            weight: Weight of the reciprocal reward relative to the extrinsic reward: a number, or a schedule with
                ``start``, ``end`` and ``per_iteration`` that increases or decreases. None selects ``(N - 1) ** 2``
                times 5.0 if the game has a payoff table (the paper's weight for matrix games), and times 0.5 otherwise
                (the paper's weight for Coins is 1.0). The factor compensates that the reciprocal reward is a mean over
                N - 1 co-players, and that the effect of an action on the co-players is divided among N - 1 of them.
            balance_decay: Factor from 0 to 1 by which the influence balance is multiplied in every step (the paper's
                decay d). None selects the paper's: 0 if the game has a payoff table, gamma otherwise.
            initial_balance: Influence balance towards every co-player at the start of an episode (the paper's: 0). A
                positive value makes a Reciprocator cooperate first, with a reward that debits given influence until it
                has given more than this value without receiving anything in return.
            normalize: If True, standardizes reciprocal rewards over the batch before they are weighted.
            observe_balance: If True, the policy observes its balance towards every co-player. None selects True, unless
                the game has a payoff table (the last actions, which are observed, determine the reciprocal response in
                a matrix game) or ``predict_balance_coeff`` is positive.
            balance_scale: Scale of the observed balance, which is ``tanh(balance / balance_scale)``.
            predict_balance_coeff: Weight of an auxiliary loss for Reciprocators that do not observe their balance: they
                predict it from the features of the policy, so that its memory learns to represent the balance. 0
                disables the loss.
            influence: Influence estimator. ``tabular`` is for games with a payoff table. ``reward`` (a learned reward
                model, with exact expectations over the influencer's policy) and ``counterfactual`` (the paper's general
                form, with learned counterfactual networks) are for any game. ``transition`` is the paper's form for
                Coins, which predicts the future with a learned transition model. ``value`` is a learned value of joint
                actions, for any game, where actions have delayed effects. ``auto`` selects ``tabular`` if the game has
                a payoff table, else ``reward``.
            future_weight: Weight of the influence on the returns after the step, discounted by gamma, relative to the
                influence on the reward of the step (the paper's: 1). Defaults to 0: in Coins the returns after a step
                depend far more on later actions than on the step, and the resulting noise in the estimates makes
                learning stall.
            estimator_sees: Input of the estimator: ``state``, the joint state; ``observations``, the observations of
                all players; or ``own``, with which each Reciprocator learns only from its own observations and rewards
                and from the actions that it observes
                (:class:`rllib_reciprocator.intrinsic.reciprocity.estimators.OwnViewInfluence`). ``own`` needs
                ``influence: reward``.
            estimator_shared: If True, one network of ``reward`` or ``value`` estimates the values of joint actions for
                every agent, from that agent's position, so that the same function measures all agents. Needs
                ``estimator_sees: observations`` and ``counterfactual`` policy or uniform. If False, each agent has
                separate outputs.
            counterfactual: Distribution that replaces the influencer's action in the counterfactual of ``reward``,
                ``value`` and ``transition``: ``policy``, the influencer's action probabilities; ``modelled``, a learned
                model of its behavior given the estimator's input; or ``uniform``. None selects ``policy``, or
                ``modelled`` with ``estimator_sees: own``.
            uniform_share: Weight of the uniform distribution that is mixed into these probabilities, from 0 to 1. With
                0 a deterministic policy has no influence, so that Reciprocators do not respond to a trained defector.
                None selects 0.3 with ``reward`` and ``value`` if ``estimator_sees`` is ``state`` or ``observations``,
                and 0 (the paper's) with ``transition`` and with ``own``. ``counterfactual`` supports 0 only;
                ``counterfactual: uniform`` and ``tabular``, which has ``exploration``, do not use it.
            estimator_hiddens: Widths of the hidden layers of a learned estimator.
            estimator_lr: Learning rate of the estimator.
            estimator_epochs: Number of passes over the replay buffer per update of the estimator.
            estimator_minibatch_size: Number of rows per gradient step of the estimator.
            estimator_lambda: Lambda of the lambda-returns that ``value`` is trained on, from 0 (TD targets) to 1
                (returns).
            tau: Step size of the target networks towards the estimator's networks after every update. Influence is
                computed with the target networks. With 1 there are no target networks.
            warmup_iterations: Number of iterations at the start in which only the estimator is trained (the paper's 2
                in Coins).
            buffer_iterations: Number of rollouts in the replay buffer of a learned estimator, and in the behavior
                counts of ``tabular``. An iteration has ``updates_per_iteration`` rollouts, by default one.
            update_period_iters: Number of iterations between two iterations in which the estimator is trained. It is
                then trained after each of their rollouts.
            prior: Prior count of each action in each state for ``tabular``.
            exploration: Weight of the uniform distribution in the counterfactual of ``tabular``. A positive value
                keeps influence, and with it the reciprocal reward, from vanishing if a player always takes the same
                action.
            always_estimate: If True, estimates influence even if no player is a Reciprocator, e.g. to display it.

        Returns:
            This configuration.

        Raises:
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        settings = {name: value for name, value in locals().items() if name != "self" and value is not NotProvided}
        self.intrinsic(RECIPROCITY, **settings)
        return self

    @classmethod
    @override(AlgorithmConfig)
    def from_state(cls, state: dict[str, Any]) -> ReciprocatorConfig:
        """Returns the configuration of a state. Converts states of version 0.1.0.

        Version 0.1.0 stored all reciprocity settings in the attribute ``reciprocity_settings``.
        """
        config = super().from_state(state)
        if "reciprocity_settings" in vars(config):
            saved_settings = vars(config).pop("reciprocity_settings").model_dump()
            defaults = ReciprocitySettings.model_validate({}).model_dump()
            config.reciprocity(**{name: value for name, value in saved_settings.items() if value != defaults[name]})
            config.validate()
        return config


class Reciprocator(BatchedAlgorithm):
    """PPO with an intrinsic reward for reciprocating the influence that co-players had on the agent's return.

    Source: Zhou, Hong and Kao, "Reciprocal Reward Influence Encourages Cooperation From Self-Interested Agents",
    NeurIPS 2024. Env runners compute influence and influence balance in every step with the estimator of the last
    synchronization (:mod:`rllib_reciprocator.intrinsic.reciprocity.estimators`). Learners train the estimator and add
    the weighted reciprocal reward (:mod:`rllib_reciprocator.intrinsic.reciprocity.settings`).

    Differs from the paper's code: influence is computed with the estimator of the previous iteration, so that a policy
    can observe its balance while it acts. The clipped objective uses advantages that are fixed at the start of an
    update, as in RLlib's PPO; the paper's code subtracts the new value from the return in every epoch.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> ReciprocatorConfig:
        """Returns the default configuration."""
        return ReciprocatorConfig(algo_class=cls)
