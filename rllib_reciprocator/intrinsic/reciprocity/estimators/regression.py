"""Base class of influence estimators that learn expected rewards and expected future returns by regression."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from math import prod
from typing import Any, cast

import torch
from gymnasium.spaces import Discrete
from ray.rllib.core.rl_module.apis import SelfSupervisedLossAPI
from torch import Tensor, nn
from torch.nn import functional

from rllib_reciprocator.intrinsic.reciprocity.estimators.influence_estimator import InfluenceEstimator
from rllib_reciprocator.intrinsic.reciprocity.estimators.networks import JointActionNetwork
from rllib_reciprocator.models.class_encoder import num_classes
from rllib_reciprocator.models.stacked import StackedLinear, StackedOneHotLinear, stacked_mlp


class RegressionInfluence(InfluenceEstimator, SelfSupervisedLossAPI):
    """Base class of estimators with networks from view, time and actions to rewards and, optionally, future returns.

    Settings in ``model_config``: ``num_agents``, ``hiddens`` (layer widths), ``epochs``, ``minibatch_size``,
    ``future_weight`` (weight of the discounted future return, relative to the immediate reward), ``gamma``, and
    ``tau``: influence is computed with target networks, which are updated by Polyak averaging with this coefficient
    after every update; with 1, with the trained networks themselves. ``uniform_share``, the share of uniform action
    choice in counterfactuals, is 0 in checkpoints that do not contain it.
    """

    _after: Tensor

    def setup(self) -> None:
        """Builds the networks, and the indices of the k-th agent after each agent."""
        self.num_agents, self.num_actions = self.model_config["num_agents"], int(self.action_space.n)
        agents = torch.arange(self.num_agents)
        self.register_buffer("_after", (agents[:, None] + agents) % self.num_agents, persistent=False)
        self.build_with_targets()

    def build_with_targets(self) -> None:
        """Builds the networks and, if ``tau`` is below 1, the target networks."""
        self.online = nn.ModuleDict(self.build_networks())
        self.target = deepcopy(self.online).requires_grad_(False) if self.model_config["tau"] < 1.0 else None

    @abstractmethod
    def build_networks(self) -> dict[str, nn.Module]:
        """Builds the trained networks, by name."""

    @abstractmethod
    def losses(self, batch: dict[str, Tensor], out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes the terms of the loss on rows of the replay buffer, by name, from the forward outputs."""

    @property
    def target_networks(self) -> nn.ModuleDict:
        """Returns the networks that influence is computed with."""
        return self.online if self.target is None else self.target

    def alternatives(self, network: str, inputs: Tensor, actions: Tensor, agents: Tensor | None = None) -> Tensor:
        """Evaluates alternative actions with a target network, see :meth:`JointActionNetwork.alternatives`."""
        return cast(JointActionNetwork, self.target_networks[network]).alternatives(inputs, actions, agents)

    @torch.no_grad()
    def after_fit(self) -> None:
        """Updates the target networks."""
        if self.target is not None:
            for target_param, param in zip(self.target.parameters(), self.online.parameters(), strict=True):
                target_param.lerp_(param, self.model_config["tau"])

    @property
    def uniform_share(self) -> float:
        """Returns the share of uniform action choice in counterfactuals, from 0 to 1."""
        return self.model_config.get("uniform_share", 0.0)

    def with_uniform_share(self, probs: Tensor) -> Tensor:
        """Mixes a uniform distribution into action probabilities.

        Without it, an agent with a deterministic policy has no influence, whatever the effect of its actions.

        Args:
            probs: ``[.., A]``, action probabilities of each agent.

        Returns:
            Action probabilities of the same shape; each distribution sums to 1.
        """
        return (1.0 - self.uniform_share) * probs + self.uniform_share / probs.shape[-1]

    def first_layer(self, copies: int, more: int = 0) -> nn.Module:
        """Builds the first layer of C networks, for :meth:`inputs` and ``more`` additional inputs."""
        space, classes, width = (
            self.observation_space,
            num_classes(self.observation_space),
            self.model_config["hiddens"][0],
        )
        if classes:
            return StackedOneHotLinear(copies, prod(space.shape), classes, 1 + more, width)
        size = int(space.n) if isinstance(space, Discrete) else prod(space.shape)
        return StackedLinear(copies, size + 1 + more, width)

    def network(self, copies: int, outputs: int, more: int = 0) -> nn.Module:
        """Builds C networks for :meth:`inputs` and ``more`` additional inputs."""
        layers = stacked_mlp(copies, [*self.model_config["hiddens"], outputs])
        return nn.Sequential(self.first_layer(copies, more), nn.ReLU(), *layers)

    def joint_action_network(self, copies: int, outputs: int) -> JointActionNetwork:
        """Builds C networks for :meth:`inputs` and a joint action."""
        hiddens = self.model_config["hiddens"]
        first = self.first_layer(copies)
        return JointActionNetwork(copies, first, self.num_agents, self.num_actions, hiddens, outputs)

    @property
    def regresses_future(self) -> bool:
        """Returns True if the regression targets include future returns."""
        return self.model_config["future_weight"] > 0

    @property
    def uses_future(self) -> bool:
        """Returns True if the estimator is trained on returns after the step."""
        return self.regresses_future

    def worth(self, outputs: Tensor) -> Tensor:
        """Computes values from network outputs, ``[.., K]``: rewards and, if regressed, weighted future returns."""
        if not self.regresses_future:
            return outputs
        rewards, future = outputs.chunk(2, -1)
        return rewards + self.model_config["future_weight"] * self.model_config["gamma"] * future

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns the regression targets, ``[rows, N or 2N]``: rewards and, if regressed, future returns."""
        return torch.cat([batch["rewards"], batch["future_returns"]], -1) if self.regresses_future else batch["rewards"]

    def inputs(self, state: Tensor, time_left: Tensor) -> Tensor:
        """Concatenates the flattened view and the time left to network inputs, ``[1, rows, inputs]`` float32."""
        if isinstance(self.observation_space, Discrete):
            state = functional.one_hot(state, int(self.observation_space.n)).float()
        return torch.cat([state.flatten(1), time_left[:, None]], 1)[None]

    def num_minibatches(self, rows: int) -> int:
        """Returns the number of minibatches that :meth:`minibatches` yields for a replay buffer with that many rows."""
        return self.model_config["epochs"] * (rows // min(self.model_config["minibatch_size"], rows))

    def minibatches(self, replay: dict[str, Tensor], generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        """Yields minibatches in ``epochs`` passes over the replay buffer, in random order; drops incomplete ones."""
        actions = replay["actions"]
        rows = len(actions)
        size = min(self.model_config["minibatch_size"], rows)
        for _ in range(self.model_config["epochs"]):
            order = torch.randperm(rows, generator=generator, device=generator.device).to(actions.device)
            for index in order[: rows - rows % size].view(-1, size):
                yield {name: values[index] for name, values in replay.items()}

    @torch.no_grad()
    def validation_losses(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes the terms of the loss, by name, on steps that the estimator has not been trained on."""
        return self.losses(rows, self.forward_train(rows))

    def compute_self_supervised_loss(
        self, *, learner: Any, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Computes the sum of all terms of the loss."""
        return torch.stack(list(self.losses(batch, fwd_out).values())).sum()


def cross_entropy(logits: Tensor, actions: Tensor) -> Tensor:
    """Computes the mean negative log-probability of actions ``[..]`` under logits ``[.., A]``."""
    return functional.cross_entropy(logits.flatten(0, -2), actions.flatten())
