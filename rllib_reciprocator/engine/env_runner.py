"""RLlib EnvRunner that steps thousands of parallel environments at once."""

from __future__ import annotations

import math
from collections.abc import Collection
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.framework import get_device
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME, WEIGHTS_SEQ_NO

import social_dilemmas
from rllib_reciprocator.engine.metrics import RolloutLogger
from rllib_reciprocator.engine.rollout import RolloutSampler, move_to
from rllib_reciprocator.engine.weight_sync import WeightCopier
from rllib_reciprocator.models.exploration import without_exploration
from rllib_reciprocator.utils.ray_internals import leave_new_memory

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
    from torch import Tensor

    from rllib_reciprocator.engine.rollout_batch import RolloutBatch
    from rllib_reciprocator.engine.tracker import StepTracker
    from social_dilemmas.batched_game import BatchedGame

ROLLOUT_STATE = "rollout"
FRAGMENTS_WITH_WEIGHTS = "fragments_with_weights"


class BatchedEnvRunner(EnvRunner, Checkpointable):
    """Env runner that samples rollouts of T steps from B parallel environments (:class:`RolloutSampler`).

    The random numbers of a fragment depend only on the seed, the worker index, the version of the weights and the
    number of fragments sampled with them, so that a run gives the same results after a restart of the whole run or of
    one env runner.
    """

    game: BatchedGame
    module: MultiRLModule
    sampler: RolloutSampler

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        """Builds the environments and the modules.

        Args:
            config: A :class:`BatchedConfig`.
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
        """Builds B parallel environments."""
        config = self.config
        self.game = social_dilemmas.make(
            config.env, config.num_envs_per_env_runner, device=self.device, **dict(config.env_config)
        )
        self.env = self.game
        self.num_envs = self.game.num_games
        self._fragment_steps = config.rollout_steps()
        self._phases = config.phases(self.game)
        self._inner_episodes = config.inner_episodes()

    @override(EnvRunner)
    def make_module(self) -> None:
        """Builds the modules of all policies, the modules that trackers use, and the sampler."""
        spec = self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        if self.config.in_evaluation:
            spec = copy(spec)
            spec.rl_module_specs = {
                module_id: without_exploration(module_spec) for module_id, module_spec in spec.rl_module_specs.items()
            }
        self.module = spec.build()
        self.module.foreach_module(lambda _, module: module.to(self.device))
        self._weight_copier: WeightCopier | None = None
        self._logger = RolloutLogger(self.game, self.config.context())
        # Remote env runners are numbered from 1, the local one is 0. Environment indices are unique in a run.
        runner = max(0, (self.worker_index or 0) - 1)
        environments = torch.arange(self.num_envs, device=self.device) + runner * self.num_envs
        self.sampler = RolloutSampler(
            self.config, self.game, self.module, environments=environments, phases=self._phases
        )

    @property
    def trackers(self) -> list[StepTracker]:
        """Step trackers, in the order in which they are called."""
        return self.sampler.trackers

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
    ) -> list[RolloutBatch]:
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
            One :class:`RolloutBatch` per rollout.

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
        if self._phases > 1 and not whole and (force_reset or self.sampler.reset_mask is True):
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
        self.sampler.reset()
        self._logger.drop_episodes(None)

    def _spread_phases(self, explore: bool) -> None:
        """Starts new episodes in all environments and plays them to evenly spread steps, one fragment apart.

        A rollout of fragments then has steps of all parts of an episode. The steps played here are neither trained on
        nor counted, except in the returns of the episodes that continue.

        Args:
            explore: If True, samples actions; if False, takes the most likely ones.
        """
        total = self.num_envs * max(1, self.config.num_env_runners)
        environments, phases = self.sampler.environments, self._phases
        # With fewer environments than phases, the used phases are spread as far apart as possible.
        phase = environments % phases if total >= phases else environments * phases // total
        self.start_over()
        for current_phase in reversed(range(1, phases)):
            self._reset_also(phase == current_phase)
            self.play(self._fragment_steps, explore, counted=False)
        self._reset_also(phase == 0)

    def _reset_also(self, where: Tensor) -> None:
        """Adds environments, ``[B]`` bool, to those that are reset before the next step."""
        if self.sampler.reset_mask is not True:
            self.sampler.reset_also(where)
            self._logger.drop_episodes(where)

    def play(self, length: int, explore: bool, *, only_first: bool = False, counted: bool = True) -> RolloutBatch:
        """Samples and logs one rollout.

        Args:
            length: Number of steps in every environment.
            explore: If True, samples actions; if False, takes the most likely ones.
            only_first: If True, only the first episode of each environment counts, and no environment is reset.
            counted: If False, the rollout is not logged.

        Returns:
            The rollout.
        """
        self._seed_fragment()
        first_inner_episode = self.sampler.inner_episode_index
        batch = self.sampler.sample(length, explore, only_first=only_first)
        if not counted:
            self._logger.follow_episodes(batch)
            return batch
        self._logger.log(self, batch, only_first=only_first)
        if self._inner_episodes > 1 and length % self.game.horizon == 0:
            self._logger.log_inner_episodes(self, batch, first_inner_episode)
        return batch if not self.worker_index else batch.to("cpu")

    def _seed_fragment(self) -> None:
        """Seeds the generators of environments and policies for the next rollout."""
        key = [self._entropy, self.worker_index or 0, self.weights_seq_no, self._fragments_with_weights]
        game_seed, policy_seed = np.random.SeedSequence(key).generate_state(2)
        self._fragments_with_weights += 1
        self.game.seed(int(game_seed))
        self.sampler.generator.manual_seed(int(policy_seed))

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
        starts_new = self.sampler.starts_new_meta_episodes()
        if self._check_component(ROLLOUT_STATE, components, not_components) and not starts_new:
            metrics = move_to("cpu", self._logger.get_state())
            state[ROLLOUT_STATE] = {**self.sampler.get_state(), "metrics": metrics}
        return state

    @override(Checkpointable)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state returned by :meth:`get_state`, or the parts of it that are present."""
        if COMPONENT_RL_MODULE in state:
            weights = state[COMPONENT_RL_MODULE]
            self.module.set_state(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
        self._set_weights_seq_no(state.get(WEIGHTS_SEQ_NO, self.weights_seq_no))
        self._fragments_with_weights = state.get(FRAGMENTS_WITH_WEIGHTS, self._fragments_with_weights)
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]
        rollout = state.get(ROLLOUT_STATE, {})
        if "to_start" in rollout:
            self.sampler.set_state({name: value for name, value in rollout.items() if name != "metrics"})
            self._logger.set_state(move_to(self.device, rollout["metrics"]))

    def copy_weights(self, learner: Learner) -> None:
        """Copies the weights of a learner in the same process, without serialization."""
        if self._weight_copier is None or self._weight_copier.learner is not learner:
            self._weight_copier = WeightCopier(self.module, learner)
        self._weight_copier.copy()
        self._set_weights_seq_no(learner._weights_seq_no)

    def _set_weights_seq_no(self, number: int) -> None:
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
