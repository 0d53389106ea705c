"""Online learners: policies that are trained inside the environment and reset in every meta-episode.

The algorithm's learners do not update them. Each group of environments has its own online learner, which acts in all
environments of the group, is updated on them after every inner episode, and is reset when the next meta-episode
starts. The online learners of all groups are stacked policies: their parameters have a leading group axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from rllib_reciprocator.engine.module_specs import check_networks
from rllib_reciprocator.engine.online_learner_settings import A2C, PG, LearningSettings
from rllib_reciprocator.engine.player_sources import PlayerSource
from rllib_reciprocator.engine.policy_groups import OnlineLearner
from rllib_reciprocator.engine.tracker import JointStep, StepTracker
from rllib_reciprocator.models.actor_critic import OBSERVATIONS
from rllib_reciprocator.models.distributions import distribution_for
from rllib_reciprocator.players.learning_networks import ActorCritic, Networks, Parameters, Tables
from rllib_reciprocator.utils.distributed import ParameterlessModule
from social_dilemmas.registry import did_you_mean

if TYPE_CHECKING:
    from rllib_reciprocator.engine.config import BatchedConfig
    from rllib_reciprocator.engine.player_mapping import Player
    from social_dilemmas.batched_game import BatchedGame

# Value of ``Player.kind``, which checkpoints contain.
LEARNING = "learning"
# Prefix in ``players``.
LEARNER_PREFIX = "learner"


class LearningModule(ParameterlessModule, OnlineLearner, TorchRLModule):
    """Module of the online learners of all groups, as stacked policies.

    Settings in ``model_config``: ``learning``, the fields of :class:`LearningSettings`; ``copies``, the number of
    environments in a group; and ``observations``, all observations of the environment, if these are few.
    """

    def setup(self) -> None:
        """Builds tables or networks from the settings; :meth:`restart` creates the parameters."""
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
        """Resets the online learners to new initial parameters.

        Args:
            num_games: B, the number of environments, a multiple of ``copies``. Environments ``k * copies`` to
                ``(k + 1) * copies - 1`` are group k.
            generator: Random number generator for the initial parameters.
        """
        self._take(self._outputs.begin(num_games // self.copies, generator))

    def _take(self, stacked: Parameters) -> None:
        self._names = list(stacked)
        self._stacked = [tensor.requires_grad_() for tensor in stacked.values()]
        optimizer = torch.optim.SGD if self.settings.optimizer == "sgd" else torch.optim.Adam
        self._optimizer = optimizer(self._stacked, lr=self.settings.lr)

    @property
    def _parameters_now(self) -> Parameters:
        return dict(zip(self._names, self._stacked, strict=True))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Computes the action distribution inputs of all environments for one step."""
        logits = self._outputs.logits(self._parameters_now, batch[Columns.OBS].unflatten(0, (-1, self.copies)))
        return {Columns.ACTION_DIST_INPUTS: logits.detach().flatten(0, 1)}

    @torch.enable_grad()
    def learn(self, obs: Tensor, actions: Tensor, rewards: Tensor) -> None:
        """Updates the online learner of every group once, on an inner episode of its environments.

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
        objective = policy.logp(actions.view(shape)) * advantages
        if settings.entropy_coeff:
            objective = objective + settings.entropy_coeff * policy.entropy()
        loss = -objective.sum() / self.copies
        if settings.algorithm == A2C:
            loss = loss + settings.vf_loss_coeff * (values - targets).square().mean((1, 2)).sum()
        # The loss is summed over groups: each group's loss depends on the parameters of that group only, so that one
        # backward pass returns the gradients of all online learners.
        gradients: Sequence[Tensor] = torch.autograd.grad(loss, self._stacked)
        if settings.grad_clip is not None:
            norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
            scale = (settings.grad_clip / norms.clamp(min=1e-12)).clamp(max=1.0)
            gradients = [gradient * scale.view(-1, *[1] * (gradient.dim() - 1)) for gradient in gradients]
        for parameter, gradient in zip(self._stacked, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()

    def learned(self) -> dict[str, Any]:
        """Returns the parameters and the optimizer state of all online learners; empty before :meth:`restart`."""
        if self._optimizer is None:
            return {}
        parameters = {name: tensor.detach().clone() for name, tensor in self._parameters_now.items()}
        return {"parameters": parameters, "optimizer": self._optimizer.state_dict()}

    def take(self, learned: Mapping[str, Any]) -> None:
        """Restores the state that :meth:`learned` returned."""
        if learned:
            self._take({name: tensor.clone() for name, tensor in learned["parameters"].items()})
            assert self._optimizer is not None
            self._optimizer.load_state_dict(learned["optimizer"])


def learned_from(rewards: Tensor, values: Tensor, settings: LearningSettings) -> tuple[Tensor, Tensor]:
    """Computes the advantages and value targets of an inner episode of all groups.

    Args:
        rewards: ``[groups, copies, T]``.
        values: ``[groups, copies, T]``; zeros without a critic.
        settings: Settings of the online learners.

    Returns:
        GAE advantages and value targets, each ``[groups, copies, T]``. With values of zero and a lambda of 1 the
        advantages are discounted returns. With ``use_baseline``, their mean over the environments of the group at the
        same step is subtracted for ``pg``.
    """
    advantages, advantage = torch.empty_like(rewards), torch.zeros_like(rewards[..., 0])
    next_values = torch.zeros_like(advantage)
    for t in reversed(range(rewards.shape[-1])):
        td_error = rewards[..., t] + settings.gamma * next_values - values[..., t]
        advantage = td_error + settings.gamma * settings.lambda_ * advantage
        advantages[..., t], next_values = advantage, values[..., t]
    targets = advantages + values
    if settings.algorithm == PG and settings.use_baseline and rewards.shape[1] > 1:
        advantages = advantages - advantages.mean(1, keepdim=True)
    if settings.normalize_advantages:
        advantages = advantages - advantages.mean((1, 2), keepdim=True)
        advantages = advantages / (advantages.square().mean((1, 2), keepdim=True).sqrt() + 1e-5)
    return advantages, targets


class LearningTracker(StepTracker):
    """Step tracker that records an inner episode of an online learner, and updates the learner at its end."""

    def __init__(self, game: BatchedGame, module: LearningModule, agent: int) -> None:
        """Starts without recorded steps.

        Args:
            game: The environments.
            module: Module of the online learners.
            agent: Index of the agent that they act for.
        """
        self._horizon, self._module, self._agent = game.horizon, module, agent
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def start(self, where: Tensor | None) -> None:
        """Discards the steps of an inner episode that was not completed."""
        self._steps = []

    def after(self, step: JointStep) -> dict[str, Tensor]:
        """Records a step, and updates the online learners after the last step of an inner episode."""
        agent = self._agent
        self._steps.append((step.obs[:, agent], step.actions[:, agent], step.rewards[:, agent]))
        if len(self._steps) == self._horizon:
            self._module.learn(*(torch.stack(column, 1) for column in zip(*self._steps, strict=True)))
            self._steps = []
        return {}

    def get_state(self) -> dict[str, Any]:
        """Returns the steps of the current inner episode and the state of the online learners."""
        steps = [torch.stack(column, 1) for column in zip(*self._steps, strict=True)]
        return {"steps": steps, "learned": self._module.learned()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned."""
        self._steps = list(zip(*(column.unbind(1) for column in state["steps"]), strict=True))
        self._module.take(state["learned"])


