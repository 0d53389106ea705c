"""Reciprocity: from influence to balance to reciprocal reward, as pure functions of tensors.

Source: Zhou, Hong and Kao, "Reciprocal Reward Influence Encourages Cooperation From Self-Interested Agents", NeurIPS
2024. Pairs are always ``[influencer, influenced]``: ``influence[.., j, i]`` is what j's action was worth to i, and
``balance[.., j, i]`` is what i has had from j.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
