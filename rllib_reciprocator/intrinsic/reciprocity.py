"""Reciprocity: from influence to balance to reciprocal reward, as pure functions of tensors.

Source: Zhou, Hong and Kao, "Reciprocal Reward Influence Encourages Cooperation From Self-Interested Agents", NeurIPS
2024. Pairs are always ``[influencer, influenced]``: ``influence[.., j, i]`` is what j's action was worth to i, and
``balance[.., j, i]`` is what i has had from j.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from rllib_reciprocator.distributed import standardized
from rllib_reciprocator.intrinsic.registry import LOSS_MASK
from rllib_reciprocator.typed_settings import IntrinsicSettings, Settings, Share, Width


class ReciprocalRule(NamedTuple):
    """One form of the reciprocal reward.

    With v[j->i] the influence of j on i, every form credits i's balance towards j with v[j->i]; i's reward is the
    balance times v[i->j].

    Attributes:
        debits_given: Whether v[i->j], what i gave to j, is taken off the balance.
        debits_own: Whether v[j->j], what j did for itself, is taken off the balance.
        sign_of_balance: Whether only the sign of the balance counts in the reward.
        sign_of_influence: Whether only the sign of v[i->j] counts in the reward.
    """

    debits_given: bool = False
    debits_own: bool = False
    sign_of_balance: bool = False
    sign_of_influence: bool = False


# Names as in the paper's code, where "grudge" is the credited and "debit" the debited side of the balance. That code
# keeps two traces in the last two forms; both decay alike, so their difference is one trace.
REWARDS: dict[str, ReciprocalRule] = {
    "petty": ReciprocalRule(),
    "signed_grudge": ReciprocalRule(sign_of_balance=True),
    "petty_payoff": ReciprocalRule(debits_given=True),
    "signed_petty_payoff": ReciprocalRule(debits_given=True, sign_of_balance=True),
    "signed_grudge_petty_payoff": ReciprocalRule(debits_given=True, sign_of_influence=True),
    "grudge_minus_debit": ReciprocalRule(debits_given=True, debits_own=True),
    "signed_grudge_minus_debit": ReciprocalRule(debits_given=True, debits_own=True, sign_of_balance=True),
}


class Estimates(NamedTuple):
    """What an estimator says of one joint action, before any of it becomes influence.

    Attributes:
        value: ``[.., N]``, of agent i under the joint action: expected reward, and expected future return if the
            estimator has one, already discounted.
        counterfactual_value: ``[.., N, N]`` by ``[j, i]``: the same of agent i with agent j's action marginalised out
            under j's own behaviour.
    """

    value: Tensor
    counterfactual_value: Tensor


def influence(estimates: Estimates) -> Tensor:
    """The value influence of each agent on each, a counterfactual advantage.

    Source: Zhou, Hong and Kao (2024), definition of value influence.

    Args:
        estimates: Values and counterfactual values.

    Returns:
        ``[.., N, N]`` by ``[j, i]``: influence of j on i; the diagonal is j's on itself.
    """
    return estimates.value.unsqueeze(-2) - estimates.counterfactual_value


def balance_after(
    balance: Tensor, influence: Tensor, rule: ReciprocalRule, decay: float, given: Tensor | None = None
) -> Tensor:
    """Moves the balance on by one step.

    Args:
        balance: ``[.., N, N]`` by ``[j, i]``: the balance of i towards j before the step.
        influence: ``[.., N, N]`` by ``[j, i]``: the step's influence of j on i, as i takes it to be.
        rule: What is credited and debited.
        decay: Share of the balance that is kept from one step to the next.
        given: The same as j takes it to be, where the two may differ.

    Returns:
        The balance after the step, of the same shape.
    """
    credited = influence
    if rule.debits_given:
        credited = credited - (influence if given is None else given).transpose(-1, -2)
    if rule.debits_own:
        credited = credited - influence.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return decay * balance + credited


def balance(
    influence: Tensor, rule: ReciprocalRule, decay: float, starts: Tensor, initial: Tensor | None = None
) -> Tensor:
    """The balance before every step of a rollout; zero where an episode starts.

    Source: Zhou, Hong and Kao (2024), definition of the influence balance. The balance is taken before the step,
    because agent i cannot yet know what the others do in it.

    Args:
        influence: ``[T, .., N, N]`` by ``[j, i]``.
        rule: What is credited and debited.
        decay: Share of the balance that is kept from one step to the next.
        starts: ``[T, ..]`` bool, whether an episode starts with that step.
        initial: ``[.., N, N]``, the balance that episodes under way came with; zero if None.

    Returns:
        ``[T, .., N, N]`` by ``[j, i]``: the balance of i towards j before step t.
    """
    before = torch.zeros_like(influence)
    running = torch.zeros_like(influence[0]) if initial is None else initial
    for t in range(len(influence)):
        running = torch.where(starts[t][..., None, None], 0.0, running)
        before[t] = running
        running = balance_after(running, influence[t], rule, decay)
    return before


def reciprocal_reward(balance: Tensor, influence: Tensor, rule: ReciprocalRule) -> Tensor:
    """The reward of each agent for answering what the others did to it in kind.

    Source: Zhou, Hong and Kao (2024): the mean over the others j of i's balance towards j before the step times
    v[i->j], what i's action in the step does to j.

    Args:
        balance: ``[.., N, N]`` by ``[j, i]``: the balance of i towards j before the step.
        influence: ``[.., N, N]`` by ``[j, i]``: the step's influence of j on i, as j takes it to be.
        rule: Where only signs count.

    Returns:
        ``[.., N]``.
    """
    given = influence.transpose(-1, -2)
    if rule.sign_of_balance:
        balance = balance.sign()
    if rule.sign_of_influence:
        given = given.sign()
    answered = balance * given
    total = answered.sum(-2) - answered.diagonal(dim1=-2, dim2=-1)
    return total / (influence.shape[-1] - 1)


def scheduled_weight(start: float, end: float, per_iteration: float, iteration: int) -> float:
    """The weight of the reciprocal reward at an iteration: from start to end by a fixed step, up or down.

    Args:
        start: Weight at iteration 0.
        end: Weight that is kept once reached.
        per_iteration: Size of the step, at least 0.
        iteration: The iteration, from 0.
    """
    moved = per_iteration * iteration
    return min(start + moved, end) if end >= start else max(start - moved, end)


class WeightSchedule(Settings):
    """A weight that moves from ``start`` to ``end`` by ``per_iteration`` an iteration, up or down."""

    start: float
    end: float
    per_iteration: Annotated[float, Field(gt=0.0)]


class ReciprocitySettings(IntrinsicSettings):
    """How Reciprocators reciprocate; :meth:`ReciprocatorConfig.reciprocity` says what each setting means.

    What is None follows from the game (:meth:`for_game`).
    """

    common: ClassVar[tuple[str, ...]] = (
        "influence", "future_weight", "estimator_sees", "estimator_shared", "counterfactual", "uniform_share",
        "estimator_hiddens", "estimator_lr", "estimator_epochs", "estimator_minibatch_size", "estimator_lambda", "tau",
        "warmup_iterations", "buffer_iterations", "update_period_iters", "prior", "exploration", "always_estimate",
    )  # fmt: skip

    reward: Literal[tuple(REWARDS)] | None = None  # type: ignore[valid-type]
    weight: float | WeightSchedule | None = None
    balance_decay: Share | None = None
    initial_balance: Annotated[float, Field(ge=0.0)] = 0.0
    normalize: bool = False
    observe_balance: bool | None = None
    balance_scale: Annotated[float, Field(gt=0.0)] = 4.0
    predict_balance_coeff: Annotated[float, Field(ge=0.0)] = 0.0
    influence: Literal["auto", "tabular", "reward", "counterfactual", "transition", "value"] = "auto"
    future_weight: Annotated[float, Field(ge=0.0)] = 0.0
    estimator_sees: Literal["state", "observations", "own"] = "state"
    estimator_shared: bool = False
    counterfactual: Literal["policy", "modelled", "uniform"] | None = None
    uniform_share: Share | None = None
    estimator_hiddens: Annotated[list[Width], Field(default_factory=lambda: [64, 64], min_length=1, max_length=8)]
    estimator_lr: Annotated[float, Field(gt=0.0)] = 0.005
    estimator_epochs: Annotated[int, Field(ge=1)] = 2
    estimator_minibatch_size: Annotated[int, Field(ge=1)] = 4096
    estimator_lambda: Share = 0.9
    tau: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    buffer_iterations: Annotated[int, Field(ge=1)] = 1
    update_period_iters: Annotated[int, Field(ge=1)] = 1
    prior: Annotated[float, Field(gt=0.0)] = 1.0
    exploration: Share = 0.0
    always_estimate: bool = False

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restores pickled settings; those of versions whose ``uniform_share`` defaulted to 0 keep that 0.

        It counts as given from then on, so that settings made from these (``exclude_unset``) keep it too. Settings that
        leave the share open hold None.
        """
        share = state["__dict__"].get("uniform_share", 0.0)
        if share is not None:
            fields_set = {*state["__pydantic_fields_set__"], "uniform_share"}
            values = {**state["__dict__"], "uniform_share": share}
            state = {**state, "__dict__": values, "__pydantic_fields_set__": fields_set}
        super().__setstate__(state)

    def for_game(
        self, *, has_payoffs: bool, num_agents: int, gamma: float, lowest_reward: float | None = None
    ) -> ReciprocitySettings:
        """The settings with everything decided that follows from the game.

        In a game with a payoff table what is to be answered is seen in the last actions: ``petty``, the last step
        alone, the paper's weight for matrix games, and no balance shown. In any other the balance has to keep what
        happened, and what one gave is debited: ``petty_payoff``, kept as rewards are discounted, shown to the policy,
        and half the paper's weight for Coins. Weights grow as ``(N - 1) ** 2``: each of N - 1 others is that share of
        the mean that a Reciprocator is paid for, and what one's action does to the others is shared among as many.

        Args:
            has_payoffs: Whether rewards follow from the joint action alone.
            num_agents: N.
            gamma: The discount of rewards.
            lowest_reward: Not used.
        """
        by_game = {
            "reward": "petty" if has_payoffs else "petty_payoff",
            "balance_decay": 0.0 if has_payoffs else gamma,
            "observe_balance": not has_payoffs and not self.predict_balance_coeff,
            "weight": (5.0 if has_payoffs else 0.5) * (num_agents - 1) ** 2,
        }
        return self.model_copy(update={name: value for name, value in by_game.items() if getattr(self, name) is None})

    @property
    def always(self) -> bool:
        """Whether influence is estimated for whoever looks on."""
        return self.always_estimate

    @property
    def rule(self) -> ReciprocalRule:
        """The form of the reciprocal reward; the game has to be known."""
        return REWARDS[str(self.reward)]

    def weight_at(self, iteration: int) -> float:
        """The weight of the reciprocal reward at an iteration, from 0; the game has to be known."""
        if isinstance(self.weight, WeightSchedule):
            return scheduled_weight(self.weight.start, self.weight.end, self.weight.per_iteration, iteration)
        assert self.weight is not None
        return self.weight


def rewards(joint: Mapping[str, Tensor], settings: ReciprocitySettings) -> Tensor:
    """The reciprocal reward of every agent, as if all had these settings, before it is weighted.

    Args:
        joint: ``balance`` and ``given``, each ``[B, T, N, N]`` by ``[j, i]``: the balance of i towards j before each
            step, and the influence of j on i in it as j takes it to be; and ``loss_mask``, ``[B, T, N]`` bool, the
            steps over which rewards are standardised, if not all.
        settings: The settings.

    Returns:
        ``[B, T, N]``.
    """
    reciprocal = reciprocal_reward(joint["balance"], joint["given"], settings.rule)
    if not settings.normalize:
        return reciprocal
    masks = joint[LOSS_MASK].unbind(-1) if LOSS_MASK in joint else [None] * reciprocal.shape[-1]
    by_agent = zip(reciprocal.unbind(-1), masks, strict=True)
    return torch.stack([standardized(values, mask) for values, mask in by_agent], -1)
