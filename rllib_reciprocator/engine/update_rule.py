"""Interfaces of what stands between rewards and parameters: update rules and advantage steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from rllib_reciprocator.engine.context import RunContext

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch

# Metrics by module id and name.
Stats = dict[str, dict[str, Any]]
# Phases of an update, each with a rollout of its own. Policies are updated in the first one.
LEARN, LOOK_AHEAD = "learn", "look_ahead"


class Stage(IntEnum):
    """Order of update rules in an update. Rules of ``ESTIMATORS`` also run in warm-up iterations."""

    ESTIMATORS = 0
    POLICIES = 1
    AFTER_POLICIES = 2


@dataclass
class UpdateInfo:
    """Arguments of an update that all update rules share.

    Attributes:
        phase: Phase of the update, ``learn`` or ``look_ahead``.
        iteration: Index of the training iteration, from 0.
        timestep: Number of environment steps sampled so far.
        num_epochs: Number of passes over the rows of a policy.
        minibatch_size: Environment steps per minibatch; None for the whole rollout.
        shuffle: If True, rows are visited in random order.
        generators: Random number generators of the stages, seeded by the run's seed and the number of the update.
        rows: Rows that policies learn from, by module id and column: flattened from ``[B, S, T]``, with advantages,
            value targets and, unless all rows count, ``loss_mask``.
        parameters_before: Parameters and buffers of policies before the update, by module id and name. Set only if a
            rule has ``needs_before``.
        advantage_scales: Standard deviations by which advantages were divided, by module id. Set only if a rule has
            ``needs_before`` and advantages are normalized.
    """

    phase: str
    iteration: int
    timestep: int
    num_epochs: int = 1
    minibatch_size: int | None = None
    shuffle: bool = False
    generators: dict[Stage, torch.Generator] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    parameters_before: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    advantage_scales: dict[str, Tensor] = field(default_factory=dict)


class UpdateRule:
    """Base class of update rules, the only objects that change parameters in the learner.

    One rule trains all modules that use it, and each module has one rule.

    Attributes:
        stage: Stage of an update in which the rule runs.
        phases: Phases of an update in which the rule runs.
        needs_critic: If True, the learner computes values and value targets of its policies.
        uses_lambda: If False, advantages are returns: lambda is 1.
        centers_returns: If True, the mean over episodes at each step is subtracted from advantages with
            ``use_baseline``.
        uses_advantages: If False, the rule does not learn from advantages, which are left out of joint statistics.
        needs_whole_episodes: If True, rollouts must consist of complete episodes.
        separate_critic: If True, policy and critic must not share layers.
        needs_built_in_networks: If True, only the networks of ``model_config.model: actor_critic`` can be trained.
        trains_predictions: If True, the losses of predicted policy inputs are trained.
        clips_by: Names of the valid values of ``grad_clip_by``; empty if all are.
        needs_before: If True, :attr:`UpdateInfo.parameters_before` and :attr:`UpdateInfo.advantage_scales` are set.
        state_key: Key of the state of all learners' rules in checkpoints; empty for a rule without such a state.
    """

    stage: ClassVar[Stage] = Stage.POLICIES
    phases: ClassVar[tuple[str, ...]] = (LEARN,)
    needs_critic: ClassVar[bool] = True
    uses_lambda: ClassVar[bool] = True
    centers_returns: ClassVar[bool] = False
    uses_advantages: ClassVar[bool] = True
    needs_whole_episodes: ClassVar[bool] = False
    separate_critic: ClassVar[bool] = False
    needs_built_in_networks: ClassVar[bool] = False
    trains_predictions: ClassVar[bool] = False
    clips_by: ClassVar[tuple[str, ...]] = ()
    needs_before: ClassVar[bool] = False
    state_key: ClassVar[str] = ""

    def __init__(self, context: RunContext, module_ids: Sequence[str], config: BatchedConfig) -> None:
        """Stores the arguments. Modules and optimizers do not exist yet.

        Args:
            context: Facts about the run.
            module_ids: Ids of the modules that the rule trains.
            config: Configuration of the run.
        """
        self.context, self.module_ids, self.config = context, tuple(module_ids), config

    def check(self) -> None:
        """Checks the settings of the run.

        Raises:
            ValueError: If a setting does not fit the rule; the message names the setting and a fix.
        """

    def num_epochs(self, info: UpdateInfo) -> int:
        """Returns the number of passes over the rows of a policy in an update."""
        return 1

    def configure_optimizers(self, learner: BatchedLearner, module_id: str, config: AlgorithmConfig) -> None:
        """Registers the optimizers of a module; by default that of RLlib.

        Called while the learner is built, before modules are wrapped for distributed training. Names of optimizers are
        stored in checkpoints.

        Args:
            learner: The learner.
            module_id: Id of the module.
            config: Settings of the algorithm for this module.
        """
        learner.register_default_optimizer(module_id, config)

    def on_built(self, learner: BatchedLearner) -> None:
        """Runs after the learner was built, when modules, optimizers and devices exist."""

    def loss(
        self, learner: BatchedLearner, module_id: str, config: AlgorithmConfig, batch: dict[str, Any], out: Any
    ) -> Tensor:
        """Computes the loss of a minibatch of a module, for rules that train through :meth:`BatchedLearner._update`.

        Args:
            learner: The learner.
            module_id: Id of the module.
            config: Settings of the algorithm for this module.
            batch: Rows of the module.
            out: Outputs of its forward pass.

        Returns:
            A scalar.
        """
        raise NotImplementedError

    def update(self, learner: BatchedLearner, batch: RolloutBatch, info: UpdateInfo) -> Stats:
        """Updates the modules from a rollout.

        Args:
            learner: The learner.
            batch: The rollout, with rewards, values and advantages.
            info: Arguments of the update.

        Returns:
            Metrics by module id and name.
        """
        raise NotImplementedError

    def step_size(self, learner: BatchedLearner, module_id: str, rows: dict[str, Any]) -> Tensor | float:
        """Returns the factor of the gradient of summed advantages in the module's last step, as if it was one step.

        Args:
            learner: The learner.
            module_id: Id of the module.
            rows: Rows that the module was trained on.
        """
        raise NotImplementedError

    def clipped_direction(self, module_id: str) -> list[Tensor] | None:
        """Returns the unit vector of the module's last step if its gradient was clipped, zeros if it was not.

        Args:
            module_id: Id of the module.

        Returns:
            One tensor per parameter; None if gradients are never clipped.
        """
        return None

    def get_state(self) -> Any:
        """Returns the rule's state on this learner, which is stored under ``state_key``."""
        return None

    def set_state(self, state: Any) -> None:
        """Restores the state that :meth:`get_state` returned."""

    @staticmethod
    def reshard(states: list[Any], count: int) -> list[Any]:
        """Redistributes the states of all learners to another number of learners.

        Args:
            states: State of each learner.
            count: Number of learners.
        """
        return [states[rank % len(states)] for rank in range(count)]


