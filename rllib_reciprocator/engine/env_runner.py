"""An RLlib EnvRunner that steps thousands of games at once."""

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
    """What the runner asks of an algorithm's configuration, beside what RLlib's have."""

    def rollout_steps(self) -> int:
        """T, how many steps of each game a sample holds."""

    def completes_episodes(self) -> bool:
        """Whether a sample is the first, whole episode of every game."""

    def pool_members(self) -> list[list[tuple[str, float]]]:
        """For each agent the ids of the modules that may play it, with their shares of the games."""

    def trackers(self, game: BatchedGame, modules: Mapping[str, Any]) -> list[StepTracker]:
        """What follows the steps of the games."""

    def inner_episodes(self) -> int:
        """Inner episodes of a meta-episode, for which pools are drawn; 1 where there are none."""

    def group_size(self) -> int:
        """Copies of a game that go together."""

    def draws_distinct_members(self) -> bool:
        """Whether no member of pools plays two agents of a game."""

    def phases(self, game: BatchedGame) -> int:
        """Returns in how many phases of an episode environments are; 1 if they start together."""

    def identifies_environments(self, game: BatchedGame) -> bool:
        """Returns whether learners ask which environment each row of a sample is of."""

    def keeps_final_observations(self, game: BatchedGame) -> bool:
        """Whether learners ask for what was seen at the end of episodes that were cut off inside a sample."""

    def sampling_device(self, worker_index: int) -> str | None:
        """Where games are played; None for where RLlib would."""


