"""The LIO algorithm."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override
from typing_extensions import Self

from rllib_reciprocator.engine.algorithm import BatchedAlgorithm
from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.engine.updates.policy_gradient import UNIFORM_KL
from rllib_reciprocator.intrinsic.incentives.settings import INCENTIVES

LIO_PLAYER = "lio"


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

    default_player = LIO_PLAYER

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
    ) -> Self:
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


class LIO(BatchedAlgorithm):
    """Agents with a policy and an incentive function, which maps the actions of co-players to rewards for them.

    Source: Yang et al., "Learning to Incentivize Other Learning Agents", NeurIPS 2020. In an update, policies take a
    gradient step on a first rollout, with the incentives that they receive among their rewards. Incentive functions are
    then trained on a second rollout, sampled with the updated policies: their gradient is that of the giver's return
    with respect to the incentives, through the policies' step
    (:class:`rllib_reciprocator.intrinsic.incentives.look_ahead_rule.LookAheadRule`).

    Differs from the paper's code: an update uses many episodes instead of one. The gradient is computed without a graph
    through the policies' step, and with more than two agents each giver maximizes its own return. Log-probabilities
    include exploration in both steps. If policies have critics, incentive functions are trained with separate critics
    of extrinsic rewards.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> LIOConfig:
        """Returns the default configuration."""
        return LIOConfig(algo_class=cls)
