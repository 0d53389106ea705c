"""Incentives of every step, computed in the env runners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rllib_reciprocator.engine.tracker import JointStep, StepTracker
from rllib_reciprocator.intrinsic.incentives.incentive_functions import IncentiveFunctions
from rllib_reciprocator.intrinsic.incentives.settings import (
    GIVEN,
    INCENTIVES,
    NOISE,
    RECEIVED,
    IncentiveSettings,
    received,
)
from rllib_reciprocator.intrinsic.incentives.specs import INCENTIVES_MODULE_ID
from rllib_reciprocator.utils.metric_names import INCENTIVES_BY_ACTION

if TYPE_CHECKING:
    from ray.rllib.core.rl_module.rl_module import RLModule
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

    from social_dilemmas.batched_game import BatchedGame


class IncentiveTracker(StepTracker):
    """Step tracker of incentives in B environments, and of the incentives given so far in the episode."""

    def __init__(
        self,
        game: BatchedGame,
        settings: Sequence[IncentiveSettings | None],
        *,
        modules: Mapping[str, RLModule],
        suffixes: Sequence[str],
        slots: Sequence[int],
        numbers: Sequence[int],
        recipients: Sequence[Sequence[bool]],
    ) -> None:
        """Starts without given incentives.

        Args:
            game: The environments.
            settings: Settings of each agent that gives incentives, None for the others.
            modules: All RLModules, by id.
            suffixes: Per agent, suffix of the id of the incentive functions that a frozen policy loads from its own
                run; empty for the incentive functions of this run.
            slots: Per agent, index of its incentive function in the module.
            numbers: Per agent, index of the pool member that gives incentives.
            recipients: ``[agent][pool member]`` bool, True for pool members that receive incentives. It is used for
                pools only.

        Raises:
            ValueError: If incentive functions were built for another number of agents.
        """
        self._game, n = game, game.num_agents
        # By module id: the module, the agents that use it, and the index of the incentive function of each agent.
        self._functions: dict[str, tuple[IncentiveFunctions, list[int], list[int]]] = {}
        for index, (agent_settings, suffix) in enumerate(zip(settings, suffixes, strict=True)):
            if agent_settings is not None:
                key = INCENTIVES_MODULE_ID + suffix
                module = modules[key].unwrapped()
                if module.num_agents != n:
                    raise ValueError(
                        f"{game.agents[index]}: its incentive functions are for {module.num_agents} agents, not {n}"
                    )
                _, agents, agent_slots = self._functions.setdefault(key, (module, [], []))
                agents.append(index)
                agent_slots.append(slots[index])
        self._agents = torch.arange(n, device=game.device)
        self._after = (self._agents[:, None] + self._agents[1:]) % n
        self._given = torch.zeros(game.num_games, n, n - 1, device=game.device)
        # True if incentive functions observe the incentives given so far. Otherwise the incentives of all steps are
        # computed at once after a rollout, which is faster.
        self._seen = any(module.observes_given for module, _, _ in self._functions.values())
        self._steps: list[tuple[Tensor, Tensor, Tensor | None]] = []
        device = game.device
        self._giver = torch.tensor(numbers, device=device)
        # Agents without a pool are not masked here: ``pays`` of the incentive functions determines their recipients.
        max_members = max(len(members) for members in recipients)
        masked_members = [list(members) if len(members) > 1 else [True] for members in recipients]
        mask = [members + [False] * (max_members - len(members)) for members in masked_members]
        self._receives = torch.tensor(mask, device=device)

    def begin(self) -> None:
        """Drops the steps of a rollout that failed."""
        self._steps = []

    def start(self, where: Tensor | None) -> None:
        """Resets the given incentives of the environments ``where``, ``[B]`` bool, or of all environments if None."""
        zeros = torch.zeros_like(self._given)
        self._given = zeros if where is None else torch.where(where[:, None, None], zeros, self._given)

    def inputs(self) -> dict[str, Tensor]:
        """Returns the sum of the incentives that each agent has given the agents after it, ``[B, N, N - 1]``."""
        return {GIVEN: self._given}

    def after(self, step: JointStep) -> dict[str, Tensor]:
        """Computes the incentives of a step, if incentive functions observe the incentives given so far.

        Returns:
            ``incentives [B, N, N]`` by ``[i, j]``, incentive that i gives j; ``received [B, N]``, the sum that each
            agent receives; ``incentives_given [B, N, N - 1]``, the incentives given before the step; and, if incentives
            are sampled, their noise. Empty if :meth:`finish` computes the incentives.
        """
        if not self._seen:
            self._steps.append((step.obs, step.actions, step.pool_members))
            return {}
        before = self._given
        incentives, noise = self._incentives(step.obs, step.actions, before, step.pool_members)
        self._given = before + incentives.gather(2, self._after.expand_as(before))
        return {INCENTIVES: incentives, RECEIVED: received(incentives), GIVEN: before, **noise}

    def finish(self) -> dict[str, Tensor]:
        """Computes the incentives of all steps of the rollout, unless :meth:`after` has returned them."""
        if not self._steps:
            return {}
        all_obs, all_actions, all_members = zip(*self._steps, strict=True)
        obs, actions = torch.stack(all_obs, 1), torch.stack(all_actions, 1)
        members = None if all_members[0] is None else torch.stack(all_members, 1).flatten(0, 1)
        self._steps = []
        incentives, noise = self._incentives(obs.flatten(0, 1), actions.flatten(0, 1), None, members)
        columns = {INCENTIVES: incentives, RECEIVED: received(incentives), **noise}
        return {name: column.unflatten(0, actions.shape[:2]) for name, column in columns.items()}

    @torch.no_grad()
    def _incentives(
        self, obs: Tensor, actions: Tensor, before: Tensor | None, members: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes incentives by pair, ``[rows, N, N]``, and the column of their noise if they are sampled."""
        n = self._game.num_agents
        incentives = torch.zeros(*actions.shape, n, device=actions.device)
        noise = None
        if any(module.drawn for module, _, _ in self._functions.values()):
            # Drawn from the generator of the environments, which is seeded for every rollout.
            noise = torch.randn(*actions.shape, n - 1, generator=self._game.generator, device=actions.device)
        for module, agents, slots in self._functions.values():
            observed_sums, module_noise = before if module.observes_given else None, noise if module.drawn else None
            if agents == slots:
                incentives[:, agents] = module.incentives(obs, actions, observed_sums, module_noise)[:, agents]
                continue
            for agent, slot in zip(agents, slots, strict=True):
                # Rotates the agents, so that the giver is at the index of its incentive function.
                rotation = (self._agents + agent - slot) % n
                inputs = [
                    None if column is None else column[:, rotation]
                    for column in (obs, actions, observed_sums, module_noise)
                ]
                incentives[:, agent, rotation] = module.incentives(*inputs)[:, slot]
        if members is not None:
            incentives = incentives * self._gives(members)[..., None] * self._is_given_to(members)[..., None, :]
        return incentives, {} if noise is None else {NOISE: noise}

    def _gives(self, members: Tensor) -> Tensor:
        """Returns ``[rows, N]`` bool, True if the agent's acting pool member is the one that gives incentives."""
        return members == self._giver

    def _is_given_to(self, members: Tensor) -> Tensor:
        """Returns ``[rows, N]`` bool, True if the agent's acting pool member receives incentives."""
        return self._receives[self._agents, members]

    def log(
        self, metrics: MetricsLogger, agents: Sequence[str], columns: Mapping[str, Tensor], members: Tensor | None
    ) -> None:
        """Logs the mean incentive per step for every pair, ``incentives/I_to_J``, and the same by action of J."""
        incentives, actions = columns[INCENTIVES].flatten(0, 1), columns["actions"].flatten(0, 1)
        one_hot_actions = torch.nn.functional.one_hot(actions, int(self._game.action_space.n)).to(incentives.dtype)
        # With pools, only steps count in which the giving pool member acts and the recipient receives incentives.
        mask = torch.ones_like(incentives, dtype=torch.bool)
        if members is not None:
            members = members.flatten(0, 1)
            mask = self._gives(members)[..., None] & self._is_given_to(members)[..., None, :]
        weights = mask.to(incentives.dtype)
        pair_counts = weights.sum(0)
        mean = (incentives.sum(0) / pair_counts).tolist()
        counts = torch.einsum("sij,sja->ija", weights, one_hot_actions)
        by_action = (torch.einsum("sij,sja->ija", incentives, one_hot_actions) / counts).tolist()
        for (i, giver), (j, recipient) in permutations(enumerate(agents), 2):
            if any(i in givers for _, givers, _ in self._functions.values()) and pair_counts[i, j]:
                pair = f"{giver}_to_{recipient}"
                metrics.log_value((INCENTIVES, pair), mean[i][j], reduce="mean")
                for name, value, count in zip(
                    self._game.action_names, by_action[i][j], counts[i, j].tolist(), strict=True
                ):
                    if count:
                        metrics.log_value((INCENTIVES_BY_ACTION, pair, name), value, reduce="mean")

    def get_state(self) -> dict[str, Tensor]:
        """Returns the incentives given so far."""
        return {GIVEN: self._given}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned."""
        self._given = state[GIVEN].to(self._given.device)