class OnlineLearners(PlayerSource):
    """Players ``learner/NAME``."""

    kind: ClassVar[str] = LEARNING
    is_online_learner: ClassVar[bool] = True

    def resolve(
        self, source: str, agent: str, action_names: Sequence[str] | None, online_learners: Sequence[str]
    ) -> str:
        """Returns the name of the online learner."""
        if action_names is not None and source not in online_learners:
            if not online_learners:
                raise ValueError(f"learner/{source} needs the batched engine; use run: Reciprocator, COALA, ..")
            raise ValueError(f"there is no online learner {source!r}{did_you_mean(source, online_learners)}")
        return source

    def names(self, online_learners: Sequence[str]) -> Sequence[str]:
        """Returns the names of the online learners."""
        return online_learners

    def module_spec(self, config: BatchedConfig, game: BatchedGame, player: Player) -> RLModuleSpec:
        """Builds the spec of an online learner's module.

        Raises:
            ValueError: If its networks do not fit the environment.
        """
        settings = config.learning_settings()[player.source]
        observations = None if game.observations is None else game.observations.tolist()
        path = f"learning_players.{player.source}.model_config"
        if settings.networks is None and observations is None:
            raise ValueError(f"{path}: missing; {config.env} has too many observations for a table")
        if settings.networks is not None:
            if settings.networks.use_gru or settings.networks.use_lru or settings.networks.vf_share_layers:
                raise ValueError(f"{path}: use_gru, use_lru and vf_share_layers are not supported for online learners")
            check_networks(config.env, settings.networks.model_dump(), game, path)
        return RLModuleSpec(
            LearningModule,
            observation_space=game.observation_space,
            action_space=game.action_space,
            model_config={
                "learning": settings.model_dump(),
                "copies": config.group_size(),
                OBSERVATIONS: observations,
            },
        )

    def tracker(self, game: BatchedGame, module: Any, agent: int) -> LearningTracker:
        """Builds the tracker that updates the online learners."""
        return LearningTracker(game, module, agent)


SOURCE = OnlineLearners()
