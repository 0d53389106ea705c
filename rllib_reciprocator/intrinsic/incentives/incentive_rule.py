"""Base class of the update rules of incentive functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from rllib_reciprocator.engine.update_rule import Stage, UpdateRule
from rllib_reciprocator.intrinsic.incentives.giving import Giving
from rllib_reciprocator.intrinsic.incentives.specs import INCENTIVES_MODULE_ID, OPPONENTS_MODULE_ID
from rllib_reciprocator.utils.distributed import averaged_over_learners

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.context import RunContext
    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.intrinsic.incentives.incentive_functions import IncentiveFunctions
    from rllib_reciprocator.intrinsic.incentives.opponent_models import OpponentModels
    from rllib_reciprocator.intrinsic.incentives.settings import IncentiveSettings

# Names of optimizers: of the loss of incentive functions, of their cost, of critics, and of models of co-players.
REWARD, COST, CRITIC, OPPONENTS = "reward", "cost", "critic", "opponents"


class IncentiveRule(UpdateRule):
    """Update rule of incentive functions, which runs after those of policies."""

    stage: ClassVar[Stage] = Stage.AFTER_POLICIES
    needs_critic: ClassVar[bool] = False
    giving: Giving
    learner: BatchedLearner

    def __init__(
        self, context: RunContext, module_ids: Sequence[str], config: BatchedConfig, settings: IncentiveSettings
    ) -> None:
        """Stores the arguments.

        Args:
            context: Facts about the run.
            module_ids: Ids of incentive functions and of models of co-players.
            config: Configuration of the run.
            settings: Settings of incentives.
        """
        super().__init__(context, module_ids, config)
        self.settings = settings

    def on_built(self, learner: BatchedLearner) -> None:
        """Flags givers and recipients on the learner's device."""
        self.learner = learner
        self.giving = Giving(self.context, learner.device)

    @property
    def functions(self) -> IncentiveFunctions:
        """Incentive functions."""
        return self.learner.unwrapped(INCENTIVES_MODULE_ID)

    @property
    def models(self) -> OpponentModels:
        """Models of co-players."""
        return self.learner.unwrapped(OPPONENTS_MODULE_ID)

    def configure_optimizers(self, learner: BatchedLearner, module_id: str, config: AlgorithmConfig) -> None:
        """Registers the optimizers of all parts with the incentive functions."""
        if module_id != INCENTIVES_MODULE_ID:
            return
        settings, functions = self.settings, learner.unwrapped(INCENTIVES_MODULE_ID)
        rates: dict[str, tuple[nn.Module | None, float | list[list[float]] | None]] = {
            REWARD: (functions.functions, settings.lr),
            COST: (functions.functions, settings.cost_lr),
            CRITIC: (functions.critics, settings.critic_lr),
        }
        if settings.opponents == "modelled":
            rates[OPPONENTS] = (learner.unwrapped(OPPONENTS_MODULE_ID).networks, settings.opponent_lr)
        for name, (networks, rate) in rates.items():
            if networks is not None and rate is not None:
                parameters = list(networks.parameters())
                uses_sgd = name == REWARD and functions.drawn
                learner.register_optimizer(
                    module_id=module_id,
                    optimizer_name=name,
                    optimizer=torch.optim.SGD(parameters) if uses_sgd else torch.optim.Adam(parameters),
                    params=parameters,
                    lr_or_lr_schedule=rate,
                )

    def step(self, optimizer_name: str, gradient: list[Tensor]) -> None:
        """Takes one step of an optimizer.

        Args:
            optimizer_name: Name of the optimizer.
            gradient: Gradient of a sum over this learner's episodes, one tensor per parameter.
        """
        averaged_over_learners(gradient, 1)
        optimizer = self.learner.get_optimizer(INCENTIVES_MODULE_ID, optimizer_name)
        for parameter, part in zip(optimizer.param_groups[0]["params"], gradient, strict=True):
            parameter.grad = part
        optimizer.step()
        optimizer.zero_grad()


def gradient_of(value: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Returns the gradient of a scalar, one tensor per parameter; zeros for parameters that it does not depend on."""
    gradient = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, gradient, strict=True)]
