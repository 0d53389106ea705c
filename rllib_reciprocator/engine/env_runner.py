"""RLlib EnvRunner that steps thousands of parallel environments at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import ray
import torch
import tree
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.framework import get_device
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME, WEIGHTS_SEQ_NO
from torch import Tensor

import social_dilemmas
from rllib_reciprocator.engine.masks import MEMBERS, VALID
from rllib_reciprocator.engine.metrics import SampleLogger
from rllib_reciprocator.engine.sample import ENVIRONMENT, FINAL, LAST, Sample, StepColumns, before_end
from rllib_reciprocator.engine.tracker import JointStep, StepTracker
from rllib_reciprocator.models import REMEMBERS, Deterministic, probabilities
from rllib_reciprocator.models.exploration import without_exploration
from rllib_reciprocator.utils.ray_internals import leave_new_memory

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

    from social_dilemmas.batched_game import BatchedGame

ROLLOUT_STATE = "rollout"
FRAGMENTS_WITH_WEIGHTS = "fragments_with_weights"


class BatchedRolloutConfig(Protocol):
    """Protocol of the configuration of :class:`BatchedEnvRunner`, in addition to RLlib's ``AlgorithmConfig``."""

    def rollout_steps(self) -> int:
        """Returns T, the number of steps of each environment in a rollout."""

    def completes_episodes(self) -> bool:
        """Returns True if a rollout is the first complete episode of every environment."""

    def pool_members(self) -> list[list[tuple[str, float]]]:
        """Returns the module ids and probabilities of the pool members of each agent."""

    def trackers(self, game: BatchedGame, modules: Mapping[str, Any]) -> list[StepTracker]:
        """Builds the trackers that are called in every step."""

    def inner_episodes(self) -> int:
        """Returns the number of inner episodes in a meta-episode; 1 without meta-episodes.

        Pool members are drawn once per meta-episode.
        """

    def group_size(self) -> int:
        """Returns the number of environments in a group."""

    def draws_distinct_members(self) -> bool:
        """Returns True if a pool member may play at most one agent of an environment."""

    def phases(self, game: BatchedGame) -> int:
        """Returns the number of phases over which episode starts are staggered; 1 without staggering."""

    def identifies_environments(self, game: BatchedGame) -> bool:
        """Returns True if rollouts have a column with the index of each row's environment."""

    def keeps_final_observations(self, game: BatchedGame) -> bool:
        """Returns True if rollouts keep the last inputs of episodes that are truncated inside the rollout."""

    def sampling_device(self, worker_index: int) -> str | None:
        """Returns the device of the environments; None for RLlib's default."""


