"""Players that learn inside the environment: naive learners, afresh in every meta-episode.

An algorithm's learners do not know them. Each group of copies of a game has one of its own, which plays in all its
copies, learns from them after every inner episode, and starts anew with the next meta-episode. All are computed side
by side, their parameters stacked along a leading axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from rllib_reciprocator.distributed import NothingToAverage
from rllib_reciprocator.models.actor_critic import OBSERVATIONS, Network, is_which
from rllib_reciprocator.models.distributions import distribution_for
from rllib_reciprocator.models.settings import ModelSettings
from rllib_reciprocator.models.stacked import compute_side_by_side
from rllib_reciprocator.typed_settings import LARGEST_RATE, Settings, Share

if TYPE_CHECKING:
    from rllib_reciprocator.batched.tracker import JointStep
    from social_dilemmas.batched_game import BatchedGame

PG: Literal["pg"] = "pg"
A2C: Literal["a2c"] = "a2c"


class LearningSettings(Settings):
    """How a player learns between inner episodes.

    Attributes:
        algorithm: ``pg``, from returns; or ``a2c``, with a critic.
        networks: ``model_config``, its networks; None for a table of the game's observations, where these are few.
        initial_std: Standard deviation of the first entries of a table.
        optimizer: By what it takes its steps, one after every inner episode.
        lr: Learning rate.
        gamma: Discount.
        lambda_: ``lambda``, the weight of later estimates in the advantages of ``a2c``.
        use_baseline: Whether ``pg`` learns from returns less their mean over the copies at the same step.
        normalize_advantages: Whether advantages are standardised over the steps and copies of an inner episode.
        entropy_coeff: Weight of the entropy.
        vf_loss_coeff: Weight of the loss of the critic.
        grad_clip: Largest norm of its gradient; None for any.
    """

    model_config = ConfigDict(populate_by_name=True)

    algorithm: Literal["pg", "a2c"] = PG
    networks: ModelSettings | None = Field(None, alias="model_config")
    initial_std: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Annotated[float, Field(ge=0.0, le=LARGEST_RATE)] = 2.0
    gamma: Share = 0.99
    lambda_: Share = Field(1.0, alias="lambda")
    use_baseline: bool = True
    normalize_advantages: bool = True
    entropy_coeff: Annotated[float, Field(ge=0.0, le=LARGEST_RATE)] = 0.0
    vf_loss_coeff: Annotated[float, Field(ge=0.0, le=LARGEST_RATE)] = 0.5
    grad_clip: Annotated[float, Field(gt=0.0)] | None = None


# Those that need not be described: a table by gradient descent, and a network by Adam.
KNOWN_LEARNERS = {
    PG: LearningSettings.model_validate({"algorithm": PG}),
    A2C: LearningSettings.model_validate(
        {"algorithm": A2C, "model_config": {"fcnet_hiddens": [32]}, "optimizer": "adam", "lr": 5e-3}
    ),
}


def described_learner(
    name: str, described: Mapping[str, LearningSettings], settings: Mapping[str, Any]
) -> LearningSettings:
    """The settings of a player that learns, from what is known of it and what is set.

    Args:
        name: Its name.
        described: Those that were described before, by name.
        settings: What is set; of a name that is not known before beside the defaults of its ``algorithm``.

    Raises:
        pydantic.ValidationError: If a value has the wrong type or is out of range.
    """
    known = {**KNOWN_LEARNERS, **described}
    of = name if name in known else settings.get("algorithm", PG)
    current = known[of].model_dump(exclude_unset=True, by_alias=True) if of in known else {}
    return LearningSettings.model_validate({**current, **settings})


Parameters = dict[str, Tensor]


class _Tables:
    """For every group a row of logits, and a value, for each of a few observations."""

    def __init__(self, observations: Tensor, outputs: int, *, critic: bool, initial_std: float) -> None:
        self.observations, self.outputs, self.critic, self.initial_std = observations, outputs, critic, initial_std

    def begin(self, groups: int, generator: torch.Generator) -> Parameters:
        """Tables of that many groups."""
        self.observations = self.observations.to(generator.device)
        size, device = (groups, len(self.observations)), generator.device
        noise = torch.randn(*size, self.outputs, generator=generator, device=device)
        values = {"values": torch.zeros(*size, 1, device=device)} if self.critic else {}
        return {"logits": self.initial_std * noise, **values}

    def __call__(self, parameters: Parameters, obs: Tensor) -> tuple[Tensor, Tensor]:
        """``[groups, rows, *obs_shape]`` -> logits ``[groups, rows, outputs]`` and values ``[groups, rows]``."""
        which = self._which(parameters, obs)
        values = which @ parameters["values"] if self.critic else which.new_zeros(*which.shape[:2], 1)
        return which @ parameters["logits"], values[..., 0]

    def logits(self, parameters: Parameters, obs: Tensor) -> Tensor:
        """The logits alone."""
        return self._which(parameters, obs) @ parameters["logits"]

    def _which(self, parameters: Parameters, obs: Tensor) -> Tensor:
        """Which observation each row is, one-hot, ``[groups, rows, S]``."""
        which = is_which(obs.flatten(0, 1), self.observations)
        return which.to(parameters["logits"].dtype).unflatten(0, obs.shape[:2])


class _Networks:
    """For every group networks as those of learning policies, computed side by side by ``torch.func``."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.build = build
        # Into which each group's parameters are put.
        self.template = build()
        compute_side_by_side(self.template)

    def begin(self, groups: int, generator: torch.Generator) -> Parameters:
        """Networks of that many groups."""
        device = generator.device
        self.template.to(device)
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parameters, _ = stack_module_state([self.build() for _ in range(groups)])
        return {name: each.detach().to(device) for name, each in parameters.items()}

    def __call__(self, parameters: Parameters, obs: Tensor) -> tuple[Tensor, Tensor]:
        """``[groups, rows, *obs_shape]`` -> logits ``[groups, rows, outputs]`` and values ``[groups, rows]``."""
        return self._side_by_side(parameters, obs, of="logits_and_values")

    def logits(self, parameters: Parameters, obs: Tensor) -> Tensor:
        """The logits alone."""
        return self._side_by_side(parameters, obs, of="logits")

    def _side_by_side(self, parameters: Parameters, obs: Tensor, of: str) -> Any:
        def of_one(own: Parameters, rows: Tensor) -> Any:
            return functional_call(self.template, own, (rows, of))

        return vmap(of_one)(parameters, obs)


