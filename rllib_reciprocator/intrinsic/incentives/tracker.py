"""Incentives of every step, paid where the games are played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rllib_reciprocator.intrinsic.incentives.incentive_functions import IncentiveFunctions
from rllib_reciprocator.intrinsic.incentives.settings import INCENTIVES, NOISE, RECEIVED, IncentiveSettings, received
from rllib_reciprocator.intrinsic.incentives.specs import INCENTIVES_MODULE_ID
from rllib_reciprocator.models import GIVEN
from rllib_reciprocator.utils.metric_names import INCENTIVES_BY_ACTION

if TYPE_CHECKING:
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

    from rllib_reciprocator.engine.tracker import JointStep
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
        numbers: Sequence[int],
        trained: Sequence[Sequence[bool]],
        **kwargs: Any,
    ) -> None:
        """Nothing is given yet.

        Args:
            game: The games.
            settings: Of each agent that gives.
            modules: All RLModules, by id.
            suffixes: Of the id of the incentive functions that each agent brought with it; empty for this run's own.
            slots: Which of them is its own.
            numbers: Which pool member of each agent gives.
            trained: Which pool members of each agent are trained: in pools, only these are given to.
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
        self._agents = torch.arange(n, device=game.device)
        self._after = (self._agents[:, None] + self._agents[1:]) % n
        self._given = torch.zeros(game.num_games, n, n - 1, device=game.device)
        # Whether somebody sees what was given so far; if not, what is given is told of all steps at once.
        self._seen = any(module.observes_given for module, _, _ in self._functions.values())
        self._steps: list[tuple[Tensor, Tensor, Tensor | None]] = []
        device = game.device
        self._giver = torch.tensor(numbers, device=device)
        # Agents that are not drawn from a pool are given to as their givers' functions say.
        most = max(len(members) for members in trained)
        receives = [list(members) if len(members) > 1 else [True] for members in trained]
        padded = [members + [False] * (most - len(members)) for members in receives]
        self._receives = torch.tensor(padded, device=device)

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
            If anybody sees what was given so far, ``incentives [B, N, N]`` by ``[i, j]``, what i gives j, ``received``,
            what each is given, ``[B, N]``, and ``incentives_given``, what each had given before, ``[B, N, N - 1]``.
        """
        if not self._seen:
            self._steps.append((step.obs, step.actions, step.members))
            return {}
        before = self._given
        found, noise = self._incentives(step.obs, step.actions, before, step.members)
        self._given = before + found.gather(2, self._after.expand_as(before))
        return {INCENTIVES: found, RECEIVED: received(found), GIVEN: before, **noise}

    def finish(self) -> dict[str, Tensor]:
        """What was given in all steps of the sample, and received, if nobody had to see it before."""
        if not self._steps:
            return {}
        all_obs, all_actions, all_members = zip(*self._steps, strict=True)
        obs, actions = torch.stack(all_obs, 1), torch.stack(all_actions, 1)
        members = None if all_members[0] is None else torch.stack(all_members, 1).flatten(0, 1)
        self._steps = []
        found, noise = self._incentives(obs.flatten(0, 1), actions.flatten(0, 1), None, members)
        columns = {INCENTIVES: found, RECEIVED: received(found), **noise}
        return {name: column.unflatten(0, actions.shape[:2]) for name, column in columns.items()}

    @torch.no_grad()
    def _incentives(
        self, obs: Tensor, actions: Tensor, before: Tensor | None, members: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What everybody gives everybody, ``[rows, N, N]``, and by column what it was drawn with, if it was."""
        n = self._game.num_agents
        found = torch.zeros(*actions.shape, n, device=actions.device)
        noise = None
        if any(module.drawn for module, _, _ in self._functions.values()):
            # From the game's own generator, which is seeded for every sample.
            noise = torch.randn(*actions.shape, n - 1, generator=self._game.generator, device=actions.device)
        for module, agents, slots in self._functions.values():
            given, drawn_with = before if module.observes_given else None, noise if module.drawn else None
            if agents == slots:
                found[:, agents] = module.incentives(obs, actions, given, drawn_with)[:, agents]
                continue
            for agent, slot in zip(agents, slots, strict=True):
                # All agents are turned on, so that the giver is where its function is.
                turned = (self._agents + agent - slot) % n
                rows = [None if each is None else each[:, turned] for each in (obs, actions, given, drawn_with)]
                found[:, agent, turned] = module.incentives(*rows)[:, slot]
        if members is not None:
            found = found * self._gives(members)[..., None] * self._is_given_to(members)[..., None, :]
        return found, {} if noise is None else {NOISE: noise}

    def _gives(self, members: Tensor) -> Tensor:
        """Returns whether the giving pool member plays each agent, ``[rows, N]`` bool, from the members."""
        return members == self._giver

    def _is_given_to(self, members: Tensor) -> Tensor:
        """Returns whether the playing pool member receives incentives, ``[rows, N]`` bool, from the members."""
        return self._receives[self._agents, members]

    def log(self, metrics: MetricsLogger, agents: Sequence[str], joint: Mapping[str, Tensor]) -> None:
        """Logs what is given in a step: ``incentives/I_to_J``, and the same by what J did, for each action of J's."""
        incentives, actions = joint[INCENTIVES].flatten(0, 1), joint["actions"].flatten(0, 1)
        taken = torch.nn.functional.one_hot(actions, int(self._game.action_space.n)).to(incentives.dtype)
        # In pools, over the steps in which the giver plays and the recipient is given to.
        counted = torch.ones_like(incentives, dtype=torch.bool)
        if "members" in joint:
            members = joint["members"].flatten(0, 1)
            counted = self._gives(members)[..., None] & self._is_given_to(members)[..., None, :]
        weights = counted.to(incentives.dtype)
        pair_counts = weights.sum(0)
        mean = (incentives.sum(0) / pair_counts).tolist()
        counts = torch.einsum("sij,sja->ija", weights, taken)
        by_action = (torch.einsum("sij,sja->ija", incentives, taken) / counts).tolist()
        for (i, giver), (j, recipient) in permutations(enumerate(agents), 2):
            if any(i in own for _, own, _ in self._functions.values()) and pair_counts[i, j]:
                pair = f"{giver}_to_{recipient}"
                metrics.log_value((INCENTIVES, pair), mean[i][j], reduce="mean")
                for name, value, count in zip(
                    self._game.action_names, by_action[i][j], counts[i, j].tolist(), strict=True
                ):
                    if count:
                        metrics.log_value((INCENTIVES_BY_ACTION, pair, name), value, reduce="mean")

    def get_state(self) -> dict[str, Tensor]:
        """What was given so far."""
        return {GIVEN: self._given}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned."""
        self._given = state[GIVEN].to(self._given.device)
