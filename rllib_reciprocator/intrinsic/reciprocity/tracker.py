"""Influence and influence balance of every step, computed in the env runners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rllib_reciprocator.engine.tracker import JointStep, StepTracker
from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import (
    Influence,
    InfluenceEstimator,
    Transition,
)
from rllib_reciprocator.intrinsic.reciprocity.estimators.view import STATE, view
from rllib_reciprocator.intrinsic.reciprocity.metrics import log_by_pair
from rllib_reciprocator.intrinsic.reciprocity.rules import ReciprocalRule, balance_after
from rllib_reciprocator.intrinsic.reciprocity.settings import ReciprocitySettings
from rllib_reciprocator.intrinsic.reciprocity.specs import BALANCE_INPUT, INFLUENCE_MODULE_ID

if TYPE_CHECKING:
    from ray.rllib.core.rl_module.rl_module import RLModule
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

    from social_dilemmas.batched_game import BatchedGame


@dataclass(frozen=True)
class _Measure:
    """Influence estimator and balance settings that one or more agents share.

    Attributes:
        estimator: The influence estimator.
        sees: View of the estimator, ``state``, ``observations`` or ``own``.
        rule: Form of the reciprocal reward.
        decay: Decay factor of the balance per step.
        agents: ``[N]`` bool, True for the agents that share them.
        shared_by_all: If True, all agents share them.
    """

    estimator: InfluenceEstimator
    sees: str
    rule: ReciprocalRule
    decay: float
    agents: Tensor
    shared_by_all: bool


class InfluenceTracker(StepTracker):
    """Step tracker of influence and influence balances in B environments.

    Each agent has its own estimator, rule and decay; agents with the same ones share one computation.
    """

    def __init__(
        self,
        game: BatchedGame,
        settings: Sequence[ReciprocitySettings | None],
        *,
        default: ReciprocitySettings,
        modules: Mapping[str, RLModule],
        suffixes: Sequence[str],
    ) -> None:
        """Starts with the agents' initial balances.

        Args:
            game: The environments.
            settings: Settings of each agent that reciprocates, None for the others, which use ``default`` if this run
                has an estimator.
            default: The settings of this run.
            modules: All RLModules, by id.
            suffixes: Per agent, suffix of the id of the estimator that a frozen policy loads from its own run; empty
                for the estimator of this run.
        """
        self._game, n = game, game.num_agents
        indices_by_key: dict[tuple[Any, ...], list[int]] = {}
        for index, (agent_settings, suffix) in enumerate(zip(settings, suffixes, strict=True)):
            module_id, current = INFLUENCE_MODULE_ID + (suffix if agent_settings else ""), agent_settings or default
            if module_id in modules:
                key = (module_id, current.estimator_sees, current.rule, current.balance_decay)
                indices_by_key.setdefault(key, []).append(index)
        self._measures = [
            _Measure(
                modules[module_id].unwrapped(),
                sees,
                rule,
                decay,
                torch.tensor([i in indices for i in range(n)], device=game.device),
                len(indices) == n,
            )
            for (module_id, sees, rule, decay), indices in indices_by_key.items()
        ]
        self._sees = default.estimator_sees if INFLUENCE_MODULE_ID in modules else None
        self.needs_state = any(measure.sees == STATE for measure in self._measures)
        self.needs_probs = any(measure.estimator.uses_behavior for measure in self._measures)
        agents = torch.arange(n, device=game.device)
        self._of, self._others = agents[:, None], (agents[:, None] + agents[1:]) % n
        initial = [agent_settings.initial_balance if agent_settings else 0.0 for agent_settings in settings]
        off_diagonal = ~torch.eye(n, dtype=torch.bool)
        self._initial = (torch.tensor(initial) * off_diagonal).to(game.device)
        self._balance = self._initial.repeat(game.num_games, 1, 1)

    def start(self, where: Tensor | None) -> None:
        """Resets the balances of the environments ``where``, ``[B]`` bool, or of all environments if None."""
        if where is None:
            self._balance = self._initial.repeat(self._game.num_games, 1, 1)
        else:
            self._balance = torch.where(where[:, None, None], self._initial, self._balance)

    def inputs(self) -> dict[str, Tensor]:
        """Returns the balance of each agent towards the agents after it, ``[B, N, N - 1]``."""
        return {BALANCE_INPUT: self._balance[:, self._others, self._of]}

    def after(self, step: JointStep) -> dict[str, Tensor]:
        """Updates the balances by one step.

        Returns:
            ``influence``, ``given`` and the ``balance`` before the step, each ``[B, N, N]`` by ``[j, i]``; and
            ``state``, the view of this run's own estimator, if there is one.
        """
        balance, next_balance = self._balance, self._balance
        influence: Influence | None = None
        estimates: dict[Any, Influence] = {}
        for measure in self._measures:
            key = id(measure.estimator)
            if key not in estimates:
                transition = Transition(
                    view(self._game, step.obs, measure.sees, step.state),
                    step.actions,
                    step.rewards,
                    step.time_left,
                    torch.zeros_like(step.rewards),
                )
                estimates[key] = measure.estimator.influence(transition, step.probs)
            updated_balance = balance_after(
                balance, estimates[key].received, measure.rule, measure.decay, estimates[key].given
            )
            if measure.shared_by_all:
                influence, next_balance = estimates[key], updated_balance
                break
            # An agent estimates the influence that it receives, its column, and the influence that it exerts, its row.
            mask = measure.agents
            previous = influence or Influence.agreed(torch.zeros_like(balance))
            influence = Influence(
                torch.where(mask, estimates[key].received, previous.received),
                torch.where(mask[:, None], estimates[key].given, previous.given),
            )
            next_balance = torch.where(mask, updated_balance, next_balance)
        self._balance = next_balance
        columns = {"influence": influence.received, "given": influence.given} if influence else {}
        if self._sees:
            columns["state"] = view(self._game, step.obs, self._sees, step.state)
        return {**columns, "balance": balance}

    def log(
        self, metrics: MetricsLogger, agents: Sequence[str], columns: Mapping[str, Tensor], members: Tensor | None
    ) -> None:
        """Logs influence and balance by pair (:func:`rllib_reciprocator.intrinsic.reciprocity.metrics.log_by_pair`)."""
        if "influence" in columns:
            log_by_pair(metrics, agents, columns["influence"].flatten(0, 1), columns["balance"].flatten(0, 1))

    def get_state(self) -> dict[str, Tensor]:
        """Returns the balances."""
        return {"balance": self._balance}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned."""
        self._balance = state["balance"].to(self._balance.device)
