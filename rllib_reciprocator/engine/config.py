"""Configuration of algorithms on the batched engine: players, intrinsic rewards, training settings, and their parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.utils.annotations import override
from typing_extensions import Self

from rllib_reciprocator.engine import checks
from rllib_reciprocator.engine.env_runner import BatchedEnvRunner
from rllib_reciprocator.engine.learner import BatchedLearner
from rllib_reciprocator.engine.module_specs import ModuleSpecs, build_module_specs
from rllib_reciprocator.engine.player_mapping import assign
from rllib_reciprocator.engine.registries import intrinsic_names, intrinsic_reward
from rllib_reciprocator.engine.run_parts import RunPartsConfig
from rllib_reciprocator.engine.updates.policy_gradient import ENTROPY
from rllib_reciprocator.utils.ray_internals import drop_warnings

if TYPE_CHECKING:
    pass


def _module_of(agent_id: str, episode: Any = None, **kwargs: Any) -> str:
    """Returns the agent id as module id.

    RLlib's configuration needs a mapping function; the engine maps agents to modules by ``config.pool_members()``.
    """
    return agent_id


class BatchedConfig(RunPartsConfig):
    """Configuration of players of all kinds in a batched environment.

    The RLModule specs and the list of trained policies are derived from the players, and the batch sizes from the
    numbers of environments, steps and env runners. Both are derived when the configuration is validated.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults."""
        drop_warnings()
        super().__init__(algo_class=algo_class)
        self.normalize_advantages = True
        self.normalize_returns = False
        self.scale_advantages = False
        self.reward_scale = 1.0
        self.epsilon: float | list[list[float]] = 0.0
        self.entropy_form = ENTROPY
        self.use_baseline = True
        self.critic_lr = 3e-3
        self.critic_epochs = 1
        self.updates_per_iteration = 1
        self.reuse_samples = False
        self._derived_overrides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        # States without this attribute come from versions with other defaults of intrinsic rewards.
        self._defaults_version = 1

        self.algorithm_config_overrides_per_module: dict[str, Any] = {}
        self.env_runner_cls = BatchedEnvRunner
        self.num_epochs = 10
        self.lr = 5e-3
        self.gamma = 0.96
        self.lambda_ = 1.0
        self.clip_param = 0.1
        self.entropy_coeff = 0.02
        self.use_kl_loss = False
        self.vf_loss_coeff = 0.5
        self.vf_clip_param = float("inf")

    @classmethod
    @override(AlgorithmConfig)
    def from_state(cls, state: dict[str, Any]) -> BatchedConfig:
        """Restores a configuration from its state, with the defaults of the version that saved it."""
        config = super().from_state(state)
        if "_defaults_version" not in state:
            for name in intrinsic_names():
                old_defaults = intrinsic_reward(name).settings_class.defaults_0_1
                if old_defaults and name not in config.intrinsic_settings:
                    config.intrinsic(name, **old_defaults)
        return config

    def __repr__(self) -> str:
        """Returns the class, the environment with its settings, the players and the number of environments."""
        return (
            f"{type(self).__name__}(env={self.env!r}, env_config={dict(self.env_config)!r},"
            f" players={self.player_mapping!r}, num_envs_per_env_runner={self.num_envs_per_env_runner})"
        )

    # --- setters ----------------------------------------------------------------------------------------------------

    @override(PPOConfig)
    def training(
        self,
        *,
        normalize_advantages: bool = NotProvided,
        normalize_returns: bool = NotProvided,
        scale_advantages: bool = NotProvided,
        reward_scale: float = NotProvided,
        bootstrap_at_horizon: bool = NotProvided,
        epsilon: float | list[list[int | float]] = NotProvided,
        entropy_form: Literal["entropy", "uniform_kl"] = NotProvided,
        use_baseline: bool = NotProvided,
        critic_lr: float = NotProvided,
        critic_epochs: int = NotProvided,
        updates_per_iteration: int = NotProvided,
        reuse_samples: bool = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Sets the training settings of players; see also :meth:`PPOConfig.training`.

        Args:
            normalize_advantages: If True, advantages are standardized over the batch of each player.
            normalize_returns: If True, returns are standardized over the batch before the value is subtracted, as in
                the paper's code. Needs complete episodes, ``lambda_=1`` and ``bootstrap_at_horizon=False``.
            scale_advantages: If True, divides advantages by their standard deviation, a single one for all players and
                all kinds of co-players. Separate ones would change the relative weight of the kinds.
            reward_scale: Factor by which rewards are multiplied before critics and policies are trained on them.
            bootstrap_at_horizon: If True, the value of the last observation replaces the rewards after the horizon, as
                in RLlib. If False, rewards after the horizon are zero, as in the paper's code.
            epsilon: Probability of taking a uniformly random action during training, or a schedule of it,
                ``[[step, probability], ..]``. Log-probabilities are those of the resulting mixture
                (:func:`with_exploration`).
            entropy_form: Regularizer that ``entropy_coeff`` weights in the losses of ``pg`` and ``ac``: the entropy; or
                ``uniform_kl``, the mean log-probability of all actions without exploration, whose gradient does not
                vanish for policies that are almost deterministic.
            use_baseline: If True, ``pg`` subtracts from each return the mean over all episodes at the same step. Needs
                more than one episode per rollout.
            critic_lr: Learning rate of the critics of ``ac``, which are trained by Adam; ``lr`` is that of its
                policies, which are trained by SGD.
            critic_epochs: Number of gradient steps of these critics per iteration, each on the whole rollout.
            updates_per_iteration: Number of updates per training iteration, each on rollouts of its own.
            reuse_samples: If True, policies are trained next on the rollout of the last phase of an update, which was
                sampled with the current policies. Without update rules that need a second rollout there is one phase,
                and the setting has no effect.
            **kwargs: RLlib's own settings, and those of kinds of players.

        Returns:
            This configuration.
        """
        kind_settings = {name for kind in self.player_kinds().values() for name in kind.settings}
        values = {
            "normalize_advantages": normalize_advantages,
            "normalize_returns": normalize_returns,
            "scale_advantages": scale_advantages,
            "reward_scale": reward_scale,
            "bootstrap_at_horizon": bootstrap_at_horizon,
            "epsilon": epsilon,
            "entropy_form": entropy_form,
            "use_baseline": use_baseline,
            "critic_lr": critic_lr,
            "critic_epochs": critic_epochs,
            "updates_per_iteration": updates_per_iteration,
            "reuse_samples": reuse_samples,
            **{name: kwargs.pop(name) for name in kind_settings & kwargs.keys()},
        }
        super().training(**kwargs)
        for name, value in values.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict[str, Any]) -> Self:
        """Updates the configuration from a dict, as read from YAML files.

        Args:
            config_dict: RLlib's settings, and ``players``, ``meta``, ``learning_players``, ``model_config`` and
                intrinsic rewards by name.
        """
        rest = dict(config_dict)
        if "players" in rest:
            self.players(rest.pop("players"))
        for name in intrinsic_names():
            if name in rest:
                self.intrinsic(name, **rest.pop(name))
        if "meta" in rest:
            self.meta(**rest.pop("meta"))
        for name, settings in rest.pop("learning_players", {}).items():
            self.learning_player(name, **settings)
        if "model_config" in rest:
            self.rl_module(model_config=rest.pop("model_config"))
        return super().update_from_dict(rest)

    @override(PPOConfig)
    def get_default_learner_class(self) -> type:
        """Returns the learner class of the batched engine."""
        return BatchedLearner

    # --- validation -------------------------------------------------------------------------------------------------

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Validates the configuration and derives module specs, policies and overrides from it.

        Raises:
            ValueError: If a setting is invalid; the message names the setting and a fix.
        """
        checks.check_sampling(self)
        game = self.make_game()
        self.assigned_players = assign(
            self.unfolded_players(),
            game.agents,
            game.action_names,
            self.player_kinds(),
            self.default_player,
            tuple(self.learning_settings()),
            self.population_teams(),
        )
        self._frozen_inner_episodes = checks.frozen_inner_episodes(self)
        checks.check_sizes(self, game)
        specs = build_module_specs(self, game)
        # Lists instead of sets: the order of a set depends on the hash seed, and the initial weights on the order.
        self.policies = list(specs.of_players)
        self.policy_mapping_fn = _module_of
        self.policies_to_train = list(specs.learning)
        self._rl_module_spec = MultiRLModuleSpec(rl_module_specs={**specs.of_players, **specs.shared})
        self._derive_overrides(specs)
        checks.check_training(self, game, with_memory=specs.with_memory)
        if self.in_evaluation:
            # The evaluation configuration keeps the batch sizes of the training run, but has separate env runners. The
            # validation of PPO would reject it, as it compares the two.
            AlgorithmConfig.validate(self)
        else:
            super().validate()

    def _derive_overrides(self, specs: ModuleSpecs) -> None:
        """Merges the players' settings into the user's overrides per module.

        A configuration can be validated several times: overrides that were derived before are replaced, and are not
        mistaken for the user's.
        """
        base, derived_overrides = self._derived_overrides
        if self.algorithm_config_overrides_per_module != derived_overrides:
            base = self.algorithm_config_overrides_per_module
        derived_overrides = {
            module_id: {**base.get(module_id, {}), **specs.overrides.get(module_id, {})}
            for module_id in {**base, **specs.overrides}
        }
        self._derived_overrides = (base, derived_overrides)
        self.algorithm_config_overrides_per_module = derived_overrides
        self._per_module_overrides: dict[str, Any] = {}
