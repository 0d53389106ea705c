"""RLlib's PPO, APPO and IMPALA learners, extended by the mixins that players and reciprocity need."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.learner import GeneralAdvantageEstimation
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_reciprocator.engine.learner import new_seed, seed_generators
from rllib_reciprocator.engine.rule_states import KeepsRuleStates
from rllib_reciprocator.engine.update_rule import Stage
from rllib_reciprocator.intrinsic.reciprocity.estimator_rule import REPLAYS, EstimatorRule, EstimatorTrainer, ReplayRows
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.rllib_episodes.influence_callback import EpisodeInfluenceCallback
from rllib_reciprocator.rllib_episodes.per_module_gae import PerModuleGAE
from rllib_reciprocator.rllib_episodes.reciprocal_rewards import AddJointSteps, AddReciprocalRewards
from rllib_reciprocator.utils.exact_restore import ExactRestoreLearner
from rllib_reciprocator.utils.fixed_modules import FixedModulesLearner

# Key of the learner's state.
REPLAY = "replay"


class OwnDiscountsLearner(TorchLearner):
    """Learner mixin that computes the advantages of each module with the module's own gamma and lambda.

    The V-trace losses of IMPALA and APPO read the settings of each module already.
    """

    @override(Learner)
    def build(self) -> None:
        """Builds the learner and replaces RLlib's GAE connector."""
        super().build()
        if self._learner_connector is not None and self._learner_connector[GeneralAdvantageEstimation]:
            self._learner_connector.insert_before(GeneralAdvantageEstimation, PerModuleGAE(self._discounts))
            self._learner_connector.remove(GeneralAdvantageEstimation)

    def _discounts(self, module_id: str) -> tuple[float, float]:
        config = self.config.get_config_for_module(module_id)
        return config.gamma, config.lambda_


class RestoringLearner(ExactRestoreLearner):
    """Learner mixin whose state includes entropy and KL coefficients, for configs without players."""


class PlayersLearner(OwnDiscountsLearner, FixedModulesLearner):
    """Learner mixin for configs with players, none of which reciprocates."""


class ReplayState:
    """Replay buffer of a learner as the state of a rule (:class:`KeepsRuleStates`)."""

    state_key = REPLAYS
    reshard = staticmethod(EstimatorRule.reshard)

    def __init__(self, trainer: EstimatorTrainer, device: torch.device) -> None:
        self._trainer, self._device = trainer, device

    def get_state(self) -> list[ReplayRows]:
        """Returns the replay buffer as arrays."""
        return self._trainer.get_state()

    def set_state(self, state: list[ReplayRows]) -> None:
        """Replaces the replay buffer."""
        self._trainer.set_state(state, self._device)


