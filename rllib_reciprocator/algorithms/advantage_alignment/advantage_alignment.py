"""The Advantage Alignment algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.advantage_alignment.learner import ALIGNED, AdvantageAlignmentLearner
from rllib_reciprocator.algorithms.advantage_alignment.module import AlignedModule
from rllib_reciprocator.engine.algorithm import BatchedAlgorithm
from rllib_reciprocator.engine.config import BatchedConfig
from rllib_reciprocator.engine.losses import PPO_LOSS

if TYPE_CHECKING:
    from rllib_reciprocator.engine.module_specs import ModuleSpecs
    from rllib_reciprocator.models import ActorCriticModule
    from rllib_reciprocator.players import Player
    from social_dilemmas.batched_game import BatchedGame


class AdvantageAlignmentConfig(BatchedConfig):
    """Configuration of :class:`AdvantageAlignment`, for ``advantage_alignment`` players and those of other algorithms.

    .. code-block:: python

        config = AdvantageAlignmentConfig().environment("ipd_v0").training(alignment_weight=1.0)
        algorithm = config.build_algo()
    """

    algorithms: ClassVar[Mapping[str, str]] = {**BatchedConfig.algorithms, ALIGNED: PPO_LOSS}
    default_player = ALIGNED

    def __init__(self, algo_class: type | None = None) -> None:
        """Sets the defaults, which are tuned for the iterated prisoner's dilemma."""
        super().__init__(algo_class=algo_class or AdvantageAlignment)
        self.alignment_weight = 1.0
        self.num_envs_per_env_runner = 256
        self.lambda_ = 0.95
        self.bootstrap_at_horizon = True

    @override(BatchedConfig)
    def training(self, *, alignment_weight: float = NotProvided, **kwargs: Any) -> AdvantageAlignmentConfig:
        """Sets the training options; see also :meth:`BatchedConfig.training`.

        Args:
            alignment_weight: Weight of the alignment term in advantages (the paper's beta).
            **kwargs: Other settings.

        Returns:
            This configuration.
        """
        super().training(**kwargs)
        if alignment_weight is not NotProvided:
            self.alignment_weight = alignment_weight
        return self

    def estimates_co_players(self) -> bool:
        """Returns whether aligned players estimate the returns of co-players, because some of these are not trained."""
        return any(not member.learns for player in self.assigned_players for member, _ in player.pool_members)

    @override(BatchedConfig)
    def module_class(self, player: Player) -> type[ActorCriticModule]:
        """Returns the module class: for aligned players with estimates of co-players' returns if these are needed."""
        if player.algorithm == ALIGNED and self.estimates_co_players():
            return AlignedModule
        return super().module_class(player)

    @override(BatchedConfig)
    def complete_specs(self, specs: ModuleSpecs, game: BatchedGame) -> None:
        """Adds the settings of co-players' value estimates to the specs of aligned players."""
        super().complete_specs(specs, game)
        if not self.estimates_co_players():
            return
        for player, pool in zip(self.assigned_players, specs.pool_members, strict=True):
            for (member, _), (module_id, _) in zip(player.pool_members, pool, strict=True):
                if member.algorithm == ALIGNED:
                    coeff = member.settings.get("vf_loss_coeff", self.vf_loss_coeff)
                    specs.of_players[module_id].model_config |= {
                        "num_co_players": game.num_agents - 1,
                        "vf_loss_coeff": coeff,
                    }

    @override(BatchedConfig)
    def identifies_environments(self, game: BatchedGame) -> bool:
        """Returns whether episodes continue from one rollout to the next, so that past TD errors must be kept."""
        return not self.plays_whole_episodes(game) and not self.in_evaluation

    @override(BatchedConfig)
    def get_default_learner_class(self) -> type:
        """Returns the learner class that aligns advantages."""
        return AdvantageAlignmentLearner


class AdvantageAlignment(BatchedAlgorithm):
    """PPO with an additional advantage term: past TD errors of the agent times present advantages of co-players.

    Source: Duque, Aghajohari et al., "Advantage Alignment Algorithms", ICLR 2025.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> AdvantageAlignmentConfig:
        """Returns the default configuration."""
        return AdvantageAlignmentConfig(algo_class=cls)
