"""An RLlib EnvRunner that steps thousands of games at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import ray
import torch
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.columns import Columns
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.framework import get_device
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME, WEIGHTS_SEQ_NO
from torch import Tensor

import social_dilemmas
from rllib_reciprocator.estimators import Influence, Transition
from rllib_reciprocator.models import BALANCE, Deterministic
from rllib_reciprocator.rollout.columnar_sample import ColumnarSample
from rllib_reciprocator.rollout.sample_metrics import log_sample

if TYPE_CHECKING:
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

    from social_dilemmas.batched_game import BatchedGame

INFLUENCE_MODULE_ID = "influence"
ROLLOUT_STATE = "rollout"
FRAGMENTS_WITH_WEIGHTS = "fragments_with_weights"


class BatchedRolloutConfig(Protocol):
    """What the runner asks of an algorithm's configuration, beside what RLlib's have."""

    def rollout_steps(self) -> int:
        """T, how many steps of each game a sample holds; divides the games' horizon."""

    def next_balance(self, balance: Tensor, influence: Influence) -> Tensor:
        """The influence balance ``[B, N, N]`` after a step, from that before it and the step's influence."""

    def estimator_view(self, game: BatchedGame, obs: Tensor) -> Tensor:
        """What the influence estimator sees of the games now, given the agents' observations ``[B, N, ..]``."""