class _ActorCritic(nn.Module):
    """A network of logits, and one of values if there is a critic."""

    def __init__(self, space: Any, outputs: int, settings: Mapping[str, Any], *, critic: bool) -> None:
        super().__init__()
        self.actor = Network(space, outputs, settings)
        self.critic = Network(space, 1, settings) if critic else None

    def forward(self, obs: Tensor, of: str) -> Any:
        """``[rows, *obs_shape]`` -> ``logits``, or ``logits_and_values``.

        Logits are ``[rows, outputs]``, values ``[rows]`` and zero without a critic.
        """
        batch = {Columns.OBS: obs}
        logits, _ = self.actor(batch)
        if of == "logits":
            return logits
        if self.critic is None:
            return logits, torch.zeros_like(logits[:, 0])
        return logits, self.critic(batch)[0][:, 0]


class LearningModule(NothingToAverage, TorchRLModule):
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

    def _made(self) -> _Tables | _Networks:
        settings, space, observations = self.settings, self.observation_space, self.model_config[OBSERVATIONS]
        outputs, critic = self.action_dist_cls.required_input_dim(self.action_space), settings.algorithm == A2C
        if settings.networks is None:
            return _Tables(torch.tensor(observations), outputs, critic=critic, initial_std=settings.initial_std)
        networks = {**settings.networks.model_dump(), OBSERVATIONS: observations}
        return _Networks(lambda: _ActorCritic(space, outputs, networks, critic=critic))

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
