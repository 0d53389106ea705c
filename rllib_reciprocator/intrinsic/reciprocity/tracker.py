"""Influence and balance of every step, computed where the games are played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import (
    Influence,
    InfluenceEstimator,
    Transition,
)
from rllib_reciprocator.intrinsic.reciprocity.estimators.view import STATE, view
from rllib_reciprocator.intrinsic.reciprocity.metrics import log_by_pair
from rllib_reciprocator.intrinsic.reciprocity.rules import ReciprocalRule, balance_after
from rllib_reciprocator.intrinsic.reciprocity.settings import ReciprocitySettings
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.models import BALANCE

if TYPE_CHECKING:
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

    from rllib_reciprocator.engine.tracker import JointStep
    from social_dilemmas.batched_game import BatchedGame


@dataclass(frozen=True)
class _Measure:
    """By what some agents measure influence, and how they keep their balances.

    Attributes:
        estimator: What tells influence.
        sees: What it is shown.
        rule: The form of the reciprocal reward.
        decay: Of the balance.
        agents: ``[N]`` bool, whose measure this is.
        everybody: Whether it is that of all.
    """

    estimator: InfluenceEstimator
    sees: str
    rule: ReciprocalRule
    decay: float
    agents: Tensor
    everybody: bool


class InfluenceTracker:
    """Keeps the influence balances of B games.

    Every agent goes by its own estimator, rule and decay; agents that reciprocate alike share one computation.
    """

    def __init__(
        self,
        game: BatchedGame,
        settings: Sequence[ReciprocitySettings | None],
        *,
        default: ReciprocitySettings,
        modules: Mapping[str, Any],
        suffixes: Sequence[str],
        **kwargs: Any,
    ) -> None:
        """Starts with the agents' initial balances.

        Args:
            game: The games.
            settings: Of each agent that reciprocates; the others are measured by ``default``, if there is an estimator.
            default: The settings of this run.
            modules: All RLModules, by id.
            suffixes: Of the id of the estimator that each agent brought with it; empty for this run's own.
            **kwargs: What other trackers are told.
        """
        self._game, n = game, game.num_agents
        alike: dict[tuple[Any, ...], list[int]] = {}
        for index, (own, suffix) in enumerate(zip(settings, suffixes, strict=True)):
            module_id, each = INFLUENCE_MODULE_ID + (suffix if own else ""), own or default
            if module_id in modules:
                key = (module_id, each.estimator_sees, each.rule, each.balance_decay)
                alike.setdefault(key, []).append(index)
        self._measures = [
            _Measure(
                modules[module_id].unwrapped(),
                sees,
                rule,
                decay,
                torch.tensor([i in own for i in range(n)], device=game.device),
                len(own) == n,
            )
            for (module_id, sees, rule, decay), own in alike.items()
        ]
        self._sees = default.estimator_sees if INFLUENCE_MODULE_ID in modules else None
        self.needs_state = any(each.sees == STATE for each in self._measures)
        self.needs_probs = any(each.estimator.uses_behavior for each in self._measures)
        agents = torch.arange(n, device=game.device)
        self._of, self._others = agents[:, None], (agents[:, None] + agents[1:]) % n
        initial = [own.initial_balance if own else 0.0 for own in settings]
        towards_others = ~torch.eye(n, dtype=torch.bool)
        self._initial = (torch.tensor(initial) * towards_others).to(game.device)
        self._balance = self._initial.repeat(game.num_games, 1, 1)

    def start(self, where: Tensor | None) -> None:
        """Sets balances to the initial ones, in the games ``[B]`` bool that start anew, or in all."""
        if where is None:
            self._balance = self._initial.repeat(self._game.num_games, 1, 1)
        else:
            self._balance = torch.where(where[:, None, None], self._initial, self._balance)

    def inputs(self) -> dict[str, Tensor]:
        """The balance of each agent towards those after it, ``[B, N, N - 1]``."""
        return {BALANCE: self._balance[:, self._others, self._of]}

    def after(self, step: JointStep) -> dict[str, Tensor]:
        """Moves the balances on by a step.

        Returns:
            ``influence``, ``given`` and ``balance`` before the step, each ``[B, N, N]`` by ``[j, i]``; and ``state``,
            what this run's own estimator saw, if there is one.
        """
        before, after = self._balance, self._balance
        found: Influence | None = None
        told: dict[Any, Influence] = {}
        for each in self._measures:
            key = id(each.estimator)
            if key not in told:
                seen = Transition(
                    view(self._game, step.obs, each.sees, step.state),
                    step.actions,
                    step.rewards,
                    step.time_left,
                    torch.zeros_like(step.rewards),
                )
                told[key] = each.estimator.influence(seen, step.probs)
            moved = balance_after(before, told[key].received, each.rule, each.decay, told[key].given)
            if each.everybody:
                found, after = told[key], moved
                break
            # Influence is received by i in column i, and given by j in row j.
            mine = each.agents
            nothing = found or Influence.agreed(torch.zeros_like(before))
            found = Influence(
                torch.where(mine, told[key].received, nothing.received),
                torch.where(mine[:, None], told[key].given, nothing.given),
            )
            after = torch.where(mine, moved, after)
        self._balance = after
        columns = {"influence": found.received, "given": found.given} if found else {}
        if self._sees:
            columns["state"] = view(self._game, step.obs, self._sees, step.state)
        return {**columns, "balance": before}

    def finish(self) -> dict[str, Tensor]:
        """Nothing: policies see balances in the next step."""
        return {}

    def log(self, metrics: MetricsLogger, agents: Sequence[str], joint: Mapping[str, Tensor]) -> None:
        """Logs who influenced whom (:func:`rllib_reciprocator.intrinsic.reciprocity.metrics.log_by_pair`)."""
        if "influence" in joint:
            log_by_pair(metrics, agents, joint["influence"].flatten(0, 1), joint["balance"].flatten(0, 1))

    def get_state(self) -> dict[str, Tensor]:
        """The balances."""
        return {"balance": self._balance}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned."""
        self._balance = state["balance"].to(self._balance.device)