class BatchedEnvRunner(EnvRunner, Checkpointable):
    """Samples columns ``[B, T]`` from B copies of a game.

    A step is one forward pass a player, one step of the games, and the influence and balance of that step.

    All randomness of a fragment follows from the seed, the runner's index and the number of the weights it plays
    with. So a run continues after a restart, of the whole or of one runner, as if nothing had happened.
    """

    game: BatchedGame
    module: MultiRLModule
    _obs: Tensor
    _balance: Tensor
    _running_sums: Tensor
    _memory: list[dict[str, Tensor]]

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        """Builds the games and the players' modules.

        Args:
            config: An AlgorithmConfig that is a :class:`BatchedRolloutConfig` too.
            **kwargs: What RLlib passes to env runners; ``worker_index`` and ``num_workers`` are used.
        """
        super().__init__(config=config, **kwargs)
        self._callbacks = [cls() for cls in force_list(self.config.callbacks_class)]
        self.device = get_device(self.config, 0 if not self.worker_index else self.config.num_gpus_per_env_runner)
        self._entropy = self._seed if self._seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self._weights_seq_no = 0
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
        seats = range(self.game.num_agents)
        others = [[(seat + k) % len(seats) for k in seats if k] for seat in seats]
        self._others = torch.tensor(others, device=self.device)
        self._fragment_steps = config.rollout_steps()
        self._episode_step = 0

    @override(EnvRunner)
    def make_module(self) -> None:
        """Builds every player's module and the influence estimator."""
        spec = self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build()
        self.module.foreach_module(lambda _, module: module.to(self.device))
        self._players = [(self.module[seat], seat in self.config.policies_to_train) for seat in self.game.agents]
        self._estimator = self.module[INFLUENCE_MODULE_ID] if INFLUENCE_MODULE_ID in self.module else None

    @property
    def estimates_influence(self) -> bool:
        """Whether influence and balance are computed; if not, they are zero throughout."""
        return self._estimator is not None

    @override(EnvRunner)
    def get_spaces(self) -> dict[str, Any]:
        """Observation and action space by module id, and those of the environment."""
        one = (self.game.observation_space, self.game.action_space)
        return {INPUT_ENV_SPACES: one, INPUT_ENV_SINGLE_SPACES: one, **dict.fromkeys(self.game.agents, one)}

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
    ) -> list[ColumnarSample]:
        """Plays on in all games.

        Args:
            num_timesteps: At least so many joint steps; one fragment if neither this nor ``num_episodes`` is given.
            num_episodes: At least so many whole episodes, from the start.
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
        if num_episodes is not None:
            force_reset = True
            length, count = self.game.horizon, math.ceil(num_episodes / self.num_envs)
        elif num_timesteps is not None:
            count = math.ceil(num_timesteps / (length * self.num_envs))
        if force_reset:
            self._episode_step = 0
        samples = [self.play(length, explore) for _ in range(count)]
        make_callback(
            "on_sample_end",
            self._callbacks,
            self.config.callbacks_on_sample_end,
            kwargs={"env_runner": self, "metrics_logger": self.metrics, "samples": samples},
        )
        return samples

    def play(self, length: int, explore: bool) -> ColumnarSample:
        """Plays on, or new episodes where the last ones have ended.

        Args:
            length: So many steps in every game, which may not reach over the games' horizon.
            explore: Whether players draw their actions; if not, they take the likeliest.

        Returns:
            These steps.
        """
        key = [self._entropy, self.worker_index or 0, self._weights_seq_no, self._fragments_with_weights]
        game_seed, policy_seed = np.random.SeedSequence(key).generate_state(2)
        self._fragments_with_weights += 1
        self.game.seed(int(game_seed))
        self._generator.manual_seed(int(policy_seed))
        if self._episode_step == 0:
            self.start_episodes()

        steps: dict[str, list[Tensor]] = defaultdict(list)
        seats: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        outcomes: dict[str, Tensor] = {}
        for _ in range(length):
            actions, behavior = self._act(seats, explore)
            state, time_left = self.config.estimator_view(self.game, self._obs), self.game.time_left()
            step = self.game.step(actions)
            steps["balance"].append(self._balance)
            if self._estimator is None:
                influence = Influence.agreed(self._balance)
            else:
                seen = Transition(state, actions, step.rewards, time_left, torch.zeros_like(step.rewards))
                influence = self._estimator.influence(seen, behavior)
                self._balance = self.config.next_balance(self._balance, influence)
            for name, value in (
                ("state", state),
                ("time_left", time_left),
                ("actions", actions),
                ("rewards", step.rewards),
                ("influence", influence.received),
                ("given", influence.given),
            ):
                steps[name].append(value)
            steps["terminated"].append(step.terminated)
            steps["truncated"].append(step.truncated)
            for name, value in step.outcomes.items():
                outcomes[name] = outcomes[name] + value if name in outcomes else value
            self._obs = step.obs
            if self.game.terminates_early:
                self._restart(step.terminated | step.truncated)
        self._episode_step = (self._episode_step + length) % self.game.horizon

        sample = ColumnarSample(
            seats={
                seat: {name: torch.stack(column, 1) for name, column in columns.items()}
                for seat, columns in seats.items()
            },
            last={seat: self._sees(index) for index, seat in enumerate(self.game.agents) if seat in seats},
            **{name: torch.stack(column, 1) for name, column in steps.items()},
            outcomes=outcomes,
        )
        self._running_sums = log_sample(self, sample, self._running_sums)
        return sample

    def start_episodes(self) -> None:
        """Starts all games anew, with a balance of zero and fresh memories."""
        n = self.game.num_agents
        self._obs = self.game.reset()
        self._balance = torch.zeros(self.num_envs, n, n, device=self.device)
        self._memory = [self._fresh_memory(module) for module, _ in self._players]
        self._running_sums = torch.zeros(self.num_envs, n + 1, device=self.device)

    def _restart(self, ended: Tensor) -> None:
        """Starts those games anew that ended before the others, ``[B]`` bool."""
        self._obs = self.game.reset(where=ended)
        self._balance = torch.where(ended[:, None, None], 0.0, self._balance)
        for (module, _), memory in zip(self._players, self._memory, strict=True):
            for name, fresh in self._fresh_memory(module).items():
                rows = ended.view(-1, *[1] * (fresh.dim() - 1))
                memory[name] = torch.where(rows, fresh, memory[name])

    def _fresh_memory(self, module: Any) -> dict[str, Tensor]:
        """A module's initial recurrent state for all games; empty if it has none."""
        return {
            name: torch.as_tensor(value, device=self.device).expand(self.num_envs, *value.shape)
            for name, value in (module.get_initial_state() or {}).items()
        }

    def _sees(self, index: int) -> dict[str, Tensor]:
        """What the player on this seat goes by now, by column."""
        columns = {Columns.OBS: self._obs[:, index]}
        if getattr(self._players[index][0], "num_balances", 0):
            columns[BALANCE] = self._balance[:, self._others[index], index]
        return columns

    def _act(self, seats: dict[str, dict[str, list[Tensor]]], explore: bool) -> tuple[Tensor, Tensor | None]:
        """Lets every player choose, and records what learning players need to learn from it.

        Returns:
            The actions, ``[B, N]`` int64, and if the estimator asks for them the probabilities with which they were
            chosen, ``[B, N, A]``.
        """
        actions, behavior = [], []
        asked = self._estimator is not None and self._estimator.uses_behavior
        for index, (seat, (module, learns)) in enumerate(zip(self.game.agents, self._players, strict=True)):
            columns = self._sees(index)
            batch = {**columns, Columns.STATE_IN: self._memory[index]} if self._memory[index] else columns
            out = module.forward_exploration(batch) if explore else module.forward_inference(batch)
            if Columns.STATE_OUT in out:
                self._memory[index] = out[Columns.STATE_OUT]
            if Columns.ACTIONS in out:
                distribution = Deterministic(out[Columns.ACTIONS])
            else:
                distribution = module.get_exploration_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
                if not explore:
                    distribution = distribution.to_deterministic()
            action = distribution.sample(generator=self._generator)
            actions.append(action)
            if asked:
                behavior.append(distribution.probs(int(self.game.action_space.n)))
            if learns:
                columns |= {
                    Columns.ACTIONS: action,
                    Columns.ACTION_LOGP: distribution.logp(action),
                    Columns.ACTION_DIST_INPUTS: out[Columns.ACTION_DIST_INPUTS],
                }
                for name, column in columns.items():
                    seats[seat][name].append(column)
        return torch.stack(actions, 1), torch.stack(behavior, 1) if asked else None

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
            WEIGHTS_SEQ_NO: self._weights_seq_no,
            FRAGMENTS_WITH_WEIGHTS: self._fragments_with_weights,
        }
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(
                components=self._get_subcomponents(COMPONENT_RL_MODULE, components),
                not_components=self._get_subcomponents(COMPONENT_RL_MODULE, not_components),
                **kwargs,
            )
        if self._check_component(ROLLOUT_STATE, components, not_components) and self._episode_step:
            state[ROLLOUT_STATE] = {
                "episode_step": self._episode_step,
                "game": self.game.get_state(),
                "obs": self._obs,
                "balance": self._balance,
                "memory": self._memory,
                "running_sums": self._running_sums,
            }
        return state

    @override(Checkpointable)
    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned, or the part of it that is given."""
        if COMPONENT_RL_MODULE in state:
            weights = state[COMPONENT_RL_MODULE]
            self.module.set_state(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
        if state.get(WEIGHTS_SEQ_NO, self._weights_seq_no) != self._weights_seq_no:
            self._weights_seq_no = state[WEIGHTS_SEQ_NO]
            self._fragments_with_weights = 0
        self._fragments_with_weights = state.get(FRAGMENTS_WITH_WEIGHTS, self._fragments_with_weights)
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self.num_env_steps_sampled_lifetime = state[NUM_ENV_STEPS_SAMPLED_LIFETIME]
        if ROLLOUT_STATE in state:
            rollout = state[ROLLOUT_STATE]
            self._episode_step = rollout["episode_step"]
            self.game.set_state(rollout["game"])
            self._obs, self._balance = rollout["obs"].to(self.device), rollout["balance"].to(self.device)
            self._memory = [
                {name: value.to(self.device) for name, value in memory.items()} for memory in rollout["memory"]
            ]
            self._running_sums = rollout["running_sums"].to(self.device)

    @override(Checkpointable)
    def get_ctor_args_and_kwargs(self) -> tuple[tuple, dict[str, Any]]:
        """What a runner like this one is built from."""
        return (), {"config": self.config}

    @override(Checkpointable)
    def get_checkpointable_components(self) -> list[tuple[str, Checkpointable]]:
        """The players' modules."""
        return [(COMPONENT_RL_MODULE, self.module)]
