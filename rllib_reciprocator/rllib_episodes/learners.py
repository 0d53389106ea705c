"""RLlib's own learners, for the players that RLlib does not know."""

from __future__ import annotations

from functools import cache
from typing import Any

from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.learner import GeneralAdvantageEstimation
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override

from rllib_reciprocator.intrinsic.reciprocity.learner import InfluenceLearner
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.rllib_episodes.influence_callback import EpisodeInfluenceCallback
from rllib_reciprocator.rllib_episodes.per_module_gae import PerModuleGAE
from rllib_reciprocator.rllib_episodes.reciprocal_rewards import AddJointSteps, AddReciprocalRewards
from rllib_reciprocator.utils.exact_restore import ExactRestoreLearner
from rllib_reciprocator.utils.fixed_modules import FixedModulesLearner


class OwnDiscountsLearner(TorchLearner):
    """Mixed into a learner class of RLlib's: each module's advantages have its own gamma and lambda.

    Losses that discount by themselves (IMPALA, APPO) use their module's own already.
    """

    @override(Learner)
    def build(self) -> None:
        """Builds the learner and changes its connectors."""
        super().build()
        if self._learner_connector is not None and self._learner_connector[GeneralAdvantageEstimation]:
            self._learner_connector.insert_before(GeneralAdvantageEstimation, PerModuleGAE(self._discounts))
            self._learner_connector.remove(GeneralAdvantageEstimation)

    def _discounts(self, module_id: str) -> tuple[float, float]:
        config = self.config.get_config_for_module(module_id)
        return config.gamma, config.lambda_


class RestoringLearner(ExactRestoreLearner):
    """Mixed into a learner class of RLlib's: its state includes entropy and KL coefficients."""


class PlayersLearner(OwnDiscountsLearner, FixedModulesLearner):
    """Mixed into a learner class of RLlib's: for players of whom nobody reciprocates."""


class ReciprocalLearner(OwnDiscountsLearner, InfluenceLearner):
    """Mixed into a learner class of RLlib's: it fits the influence estimator too.

    It takes the estimator's rows out of each batch and fits it before the policies learn from the rest.
    """

    @override(Learner)
    def build(self) -> None:
        """Builds the learner, whose last connector hands joint steps on."""
        super().build()
        self._check_composed()
        self._learner_connector.append(AddJointSteps())

    def _check_composed(self) -> None:
        """Raises ValueError if connectors, modules or callbacks of reciprocity were replaced.

        The classes of :mod:`rllib_reciprocator.rllib_episodes.algorithms` compose them with the user's. Where RLlib's
        own class is run with the settings (as by ``Tuner("PPO", ..)``), those that were set last count.
        """
        replaced = {
            "learner_connector": not self._learner_connector[AddReciprocalRewards],
            "rl_module_spec": INFLUENCE_MODULE_ID not in self.module,
            "callbacks": EpisodeInfluenceCallback not in force_list(self.config.callbacks_class),
        }
        for name, is_replaced in replaced.items():
            if is_replaced:
                raise ValueError(
                    f"{name}: was replaced after reciprocate(), and RLlib's own algorithm runs; pass config.algo_class"
                    " as the trainable"
                )

    @override(Learner)
    def _create_iterator_if_necessary(self, *, training_data: TrainingData, **kwargs: Any) -> Any:
        batch = self._make_batch_if_necessary(training_data)
        rows = batch.policy_batches.pop(INFLUENCE_MODULE_ID, None)
        if rows is not None:
            self._seed_update()
            columns = {name: values.to(self._device) for name, values in rows.items()}
            self._fit_estimator(columns, self._weights_seq_no - 1)
        return super()._create_iterator_if_necessary(training_data=TrainingData(batch=batch), **kwargs)


class RestoringPPOLearner(RestoringLearner, PPOTorchLearner):
    """PPO's learner, for runs without players."""


class RestoringAPPOLearner(RestoringLearner, APPOTorchLearner):
    """APPO's learner, for runs without players."""


class RestoringIMPALALearner(RestoringLearner, IMPALATorchLearner):
    """IMPALA's learner, for runs without players."""


class PlayersPPOLearner(PlayersLearner, PPOTorchLearner):
    """PPO's learner, for players."""


class PlayersAPPOLearner(PlayersLearner, APPOTorchLearner):
    """APPO's learner, for players."""


class PlayersIMPALALearner(PlayersLearner, IMPALATorchLearner):
    """IMPALA's learner, for players."""


class ReciprocalPPOLearner(ReciprocalLearner, PPOTorchLearner):
    """PPO's learner, for players of whom some reciprocate."""


class ReciprocalAPPOLearner(ReciprocalLearner, APPOTorchLearner):
    """APPO's learner, for players of whom some reciprocate."""


class ReciprocalIMPALALearner(ReciprocalLearner, IMPALATorchLearner):
    """IMPALA's learner, for players of whom some reciprocate."""


MIXINS: tuple[type, ...] = (RestoringLearner, PlayersLearner, ReciprocalLearner)
_STATIC: dict[tuple[type, type], type[Learner]] = {
    each.__bases__: each
    for each in (
        RestoringPPOLearner, RestoringAPPOLearner, RestoringIMPALALearner,
        PlayersPPOLearner, PlayersAPPOLearner, PlayersIMPALALearner,
        ReciprocalPPOLearner, ReciprocalAPPOLearner, ReciprocalIMPALALearner,
    )
}  # fmt: skip


@cache
def learner_with(mixin: type, base: type[Learner]) -> type[Learner]:
    """A learner class with something of ours mixed in.

    Args:
        mixin: One of the classes in ``MIXINS``.
        base: A learner class of RLlib's, or of the user's own.

    Returns:
        A class of this module for RLlib's own, so that checkpoints name it and do not hold its code.
    """
    if base.__bases__[0] in MIXINS:  # mixed in before, maybe the other
        base = base.__bases__[1]
    return _STATIC.get((mixin, base)) or type(f"{mixin.__name__}{base.__name__}", (mixin, base), {})
