"""Reciprocity: influence, influence balance and reciprocal reward, as pure functions of tensors.

Source: Zhou, Hong and Kao, "Reciprocal Reward Influence Encourages Cooperation From Self-Interested Agents", NeurIPS
2024. Pairs are always ``[influencer, influenced]``: ``influence[.., j, i]`` is the effect of j's action on i's value,
and ``balance[.., j, i]`` is the discounted sum of the influence that i has received from j.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rllib_reciprocator.utils.import_paths import import_attribute


class ReciprocalRule(NamedTuple):
    """One form of the reciprocal reward.

    With v[j->i] the influence of j on i, every form credits i's balance towards j with v[j->i]; i's reward is the
    balance times v[i->j].

    Attributes:
        debits_given: If True, subtracts v[i->j], the influence of i on j, from the balance.
        debits_own: If True, subtracts v[j->j], the influence of j on itself, from the balance.
        sign_of_balance: If True, the reward uses only the sign of the balance.
        sign_of_influence: If True, the reward uses only the sign of v[i->j].
    """

    debits_given: bool = False
    debits_own: bool = False
    sign_of_balance: bool = False
    sign_of_influence: bool = False


# Names as in the paper's code, where "grudge" is the credited and "debit" the debited side of the balance. For the last
# two forms that code keeps two traces; they have the same decay, so one trace of their difference is enough.
REWARDS: dict[str, ReciprocalRule] = {
    "petty": ReciprocalRule(),
    "signed_grudge": ReciprocalRule(sign_of_balance=True),
    "petty_payoff": ReciprocalRule(debits_given=True),
    "signed_petty_payoff": ReciprocalRule(debits_given=True, sign_of_balance=True),
    "signed_grudge_petty_payoff": ReciprocalRule(debits_given=True, sign_of_influence=True),
    "grudge_minus_debit": ReciprocalRule(debits_given=True, debits_own=True),
    "signed_grudge_minus_debit": ReciprocalRule(debits_given=True, debits_own=True, sign_of_balance=True),
}


def reciprocal_rule(name: str) -> ReciprocalRule:
    """Returns a form of the reciprocal reward.

    Args:
        name: A name in ``REWARDS``, or the import path ``module:attribute`` of a :class:`ReciprocalRule`.

    Raises:
        ValueError: If there is no such form.
    """
    if name in REWARDS:
        return REWARDS[name]
    try:
        rule = import_attribute(name) if ":" in name else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be imported ({error})") from None
    if not isinstance(rule, ReciprocalRule):
        raise ValueError(f"should be {', '.join(map(repr, REWARDS))} or module:attribute of a ReciprocalRule")
    return rule


class Estimates(NamedTuple):
    """Value estimates of one joint action, from which the influence is computed.

    Attributes:
        value: ``[.., N]``, value of the joint action for agent i: the expected reward, plus the discounted expected
            future return if the estimator has one.
        counterfactual_value: ``[.., N, N]`` by ``[j, i]``: value for agent i with agent j's action marginalized out
            under the counterfactual distribution of j's actions.
    """

    value: Tensor
    counterfactual_value: Tensor


def influence(estimates: Estimates) -> Tensor:
    """Computes the value influence of each agent on each agent, a counterfactual advantage.

    Source: Zhou, Hong and Kao (2024), definition of value influence.

    Args:
        estimates: Values and counterfactual values.

    Returns:
        ``[.., N, N]`` by ``[j, i]``: influence of j on i; the diagonal is the influence of j on itself.
    """
    return estimates.value.unsqueeze(-2) - estimates.counterfactual_value


def balance_after(
    balance: Tensor, influence: Tensor, rule: ReciprocalRule, decay: float, given: Tensor | None = None
) -> Tensor:
    """Updates the influence balance by one step.

    Args:
        balance: ``[.., N, N]`` by ``[j, i]``: the balance of i towards j before the step.
        influence: ``[.., N, N]`` by ``[j, i]``: the step's influence of j on i, as estimated by i.
        rule: Form of the reciprocal reward, which determines the influence that is credited and debited.
        decay: Decay factor of the balance per step.
        given: The same influence as estimated by j, if the estimates can differ; None if they are equal.

    Returns:
        The balance after the step, of the same shape.
    """
    credit = influence
    if rule.debits_given:
        credit = credit - (influence if given is None else given).transpose(-1, -2)
    if rule.debits_own:
        credit = credit - influence.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return decay * balance + credit


def balance(
    influence: Tensor, rule: ReciprocalRule, decay: float, starts: Tensor, initial: Tensor | None = None
) -> Tensor:
    """Computes the influence balance before every step of a rollout; it is zero at the start of an episode.

    Source: Zhou, Hong and Kao (2024), definition of the influence balance. The balance lags by one step, because agent
    i cannot know the other agents' actions of the current step.

    Args:
        influence: ``[T, .., N, N]`` by ``[j, i]``.
        rule: Form of the reciprocal reward, which determines the influence that is credited and debited.
        decay: Decay factor of the balance per step.
        starts: ``[T, ..]`` bool, True in the first step of an episode.
        initial: ``[.., N, N]``, balance before the rollout, for episodes that started earlier; zero if None.

    Returns:
        ``[T, .., N, N]`` by ``[j, i]``: the balance of i towards j before step t.
    """
    balances = torch.zeros_like(influence)
    current = torch.zeros_like(influence[0]) if initial is None else initial
    for t in range(len(influence)):
        current = torch.where(starts[t][..., None, None], 0.0, current)
        balances[t] = current
        current = balance_after(current, influence[t], rule, decay)
    return balances


def reciprocal_reward(balance: Tensor, influence: Tensor, rule: ReciprocalRule) -> Tensor:
    """Computes the reciprocal reward of each agent i.

    Source: Zhou, Hong and Kao (2024): the mean, over the other agents j, of i's balance towards j before the step
    times v[i->j], the influence of i's action on j in the step.

    Args:
        balance: ``[.., N, N]`` by ``[j, i]``: the balance of i towards j before the step.
        influence: ``[.., N, N]`` by ``[j, i]``: the step's influence of j on i, as estimated by j.
        rule: Form of the reciprocal reward, which determines whether only signs count.

    Returns:
        ``[.., N]``.
    """
    influence_on_co_players = influence.transpose(-1, -2)
    if rule.sign_of_balance:
        balance = balance.sign()
    if rule.sign_of_influence:
        influence_on_co_players = influence_on_co_players.sign()
    pair_rewards = balance * influence_on_co_players
    # The diagonal is the influence of an agent on itself, which is not rewarded.
    total = pair_rewards.sum(-2) - pair_rewards.diagonal(dim1=-2, dim2=-1)
    return total / (influence.shape[-1] - 1)
