"""What estimators have in common that learn expected rewards, and expected future returns, by regression."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from math import prod
from typing import Any, ClassVar, cast

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
    """Networks from what is seen, time and actions to rewards, and to future returns if these count.

    Settings in ``model_config``: ``num_agents``, ``hiddens`` (widths), ``epochs``, ``minibatch_size``,
    ``future_weight`` (of the discounted future return beside the immediate reward), ``gamma``, and ``tau``: influence
    is read from copies of the networks that move by this share towards them after every update; with 1 from the
    networks themselves. ``uniform_share``, the share of a uniform choice in counterfactuals, is 0 in checkpoints that
    do not name it.

    Attributes:
        default_uniform_share: The ``uniform_share`` of a new estimator whose settings leave it open.
    """

    default_uniform_share: ClassVar[float] = 0.0

    _after: Tensor

    def setup(self) -> None:
        """Builds the networks, and their copies if there are any; notes who is the k-th after whom."""
        self.num_agents, self.num_actions = self.model_config["num_agents"], int(self.action_space.n)
        agents = torch.arange(self.num_agents)
        self.register_buffer("_after", (agents[:, None] + agents) % self.num_agents, persistent=False)
        self.build_with_targets()

    def build_with_targets(self) -> None:
        """Builds the networks, and their copies if there are any."""
        self.online = nn.ModuleDict(self.build_networks())
        self.target = deepcopy(self.online).requires_grad_(False) if self.model_config["tau"] < 1.0 else None

    @abstractmethod
    def build_networks(self) -> dict[str, nn.Module]:
        """The networks that learn, by name."""

    @abstractmethod
    def losses(self, batch: dict[str, Tensor], out: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss on rows of the replay, by name, from what the forward pass put out."""

    @property
    def target_networks(self) -> nn.ModuleDict:
        """The networks that influence is read from."""
        return self.online if self.target is None else self.target

    def alternatives(self, network: str, inputs: Tensor, actions: Tensor, agents: Tensor | None = None) -> Tensor:
        """What one of the networks that influence is read from says of other actions."""
        return cast(JointActionNetwork, self.target_networks[network]).alternatives(inputs, actions, agents)

    @torch.no_grad()
    def after_fit(self) -> None:
        """Moves the copies towards the networks."""
        if self.target is not None:
            for copy, learned in zip(self.target.parameters(), self.online.parameters(), strict=True):
                copy.lerp_(learned, self.model_config["tau"])

    @property
    def uniform_share(self) -> float:
        """Share of a uniform choice in counterfactuals, from 0 to 1."""
        return self.model_config.get("uniform_share", 0.0)

    def with_uniform_share(self, probs: Tensor) -> Tensor:
        """Mixes a uniform choice into action probabilities.

        Without it an agent whose policy is deterministic has no influence, whatever it does to others.

        Args:
            probs: ``[.., A]``, over the action distribution of each agent.

        Returns:
            Of the same shape; each distribution still sums to 1.
        """
        return (1.0 - self.uniform_share) * probs + self.uniform_share / probs.shape[-1]

    def first_layer(self, copies: int, more: int = 0) -> nn.Module:
        """The first layer of C networks: of :meth:`inputs`, and of further numbers beside them."""
        space, classes, width = (
            self.observation_space,
            num_classes(self.observation_space),
            self.model_config["hiddens"][0],
        )
        if classes:
            return StackedOneHotLinear(copies, prod(space.shape), classes, 1 + more, width)
        seen = int(space.n) if isinstance(space, Discrete) else prod(space.shape)
        return StackedLinear(copies, seen + 1 + more, width)

    def network(self, copies: int, outputs: int, more: int = 0) -> nn.Module:
        """C networks from :meth:`inputs`, and further numbers beside them."""
        rest = stacked_mlp(copies, [*self.model_config["hiddens"], outputs])
        return nn.Sequential(self.first_layer(copies, more), nn.ReLU(), *rest)

    def joint_action_network(self, copies: int, outputs: int) -> JointActionNetwork:
        """C networks from :meth:`inputs` and a joint action."""
        hiddens = self.model_config["hiddens"]
        first = self.first_layer(copies)
        return JointActionNetwork(copies, first, self.num_agents, self.num_actions, hiddens, outputs)

    @property
    def regresses_future(self) -> bool:
        """Whether future returns are among what is regressed."""
        return self.model_config["future_weight"] > 0

    @property
    def uses_future(self) -> bool:
        """Whether it learns from returns after the step."""
        return self.regresses_future

    def worth(self, outputs: Tensor) -> Tensor:
        """Expected rewards, with the future's share if it counts, from what a network puts out, ``[.., K]``."""
        if not self.regresses_future:
            return outputs
        rewards, future = outputs.chunk(2, -1)
        return rewards + self.model_config["future_weight"] * self.model_config["gamma"] * future

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """What is regressed, ``[rows, N or 2N]``: rewards of all agents, then their future returns if these count."""
        return torch.cat([batch["rewards"], batch["future_returns"]], -1) if self.regresses_future else batch["rewards"]

    def inputs(self, state: Tensor, time_left: Tensor) -> Tensor:
        """What goes into the networks: what is seen, flattened, and the time left, ``[1, rows, inputs]`` float32."""
        if isinstance(self.observation_space, Discrete):
            state = functional.one_hot(state, int(self.observation_space.n)).float()
        return torch.cat([state.flatten(1), time_left[:, None]], 1)[None]

    def num_minibatches(self, rows: int) -> int:
        """How many batches :meth:`minibatches` yields of a replay of that many rows."""
        return self.model_config["epochs"] * (rows // min(self.model_config["minibatch_size"], rows))

    def minibatches(self, replay: dict[str, Tensor], generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        """``epochs`` passes over the replay in random batches."""
        actions = replay["actions"]
        rows = len(actions)
        size = min(self.model_config["minibatch_size"], rows)
        for _ in range(self.model_config["epochs"]):
            order = torch.randperm(rows, generator=generator, device=generator.device).to(actions.device)
            for index in order[: rows - rows % size].view(-1, size):
                yield {name: values[index] for name, values in replay.items()}

    @torch.no_grad()
    def validation_losses(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss on steps that it has not learned from yet, by name."""
        return self.losses(rows, self.forward_train(rows))

    def compute_self_supervised_loss(
        self, *, learner: Any, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """The sum of all parts."""
        return torch.stack(list(self.losses(batch, fwd_out).values())).sum()


def cross_entropy(logits: Tensor, actions: Tensor) -> Tensor:
    """Mean negative log-probability of actions ``[..]`` under logits ``[.., A]``."""
    return functional.cross_entropy(logits.flatten(0, -2), actions.flatten())
