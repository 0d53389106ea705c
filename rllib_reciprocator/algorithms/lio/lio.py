"""The LIO algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import tree
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.lio.learner import INCENTIVES_PHASE, POLICIES_PHASE, LIOLearner
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm
from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.engine.losses import ACTOR_CRITIC, POLICY_GRADIENT, UNIFORM_KL
from rllib_reciprocator.engine.sample import Sample
from rllib_reciprocator.intrinsic.incentives.specs import INCENTIVES_MODULE_ID, pays
from rllib_reciprocator.players import INCENTIVES

if TYPE_CHECKING:
    from rllib_reciprocator.engine.module_specs import ModuleSpecs
    from social_dilemmas.batched_game import BatchedGame


LIO_PLAYER, LIO_ACTOR_CRITIC = "lio", "lio_ac"
LOOK_AHEAD = "look_ahead"


class LIOConfig(BatchedConfig):
    """Configuration of :class:`LIO`, for players ``lio`` and ``lio_ac`` and those of :class:`BatchedConfig`.

    Both learn incentives for their co-players. The policy of ``lio`` is trained like that of ``pg``, the policy of
    ``lio_ac`` like that of ``ac``. ``{player: lio, gives: false}`` has no incentive function.

    .. code-block:: python

        config = (
            LIOConfig()
            .environment("escape_room_v0")
            .players({"player_*": "lio"})
            .incentives(max_incentive=2.0, lr=0.003)
            .training(lr=0.01, reuse_samples=True)
        )
        algorithm = config.build_algo()
    """

    algorithms: ClassVar[Mapping[str, str]] = {
        **BatchedConfig.algorithms,
        LIO_PLAYER: POLICY_GRADIENT,
        LIO_ACTOR_CRITIC: ACTOR_CRITIC,
    }
    default_player = LIO_PLAYER
    trained_intrinsic_rewards: ClassVar[tuple[str, ...]] = (INCENTIVES,)

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults, which are tuned for Escape Room."""
        super().__init__(algo_class=algo_class or LIO)
        self.reuse_samples = False
        self.updates_per_iteration = 10
        self.batch_mode = "complete_episodes"
        self.num_envs_per_env_runner = 32
        self.normalize_advantages = False
        self.lr = 0.01
        self.gamma = 0.99
        self.epsilon = 0.1
        self.entropy_coeff = 0.02
        self.entropy_form = UNIFORM_KL

    def incentives(
        self,
        *,
        max_incentive: float = NotProvided,
        hiddens: list[int] = NotProvided,
        told_actions: list[str] | None = NotProvided,
        observe_given: bool = NotProvided,
        charge_giver: bool = NotProvided,
        lr: float | list[list[float]] = NotProvided,
        cost_coeff: float | list[list[float]] = NotProvided,
        cost_lr: float | list[list[float]] | None = NotProvided,
        critic_lr: float | list[list[float]] = NotProvided,
        critic_epochs: int = NotProvided,
        learned_by: str = NotProvided,
        opponents: str = NotProvided,
        opponent_hiddens: list[int] = NotProvided,
        opponent_lr: float | list[list[float]] = NotProvided,
        opponent_epochs: int = NotProvided,
    ) -> LIOConfig:
        """Sets the incentives and the training of incentive functions. Unset settings keep their values.

        Args:
            max_incentive: Maximum incentive that an agent gives a co-player per step (the paper's R_max).
            hiddens: Widths of the hidden layers of incentive functions.
            told_actions: Names of the co-players' actions that incentive functions distinguish, e.g. ``[clean]``. None
                distinguishes all actions.
            observe_given: If True, policies and incentive functions observe the sum of the incentives that their agent
                has given to each co-player in the episode, as in the paper's Escape Room.
            charge_giver: If True, subtracts the incentives that an agent gives from the rewards of its own policy, as
                in the paper's text. The paper's code only charges incentive functions, through ``cost_coeff``.
            lr: Learning rate of incentive functions (Adam): a number, or a schedule over environment steps.
            cost_coeff: Weight of the discounted incentives given, as fractions of ``max_incentive``, in the loss of
                incentive functions: a number, or a schedule over environment steps.
            cost_lr: Learning rate, or schedule, of a separate Adam optimizer for this cost, as in the paper's code for
                Escape Room. A constant ``cost_coeff`` other than 0 has no effect then, as Adam normalizes gradients.
                With a constant rate incentives keep decreasing wherever no other gradient changes them, until
                cooperation ends; a schedule that ends at 0 preserves the learned incentives. None uses one optimizer
                for both.
            critic_lr: Learning rate of the givers' critics of extrinsic rewards (Adam), which exist if policies have
                critics.
            critic_epochs: Number of gradient steps of these critics per update.
            learned_by: ``look_ahead``, LIO; or ``policy_gradient``, the paper's baselines PG-c and AC-c, in which an
                incentive is a continuous action that is sampled with a standard deviation of 1 before the sigmoid and
                trained by policy gradients with SGD at ``lr``, without regard to the learning of its recipients. Use it
                with ``charge_giver``.
            opponents: ``known`` uses the co-players' policies. ``modelled`` uses models of them, the paper's
                decentralized form: givers observe the observations, actions and rewards of co-players and assume that
                these learn by policy gradients at their actual learning rates. Needs a fully observed game.
            opponent_hiddens: Widths of the hidden layers of the models of co-players.
            opponent_lr: Learning rate of these models (Adam).
            opponent_epochs: Number of gradient steps of these models per rollout.

        Returns:
            This configuration.

        Raises:
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        settings = {name: value for name, value in locals().items() if name != "self" and value is not NotProvided}
        self.intrinsic(INCENTIVES, **settings)
        return self

    @override(BatchedConfig)
    def training(
        self, *, reuse_samples: bool = NotProvided, updates_per_iteration: int = NotProvided, **kwargs: Any
    ) -> LIOConfig:
        """Sets the training options; see also :meth:`BatchedConfig.training`.

        Args:
            reuse_samples: If True, policies are trained next on the rollout that incentive functions were trained on,
                which halves the number of sampled steps; that rollout was sampled with the current policies. The paper
                samples twice.
            updates_per_iteration: Number of updates of policies and incentive functions per training iteration.
            **kwargs: Other settings.

        Returns:
            This configuration.
        """
        super().training(**kwargs)
        if reuse_samples is not NotProvided:
            self.reuse_samples = reuse_samples
        if updates_per_iteration is not NotProvided:
            self.updates_per_iteration = updates_per_iteration
        return self

    @override(BatchedConfig)
    def get_default_learner_class(self) -> type:
        """Returns the learner class for policies and incentive functions."""
        return LIOLearner

    def givers(self) -> list[int]:
        """Returns the indices of agents whose incentive functions are trained."""
        return self._learning(lambda player: INCENTIVES in player.intrinsic)

    def looks_ahead(self) -> bool:
        """Returns whether incentive functions are trained through the policy steps of their recipients."""
        return bool(self.givers()) and getattr(self._settings_of_all(INCENTIVES), "learned_by", "") == LOOK_AHEAD

    def _learning(self, wanted: Any) -> list[int]:
        """Returns the indices of agents with a trained player, among those that a predicate accepts.

        Args:
            wanted: Returns True for the players that count.
        """
        return [
            index
            for index, player in enumerate(self.assigned_players)
            if any(member.learns and wanted(member) for member, _ in player.pool_members)
        ]

    @override(BatchedConfig)
    def complete_specs(self, specs: ModuleSpecs, game: BatchedGame) -> None:
        """Completes the spec of incentive functions: recipients are the trained agents; critics exist as in policies.

        Args:
            specs: Specs of all modules.
            game: The environment.
        """
        if INCENTIVES_MODULE_ID in specs.shared:
            givers, recipients = self.givers(), self._learning(lambda player: True)
            specs.shared[INCENTIVES_MODULE_ID].model_config |= {
                "pays": pays(givers, recipients, game.num_agents),
                "critic": self.looks_ahead()
                and any(
                    self.loss_of(member) != POLICY_GRADIENT
                    for index in givers
                    for member, _ in self.assigned_players[index].pool_members
                    if member.learns
                ),
            }

    @override(BatchedConfig)
    def validate(self) -> None:
        """Validates the configuration and derives the settings that follow from players, environment and env runners.

        Raises:
            ValueError: If a setting is invalid. The message names the setting and a fix.
        """
        if not isinstance(self.updates_per_iteration, int) or self.updates_per_iteration < 1:
            raise ValueError(f"updates_per_iteration: {self.updates_per_iteration} must be at least 1")
        super().validate()
        models = getattr(self._settings_of_all(INCENTIVES), "opponents", "known") == "modelled"
        pools = [player.agent for player in self.assigned_players if len(player.pool_members) > 1]
        if self.givers() and models and pools:
            raise ValueError(
                f"incentives.opponents: modelled needs a single policy per agent, but players.{pools[0]} is a pool; set"
                " it to known"
            )
        if not self.in_evaluation:
            self._check_recipients()
        if self.givers() and not self.plays_whole_episodes(self.make_game()):
            raise ValueError("batch_mode: incentives are trained on whole episodes; set it to complete_episodes")

    def _check_recipients(self) -> None:
        """Raises ValueError if a player has a trainable incentive function, but no co-player is trained."""
        recipients = self._learning(lambda player: True)
        for index in self.givers():
            if not set(recipients) - {index}:
                agent = self.assigned_players[index].agent
                raise ValueError(
                    f"players.{agent}: incentives need another agent that is trained, but there is none; set"
                    f" {{player: {LIO_PLAYER}, gives: false}}, or give another agent a trainable player, e.g. pg"
                )


PENDING_SAMPLE = "pending_sample"


class LIO(BatchedAlgorithm):
    """Agents with a policy and an incentive function, which maps the actions of co-players to rewards for them.

    Source: Yang et al., "Learning to Incentivize Other Learning Agents", NeurIPS 2020. In an update, policies take a
    gradient step on a first rollout, with the incentives that they receive among their rewards. Incentive functions are
    then trained on a second rollout, sampled with the updated policies: their gradient is that of the giver's return
    with respect to the incentives, through the policies' step (:class:`LIOLearner`).

    Differs from the paper's code: an update uses many episodes instead of one. The gradient is computed without a graph
    through the policies' step, and with more than two agents each giver maximizes its own return. Log-probabilities
    include exploration in both steps. If policies have critics, incentive functions are trained with separate critics
    of extrinsic rewards.
    """

    _pending: Sample | None = None

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> LIOConfig:
        """Returns the default configuration."""
        return LIOConfig(algo_class=cls)

    @override(BatchedAlgorithm)
    def training_step(self) -> None:
        """Trains policies on one rollout and incentive functions on the next, ``updates_per_iteration`` times."""
        config = self.config
        looks_ahead, reuse_samples = config.looks_ahead(), config.reuse_samples
        for update_index in range(config.updates_per_iteration):
            is_last = update_index == config.updates_per_iteration - 1
            sample, self._pending = self._pending or self.sample(report=is_last and not looks_ahead), None
            self.learn(sample, phase=POLICIES_PHASE, report=is_last and not looks_ahead)
            self.sync()
            if looks_ahead:
                incentive_sample = self.sample(report=is_last)
                self.learn(incentive_sample, phase=INCENTIVES_PHASE, report=is_last)
                if reuse_samples:
                    self._pending = incentive_sample
                if is_last or not reuse_samples:
                    self.sync()

    @override(BatchedAlgorithm)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns RLlib's state and, if there is one, the rollout that policies are trained on next."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._pending is not None and self._check_component(PENDING_SAMPLE, components, not_components):
            columns = {field.name: getattr(self._pending, field.name) for field in fields(Sample)}
            state[PENDING_SAMPLE] = tree.map_structure(lambda column: column.cpu().numpy(), columns)
        return state

    @override(BatchedAlgorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state that :meth:`get_state` returned."""
        super().set_state(state)
        if PENDING_SAMPLE in state:
            self._pending = Sample(**tree.map_structure(torch.as_tensor, state[PENDING_SAMPLE]))
