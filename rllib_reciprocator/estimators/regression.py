"""What estimators have in common that learn expected rewards, and expected future returns, by regression."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from ray.rllib.core.rl_module.apis import SelfSupervisedLossAPI
from torch import Tensor
from torch.nn import functional

from rllib_reciprocator.estimators.influence_estimator import InfluenceEstimator, Transition

PREDICTED = "predicted"


class RegressionInfluence(InfluenceEstimator, SelfSupervisedLossAPI):
    """Networks from state, time and actions to the rewards of all agents, and to their future returns if these count.

    Settings in ``model_config``: ``num_agents``, ``hiddens`` (two widths), ``epochs``, ``minibatch_size``,
    ``future_weight`` (of the discounted future return beside the immediate reward) and ``gamma``.
    """

    def setup(self) -> None:
        """Notes the sizes; subclasses build their networks."""
        settings = self.model_config
        self.num_agents, self.num_actions = settings["num_agents"], int(self.action_space.n)
        self.num_inputs = prod(self.observation_space.shape) + 1
        self.num_outputs = self.num_agents * (2 if self.regresses_future else 1)

    @property
    def regresses_future(self) -> bool:
        """Whether future returns are among what the networks put out."""
        return self.model_config["future_weight"] > 0

    def worth(self, outputs: Tensor) -> Tensor:
        """Expected rewards, with the future's share, from what a network puts out: ``[.., K]`` -> ``[.., N]``."""
        if not self.regresses_future:
            return outputs
        rewards, future = outputs.split(self.num_agents, -1)
        return rewards + self.model_config["future_weight"] * self.model_config["gamma"] * future

    def state_inputs(self, transition: Transition) -> Tensor:
        """Flattened state and time left, ``[rows, inputs]``."""
        return torch.cat([transition.state.flatten(1), transition.time_left[:, None]], 1)

    def action_inputs(self, transition: Transition) -> Tensor:
        """The actions of all agents one-hot, ``[rows, N, A]`` float32."""
        return functional.one_hot(transition.actions, self.num_actions).float()

    def minibatches(self, replay: dict[str, Tensor], generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        """``epochs`` passes over the replay in random batches."""
        actions = replay["actions"]
        rows = len(actions)
        size = min(self.model_config["minibatch_size"], rows)
        for _ in range(self.model_config["epochs"]):
            order = torch.randperm(rows, generator=generator, device=generator.device).to(actions.device)
            for index in order[: rows - rows % size].view(-1, size):
                yield {name: values[index] for name, values in replay.items()}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        return {PREDICTED: self.predict(Transition(*(batch[name] for name in Transition._fields)))}

    def predict(self, transition: Transition) -> Tensor:
        """What is regressed, ``[.., rows, K]``: rewards of all agents, then their future returns if these count."""
        raise NotImplementedError

    def compute_self_supervised_loss(
        self, *, learner: Any, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Mean squared error of everything that is predicted."""
        targets = batch["rewards"]
        if self.regresses_future:
            targets = torch.cat([targets, batch["future_returns"]], -1)
        predicted = fwd_out[PREDICTED]
        loss = functional.mse_loss(predicted, targets.expand_as(predicted))
        learner.metrics.log_value((module_id, "loss"), loss.detach(), window=1)
        return loss