@dataclass
class PolicyGroup:
    """A module and the agents that it plays.

    Attributes:
        module_id: Its id.
        module: The module.
        agents: Their indices, of whom there are S.
        num_rows: B * S.
        inputs: Columns of trackers that it sees.
        learns: Whether it is trained.
        pooled: Whether it plays in some games only.
        remembers: Whether its memory lives as long as a meta-episode.
        memory: Its memory of each game and agent, ``[B * S, ..]`` by name.
        rows: The rows that it plays in now, where these are not all and its rows have nothing to do with each other.
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
        """``[B, N, ..]`` to the rows of its agents, ``[B * S, ..]``."""
        return values[:, self.agents[0]] if len(self.agents) == 1 else values[:, self.agents].flatten(0, 1)

    def gather_rows(self, columns: dict[str, Tensor]) -> dict[str, Tensor]:
        """Columns ``[B * S, ..]`` of the rows that it plays in."""
        rows = self.rows
        return columns if rows is None else {name: column[rows] for name, column in columns.items()}

    def scatter_rows(self, values: Tensor, into: Tensor | None = None) -> Tensor:
        """From values of the rows that it plays in to ``[B * S, ..]``, the others as they are in another tensor.

        Args:
            values: ``[rows, ..]``.
            into: ``[B * S, ..]``; zeros if None.
        """
        if self.rows is None:
            return values
        into = values.new_zeros(self.num_rows, *values.shape[1:]) if into is None else into
        return into.index_copy(0, self.rows, values)

    def unflatten_agents(self, rows: Tensor) -> Tensor:
        """Rows ``[B * S, ..]`` to ``[B, S, ..]``."""
        return rows.unflatten(0, (-1, len(self.agents)))


class BatchedEnvRunner(EnvRunner, Checkpointable):
    """Samples streams of T steps from B copies of a game.

    A step is one forward pass a module, for all agents that it plays, and one step of the games; trackers follow it.

    All randomness of a fragment follows from the seed, the runner's index and the number of the weights it plays
    with. So a run continues after a restart, of the whole or of one runner, as if nothing had happened.
    """

    game: BatchedGame
    module: MultiRLModule
    _obs: Tensor
    _members: Tensor | None
    # Steps since all games began, where they begin together.
    _step_count: int
    # Which inner episode of the meta-episode that is: where there are several, all games begin them together.
    _inner_episode_index: int
    # The games whose next step begins an episode: [B] bool, or all or none of them.
    _reset_mask: Tensor | bool

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        """Builds the games and the players' modules.

        Args:
            config: An AlgorithmConfig that is a :class:`BatchedRolloutConfig` too.
            **kwargs: What RLlib passes to env runners; ``worker_index`` and ``num_workers`` are used.
        """
        super().__init__(config=config, **kwargs)
        leave_new_memory()
        self._callbacks = [cls() for cls in force_list(self.config.callbacks_class)]
        gpus = 0 if not self.worker_index else self.config.num_gpus_per_env_runner
        asked = config.sampling_device(self.worker_index or 0)
        self.device = torch.device(asked) if asked else get_device(self.config, gpus)
        self._entropy = self._seed if self._seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self.weights_seq_no = 0
        self._fragments_with_weights = 0
        self.make_env()
        self.make_module()

    @override(EnvRunner)
    def make_env(self) -> None:
        """Builds B copies of the game; the next sample starts new episodes."""
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
        # The steps of the clock at which environments of a game with episodes of one length end, in each phase.
        self._end_clocks = {phase * self._fragment_steps % self.game.horizon for phase in range(self._phases)}
        # Runners count from 1, the local one is 0; the indices of environments are unique in a run.
        runner = max(0, (self.worker_index or 0) - 1)
        self._environments = torch.arange(self.num_envs, device=self.device) + runner * self.num_envs
        self._identifies_environments = config.identifies_environments(self.game)
        self._reset_mask, self._inner_episode_index = True, 0
        self._none = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._all = ~self._none

    @override(EnvRunner)
    def make_module(self) -> None:
        """Builds every player's module, those that trackers use, and the trackers."""
        spec = self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        if self.config.in_evaluation:
            spec = copy(spec)
            spec.rl_module_specs = {
                module_id: without_exploration(module_spec) for module_id, module_spec in spec.rl_module_specs.items()
            }
        self.module = spec.build()
        self.module.foreach_module(lambda _, module: module.to(self.device))
        # A learner in the same process, parameters of this runner and the learner's that they are copied from, and
        # buffers by name, with their modules here and there.
        self._shared_with: Learner | None = None
        self._parameters: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._buffers: list[tuple[Any, Any, str]] = []
        pool_members = self._pool_members = self.config.pool_members()
        self._logger = SampleLogger(self.game, pool_members)
        shares = {k: [share for _, share in each] for k, each in enumerate(pool_members) if len(each) > 1}
        self._pools = {k: torch.tensor(each, device=self.device) for k, each in shares.items()}
        played: dict[str, list[int]] = defaultdict(list)
        for index, each in enumerate(pool_members):
            for module_id, _ in each:
                played[module_id].append(index)
        self._groups = [self._build_group(module_id, agents) for module_id, agents in played.items()]
        # Where none may play two agents of a game: the modules of an agent's pool members, and which several share.
        self._distinct = self.config.draws_distinct_members()
        ids = [group.module_id for group in self._groups]
        self._modules_of = {
            k: torch.tensor([ids.index(module_id) for module_id, _ in pool_members[k]], device=self.device)
            for k in self._pools
        }
        self._shared = torch.tensor([len(group.agents) > 1 for group in self._groups], device=self.device)
        # Where in the choices of each module an agent's is, for each of its pool members.
        slots = [(group.module_id, agent) for group in self._groups for agent in group.agents]
        self._slots = [[slots.index((module_id, k)) for module_id, _ in each] for k, each in enumerate(pool_members)]
        self._in_order = torch.tensor([each[0] for each in self._slots], device=self.device)
        self._sorted = self._in_order.tolist() == list(range(len(slots)))
        self.trackers = self.config.trackers(self.game, self.module)
        self._needs_state = any(each.needs_state for each in self.trackers)
        self._needs_probs = any(each.needs_probs for each in self.trackers)
        self._inner_episodes, self._group_size = self.config.inner_episodes(), self.config.group_size()
        # Players that learn inside the environment.
        self._online_learners = [each.module for each in self._groups if hasattr(each.module, "restart")]
        # Those of whom perturbations play while they are trained.
        trained = [] if self.config.in_evaluation else [each for each in self._groups if each.learns]
        self._perturbed = {each.module_id: each for each in trained if hasattr(each.module, "perturb")}
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
        """Observation and action space by module id, and those of the environment."""
        one = (self.game.observation_space, self.game.action_space)
        ids = {module_id for each in self.config.pool_members() for module_id, _ in each}
        return {INPUT_ENV_SPACES: one, INPUT_ENV_SINGLE_SPACES: one, **dict.fromkeys(sorted(ids), one)}

    @override(EnvRunner)
    def assert_healthy(self) -> None:
        """Raises AssertionError if the runner was not built."""
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
        """Plays on in all games.

        Args:
            num_timesteps: At least so many joint steps; one fragment if neither this nor ``num_episodes`` is given, or
                where the configuration asks for complete episodes the first one of every game.
            num_episodes: At least so many whole episodes: the first one of every game, in samples of as many steps as
                an episode can have. Games that end early start anew, but only first episodes are reported; whoever
                counted all that end would count short ones too often.
            explore: Whether players draw their actions; if not, they take the likeliest. As configured if None.
            random_actions: Not supported.
            force_reset: Whether to start new episodes first.
            **kwargs: For later versions of RLlib.

        Returns:
            One sample a fragment.

        Raises:
            ValueError: If random actions are asked for.
        """
        if random_actions:
            raise ValueError("BatchedEnvRunner has no random_actions; let scripted/random play")
        explore = self.config.explore if explore is None else explore
        length, count = self._fragment_steps, 1
        whole = num_episodes is not None or (num_timesteps is None and self.config.completes_episodes())
        if num_episodes is not None:
            # Of meta-episodes all that make up one.
            inner = self._inner_episodes
            length, count = inner * self.game.horizon, math.ceil(num_episodes / (inner * self.num_envs))
        elif num_timesteps is not None:
            count = math.ceil(num_timesteps / (length * self.num_envs))
        # Where there are meta-episodes no inner episode ends early, and samples go on from one to the next.
        afresh = num_episodes is not None or (whole and self._inner_episodes == 1)
        if self._phases > 1 and not whole and (force_reset or self._reset_mask is True):
            self._spread_phases(explore)
            force_reset = False
        samples = []
        for number in range(count):
            if afresh or (force_reset and number == 0):
                self.start_over()
            samples.append(self.play(length, explore, only_first=whole and self._inner_episodes == 1))
        if afresh:
            self.start_over()
        make_callback(
            "on_sample_end",
            self._callbacks,
            self.config.callbacks_on_sample_end,
            kwargs={"env_runner": self, "metrics_logger": self.metrics, "samples": samples},
        )
        return samples

    def start_over(self) -> None:
        """Starts new episodes, and meta-episodes, in all games with the next sample."""
        self._reset_mask, self._inner_episode_index = True, 0
        self._logger.drop_episodes(self._all)

    def _spread_phases(self, explore: bool) -> None:
        """Starts new episodes in all environments and plays them to evenly spread steps, one fragment apart.

        So a sample of fragments has steps of all parts of an episode. Nothing that is played here is learned from or
        counted, except in the returns of the episodes that go on.

        Args:
            explore: If True, samples actions; else takes the most likely ones.
        """
        total = self.num_envs * max(1, self.config.num_env_runners)
        # With fewer environments than phases the phases are as far apart as they can be.
        phase = (
            self._environments % self._phases if total >= self._phases else (self._environments * self._phases // total)
        )
        self.start_over()
        for left in reversed(range(1, self._phases)):
            self._start_also(phase == left)
            self.play(self._fragment_steps, explore, counted=False)
        self._start_also(phase == 0)

    def _start_also(self, where: Tensor) -> None:
        """Starts new episodes with the next step in more environments, ``[B]`` bool."""
        if self._reset_mask is not True:
            self._reset_mask = where if self._reset_mask is False else where | self._reset_mask
            self._logger.drop_episodes(where)

    @torch.no_grad()
    def play(self, length: int, explore: bool, *, only_first: bool = False, counted: bool = True) -> Sample:
        """Plays on; games that end start anew with the next step.

        Args:
            length: So many steps in every game.
            explore: Whether players draw their actions; if not, they take the likeliest.
            only_first: Whether only the first episode of each game counts; games then do not start anew.
            counted: If False, logs nothing of the sample.

        Returns:
            These steps.
        """
        self._seed_fragment()
        game = self.game
        joint, outcomes = StepColumns(), StepColumns()
        modules: dict[str, StepColumns] = defaultdict(StepColumns)
        memories: dict[str, dict[str, Tensor]] = {}
        final: dict[str, dict[str, Tensor]] = {}
        first_number = self._inner_episode_index
        for t in range(length):
            is_first = self._start_episodes()
            if t == 0:
                memories = {each.module_id: dict(each.memory) for each in self._groups}
            if self._members is not None:
                joint.add(**{MEMBERS: self._members})
            inputs = self._inputs()
            state, time_left, obs = game.state() if self._needs_state else None, game.time_left(), self._obs
            actions, probs = self._act(inputs, modules, explore)
            step = game.step(actions)
            followed = JointStep(
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
                joint.add(**tracker.after(followed))
            outcomes.add(**step.outcomes)
            self._obs = step.obs
            if self._keeps_final:
                self._keep_final(final, t, length, step.truncated)
            # What comes after the first episode does not count, so that nothing has to start anew for it.
            self._reset_mask = False if only_first else self._ends(step.terminated | step.truncated)
        streams = self._streams(memories, final)
        finished = {name: column for tracker in self.trackers for name, column in tracker.finish().items()}
        sample = Sample(
            modules={module_id: columns.stacked(2) for module_id, columns in modules.items()},
            streams=streams,
            joint={**joint.stacked(1), **finished},
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
            self._logger.log_inner_episodes(self, sample, first_number)
        return sample if not self.worker_index else sample.to("cpu")

    def _seed_fragment(self) -> None:
        key = [self._entropy, self.worker_index or 0, self.weights_seq_no, self._fragments_with_weights]
        game_seed, policy_seed = np.random.SeedSequence(key).generate_state(2)
        self._fragments_with_weights += 1
        self.game.seed(int(game_seed))
        self._generator.manual_seed(int(policy_seed))

    def _ends(self, ended: Tensor) -> Tensor | bool:
        """Which games start anew with the next step, of those that ended with this one, ``[B]`` bool."""
        if not self.game.terminates_early:
            # All games of this kind end together; their own clock says when, without looking at the device.
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
        """Starts the games anew whose time it is, with fresh memories and trackers; says which, ``[B]`` bool."""
        where = self._reset_mask
        if where is False:
            return self._none
        if where is True:
            self._step_count = 0
            self._obs = self.game.reset()
            begins = self._inner_episode_index == 0
            for group in self._groups:
                if begins or not group.remembers:
                    group.memory = self._fresh_memory(group)
            if begins:
                self._members = self._drawn_members()
                for module in self._online_learners:
                    module.restart(self.num_envs, self._generator)
                for group in self._perturbed.values():
                    group.module.perturb(self.num_envs // self._group_size, len(group.agents), self._generator)
        else:
            self._obs = self.game.reset(where=where)
            for group in self._groups:
                rows = where.repeat_interleave(len(group.agents))
                for name, fresh in self._fresh_memory(group).items():
                    chosen = rows.view(-1, *[1] * (fresh.dim() - 1))
                    group.memory[name] = torch.where(chosen, fresh, group.memory[name])
            drawn = self._drawn_members()
            if drawn is not None and self._members is not None:
                self._members = torch.where(where[:, None], drawn, self._members)
        self._note_rows()
        for tracker in self.trackers:
            tracker.start(None if where is True else where)
        self._reset_mask = False
        return self._all if where is True else where

    def _note_rows(self) -> None:
        """Notes in which rows those play who play in some games only."""
        for group in self._groups:
            if group.pooled and getattr(group.module.unwrapped(), "acts_by_row", False):
                group.rows = self._is_played_by(group).flatten().nonzero()[:, 0]

    def _drawn_members(self) -> Tensor | None:
        """Which of its pool members plays each agent in new episodes, ``[B, N]``; None if there is no choice."""
        if not self._pools:
            return None
        groups = self.num_envs // self._group_size
        drawn = torch.zeros(groups, self.game.num_agents, dtype=torch.int64, device=self.device)
        # Which modules play in each group so far, if none may play two of its agents.
        taken = torch.zeros(groups, len(self._groups), dtype=torch.bool, device=self.device)
        for index, shares in self._pools.items():
            if self._distinct:
                modules = self._modules_of[index]
                shares = redistribute_probabilities(shares.expand(groups, -1), taken[:, modules], self._shared[modules])
            at = torch.rand(groups, 1, generator=self._generator, device=self.device)
            drawn[:, index] = (at >= shares.cumsum(-1)[..., :-1]).sum(1)
            if self._distinct:
                taken.scatter_(1, modules[drawn[:, index, None]], True)
        return drawn.repeat_interleave(self._group_size, 0)

    def _fresh_memory(self, group: PolicyGroup) -> dict[str, Tensor]:
        """A module's initial recurrent state for all games and agents; empty if it has none."""
        rows = self.num_envs * len(group.agents)
        return {
            name: torch.as_tensor(value, device=self.device).expand(rows, *value.shape)
            for name, value in (group.module.get_initial_state() or {}).items()
        }

    def _inputs(self) -> dict[str, Tensor]:
        """What trackers show, ``[B, N, K]`` by column, if anybody looks."""
        shown: dict[str, Tensor] = {}
        if self._sees_inputs:
            for tracker in self.trackers:
                shown |= tracker.inputs()
        return shown

    def _sees(self, group: PolicyGroup, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a module goes by now, ``[B * S, ..]`` by column."""
        columns = {Columns.OBS: group.select_agents(self._obs)}
        return columns | {name: group.select_agents(inputs[name]) for name in group.inputs}

    def _act(
        self, inputs: dict[str, Tensor], modules: dict[str, StepColumns], explore: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Lets every module choose, and records what those that learn need to learn from it.

        Returns:
            The actions, ``[B, N]`` int64, and if a tracker asks for them the probabilities with which they were
            chosen, ``[B, N, A]``.
        """
        actions, behavior = [], []
        for group in self._groups:
            module, columns = group.module, self._sees(group, inputs)
            batch: dict[str, Any] = {**group.gather_rows(columns)}
            if group.memory:
                batch[Columns.STATE_IN] = group.gather_rows(group.memory)
            out = module.forward_exploration(batch) if explore else module.forward_inference(batch)
            if Columns.STATE_OUT in out:
                after = out[Columns.STATE_OUT]
                group.memory = {name: group.scatter_rows(value, group.memory[name]) for name, value in after.items()}
            distribution = self._distribution(module, out, explore)
            # A module may sample by itself.
            action = out.get(Columns.ACTIONS)
            action = distribution.sample(generator=self._generator) if action is None else action
            actions.append(group.unflatten_agents(group.scatter_rows(action)))
            if self._needs_probs:
                dist_inputs = out.get(Columns.ACTION_DIST_INPUTS, action)
                probs = group.scatter_rows(probabilities(distribution, dist_inputs, int(self.game.action_space.n)))
                behavior.append(group.unflatten_agents(probs))
            if group.learns:
                chosen = {
                    Columns.ACTIONS: action,
                    Columns.ACTION_LOGP: distribution.logp(action),
                    Columns.ACTION_DIST_INPUTS: out[Columns.ACTION_DIST_INPUTS],
                }
                if Columns.VF_PREDS in out:
                    chosen[Columns.VF_PREDS] = out[Columns.VF_PREDS]
                columns |= {name: group.scatter_rows(column) for name, column in chosen.items()}
                modules[group.module_id].add(
                    **{name: group.unflatten_agents(column) for name, column in columns.items()}
                )
        return self._chosen(actions), self._chosen(behavior) if self._needs_probs else None

    @staticmethod
    def _distribution(module: Any, out: Any, explore: bool) -> Any:
        """Returns the distribution that a module's actions are drawn from; one action where it reports no other.

        Args:
            module: The module.
            out: Its outputs.
            explore: If False, the most likely action has probability 1.
        """
        inputs, actions = out.get(Columns.ACTION_DIST_INPUTS), out.get(Columns.ACTIONS)
        if inputs is None or (actions is not None and not explore):
            return Deterministic(actions)
        distribution = module.get_exploration_action_dist_cls().from_logits(inputs)
        return distribution if explore else distribution.to_deterministic()

    def _is_played_by(self, group: PolicyGroup) -> Tensor:
        """``[B, S]`` bool, whether each of a module's agents is played by it in each game."""
        assert self._members is not None
        numbers = [
            [module_id for module_id, _ in self._pool_members[agent]].index(group.module_id) for agent in group.agents
        ]
        return self._members[:, group.agents] == torch.tensor(numbers, device=self.device)

    def _chosen(self, of_modules: Sequence[Tensor]) -> Tensor:
        """From what each module chose for its agents, ``[B, S, ..]``, to what counts for each agent, ``[B, N, ..]``."""
        slots = of_modules[0] if len(of_modules) == 1 else torch.cat(list(of_modules), 1)
        if self._members is None:
            return slots if self._sorted else slots.index_select(1, self._in_order)
        chosen = []
        for index, own in enumerate(self._slots):
            if len(own) == 1:
                chosen.append(slots[:, own[0]])
            else:
                options = slots[:, own]
                at = self._members[:, index].view(-1, 1, *[1] * (options.dim() - 2))
                chosen.append(options.gather(1, at.expand(-1, 1, *options.shape[2:]))[:, 0])
        return torch.stack(chosen, 1)

    def _keep_final(self, final: dict[str, dict[str, Tensor]], t: int, length: int, truncated: Tensor) -> None:
        """Keeps what was seen at the end of episodes that were cut off, at most one a horizon's length of steps."""
        inputs, slot = self._inputs(), t // self.game.horizon
        for group in self._groups:
            if group.learns:
                kept = final.setdefault(group.module_id, {})
                for name, value in self._sees(group, inputs).items():
                    seen = group.unflatten_agents(value)
                    if name not in kept:
                        slots = math.ceil(length / self.game.horizon)
                        kept[name] = seen.new_zeros(*seen.shape[:2], slots, *seen.shape[2:])
                    here = truncated.view(-1, *[1] * (seen.dim() - 1))
                    kept[name][:, :, slot] = torch.where(here, seen, kept[name][:, :, slot])

    def _streams(
        self, memories: dict[str, dict[str, Tensor]], final: dict[str, dict[str, Tensor]]
    ) -> dict[str, dict[str, Tensor]]:
        """The columns of whole streams; see :class:`Sample`."""
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
        """Everything logged since the last call, reduced."""
        return self.metrics.reduce()

    @override(Checkpointable)
    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Counters, the players' weights, and the games themselves if they are in the middle of an episode."""
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
                "memory": {each.module_id: each.memory for each in self._groups},
                "trackers": [tracker.get_state() for tracker in self.trackers],
                "metrics": self._logger.get_state(),
            }
            state[ROLLOUT_STATE] = _on("cpu", rollout)
        return state

    @override(Checkpointable)
    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned, or the part of it that is given."""
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
            for tracker, kept in zip(self.trackers, rollout["trackers"], strict=True):
                tracker.set_state(kept)
            self._logger.set_state(rollout["metrics"])

    @torch.no_grad()
    def copy_weights(self, learner: Learner) -> None:
        """Takes over the weights of a learner in the same process."""
        if self._shared_with is not learner:
            self._shared_with, self._parameters, self._buffers = learner, ([], []), []
            for module_id, module in self.module.items():
                if not _keeps_more_than_weights(module):
                    learned = learner.module[module_id].unwrapped()
                    self._parameters[0].extend(module.parameters())
                    self._parameters[1].extend(learned.parameters())
                    buffers = set(module.state_dict()) - {name for name, _ in module.named_parameters()}
                    self._buffers += [(module, learned, name) for name in sorted(buffers)]
        for module_id, module in self.module.items():
            if _keeps_more_than_weights(module):
                module.set_state(learner.module[module_id].unwrapped().get_state())
        if self._parameters[0]:
            torch._foreach_copy_(*self._parameters)
        # Modules may put new tensors in the place of their buffers, which are looked up each time.
        for module, learned, name in self._buffers:
            module.get_buffer(name).copy_(learned.get_buffer(name))
        self._note_weights(learner._weights_seq_no)

    def _begins_afresh(self) -> bool:
        """Whether nothing of what was played before counts for the next step."""
        return self._reset_mask is True and self._inner_episode_index == 0

    def _note_weights(self, number: int) -> None:
        """Notes the number of the weights that it plays with from now on."""
        if number != self.weights_seq_no:
            self.weights_seq_no = number
            self._fragments_with_weights = 0

    @override(Checkpointable)
    def get_ctor_args_and_kwargs(self) -> tuple[tuple, dict[str, Any]]:
        """What a runner like this one is built from."""
        return (), {"config": self.config}

    @override(Checkpointable)
    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        """The players' modules."""
        return [(COMPONENT_RL_MODULE, self.module)]


def redistribute_probabilities(shares: Tensor, taken: Tensor, shared: Tensor) -> Tensor:
    """Shares of a pool's members, of which those that are taken leave theirs to the others of their population.

    Args:
        shares: ``[groups, members]``.
        taken: ``[groups, members]`` bool, who plays another agent of the group already.
        shared: ``[members]`` bool, who may play several agents: the population.

    Returns:
        ``[groups, members]``; as they were where the whole population is taken.
    """
    free = shares * ~taken
    heirs = free * shared
    left = (shares * taken).sum(-1, keepdim=True)
    total = heirs.sum(-1, keepdim=True)
    return torch.where(total > 0, free + left * heirs / total.clamp(min=1e-12), shares)


def _keeps_more_than_weights(module: Any) -> bool:
    """Whether a module's class says itself what its state is."""
    return type(module).get_state is not TorchRLModule.get_state


def _on(device: torch.device | str, nested: Any) -> Any:
    """The same with all its tensors on a device."""
    return tree.map_structure(lambda each: each.to(device) if isinstance(each, Tensor) else each, nested)
