"""Settings of meta-episodes and of credit assignment over them."""

from __future__ import annotations

from rllib_reciprocator.algorithms.coala.rules import Credit
from rllib_reciprocator.engine.meta_episodes import MetaSettings


class COALASettings(MetaSettings):
    """Settings in ``meta``: the size of meta-episodes, and the credit of ``coala`` players.

    Attributes:
        inner_episodes: Number of inner episodes per meta-episode. Online learners update after each of them.
        copies: Number of environments per group. All environments of a group share the same online learners.
        population: Number of separately parameterized players that ``coala`` stands for. With more than one, no player
            controls two agents of an environment: each plays with the other players, never with itself.
        credit: Credit that an action receives for rewards of later inner episodes: ``coala`` the sum over all
            environments of its group, ``mfos`` their mean, ``unaware`` those of its own environment only, ``myopic``
            none.
        center: If True, subtracts from each credit its mean over the other groups at the same step. The mean is taken
            separately over groups with and without online learners among the co-players.
    """

    credit: Credit = "coala"
    center: bool = True
