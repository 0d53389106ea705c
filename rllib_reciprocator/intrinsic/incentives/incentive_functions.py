"""Incentive functions of all givers as one module, and their critics of extrinsic rewards."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from rllib_reciprocator.models.class_encoder import num_classes
from rllib_reciprocator.models.stacked import StackedLinear, StackedOneHotLinear, stacked_mlp


class IncentiveFunctions(TorchRLModule):
    """N networks, one a giver: from what it sees and what the others do to what it gives each of them.

    ``incentive[i -> j] = max_incentive * sigmoid(f_i(o_i, a_-i)_j)``, blind to what the giver does itself. Actions and
    outputs are in the order of the agents after the giver, so that a network plays any agent.

    Source: Yang et al. (2020), section 3; their last layer has no bias either.

    Settings in ``model_config``: ``num_agents``, ``max_incentive``, ``hiddens``, ``pays`` (``[N][N - 1]``, whether a
    giver pays the k-th agent after it), ``told`` (``[A]``, the number of the class of each action, from 0),
    ``observe_given``, ``critic``: whether each giver has a critic of its own extrinsic rewards, and ``drawn``: whether
    giving is a continuous action, drawn around what the networks put out.
    """

    _after: Tensor
    # Whether a giver pays the k-th agent after it, [N, N - 1] float32.
    paid_to: Tensor
    _told: Tensor

    def setup(self) -> None:
        """Builds the networks."""
        config = self.model_config
        n = self.num_agents = config["num_agents"]
        agents = torch.arange(n)
        self.register_buffer("_after", (agents[:, None] + 1 + torch.arange(n - 1)) % n, persistent=False)
        self.register_buffer("paid_to", torch.tensor(config["pays"], dtype=torch.float32), persistent=False)
        told = torch.tensor(config["told"])
        self.register_buffer("_told", nn.functional.one_hot(told).float(), persistent=False)
        beside = (n - 1) * self._told.shape[1] + (n - 1) * config["observe_given"]
        self.functions = self._networks(beside, n - 1, last_bias=False)
        self.critics = self._networks(0, 1, last_bias=True) if config["critic"] else None

    def _networks(self, beside: int, outputs: int, *, last_bias: bool) -> nn.Sequential:
        """N networks from an observation, and numbers beside it."""
        space, hiddens = self.observation_space, self.model_config["hiddens"]
        classes, seen = num_classes(space), prod(space.shape)
        first: nn.Module
        if classes:
            first = StackedOneHotLinear(self.num_agents, seen, classes, beside, hiddens[0])
        else:
            first = StackedLinear(self.num_agents, seen + beside, hiddens[0])
        return nn.Sequential(first, nn.ReLU(), *stacked_mlp(self.num_agents, [*hiddens, outputs], last_bias=last_bias))

    @property
    def drawn(self) -> bool:
        """Whether what is given is drawn."""
        return self.model_config["drawn"]

    @property
    def observes_given(self) -> bool:
        """Whether incentive functions see what has been given so far."""
        return self.model_config["observe_given"]

    def outputs(self, obs: Tensor, actions: Tensor, given: Tensor | None = None) -> Tensor:
        """What networks put out, ``[rows, N, N - 1]``, for the k-th agent after the giver; see :meth:`shares`."""
        others = self._told[actions[:, self._after]].flatten(2)
        beside = others if given is None else torch.cat([others, given], -1)
        seen = obs.flatten(2).to(beside.dtype)
        return self.functions(torch.cat([seen, beside], -1).transpose(0, 1)).transpose(0, 1)

    def shares(self, obs: Tensor, actions: Tensor, given: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """What everybody gives everybody, as shares of the most that can be given.

        Args:
            obs: ``[rows, N, *obs_shape]``.
            actions: ``[rows, N]`` int64.
            given: ``[rows, N, N - 1]``, what was given so far to the k-th agent after oneself, if that is seen.
            noise: ``[rows, N, N - 1]``, added before the sigmoid where giving is a continuous action.

        Returns:
            ``[rows, N, N]`` by ``[i, j]``, what i gives j; zero for who does not give or is not given to.
        """
        rows, n = actions.shape
        outputs = self.outputs(obs, actions, given)
        paid = (outputs if noise is None else outputs + noise).sigmoid() * self.paid_to
        return paid.new_zeros(rows, n, n).scatter(2, self._after.expand(rows, -1, -1), paid)

    def incentives(self, *inputs: Tensor | None) -> Tensor:
        """What everybody gives everybody, ``[rows, N, N]`` by ``[i, j]``; see :meth:`shares`."""
        return self.model_config["max_incentive"] * self.shares(*inputs)  # type: ignore[arg-type]

    def values(self, obs: Tensor) -> Tensor:
        """What each giver expects of its extrinsic rewards, ``[rows, N]``, from ``[rows, N, *obs_shape]``."""
        assert self.critics is not None
        return self.critics(obs.flatten(2).float().transpose(0, 1))[..., 0].t()

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Incentives are asked for by :meth:`incentives`."""
        raise NotImplementedError
