"""Players that learn inside the environment: naive learners, afresh in every meta-episode.

An algorithm's learners do not know them. Each group of copies of a game has one of its own, which plays in all its
copies, learns from them after every inner episode, and starts anew with the next meta-episode. All are computed side
by side, their parameters stacked along a leading axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from rllib_reciprocator.models.actor_critic import OBSERVATIONS
from rllib_reciprocator.models.distributions import distribution_for
from rllib_reciprocator.players.learning_networks import ActorCritic, Networks, Parameters, Tables
from rllib_reciprocator.players.learning_settings import A2C, PG, LearningSettings
from rllib_reciprocator.utils.distributed import ParameterlessModule

if TYPE_CHECKING:
    from rllib_reciprocator.engine.tracker import JointStep
    from social_dilemmas.batched_game import BatchedGame


class LearningModule(ParameterlessModule, TorchRLModule):
    """The learners of all groups of copies, side by side.

    Settings in ``model_config``: ``learning``, the fields of :class:`LearningSettings`; ``copies``, of a group; and
    ``observations``, all that the game has, if these are few.
    """

    def setup(self) -> None:
        """Chooses how to act and learn; there are no learners yet."""
        config = self.model_config
        self.settings = LearningSettings.model_validate(config["learning"])
        self.copies = int(config["copies"])
        self.action_dist_cls = distribution_for(self.action_space)
        self._outputs = self._made()
        self._names: list[str] = []
        self._stacked: list[Tensor] = []
        self._optimizer: torch.optim.Optimizer | None = None

    def _made(self) -> Tables | Networks:
        settings, space, observations = self.settings, self.observation_space, self.model_config[OBSERVATIONS]
        outputs, critic = self.action_dist_cls.required_input_dim(self.action_space), settings.algorithm == A2C
        if settings.networks is None:
            return Tables(torch.tensor(observations), outputs, critic=critic, initial_std=settings.initial_std)
        networks = {**settings.networks.model_dump(), OBSERVATIONS: observations}
        return Networks(lambda: ActorCritic(space, outputs, networks, critic=critic))

    def restart(self, num_games: int, generator: torch.Generator) -> None:
        """Begins with new learners.

        Args:
            num_games: B, a multiple of ``copies``; games ``k * copies`` to ``(k + 1) * copies`` are group k.
            generator: What is drawn is drawn from it.
        """
        self._take(self._outputs.begin(num_games // self.copies, generator))

    def _take(self, stacked: Parameters) -> None:
        self._names = list(stacked)
        self._stacked = [each.requires_grad_() for each in stacked.values()]
        optimizer = torch.optim.SGD if self.settings.optimizer == "sgd" else torch.optim.Adam
        self._optimizer = optimizer(self._stacked, lr=self.settings.lr)

    @property
    def _parameters_now(self) -> Parameters:
        return dict(zip(self._names, self._stacked, strict=True))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """One step of all games."""
        logits = self._outputs.logits(self._parameters_now, batch[Columns.OBS].unflatten(0, (-1, self.copies)))
        return {Columns.ACTION_DIST_INPUTS: logits.detach().flatten(0, 1)}

    @torch.enable_grad()
    def learn(self, obs: Tensor, actions: Tensor, rewards: Tensor) -> None:
        """Lets every group's learner take a step on an inner episode of its copies.

        Args:
            obs: ``[B, T, *obs_shape]``.
            actions: ``[B, T]`` int64.
            rewards: ``[B, T]``.
        """
        assert self._optimizer is not None
        settings, shape = self.settings, (-1, self.copies, rewards.shape[1])
        logits, values = self._outputs(self._parameters_now, obs.unflatten(0, (-1, self.copies)).flatten(1, 2))
        logits, values = logits.unflatten(1, shape[1:]), values.view(shape)
        advantages, targets = learned_from(rewards.view(shape), values.detach(), settings)
        policy = self.action_dist_cls.from_logits(logits)
        gains = policy.logp(actions.view(shape)) * advantages
        if settings.entropy_coeff:
            gains = gains + settings.entropy_coeff * policy.entropy()
        loss = -gains.sum() / self.copies
        if settings.algorithm == A2C:
            loss = loss + settings.vf_loss_coeff * (values - targets).square().mean((1, 2)).sum()
        # The sum over groups: no learner's loss has to do with another's parameters.
        found: Sequence[Tensor] = torch.autograd.grad(loss, self._stacked)
        if settings.grad_clip is not None:
            norms = torch.stack([each.flatten(1).norm(dim=1) for each in found]).norm(dim=0)
            scale = (settings.grad_clip / norms.clamp(min=1e-12)).clamp(max=1.0)
            found = [each * scale.view(-1, *[1] * (each.dim() - 1)) for each in found]
        for parameter, gradient in zip(self._stacked, found, strict=True):
            parameter.grad = gradient
        self._optimizer.step()

    def learned(self) -> dict[str, Any]:
        """What all learners are now; empty before they begin."""
        if self._optimizer is None:
            return {}
        parameters = {name: each.detach().clone() for name, each in self._parameters_now.items()}
        return {"parameters": parameters, "optimizer": self._optimizer.state_dict()}

    def take(self, learned: Mapping[str, Any]) -> None:
        """Takes over what :meth:`learned` returned."""
        if learned:
            self._take({name: each.clone() for name, each in learned["parameters"].items()})
            assert self._optimizer is not None
            self._optimizer.load_state_dict(learned["optimizer"])


def learned_from(rewards: Tensor, values: Tensor, settings: LearningSettings) -> tuple[Tensor, Tensor]:
    """Advantages, and what values should be, of an inner episode of all groups.

    Args:
        rewards: ``[groups, copies, T]``.
        values: Of the same shape; zero if there is no critic.
        settings: How it is learned.

    Returns:
        Each ``[groups, copies, T]``.
    """
    advantages, running = torch.empty_like(rewards), torch.zeros_like(rewards[..., 0])
    following = torch.zeros_like(running)
    for t in reversed(range(rewards.shape[-1])):
        missed = rewards[..., t] + settings.gamma * following - values[..., t]
        running = missed + settings.gamma * settings.lambda_ * running
        advantages[..., t], following = running, values[..., t]
    targets = advantages + values
    if settings.algorithm == PG and settings.use_baseline and rewards.shape[1] > 1:
        advantages = advantages - advantages.mean(1, keepdim=True)
    if settings.normalize_advantages:
        advantages = advantages - advantages.mean((1, 2), keepdim=True)
        advantages = advantages / (advantages.square().mean((1, 2), keepdim=True).sqrt() + 1e-5)
    return advantages, targets


class LearningTracker:
    """Keeps what a learning player saw, did and got in an inner episode, and lets it learn from that at its end."""

    needs_state = needs_probs = False

    def __init__(self, game: BatchedGame, module: LearningModule, agent: int) -> None:
        """Nothing has been seen yet.

        Args:
            game: The games.
            module: The player's module.
            agent: Which agent it plays.
        """
        self._horizon, self._module, self._agent = game.horizon, module, agent
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def start(self, where: Tensor | None) -> None:
        """Forgets the steps of an inner episode that was not played to its end."""
        self._steps = []

    def inputs(self) -> dict[str, Tensor]:
        """Nothing that policies could see."""
        return {}

    def after(self, step: JointStep) -> dict[str, Tensor]:
        """Notes a step; after the last one of an inner episode the player learns."""
        agent = self._agent
        self._steps.append((step.obs[:, agent], step.actions[:, agent], step.rewards[:, agent]))
        if len(self._steps) == self._horizon:
            self._module.learn(*(torch.stack(each, 1) for each in zip(*self._steps, strict=True)))
            self._steps = []
        return {}

    def finish(self) -> dict[str, Tensor]:
        """Nothing that learners would need."""
        return {}

    def log(self, metrics: Any, agents: Sequence[str], joint: Mapping[str, Tensor]) -> None:
        """Nothing: what it gets is logged of all agents."""

    def get_state(self) -> dict[str, Any]:
        """What was seen of this inner episode, and what the player has learned."""
        steps = [torch.stack(each, 1) for each in zip(*self._steps, strict=True)]
        return {"steps": steps, "learned": self._module.learned()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned."""
        self._steps = list(zip(*(each.unbind(1) for each in state["steps"]), strict=True))
        self._module.take(state["learned"])
