"""Incentive functions of all givers as one module, with critics of their extrinsic rewards."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from rllib_reciprocator.models.class_encoder import num_classes
from rllib_reciprocator.models.stacked import StackedLinear, StackedOneHotLinear, stacked_mlp


class IncentiveFunctions(TorchRLModule):
    """N stacked networks, one per giver, from its observation and the others' actions to its incentives for them.

    ``incentive[i -> j] = max_incentive * sigmoid(f_i(o_i, a_-i)_j)``, independent of the giver's own action. Actions
    and outputs are in the order of the agents after the giver, so that a network can be used for any agent.

    Source: Yang et al. (2020), section 3; as in the paper, the last layer has no bias.

    Settings in ``model_config``: ``num_agents``, ``max_incentive``, ``hiddens``, ``pays`` (``[N][N - 1]``, True if the
    agent gives to the k-th agent after it), ``told`` (``[A]``, class index of each action, from 0), ``observe_given``,
    ``critic`` (True if each giver has a critic of its extrinsic rewards) and ``drawn`` (True if giving is a continuous
    action, sampled around the outputs of the networks).
    """

    _after: Tensor
    # 1 if the agent gives to the k-th agent after it, else 0, [N, N - 1] float32.
    paid_to: Tensor
    _action_classes: Tensor

    def setup(self) -> None:
        """Builds the networks."""
        config = self.model_config
        n = self.num_agents = config["num_agents"]
        agents = torch.arange(n)
        self.register_buffer("_after", (agents[:, None] + 1 + torch.arange(n - 1)) % n, persistent=False)
        self.register_buffer("paid_to", torch.tensor(config["pays"], dtype=torch.float32), persistent=False)
        classes = torch.tensor(config["told"])
        self.register_buffer("_action_classes", nn.functional.one_hot(classes).float(), persistent=False)
        extra_inputs = (n - 1) * self._action_classes.shape[1] + (n - 1) * config["observe_given"]
        self.functions = self._networks(extra_inputs, n - 1, last_bias=False)
        self.critics = self._networks(0, 1, last_bias=True) if config["critic"] else None

    def _networks(self, num_additional: int, outputs: int, *, last_bias: bool) -> nn.Sequential:
        """Builds N networks of an observation and ``num_additional`` additional inputs."""
        space, hiddens = self.observation_space, self.model_config["hiddens"]
        classes, size = num_classes(space), prod(space.shape)
        first: nn.Module
        if classes:
            first = StackedOneHotLinear(self.num_agents, size, classes, num_additional, hiddens[0])
        else:
            first = StackedLinear(self.num_agents, size + num_additional, hiddens[0])
        return nn.Sequential(first, nn.ReLU(), *stacked_mlp(self.num_agents, [*hiddens, outputs], last_bias=last_bias))

    @property
    def drawn(self) -> bool:
        """Returns True if incentives are sampled."""
        return self.model_config["drawn"]

    @property
    def observes_given(self) -> bool:
        """Returns True if incentive functions observe the incentives given so far."""
        return self.model_config["observe_given"]

    def outputs(self, obs: Tensor, actions: Tensor, given: Tensor | None = None) -> Tensor:
        """Computes the outputs of the networks for the k-th agent after the giver, ``[rows, N, N - 1]``.

        Arguments are those of :meth:`shares`.
        """
        action_classes = self._action_classes[actions[:, self._after]].flatten(2)
        extra_inputs = action_classes if given is None else torch.cat([action_classes, given], -1)
        flat_obs = obs.flatten(2).to(extra_inputs.dtype)
        return self.functions(torch.cat([flat_obs, extra_inputs], -1).transpose(0, 1)).transpose(0, 1)

    def shares(self, obs: Tensor, actions: Tensor, given: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Computes the incentive of each agent for each agent, as a share of the maximum incentive.

        Args:
            obs: ``[rows, N, *obs_shape]``.
            actions: ``[rows, N]`` int64.
            given: ``[rows, N, N - 1]``, sum of the incentives given so far to the k-th agent after the giver; None if
                it is not observed.
            noise: ``[rows, N, N - 1]``, added before the sigmoid if incentives are sampled.

        Returns:
            ``[rows, N, N]`` by ``[i, j]``, share that i gives j; zero if i does not give to j.
        """
        rows, n = actions.shape
        outputs = self.outputs(obs, actions, given)
        shares = (outputs if noise is None else outputs + noise).sigmoid() * self.paid_to
        return shares.new_zeros(rows, n, n).scatter(2, self._after.expand(rows, -1, -1), shares)

    def incentives(self, *inputs: Tensor | None) -> Tensor:
        """Computes the incentive of each agent i for each agent j, ``[rows, N, N]``; see :meth:`shares`."""
        return self.model_config["max_incentive"] * self.shares(*inputs)  # type: ignore[arg-type]

    def values(self, obs: Tensor) -> Tensor:
        """Computes each giver's value of its extrinsic rewards, ``[rows, N]``, from ``[rows, N, *obs_shape]``."""
        assert self.critics is not None
        return self.critics(obs.flatten(2).float().transpose(0, 1))[..., 0].t()

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Raises NotImplementedError; use :meth:`incentives`."""
        raise NotImplementedError