@dataclass
class PolicyGroup:
    """Module with the agents that it plays, in one batch of B * S rows.

    Attributes:
        module_id: Id of the module.
        module: The module.
        agents: Indices of the S agents that it plays.
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
    num_rows: int
    inputs: tuple[str, ...]
    learns: bool
    pooled: bool
    remembers: bool
    memory: dict[str, Tensor]
    rows: Tensor | None = None

    def select_agents(self, values: Tensor) -> Tensor:
        """Selects the rows of the module's agents, from ``[B, N, ..]`` to ``[B * S, ..]``."""
        return values[:, self.agents[0]] if len(self.agents) == 1 else values[:, self.agents].flatten(0, 1)

    def gather_rows(self, columns: dict[str, Tensor]) -> dict[str, Tensor]:
        """Selects the rows that the module currently plays from columns ``[B * S, ..]``."""
        rows = self.rows
        return columns if rows is None else {name: column[rows] for name, column in columns.items()}

    def scatter_rows(self, values: Tensor, into: Tensor | None = None) -> Tensor:
        """Inverts :meth:`gather_rows`: writes the values of the played rows into a tensor of all rows.

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

    def unflatten_agents(self, rows: Tensor) -> Tensor:
        """Reshapes rows ``[B * S, ..]`` to ``[B, S, ..]``."""
        return rows.unflatten(0, (-1, len(self.agents)))


class BatchedEnvRunner(EnvRunner, Checkpointable):
    """Env runner that samples rollouts of T steps from B parallel environments.

    A step is one forward pass per module, for all agents that it plays, one step of all environments, and a call of
    each tracker.

    The random numbers of a fragment depend only on the seed, the worker index, the version of the weights and the
    number of fragments sampled with them, so that a run gives the same results after a restart of the whole run or of
    one env runner.
    """

    game: BatchedGame
    module: MultiRLModule
    _obs: Tensor
    _members: Tensor | None
    # Steps since the last reset of all environments, modulo the horizon, if episodes have a fixed length.
    _step_count: int
    # Index of the current inner episode in the meta-episode. All environments start inner episodes together.
    _inner_episode_index: int
    # Environments to reset before the next step: [B] bool, or True for all and False for none.
    _reset_mask: Tensor | bool

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        """Builds the environments and the modules.

        Args:
            config: An AlgorithmConfig that also implements :class:`BatchedRolloutConfig`.
            **kwargs: Arguments that RLlib passes to env runners; ``worker_index`` and ``num_workers`` are used.
        """
        super().__init__(config=config, **kwargs)
        leave_new_memory()
        self._callbacks = [cls() for cls in force_list(self.config.callbacks_class)]
        gpus = 0 if not self.worker_index else self.config.num_gpus_per_env_runner
        device = config.sampling_device(self.worker_index or 0)
        self.device = torch.device(device) if device else get_device(self.config, gpus)
        self._entropy = self._seed if self._seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self.weights_seq_no = 0
        self._fragments_with_weights = 0
        self.make_env()
        self.make_module()

    @override(EnvRunner)
    def make_env(self) -> None:
        """Builds B parallel environments; the next sample starts new episodes."""
        config = self.config
        self.game = social_dilemmas.make(
            config.env, config.num_envs_per_env_runner, device=self.device, **dict(config.env_config)
        )
        self.env = self.game
        self.num_envs = self.game.num_games
        self._generator = torch.Generator(device=self.device)
        self._fragment_steps = config.rollout_steps()
        self._keeps_final = config.keeps_final_observations(self.game)
        self._phases = config.phases(self.game)
        # Values of the step count at which the environments of each phase are truncated, for episodes of fixed length.
        self._end_clocks = {phase * self._fragment_steps % self.game.horizon for phase in range(self._phases)}
        # Remote env runners are numbered from 1, the local one is 0. Environment indices are unique in a run.
        runner = max(0, (self.worker_index or 0) - 1)
        self._environments = torch.arange(self.num_envs, device=self.device) + runner * self.num_envs
        self._identifies_environments = config.identifies_environments(self.game)
        self._reset_mask, self._inner_episode_index = True, 0
        self._none = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._all = ~self._none

    @override(EnvRunner)
    def make_module(self) -> None:
        """Builds the modules of all policies, the modules that trackers use, and the trackers."""
        spec = self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        if self.config.in_evaluation:
            spec = copy(spec)
            spec.rl_module_specs = {
                module_id: without_exploration(module_spec) for module_id, module_spec in spec.rl_module_specs.items()
            }
        self.module = spec.build()
        self.module.foreach_module(lambda _, module: module.to(self.device))
        # Targets and sources of copy_weights: the learner in the same process, parameters of this env runner and of the
        # learner, and buffers as (module here, module of the learner, name). Collected once, as copying is frequent.
        self._shared_with: Learner | None = None
        self._parameters: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._buffers: list[tuple[Any, Any, str]] = []
        pool_members = self._pool_members = self.config.pool_members()
        self._logger = SampleLogger(self.game, pool_members)
        member_probs = {k: [share for _, share in pool] for k, pool in enumerate(pool_members) if len(pool) > 1}
        self._pools = {k: torch.tensor(pool, device=self.device) for k, pool in member_probs.items()}
        agents_by_module: dict[str, list[int]] = defaultdict(list)
        for index, pool in enumerate(pool_members):
            for module_id, _ in pool:
                agents_by_module[module_id].append(index)
        self._groups = [self._build_group(module_id, agents) for module_id, agents in agents_by_module.items()]
        # If a module may play at most one agent of an environment: indices of the modules in each agent's pool, and a
        # flag for modules that are in the pools of several agents.
        self._distinct = self.config.draws_distinct_members()
        ids = [group.module_id for group in self._groups]
        self._modules_of = {
            k: torch.tensor([ids.index(module_id) for module_id, _ in pool_members[k]], device=self.device)
            for k in self._pools
        }
        self._shared = torch.tensor([len(group.agents) > 1 for group in self._groups], device=self.device)
        # Column of each agent and pool member in the concatenated outputs of all modules, [B, slots, ..].
        slots = [(group.module_id, agent) for group in self._groups for agent in group.agents]
        self._slots = [[slots.index((module_id, k)) for module_id, _ in pool] for k, pool in enumerate(pool_members)]
        self._in_order = torch.tensor([agent_slots[0] for agent_slots in self._slots], device=self.device)
        self._sorted = self._in_order.tolist() == list(range(len(slots)))
        self.trackers = self.config.trackers(self.game, self.module)
        self._needs_state = any(tracker.needs_state for tracker in self.trackers)
        self._needs_probs = any(tracker.needs_probs for tracker in self.trackers)
        self._inner_episodes, self._group_size = self.config.inner_episodes(), self.config.group_size()
        # Policies that are trained inside the environment between inner episodes.
        self._online_learners = [group.module for group in self._groups if hasattr(group.module, "restart")]
        # Policies trained by evolution strategies: perturbations of their parameters play during training.
        trained = [] if self.config.in_evaluation else [group for group in self._groups if group.learns]
        self._perturbed = {group.module_id: group for group in trained if hasattr(group.module, "perturb")}
        self._sees_inputs = any(group.inputs for group in self._groups)

    def _build_group(self, module_id: str, agents: list[int]) -> PolicyGroup:
        module = self.module[module_id]
        learns = module_id in self.config.policies_to_train
        pooled = any(k in self._pools for k in agents)
        remembers = bool((module.model_config or {}).get(REMEMBERS))
        inputs = tuple(getattr(module, "inputs", ()))
        num_rows = self.num_envs * len(agents)
        return PolicyGroup(module_id, module, agents, num_rows, inputs, learns, pooled, remembers, {})

    @override(EnvRunner)
    def get_spaces(self) -> dict[str, Any]:
        """Returns the observation and action space by module id, and those of the environment."""
        spaces = (self.game.observation_space, self.game.action_space)
        module_ids = {module_id for pool in self.config.pool_members() for module_id, _ in pool}
        return {INPUT_ENV_SPACES: spaces, INPUT_ENV_SINGLE_SPACES: spaces, **dict.fromkeys(sorted(module_ids), spaces)}

    @override(EnvRunner)
    def assert_healthy(self) -> None:
        """Raises AssertionError if the environments were not built."""
        assert self.game.num_games == self.num_envs

    @override(EnvRunner)
    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
        **kwargs: Any,
    ) -> list[Sample]:
        """Samples rollouts from all environments, continuing the episodes of the previous call.

        Args:
            num_timesteps: Minimum number of environment steps to sample. Defaults to one rollout, or with
                ``batch_mode="complete_episodes"`` to the first complete episode of every environment.
            num_episodes: Minimum number of complete episodes to sample. Each rollout covers the horizon and counts the
                first episode of every environment only: counting all episodes that end in it would bias the metrics
                towards short ones.
            explore: If True, samples actions; if False, takes the most likely ones. Defaults to the configuration.
            random_actions: Not supported.
            force_reset: If True, starts new episodes first.
            **kwargs: For later versions of RLlib.

        Returns:
            One :class:`Sample` per rollout.

        Raises:
            ValueError: If ``random_actions`` is True.
        """
        if random_actions:
            raise ValueError("random_actions: not supported by BatchedEnvRunner; use scripted/random players")
        explore = self.config.explore if explore is None else explore
        length, num_rollouts = self._fragment_steps, 1
        whole = num_episodes is not None or (num_timesteps is None and self.config.completes_episodes())
        if num_episodes is not None:
            # With meta-episodes a rollout is a whole meta-episode.
            num_inner = self._inner_episodes
            length, num_rollouts = num_inner * self.game.horizon, math.ceil(num_episodes / (num_inner * self.num_envs))
        elif num_timesteps is not None:
            num_rollouts = math.ceil(num_timesteps / (length * self.num_envs))
        # Inner episodes have a fixed length, so that rollouts of whole episodes continue a meta-episode without reset.
        resets = num_episodes is not None or (whole and self._inner_episodes == 1)
        if self._phases > 1 and not whole and (force_reset or self._reset_mask is True):
            self._spread_phases(explore)
            force_reset = False
        samples = []
        for index in range(num_rollouts):
            if resets or (force_reset and index == 0):
                self.start_over()
            samples.append(self.play(length, explore, only_first=whole and self._inner_episodes == 1))
        if resets:
            self.start_over()
        make_callback(
            "on_sample_end",
            self._callbacks,
            self.config.callbacks_on_sample_end,
            kwargs={"env_runner": self, "metrics_logger": self.metrics, "samples": samples},
        )
        return samples

    def start_over(self) -> None:
        """Starts new episodes and meta-episodes in all environments with the next rollout."""
        self._reset_mask, self._inner_episode_index = True, 0
        self._logger.drop_episodes(self._all)

    def _spread_phases(self, explore: bool) -> None:
        """Starts new episodes in all environments and plays them to evenly spread steps, one fragment apart.

        A rollout of fragments then has steps of all parts of an episode. The steps played here are neither trained on
        nor counted, except in the returns of the episodes that continue.

        Args:
            explore: If True, samples actions; if False, takes the most likely ones.
        """
        total = self.num_envs * max(1, self.config.num_env_runners)
        # With fewer environments than phases, the used phases are spread as far apart as possible.
        phase = (
            self._environments % self._phases if total >= self._phases else (self._environments * self._phases // total)
        )
        self.start_over()
        for current_phase in reversed(range(1, self._phases)):
            self._start_also(phase == current_phase)
            self.play(self._fragment_steps, explore, counted=False)
        self._start_also(phase == 0)

    def _start_also(self, where: Tensor) -> None:
        """Adds environments, ``[B]`` bool, to those that are reset before the next step."""
        if self._reset_mask is not True:
            self._reset_mask = where if self._reset_mask is False else where | self._reset_mask
            self._logger.drop_episodes(where)

    @torch.no_grad()
    def play(self, length: int, explore: bool, *, only_first: bool = False, counted: bool = True) -> Sample:
        """Samples one rollout; environments whose episode ends are reset before their next step.

        Args:
            length: Number of steps in every environment.
            explore: If True, samples actions; if False, takes the most likely ones.
            only_first: If True, only the first episode of each environment counts, and no environment is reset.
            counted: If False, the rollout is not logged.

        Returns:
            The rollout.
        """
        self._seed_fragment()
        game = self.game
        joint, outcomes = StepColumns(), StepColumns()
        modules: dict[str, StepColumns] = defaultdict(StepColumns)
        memories: dict[str, dict[str, Tensor]] = {}
        final: dict[str, dict[str, Tensor]] = {}
        first_inner_episode = self._inner_episode_index
        for t in range(length):
            is_first = self._start_episodes()
            if t == 0:
                memories = {group.module_id: dict(group.memory) for group in self._groups}
            if self._members is not None:
                joint.add(**{MEMBERS: self._members})
            inputs = self._inputs()
            state, time_left, obs = game.state() if self._needs_state else None, game.time_left(), self._obs
            actions, probs = self._act(inputs, modules, explore)
            step = game.step(actions)
            joint_step = JointStep(
                state, obs, actions, probs, step.rewards, step.terminated, step.truncated, time_left, self._members
            )
            joint.add(
                actions=actions,
                rewards=step.rewards,
                terminated=step.terminated,
                truncated=step.truncated,
                is_first=is_first,
                time_left=time_left,
            )
            for tracker in self.trackers:
                joint.add(**tracker.after(joint_step))
            outcomes.add(**step.outcomes)
            self._obs = step.obs
            if self._keeps_final:
                self._keep_final(final, t, length, step.truncated)
            # Steps after the first episode do not count, so that environments need not be reset.
            self._reset_mask = False if only_first else self._ends(step.terminated | step.truncated)
        streams = self._streams(memories, final)
        tracker_columns = {name: column for tracker in self.trackers for name, column in tracker.finish().items()}
        sample = Sample(
            modules={module_id: columns.stacked(2) for module_id, columns in modules.items()},
            streams=streams,
            joint={**joint.stacked(1), **tracker_columns},
            outcomes=outcomes.stacked(1),
        )
        if only_first:
            sample.joint[VALID] = before_end(sample.ended)
        if self._identifies_environments:
            sample.joint[ENVIRONMENT] = self._environments[:, None].expand(-1, length)
        if not counted:
            self._logger.follow_episodes(sample)
            return sample
        self._logger.log(self, sample, only_first=only_first)
        if self._inner_episodes > 1 and length % self.game.horizon == 0:
            self._logger.log_inner_episodes(self, sample, first_inner_episode)
        return sample if not self.worker_index else sample.to("cpu")

    def _seed_fragment(self) -> None:
        key = [self._entropy, self.worker_index or 0, self.weights_seq_no, self._fragments_with_weights]
        game_seed, policy_seed = np.random.SeedSequence(key).generate_state(2)
        self._fragments_with_weights += 1
        self.game.seed(int(game_seed))
        self._generator.manual_seed(int(policy_seed))

    def _ends(self, ended: Tensor) -> Tensor | bool:
        """Returns the environments to reset before the next step, see ``_reset_mask``; also advances the step count.

        Args:
            ended: ``[B]`` bool, the environments whose episode ended with this step.
        """
        if not self.game.terminates_early:
            # Episodes have a fixed length: counting steps on the host avoids synchronizing with the device.
            self._step_count = (self._step_count + 1) % self.game.horizon
            if self._phases > 1:
                return ended if self._step_count in self._end_clocks else False
            if self._step_count == 0:
                self._inner_episode_index = (self._inner_episode_index + 1) % self._inner_episodes
            return self._step_count == 0
        if ended.is_cuda:
            return ended
        return ended if bool(ended.any()) else False

    def _start_episodes(self) -> Tensor:
        """Resets the environments in ``_reset_mask`` with their recurrent states, pool members and trackers.

        Returns:
            The environments that were reset, ``[B]`` bool.
        """
        where = self._reset_mask
        if where is False:
            return self._none
        if where is True:
            self._step_count = 0
            self._obs = self.game.reset()
            is_first_inner = self._inner_episode_index == 0
            for group in self._groups:
                if is_first_inner or not group.remembers:
                    group.memory = self._fresh_memory(group)
            if is_first_inner:
                self._members = self._drawn_members()
                for module in self._online_learners:
                    module.restart(self.num_envs, self._generator)
                for group in self._perturbed.values():
                    group.module.perturb(self.num_envs // self._group_size, len(group.agents), self._generator)
        else:
            self._obs = self.game.reset(where=where)
            for group in self._groups:
                rows = where.repeat_interleave(len(group.agents))
                for name, initial_state in self._fresh_memory(group).items():
                    mask = rows.view(-1, *[1] * (initial_state.dim() - 1))
                    group.memory[name] = torch.where(mask, initial_state, group.memory[name])
            members = self._drawn_members()
            if members is not None and self._members is not None:
                self._members = torch.where(where[:, None], members, self._members)
        self._note_rows()
        for tracker in self.trackers:
            tracker.start(None if where is True else where)
        self._reset_mask = False
        return self._all if where is True else where

    def _note_rows(self) -> None:
        """Updates the rows of modules that play in some environments only, if their rows are independent."""
        for group in self._groups:
            if group.pooled and getattr(group.module.unwrapped(), "acts_by_row", False):
                group.rows = self._is_played_by(group).flatten().nonzero()[:, 0]

    def _drawn_members(self) -> Tensor | None:
        """Samples the pool member of each agent for new episodes, the same for all environments of a group.

        Returns:
            Indices of pool members, ``[B, N]`` int64; None if there are no pools.
        """
        if not self._pools:
            return None
        groups = self.num_envs // self._group_size
        members = torch.zeros(groups, self.game.num_agents, dtype=torch.int64, device=self.device)
        # Modules drawn so far in each group, used if a module may play at most one of its agents.
        in_use = torch.zeros(groups, len(self._groups), dtype=torch.bool, device=self.device)
        for index, probs in self._pools.items():
            if self._distinct:
                modules = self._modules_of[index]
                probs = redistribute_probabilities(probs.expand(groups, -1), in_use[:, modules], self._shared[modules])
            # Inverse transform sampling: the drawn index is the number of cumulative probabilities not above a uniform
            # random number.
            uniform = torch.rand(groups, 1, generator=self._generator, device=self.device)
            members[:, index] = (uniform >= probs.cumsum(-1)[..., :-1]).sum(1)
            if self._distinct:
                in_use.scatter_(1, modules[members[:, index, None]], True)
        return members.repeat_interleave(self._group_size, 0)

    def _fresh_memory(self, group: PolicyGroup) -> dict[str, Tensor]:
        """Returns a module's initial recurrent state, ``[B * S, ..]`` by name; empty if it has none."""
        rows = self.num_envs * len(group.agents)
        return {
            name: torch.as_tensor(value, device=self.device).expand(rows, *value.shape)
            for name, value in (group.module.get_initial_state() or {}).items()
        }

    def _inputs(self) -> dict[str, Tensor]:
        """Returns the inputs that trackers provide, ``[B, N, K]`` by column; empty if no module uses any."""
        inputs: dict[str, Tensor] = {}
        if self._sees_inputs:
            for tracker in self.trackers:
                inputs |= tracker.inputs()
        return inputs

    def _sees(self, group: PolicyGroup, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the inputs of a module at the current step, ``[B * S, ..]`` by column."""
        columns = {Columns.OBS: group.select_agents(self._obs)}
        return columns | {name: group.select_agents(inputs[name]) for name in group.inputs}

    def _act(
        self, inputs: dict[str, Tensor], modules: dict[str, StepColumns], explore: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Computes the actions of all agents, and records the columns of trained modules.

        Args:
            inputs: Inputs from trackers, ``[B, N, K]`` by column.
            modules: Columns by module id, to which those of this step are added.
            explore: If True, samples actions; if False, takes the most likely ones.

        Returns:
            Actions, ``[B, N]`` int64, and action probabilities of the behavior policies, ``[B, N, A]``; None if no
            tracker needs the latter.
        """
        actions, behavior = [], []
        for group in self._groups:
            module, columns = group.module, self._sees(group, inputs)
            batch: dict[str, Any] = {**group.gather_rows(columns)}
            if group.memory:
                batch[Columns.STATE_IN] = group.gather_rows(group.memory)
            out = module.forward_exploration(batch) if explore else module.forward_inference(batch)
            if Columns.STATE_OUT in out:
                state_out = out[Columns.STATE_OUT]
                group.memory = {
                    name: group.scatter_rows(value, group.memory[name]) for name, value in state_out.items()
                }
            distribution = self._distribution(module, out, explore)
            # Modules may sample actions themselves.
            action = out.get(Columns.ACTIONS)
            action = distribution.sample(generator=self._generator) if action is None else action
            actions.append(group.unflatten_agents(group.scatter_rows(action)))
            if self._needs_probs:
                dist_inputs = out.get(Columns.ACTION_DIST_INPUTS, action)
                probs = group.scatter_rows(probabilities(distribution, dist_inputs, int(self.game.action_space.n)))
                behavior.append(group.unflatten_agents(probs))
            if group.learns:
                outputs = {
                    Columns.ACTIONS: action,
                    Columns.ACTION_LOGP: distribution.logp(action),
                    Columns.ACTION_DIST_INPUTS: out[Columns.ACTION_DIST_INPUTS],
                }
                if Columns.VF_PREDS in out:
                    outputs[Columns.VF_PREDS] = out[Columns.VF_PREDS]
                columns |= {name: group.scatter_rows(column) for name, column in outputs.items()}
                modules[group.module_id].add(
                    **{name: group.unflatten_agents(column) for name, column in columns.items()}
                )
        return self._chosen(actions), self._chosen(behavior) if self._needs_probs else None

    @staticmethod
    def _distribution(module: Any, out: Any, explore: bool) -> Any:
        """Returns a module's action distribution; deterministic if its outputs contain actions only.

        Args:
            module: The module.
            out: Outputs of its forward pass.
            explore: If False, the most likely action has probability 1.
        """
        inputs, actions = out.get(Columns.ACTION_DIST_INPUTS), out.get(Columns.ACTIONS)
        if inputs is None or (actions is not None and not explore):
            return Deterministic(actions)
        distribution = module.get_exploration_action_dist_cls().from_logits(inputs)
        return distribution if explore else distribution.to_deterministic()

    def _is_played_by(self, group: PolicyGroup) -> Tensor:
        """Returns a mask of the environments in which a module plays each of its agents, ``[B, S]`` bool."""
        assert self._members is not None
        member_indices = [
            [module_id for module_id, _ in self._pool_members[agent]].index(group.module_id) for agent in group.agents
        ]
        return self._members[:, group.agents] == torch.tensor(member_indices, device=self.device)

    def _chosen(self, of_modules: Sequence[Tensor]) -> Tensor:
        """Selects, for each agent, the output of the module that plays it.

        Args:
            of_modules: Outputs of each module for its agents, ``[B, S, ..]``.

        Returns:
            ``[B, N, ..]``.
        """
        slots = of_modules[0] if len(of_modules) == 1 else torch.cat(list(of_modules), 1)
        if self._members is None:
            return slots if self._sorted else slots.index_select(1, self._in_order)
        outputs = []
        for index, agent_slots in enumerate(self._slots):
            if len(agent_slots) == 1:
                outputs.append(slots[:, agent_slots[0]])
            else:
                options = slots[:, agent_slots]
                members = self._members[:, index].view(-1, 1, *[1] * (options.dim() - 2))
                outputs.append(options.gather(1, members.expand(-1, 1, *options.shape[2:]))[:, 0])
        return torch.stack(outputs, 1)

    def _keep_final(self, final: dict[str, dict[str, Tensor]], t: int, length: int, truncated: Tensor) -> None:
        """Stores the last inputs of truncated episodes, whose values the learner bootstraps from.

        An environment is truncated at most once in ``horizon`` steps, so that one slot per interval of ``horizon``
        steps is enough.

        Args:
            final: Columns ``[B, S, K, ..]`` by module id, updated in place.
            t: Index of the step in the rollout.
            length: Number of steps of the rollout.
            truncated: ``[B]`` bool, environments that were truncated with this step.
        """
        inputs, slot = self._inputs(), t // self.game.horizon
        for group in self._groups:
            if group.learns:
                columns = final.setdefault(group.module_id, {})
                for name, value in self._sees(group, inputs).items():
                    last_input = group.unflatten_agents(value)
                    if name not in columns:
                        slots = math.ceil(length / self.game.horizon)
                        columns[name] = last_input.new_zeros(*last_input.shape[:2], slots, *last_input.shape[2:])
                    mask = truncated.view(-1, *[1] * (last_input.dim() - 1))
                    columns[name][:, :, slot] = torch.where(mask, last_input, columns[name][:, :, slot])

    def _streams(
        self, memories: dict[str, dict[str, Tensor]], final: dict[str, dict[str, Tensor]]
    ) -> dict[str, dict[str, Tensor]]:
        """Returns the columns per sequence, see :attr:`Sample.streams`.

        Args:
            memories: Recurrent states before the rollout, by module id.
            final: Last inputs of truncated episodes, by module id.
        """
        inputs, streams = self._inputs(), {}
        for group in self._groups:
            if group.learns:
                columns = {
                    f"{Columns.STATE_IN}/{name}": group.unflatten_agents(value)
                    for name, value in memories[group.module_id].items()
                }
                for name, value in self._sees(group, inputs).items():
                    columns[LAST + name] = group.unflatten_agents(value)
                for name, value in final.get(group.module_id, {}).items():
                    columns[FINAL + name] = value
                if group.module_id in self._perturbed:
                    for name, value in group.module.perturbations().items():
                        columns[name] = value.repeat_interleave(self._group_size, 0)
                streams[group.module_id] = columns
        return streams

    @override(EnvRunner)
    def get_metrics(self) -> Any:
        """Returns the reduced metrics logged since the last call."""
        return self.metrics.reduce()

    @override(Checkpointable)
    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Returns counters, weights, and the state of the environments unless all of them are about to be reset."""
        state: dict[str, Any] = {
            NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime,
            WEIGHTS_SEQ_NO: self.weights_seq_no,
            FRAGMENTS_WITH_WEIGHTS: self._fragments_with_weights,
        }
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(
                components=self._get_subcomponents(COMPONENT_RL_MODULE, components),
                not_components=self._get_subcomponents(COMPONENT_RL_MODULE, not_components),
                **kwargs,
            )
        if self._check_component(ROLLOUT_STATE, components, not_components) and not self._begins_afresh():
            rollout = {
                "to_start": self._reset_mask,
                "clock": self._step_count,
                "number": self._inner_episode_index,
                "game": self.game.get_state(),
                "obs": self._obs,
                "members": self._members,
                "memory": {group.module_id: group.memory for group in self._groups},
                "trackers": [tracker.get_state() for tracker in self.trackers],
                "metrics": self._logger.get_state(),
            }
            state[ROLLOUT_STATE] = _on("cpu", rollout)
        return state

    @override(Checkpointable)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state returned by :meth:`get_state`, or the parts of it that are present."""
        if COMPONENT_RL_MODULE in state:
            weights = state[COMPONENT_RL_MODULE]
            self.module.set_state(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
        self._note_weights(state.get(WEIGHTS_SEQ_NO, self.weights_seq_no))
        self._fragments_with_weights = state.get(FRAGMENTS_WITH_WEIGHTS, self._fragments_with_weights)
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]
        if "to_start" in state.get(ROLLOUT_STATE, ()):
            generator = state[ROLLOUT_STATE]["game"]["generator"]
            rollout = _on(self.device, state[ROLLOUT_STATE])
            self.game.set_state({**rollout["game"], "generator": generator})
            self._reset_mask, self._step_count = rollout["to_start"], rollout["clock"]
            self._inner_episode_index = rollout.get("number", 0)
            self._obs, self._members = rollout["obs"], rollout["members"]
            for group in self._groups:
                group.memory = rollout["memory"][group.module_id]
            self._note_rows()
            for tracker, tracker_state in zip(self.trackers, rollout["trackers"], strict=True):
                tracker.set_state(tracker_state)
            self._logger.set_state(rollout["metrics"])

    @torch.no_grad()
    def copy_weights(self, learner: Learner) -> None:
        """Copies the weights of a learner in the same process, without serialization."""
        if self._shared_with is not learner:
            self._shared_with, self._parameters, self._buffers = learner, ([], []), []
            for module_id, module in self.module.items():
                if not _keeps_more_than_weights(module):
                    learner_module = learner.module[module_id].unwrapped()
                    self._parameters[0].extend(module.parameters())
                    self._parameters[1].extend(learner_module.parameters())
                    buffers = set(module.state_dict()) - {name for name, _ in module.named_parameters()}
                    self._buffers += [(module, learner_module, name) for name in sorted(buffers)]
        for module_id, module in self.module.items():
            if _keeps_more_than_weights(module):
                module.set_state(learner.module[module_id].unwrapped().get_state())
        if self._parameters[0]:
            torch._foreach_copy_(*self._parameters)
        # Buffers are looked up by name each time, as modules may replace their tensors.
        for module, learner_module, name in self._buffers:
            module.get_buffer(name).copy_(learner_module.get_buffer(name))
        self._note_weights(learner._weights_seq_no)

    def _begins_afresh(self) -> bool:
        """Returns True if the next step starts new episodes and meta-episodes in all environments."""
        return self._reset_mask is True and self._inner_episode_index == 0

    def _note_weights(self, number: int) -> None:
        """Stores the version of the current weights and resets the fragment counter if it changed.

        Args:
            number: Version of the weights.
        """
        if number != self.weights_seq_no:
            self.weights_seq_no = number
            self._fragments_with_weights = 0

    @override(Checkpointable)
    def get_ctor_args_and_kwargs(self) -> tuple[tuple, dict[str, Any]]:
        """Returns the constructor arguments of this env runner."""
        return (), {"config": self.config}

    @override(Checkpointable)
    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        """Returns the module of all policies as a component."""
        return [(COMPONENT_RL_MODULE, self.module)]


def redistribute_probabilities(shares: Tensor, taken: Tensor, shared: Tensor) -> Tensor:
    """Redistributes the probability of members that already play in the group among the rest of their population.

    Args:
        shares: ``[groups, members]``, probabilities of the pool members.
        taken: ``[groups, members]`` bool, members that already play another agent of the group.
        shared: ``[members]`` bool, members of the population, i.e. modules in the pools of several agents.

    Returns:
        ``[groups, members]``; unchanged in groups where the whole population already plays.
    """
    available = shares * ~taken
    population = available * shared
    excess = (shares * taken).sum(-1, keepdim=True)
    total = population.sum(-1, keepdim=True)
    return torch.where(total > 0, available + excess * population / total.clamp(min=1e-12), shares)


def _keeps_more_than_weights(module: Any) -> bool:
    """Returns True if a module's class overrides ``get_state``, so that copying tensors is not enough."""
    return type(module).get_state is not TorchRLModule.get_state


def _on(device: torch.device | str, nested: Any) -> Any:
    """Moves all tensors of a nested structure to a device."""
    return tree.map_structure(lambda value: value.to(device) if isinstance(value, Tensor) else value, nested)