class ReciprocalLearner(OwnDiscountsLearner, FixedModulesLearner):
    """Learner mixin that also fits the influence estimator, for configs with at least one Reciprocator.

    Removes the estimator's rows from each batch and fits the estimator on them before the policies are updated. The
    replay buffer is part of the state of the algorithm (:class:`KeepsRuleStates`) or, with RLlib's own algorithm class,
    of this learner, so that a resumed run continues with it.
    """

    @override(Learner)
    def build(self) -> None:
        """Builds the learner and appends the connector that adds the joint steps to the batch."""
        super().build()
        self._trainer = EstimatorTrainer()
        self.rules = [ReplayState(self._trainer, self._device)]
        self._entropy = new_seed() if self.config.seed is None else self.config.seed
        self._check_composed()
        self._learner_connector.append(AddJointSteps())

    def _check_composed(self) -> None:
        """Raises ValueError if the connectors, modules or callbacks of reciprocity were replaced.

        The classes of :mod:`rllib_reciprocator.rllib_episodes.algorithms` compose them with the user's. If RLlib's own
        algorithm class runs with the config instead, e.g. in ``Tuner("PPO", ..)``, values that the user set after
        ``reciprocate()`` overwrite them.
        """
        replacements = {
            "learner_connector": not self._learner_connector[AddReciprocalRewards],
            "rl_module_spec": INFLUENCE_MODULE_ID not in self.module,
            "callbacks": EpisodeInfluenceCallback not in force_list(self.config.callbacks_class),
        }
        for name, is_replaced in replacements.items():
            if is_replaced:
                raise ValueError(
                    f"{name}: overwritten after reciprocate(), and the trainable is RLlib's own class, which does not"
                    " restore it; pass config.algo_class as the trainable"
                )

    @override(Learner)
    def _create_iterator_if_necessary(self, *, training_data: TrainingData, **kwargs: object) -> Any:
        batch = self._make_batch_if_necessary(training_data)
        rows = batch.policy_batches.pop(INFLUENCE_MODULE_ID, None)
        if rows is not None:
            generator = seed_generators(self._entropy, self._weights_seq_no)[Stage.ESTIMATORS]
            columns = {name: values.to(self._device) for name, values in rows.items()}
            self._trainer.fit(self, columns, self._weights_seq_no - 1, generator)
        return super()._create_iterator_if_necessary(training_data=TrainingData(batch=batch), **kwargs)

    @override(TorchLearner)
    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> dict[Any, Tensor]:
        """Returns the gradients of the updated modules only, since policies and estimator are updated separately."""
        gradients = super().compute_gradients(loss_per_module, **kwargs)
        return {name: gradient for name, gradient in gradients.items() if gradient is not None}

    @override(Learner)
    def should_module_be_updated(self, module_id: str, multi_agent_batch: Any = None) -> bool:
        """Returns True for the estimator, so that IMPALA and APPO send its weights to the env runners."""
        return module_id == INFLUENCE_MODULE_ID or super().should_module_be_updated(module_id, multi_agent_batch)

    @override(Learner)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Returns RLlib's state, with the replay buffer unless it is part of the algorithm's state."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        algo_class = self.config.algo_class
        in_algorithm = isinstance(algo_class, type) and issubclass(algo_class, KeepsRuleStates)
        if not in_algorithm and self._check_component(REPLAY, components, not_components):
            state[REPLAY] = self._trainer.get_state()
        return state

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state that :meth:`get_state` returned."""
        super().set_state(state)
        if REPLAY in state:
            self._trainer.set_state(state[REPLAY], self._device)


class RestoringPPOLearner(RestoringLearner, PPOTorchLearner):
    """PPO learner for configs without players."""


class RestoringAPPOLearner(RestoringLearner, APPOTorchLearner):
    """APPO learner for configs without players."""


class RestoringIMPALALearner(RestoringLearner, IMPALATorchLearner):
    """IMPALA learner for configs without players."""


class PlayersPPOLearner(PlayersLearner, PPOTorchLearner):
    """PPO learner for configs with players."""


class PlayersAPPOLearner(PlayersLearner, APPOTorchLearner):
    """APPO learner for configs with players."""


class PlayersIMPALALearner(PlayersLearner, IMPALATorchLearner):
    """IMPALA learner for configs with players."""


class ReciprocalPPOLearner(ReciprocalLearner, PPOTorchLearner):
    """PPO learner for configs with Reciprocators."""


class ReciprocalAPPOLearner(ReciprocalLearner, APPOTorchLearner):
    """APPO learner for configs with Reciprocators."""


class ReciprocalIMPALALearner(ReciprocalLearner, IMPALATorchLearner):
    """IMPALA learner for configs with Reciprocators."""


MIXINS: tuple[type, ...] = (RestoringLearner, PlayersLearner, ReciprocalLearner)
_STATIC: dict[tuple[type, type], type[Learner]] = {
    learner_class.__bases__: learner_class
    for learner_class in (
        RestoringPPOLearner, RestoringAPPOLearner, RestoringIMPALALearner,
        PlayersPPOLearner, PlayersAPPOLearner, PlayersIMPALALearner,
        ReciprocalPPOLearner, ReciprocalAPPOLearner, ReciprocalIMPALALearner,
    )
}  # fmt: skip


@cache
def learner_with(mixin: type, base: type[Learner]) -> type[Learner]:
    """Returns a learner class with one of this package's mixins.

    Args:
        mixin: One of the classes in ``MIXINS``.
        base: A learner class of RLlib or of the user. A mixin that it has already is replaced.

    Returns:
        For RLlib's learner classes a class of this module, so that checkpoints refer to it by name and do not contain
        its code; otherwise a newly created class.
    """
    if base.__bases__[0] in MIXINS:
        base = base.__bases__[1]
    return _STATIC.get((mixin, base)) or type(f"{mixin.__name__}{base.__name__}", (mixin, base), {})
