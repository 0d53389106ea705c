"""RLlib's own learners, for the players that RLlib does not know."""

from __future__ import annotations

from functools import cache
from typing import Any

from ray.rllib.connectors.learner import GeneralAdvantageEstimation
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.annotations import override

from rllib_reciprocator.algorithms.influence_learner import FixedModulesLearner, InfluenceLearner
from rllib_reciprocator.connectors.own_discounts import OwnDiscounts
from rllib_reciprocator.connectors.reciprocal_rewards import AddJointSteps
from rllib_reciprocator.rollout import INFLUENCE_MODULE_ID


class OwnDiscountsLearner(TorchLearner):
    """Mixed into a learner class of RLlib's: each module's advantages have its own gamma and lambda.

    Losses that discount by themselves (IMPALA, APPO) use their module's own already.
    """

    @override(Learner)
    def build(self) -> None:
        """Builds the learner and changes its connectors."""
        super().build()
        if self._learner_connector is not None and self._learner_connector[GeneralAdvantageEstimation]:
            self._learner_connector.insert_before(GeneralAdvantageEstimation, OwnDiscounts(self._discounts))
            self._learner_connector.remove(GeneralAdvantageEstimation)

    def _discounts(self, module_id: str) -> tuple[float, float]:
        config = self.config.get_config_for_module(module_id)
        return config.gamma, config.lambda_


@cache
def players_learner(base: type[Learner]) -> type[Learner]:
    """A learner class of RLlib's for players of whom nobody reciprocates."""
    return type(base.__name__, (OwnDiscountsLearner, FixedModulesLearner, base), {})


@cache
def reciprocal_learner(base: type[Learner]) -> type[Learner]:
    """A learner class of RLlib's that fits the influence estimator too."""

    class ReciprocalLearner(OwnDiscountsLearner, InfluenceLearner, base):
        """Takes the estimator's rows out of each batch and fits it before the policies learn from the rest."""

        @override(Learner)
        def build(self) -> None:
            super().build()
            self._learner_connector.append(AddJointSteps())

        @override(Learner)
        def _create_iterator_if_necessary(self, *, training_data: TrainingData, **kwargs: Any) -> Any:
            batch = self._make_batch_if_necessary(training_data)
            rows = batch.policy_batches.pop(INFLUENCE_MODULE_ID, None)
            if rows is not None:
                self._seed_update()
                columns = {name: values.to(self._device) for name, values in rows.items()}
                self._fit_estimator(columns, self._weights_seq_no - 1)
            return super()._create_iterator_if_necessary(training_data=TrainingData(batch=batch), **kwargs)

    ReciprocalLearner.__name__ = f"Reciprocal{base.__name__}"
    return ReciprocalLearner