class AdvantageStep:
    """Base class of changes of advantages between rewards and updates.

    The learner computes GAE advantages and calls the steps of all kinds of players that it trains. A step changes
    ``advantages`` and ``value_targets`` of the agents that have it, and may read those of all agents.

    Attributes:
        follows_environments: If True, rollouts contain the indices of environments unless they are whole episodes.
    """

    follows_environments: ClassVar[bool] = False

    def __init__(self, learner: BatchedLearner, path: str = "") -> None:
        """Flags the pool members that have this step.

        Args:
            learner: The built learner.
            path: Import path of the step, as in :attr:`PlayerKind.advantage_steps`; empty for a step of all players.
        """
        self.learner, self.context, self.config = learner, learner.context, learner.config
        # Flags of the pool members that have the step, [members] bool for each agent.
        self.flags = self.context.member_flags(
            lambda player: player.learns and (not path or path in self.context.kind_of(player).advantage_steps),
            learner.device,
        )

    def __call__(self, batch: RolloutBatch) -> None:
        """Changes advantages and value targets, ``[B, T, N]``, of the agents that have this step.

        Args:
            batch: The rollout, with shaped rewards, values and GAE advantages.
        """
        raise NotImplementedError

    def get_state(self) -> dict[str, Any]:
        """Returns the state of the step, by key in the learner's state."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state of the step from the learner's state."""
