"""Policies that act in the parallel environments, and the pools from which they are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_reciprocator.models import REMEMBERS, Deterministic, probabilities
from rllib_reciprocator.models.distributions import sample_actions

if TYPE_CHECKING:
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

# Probabilities of the pool members of each agent, with the ids of their modules.
PoolMembers = Sequence[Sequence[tuple[str, float]]]


class OnlineLearner(ABC):
    """Interface of modules that are trained inside the environment between inner episodes."""

    @abstractmethod
    def restart(self, num_games: int, generator: torch.Generator) -> None:
        """Resets the parameters of the learners of all groups of environments at the start of a meta-episode.

        Args:
            num_games: B, number of environments.
            generator: Random number generator of the initial parameters.
        """


class PerturbedPolicy(ABC):
    """Interface of modules of which perturbations of the parameters act during training."""

    @abstractmethod
    def perturb(self, groups: int, agents: int, generator: torch.Generator) -> None:
        """Samples perturbations, which act from now on.

        Args:
            groups: Number of groups of environments.
            agents: Number of agents that the module plays, each with its own perturbation.
            generator: Random number generator.
        """

    @abstractmethod
    def perturbations(self) -> Mapping[str, Tensor]:
        """Returns the columns from which learners regenerate the perturbations, each ``[groups, agents]``."""


class GroupActions(NamedTuple):
    """Actions of the agents that a module plays.

    Attributes:
        actions: ``[B, S]`` int64.
        probs: ``[B, S, A]``, action probabilities of the behavior policy; None if they are not needed.
        columns: Columns of the step for the learner, ``[B, S, ..]``; empty if the module is not trained.
    """

    actions: Tensor
    probs: Tensor | None
    columns: dict[str, Tensor]


@dataclass
class PolicyGroup:
    """Module with the agents that it plays, in one batch of B * S rows.

    Attributes:
        module_id: Id of the module.
        module: The module.
        agents: Indices of the S agents that it plays.
        members: Index of the module among the pool members of each of these agents.
        num_rows: Number of rows, B * S.
        inputs: Names of the tracker columns that it takes as inputs in addition to observations.
        learns: If True, the module is trained.
        pooled: If True, at least one of its agents has a pool, so that it may play in some environments only.
        remembers: If True, its recurrent state is kept for a whole meta-episode.
        memory: Recurrent state of each environment and agent, ``[B * S, ..]`` by name.
        rows: Indices of the rows that it currently plays, if the forward pass can be restricted to them. None for all
            rows.
    """

    module_id: str
    module: Any
    agents: list[int]
    members: list[int]
    num_rows: int
    inputs: tuple[str, ...]
    learns: bool
    pooled: bool
    remembers: bool
    memory: dict[str, Tensor] = field(default_factory=dict)
    rows: Tensor | None = None

    def select_agents(self, values: Tensor) -> Tensor:
        """Selects the rows of the module's agents, from ``[B, N, ..]`` to ``[B * S, ..]``."""
        return values[:, self.agents[0]] if len(self.agents) == 1 else values[:, self.agents].flatten(0, 1)

    def unflatten_agents(self, rows: Tensor) -> Tensor:
        """Reshapes rows ``[B * S, ..]`` to ``[B, S, ..]``."""
        return rows.unflatten(0, (-1, len(self.agents)))

    def columns(self, obs: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the inputs of the module, ``[B * S, ..]`` by column.

        Args:
            obs: ``[B, N, *obs_shape]``.
            inputs: Inputs from trackers, ``[B, N, K]`` by column.
        """
        agent_columns = {Columns.OBS: self.select_agents(obs)}
        return agent_columns | {name: self.select_agents(inputs[name]) for name in self.inputs}

    def initial_memory(self, device: torch.device) -> dict[str, Tensor]:
        """Returns the initial recurrent state, ``[B * S, ..]`` by name; empty without memory."""
        return {
            name: torch.as_tensor(value, device=device).expand(self.num_rows, *value.shape)
            for name, value in (self.module.get_initial_state() or {}).items()
        }

    def reset_memory(self, where: Tensor | None, device: torch.device) -> None:
        """Resets the recurrent state at the start of episodes.

        Args:
            where: ``[B]`` bool, environments in which an episode starts; None for all.
            device: Device of the environments.
        """
        initial_memory = self.initial_memory(device)
        if where is None:
            self.memory = initial_memory
            return
        rows = where.repeat_interleave(len(self.agents))
        for name, initial_state in initial_memory.items():
            mask = rows.view(-1, *[1] * (initial_state.dim() - 1))
            self.memory[name] = torch.where(mask, initial_state, self.memory[name])

    def select_rows(self, pool_members: Tensor | None) -> None:
        """Updates the rows of a module that plays in some environments only, if its rows are independent.

        Args:
            pool_members: ``[B, N]`` int64, index of the pool member that plays each agent.
        """
        if self.pooled and pool_members is not None and getattr(self.module.unwrapped(), "acts_by_row", False):
            members = torch.tensor(self.members, device=pool_members.device)
            self.rows = (pool_members[:, self.agents] == members).flatten().nonzero()[:, 0]

    def act(
        self,
        obs: Tensor,
        inputs: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        explore: bool,
        num_probs: int | None,
    ) -> GroupActions:
        """Computes the actions of the module's agents and updates its recurrent state.

        Args:
            obs: ``[B, N, *obs_shape]``.
            inputs: Inputs from trackers, ``[B, N, K]`` by column.
            generator: Random number generator of the actions.
            explore: If True, samples actions; if False, takes the most likely ones.
            num_probs: Number of actions A; None if probabilities are not needed.
        """
        columns = self.columns(obs, inputs)
        batch: dict[str, Any] = {**self._gather_rows(columns)}
        if self.memory:
            batch[Columns.STATE_IN] = self._gather_rows(self.memory)
        out = self.module.forward_exploration(batch) if explore else self.module.forward_inference(batch)
        if Columns.STATE_OUT in out:
            state_out = out[Columns.STATE_OUT]
            self.memory = {name: self._scatter_rows(value, self.memory[name]) for name, value in state_out.items()}
        distribution = self._distribution(out, explore)
        # Modules may sample actions themselves.
        action = out.get(Columns.ACTIONS)
        action = sample_actions(distribution, generator) if action is None else action
        probs = None
        if num_probs is not None:
            dist_inputs = out.get(Columns.ACTION_DIST_INPUTS, action)
            rows = self._scatter_rows(probabilities(distribution, dist_inputs, num_probs))
            probs = self.unflatten_agents(rows)
        recorded_columns: dict[str, Tensor] = {}
        if self.learns:
            outputs = {
                Columns.ACTIONS: action,
                Columns.ACTION_LOGP: distribution.logp(action),
                Columns.ACTION_DIST_INPUTS: out[Columns.ACTION_DIST_INPUTS],
            }
            if Columns.VF_PREDS in out:
                outputs[Columns.VF_PREDS] = out[Columns.VF_PREDS]
            columns |= {name: self._scatter_rows(column) for name, column in outputs.items()}
            recorded_columns = {name: self.unflatten_agents(column) for name, column in columns.items()}
        return GroupActions(self.unflatten_agents(self._scatter_rows(action)), probs, recorded_columns)

    def _distribution(self, out: Mapping[str, Any], explore: bool) -> Any:
        """Returns the module's action distribution; deterministic if its outputs contain actions only.

        Args:
            out: Outputs of its forward pass.
            explore: If False, the most likely action has probability 1.
        """
        inputs, actions = out.get(Columns.ACTION_DIST_INPUTS), out.get(Columns.ACTIONS)
        if inputs is None or (actions is not None and not explore):
            return Deterministic(out[Columns.ACTIONS])
        distribution = self.module.get_exploration_action_dist_cls().from_logits(inputs)
        return distribution if explore else distribution.to_deterministic()

    def _gather_rows(self, columns: dict[str, Tensor]) -> dict[str, Tensor]:
        """Selects the rows that the module currently plays from columns ``[B * S, ..]``."""
        rows = self.rows
        return columns if rows is None else {name: column[rows] for name, column in columns.items()}

    def _scatter_rows(self, values: Tensor, into: Tensor | None = None) -> Tensor:
        """Inverts :meth:`_gather_rows`: writes the values of the played rows into a tensor of all rows.

        Args:
            values: ``[rows, ..]``, values of the rows that the module currently plays.
            into: ``[B * S, ..]``, values of all other rows; zeros if None.

        Returns:
            ``[B * S, ..]``.
        """
        if self.rows is None:
            return values
        into = values.new_zeros(self.num_rows, *values.shape[1:]) if into is None else into
        return into.index_copy(0, self.rows, values)


def build_policy_groups(
    modules: MultiRLModule, pool_members: PoolMembers, trained: Sequence[str], num_envs: int
) -> list[PolicyGroup]:
    """Builds the group of every module, in the order in which agents and pool members first name the modules.

    Args:
        modules: The modules of all policies.
        pool_members: Module ids and probabilities of the pool members of each agent.
        trained: Ids of the modules that are trained.
        num_envs: B, number of environments.
    """
    seats: dict[str, list[tuple[int, int]]] = {}
    for agent, pool in enumerate(pool_members):
        for member, (module_id, _) in enumerate(pool):
            seats.setdefault(module_id, []).append((agent, member))
    groups = []
    for module_id, agent_members in seats.items():
        module = modules[module_id]
        agents = [agent for agent, _ in agent_members]
        group = PolicyGroup(
            module_id=module_id,
            module=module,
            agents=agents,
            members=[member for _, member in agent_members],
            num_rows=num_envs * len(agents),
            inputs=tuple(getattr(module, "inputs", ())),
            learns=module_id in trained,
            pooled=any(len(pool_members[agent]) > 1 for agent in agents),
            remembers=bool((module.model_config or {}).get(REMEMBERS)),
        )
        groups.append(group)
    return groups
