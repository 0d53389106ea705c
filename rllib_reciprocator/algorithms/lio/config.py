"""The configuration of LIO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.engine.losses import ACTOR_CRITIC, POLICY_GRADIENT, UNIFORM_KL
from rllib_reciprocator.intrinsic.incentives.specs import INCENTIVES_MODULE_ID, pays
from rllib_reciprocator.players import INCENTIVES

if TYPE_CHECKING:
    from rllib_reciprocator.engine.module_specs import ModuleSpecs
    from social_dilemmas.batched_game import BatchedGame

LIO_PLAYER, LIO_ACTOR_CRITIC = "lio", "lio_ac"
LOOK_AHEAD = "look_ahead"


class LIOConfig(BatchedConfig):
    """Players ``lio`` and ``lio_ac``, and whoever plays with them, in one of the batched games.

    Both learn what to give the others; the policy of one learns as ``pg`` does, that of the other as ``ac``. With
    ``{player: lio, gives: false}`` a player has nothing to give.

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
        """Sets the defaults: those that learn in Escape Room."""
        from rllib_reciprocator.algorithms.lio.lio import LIO

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
        """Sets how incentives are given and learned. Unset settings keep their values.

        Args:
            max_incentive: The most that one gives another in a step (the paper's R_max).
            hiddens: Widths of the hidden layers of incentive functions.
            told_actions: Names of the others' actions that incentive functions tell apart, as ``[clean]``; None for
                all.
            observe_given: Whether policies and incentive functions see what their agent has given each other agent so
                far in the episode, as the paper's do in Escape Room.
            charge_giver: Whether what one gives is taken off what one's own policy learns from. The paper's text says
                so; its code charges incentive functions alone, by ``cost_coeff``.
            lr: Learning rate of incentive functions, by Adam; a number, or a schedule by joint steps.
            cost_coeff: Weight of what is given, as a share of ``max_incentive`` and discounted, in their loss; a number
                or a schedule by joint steps.
            cost_lr: Learning rate, or schedule, of an Adam of its own for that cost, as in the paper's code for Escape
                Room; its weight then does not matter, unless it is 0. At such a rate pay goes on falling where nothing
                else moves it, until cooperation ends; a schedule that ends with 0 keeps what was found. None for one
                Adam for both.
            critic_lr: Learning rate of the critics of givers' own extrinsic rewards, by Adam, where policies have
                critics.
            critic_epochs: Their gradient steps in an update.
            learned_by: ``look_ahead``, as LIO; or ``policy_gradient``, the paper's baselines PG-c and AC-c: giving is a
                continuous action, drawn with a standard deviation of 1 before the sigmoid and learned as others are,
                by gradient descent at ``lr``. Nobody looks at what others learn from it. ``charge_giver`` goes with it.
            opponents: ``known``, the others' policies; or ``modelled``, for givers who go by what they see others do,
                the paper's decentralised form: they see the others' observations, actions and rewards, and take them to
                learn by policy gradients at the rate at which they do. Needs a fully observed game.
            opponent_hiddens: Widths of the hidden layers of models of others.
            opponent_lr: Their learning rate, by Adam.
            opponent_epochs: Their gradient steps on each sample.

        Returns:
            This configuration.

        Raises:
            pydantic.ValidationError: If a value has the wrong type or is out of range.
        """
        given = {name: value for name, value in locals().items() if name != "self" and value is not NotProvided}
        self.intrinsic(INCENTIVES, **given)
        return self

    @override(BatchedConfig)
    def training(
        self, *, reuse_samples: bool = NotProvided, updates_per_iteration: int = NotProvided, **kwargs: Any
    ) -> LIOConfig:
        """Sets how players learn; see also :meth:`BatchedConfig.training`.

        Args:
            reuse_samples: Whether what incentives are judged by is what policies learn from next, which halves what is
                sampled; the policies are the same. The paper samples twice.
            updates_per_iteration: How often policies and incentive functions are updated in one training iteration.
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
        """The learner of policies and incentive functions."""
        from rllib_reciprocator.algorithms.lio.learner import LIOLearner

        return LIOLearner

    def givers(self) -> list[int]:
        """The agents whose incentive functions learn."""
        return self._learning(lambda player: INCENTIVES in player.intrinsic)

    def looks_ahead(self) -> bool:
        """Whether somebody learns to give by looking through the others' steps."""
        return bool(self.givers()) and getattr(self._settings_of_all(INCENTIVES), "learned_by", "") == LOOK_AHEAD

    def _learning(self, wanted: Any) -> list[int]:
        """The agents that some player of a kind may play who learns."""
        return [
            index
            for index, player in enumerate(self.assigned_players)
            if any(each.learns and wanted(each) for each, _ in player.pool_members)
        ]

    @override(BatchedConfig)
    def complete_specs(self, specs: ModuleSpecs, game: BatchedGame) -> None:
        """Who learns is given to; givers have critics where their policies do."""
        if INCENTIVES_MODULE_ID in specs.shared:
            givers, recipients = self.givers(), self._learning(lambda player: True)
            specs.shared[INCENTIVES_MODULE_ID].model_config |= {
                "pays": pays(givers, recipients, game.num_agents),
                "critic": self.looks_ahead()
                and any(
                    self.loss_of(each) != POLICY_GRADIENT
                    for index in givers
                    for each, _ in self.assigned_players[index].pool_members
                    if each.learns
                ),
            }

    @override(BatchedConfig)
    def validate(self) -> None:
        """Derives what follows from players, games and runners, and checks everything.

        Raises:
            ValueError: With the setting at fault and how to mend it.
        """
        if not isinstance(self.updates_per_iteration, int) or self.updates_per_iteration < 1:
            raise ValueError(f"updates_per_iteration: {self.updates_per_iteration} must be at least 1")
        super().validate()
        models = getattr(self._settings_of_all(INCENTIVES), "opponents", "known") == "modelled"
        pools = [player.agent for player in self.assigned_players if len(player.pool_members) > 1]
        if self.givers() and models and pools:
            raise ValueError(
                f"incentives.opponents: modelled takes the policy of each agent to be one, and players.{pools[0]} is a"
                " pool; set it to known"
            )
        if not self.in_evaluation:
            self._check_recipients()
        if self.givers() and not self.plays_whole_episodes(self.make_game()):
            raise ValueError("batch_mode: incentives are learned from whole episodes; set it to complete_episodes")

    def _check_recipients(self) -> None:
        """Raises ValueError if a player would learn to give, but no other agent is trained by this algorithm."""
        recipients = self._learning(lambda player: True)
        for index in self.givers():
            if not set(recipients) - {index}:
                agent = self.assigned_players[index].agent
                raise ValueError(
                    f"players.{agent}: incentives change what the algorithm's other players learn, and there is none;"
                    f" set {{player: {LIO_PLAYER}, gives: false}}, or let another agent learn, as pg"
                )
