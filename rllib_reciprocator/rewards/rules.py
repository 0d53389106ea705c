"""The forms of the reciprocal reward, by name."""

from __future__ import annotations

from typing import NamedTuple


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
