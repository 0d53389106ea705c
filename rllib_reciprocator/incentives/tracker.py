"""Incentives of every step, paid where the games are played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rllib_reciprocator.incentives.incentive_functions import IncentiveFunctions
from rllib_reciprocator.incentives.specs import INCENTIVES_MODULE_ID
from rllib_reciprocator.intrinsic.incentives import INCENTIVES, RECEIVED, IncentiveSettings, received
from rllib_reciprocator.metric_names import INCENTIVES_BY_ACTION
from rllib_reciprocator.models import GIVEN

if TYPE_CHECKING:
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

    from rllib_reciprocator.batched.tracker import JointStep
    from social_dilemmas.batched_game import BatchedGame


class IncentiveTracker:
    """Lets the givers of B games give, and keeps what each has given so far."""

    needs_state = needs_probs = False

    def __init__(
        self,
        game: BatchedGame,
        settings: Sequence[IncentiveSettings | None],
        *,
        modules: Mapping[str, Any],
        suffixes: Sequence[str],
        slots: Sequence[int],
        **kwargs: Any,
    ) -> None:
        """Nothing is given yet.

        Args:
            game: The games.
            settings: Of each agent that gives.
            modules: All RLModules, by id.
            suffixes: Of the id of the incentive functions that each agent brought with it; empty for this run's own.
            slots: Which of them is its own.
            **kwargs: What other trackers are told.

        Raises:
            ValueError: If incentive functions were made for another number of agents.
        """
        self._game, n = game, game.num_agents
        # By module the agents whose incentive functions are in it, and which of those each has.
        self._functions: dict[str, tuple[IncentiveFunctions, list[int], list[int]]] = {}
        for index, (own, suffix) in enumerate(zip(settings, suffixes, strict=True)):
            if own is not None:
                key = INCENTIVES_MODULE_ID + suffix
                module = modules[key].unwrapped()
                if module.num_agents != n:
                    raise ValueError(
                        f"{game.agents[index]}: its incentives are for {module.num_agents} agents, not {n}"
                    )
                _, agents, own_slots = self._functions.setdefault(key, (module, [], []))
                agents.append(index)
                own_slots.append(slots[index])
        self._after = (torch.arange(n, device=game.device)[:, None] + 1 + torch.arange(n - 1, device=game.device)) % n
        self._given = torch.zeros(game.num_games, n, n - 1, device=game.device)

    def start(self, where: Tensor | None) -> None:
        """Forgets what was given, in the games ``[B]`` bool that start anew, or in all."""
        fresh = torch.zeros_like(self._given)
        self._given = fresh if where is None else torch.where(where[:, None, None], fresh, self._given)

    def inputs(self) -> dict[str, Tensor]:
        """What each agent has given those after it so far, ``[B, N, N - 1]``."""
        return {GIVEN: self._given}

    def after(self, step: JointStep) -> dict[str, Tensor]:
        """Lets givers give for a step.

        Returns:
            ``incentives [B, N, N]`` by ``[i, j]``, what i gives j, ``received [B, N]``, what each is given, and
            ``incentives_given [B, N, N - 1]``, what each had given before the step.
        """
        before = self._given
        found = before.new_zeros(*step.actions.shape, self._game.num_agents)
        for module, agents, slots in self._functions.values():
            found[:, agents] = self._of(module, agents, slots, step, before)
        self._given = before + found.gather(2, self._after.expand_as(before))
        return {INCENTIVES: found, RECEIVED: received(found), GIVEN: before}

    def _of(
        self, module: IncentiveFunctions, agents: list[int], slots: list[int], step: JointStep, before: Tensor
    ) -> Tensor:
        """What some agents give, ``[B, agents, N]``."""
        given = before if module.observes_given else None
        if agents == slots:
            return module.incentives(step.obs, step.actions, given)[:, agents]
        found = []
        for agent, slot in zip(agents, slots, strict=True):
            # All agents are turned on, so that the giver is where its function is.
            turned = (torch.arange(self._game.num_agents, device=before.device) + agent - slot) % self._game.num_agents
            seen = None if given is None else given[:, turned]
            of_slot = module.incentives(step.obs[:, turned], step.actions[:, turned], seen)[:, slot]
            found.append(torch.empty_like(of_slot).index_copy_(1, turned, of_slot))
        return torch.stack(found, 1)

    def log(self, metrics: MetricsLogger, agents: Sequence[str], joint: Mapping[str, Tensor]) -> None:
        """Logs what is given in a step: ``incentives/I_to_J``, and the same by what J did, for each action of J's."""
        incentives, actions = joint[INCENTIVES].flatten(0, 1), joint["actions"].flatten(0, 1)
        taken = torch.nn.functional.one_hot(actions, int(self._game.action_space.n)).to(incentives.dtype)
        mean = incentives.mean(0).tolist()
        counts = taken.sum(0)
        by_action = (torch.einsum("sij,sja->ija", incentives, taken) / counts).tolist()
        for (i, giver), (j, recipient) in permutations(enumerate(agents), 2):
            if any(i in own for _, own, _ in self._functions.values()):
                pair = f"{giver}_to_{recipient}"
                metrics.log_value((INCENTIVES, pair), mean[i][j], reduce="mean")
                for name, value, count in zip(
                    self._game.action_names, by_action[i][j], counts[j].tolist(), strict=True
                ):
                    if count:
                        metrics.log_value((INCENTIVES_BY_ACTION, pair, name), value, reduce="mean")

    def get_state(self) -> dict[str, Tensor]:
        """What was given so far."""
        return {GIVEN: self._given}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned."""
        self._given = state[GIVEN].to(self._given.device)
