"""PPO: epochs of minibatches on the clipped surrogate objective, for all its policies together."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from ray.rllib.algorithms.ppo.ppo import (
    LEARNER_RESULTS_KL_KEY,
    LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY,
    LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY,
)
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import MODULE_TRAIN_BATCH_SIZE_MEAN
from torch import Tensor

from rllib_reciprocator.engine.minibatches import counted_rows, minibatches
from rllib_reciprocator.engine.update_rule import Stage, Stats, UpdateInfo, UpdateRule
from rllib_reciprocator.utils.distributed import masked_mean, mean_of_counted

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from rllib_reciprocator.engine.learner import BatchedLearner
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch


class PPORule(UpdateRule):
    """Trains policies and critics by PPO, with RLlib's joint forward pass and distributed wrappers."""

    trains_predictions: ClassVar[bool] = True
    # Terms of the losses of a minibatch by module id; None if they are not logged.
    _terms: dict[str, dict[str, Tensor]] | None = None

    def num_epochs(self, info: UpdateInfo) -> int:
        """Returns the number of epochs."""
        return info.num_epochs

    def loss(
        self, learner: BatchedLearner, module_id: str, config: AlgorithmConfig, batch: dict[str, Any], out: Any
    ) -> Tensor:
        """Computes the PPO loss plus the module's auxiliary losses."""
        module = learner.unwrapped(module_id)
        terms: dict[str, Tensor] | None = None if self._terms is None else {}
        loss = ppo_loss(
            module,
            batch,
            out,
            config,
            entropy_coeff=learner.entropy_coeff(module_id),
            kl_coeff=learner.curr_kl_coeffs_per_module[module_id],
            stats=terms,
        )
        if hasattr(module, "auxiliary_losses"):
            for name, (value, weight) in module.auxiliary_losses(batch, out).items():
                loss = loss + weight * value
                if terms is not None:
                    terms[name] = value
        if self._terms is not None and terms is not None:
            self._terms[module_id] = {name: value.detach() for name, value in terms.items()}
        return loss

    def update(self, learner: BatchedLearner, batch: RolloutBatch, info: UpdateInfo) -> Stats:
        """Takes one gradient step per minibatch on the policies' rows."""
        rows = {module_id: info.rows[module_id] for module_id in self.module_ids if module_id in info.rows}
        if not rows:
            return {}
        num_agents = {module_id: len(self.context.agents_of(module_id)) for module_id in rows}
        selectors = list(minibatches(rows, num_agents, info, info.generators[Stage.POLICIES]))
        losses: Mapping[str, Tensor] = {}
        for index, selector in enumerate(selectors):
            # Only the loss terms of the last minibatch are logged, so the others do not compute them.
            self._terms = {} if index == len(selectors) - 1 else None
            losses = learner.update_minibatch(
                {module_id: select(rows[module_id]) for module_id, select in selector.items()}
            )
        terms = self._terms or {}
        self._terms = None
        for module_id, columns in rows.items():
            size = counted_rows(columns) * info.num_epochs / len(selectors)
            learner.metrics.log_value((module_id, MODULE_TRAIN_BATCH_SIZE_MEAN), size, reduce="mean")
        return {
            module_id: {learner.TOTAL_LOSS_KEY: loss.detach(), **terms.get(module_id, {})}
            for module_id, loss in losses.items()
        }

    def step_size(self, learner: BatchedLearner, module_id: str, rows: dict[str, Any]) -> Tensor | float:
        """Returns the size of one SGD step, by which the steps of PPO are approximated."""
        return learner.learning_rate(module_id) / max(1.0, learner.rows.num_episodes(rows, all_learners=True))


def ppo_loss(
    module: Any,
    batch: dict[str, Tensor],
    out: dict[str, Tensor],
    config: Any,
    *,
    entropy_coeff: Tensor | float,
    kl_coeff: Tensor | float,
    stats: dict[str, Tensor] | None = None,
) -> Tensor:
    """Computes the clipped surrogate objective with value loss and entropy bonus, as in RLlib's PPO.

    Source: Schulman et al. (2017), equation 9. The result equals that of RLlib's own function; terms that are only
    needed for metrics are computed on demand.

    Args:
        module: The module, with ``compute_values``.
        batch: Rows with observations, actions, their log-probabilities, distribution inputs, advantages and value
            targets; rows where ``loss_mask`` is false do not count.
        out: Outputs of the module's forward pass.
        config: PPO settings of this module.
        entropy_coeff: Weight of the entropy bonus.
        kl_coeff: Weight of the KL divergence from the behavior policy, if ``config.use_kl_loss``.
        stats: Dict to which the terms of the loss are added by metric name; None if they are not logged.

    Returns:
        A scalar.
    """
    mask = batch.get(Columns.LOSS_MASK)
    policy = module.get_train_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
    ratio = (policy.logp(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP]).exp()
    advantages = batch[Postprocessing.ADVANTAGES]
    clipped_ratio = ratio.clamp(1.0 - config.clip_param, 1.0 + config.clip_param)
    surrogate = torch.min(advantages * ratio, advantages * clipped_ratio)
    entropy = policy.entropy()
    rows = -surrogate - entropy_coeff * entropy
    values = squared_error = clipped_error = None
    if config.use_critic:
        values = module.compute_values(batch, embeddings=out.get(Columns.EMBEDDINGS))
        squared_error = (values - batch[Postprocessing.VALUE_TARGETS]).square()
        # A clamp without effect would cost a pass over all rows.
        clipped_error = squared_error
        if config.vf_clip_param != inf:
            clipped_error = squared_error.clamp(max=config.vf_clip_param)
        rows = rows + config.vf_loss_coeff * clipped_error
    loss = mean_of_counted(rows, mask)
    mean_kl = None
    if config.use_kl_loss:
        behavior = module.get_exploration_action_dist_cls().from_logits(batch[Columns.ACTION_DIST_INPUTS])
        kl = behavior.kl(policy)
        loss = loss + kl_coeff * mean_of_counted(kl, mask)
        # RLlib adapts the KL coefficient of each learner to the mean over that learner's rows.
        mean_kl = masked_mean(kl, mask)
    if stats is not None:
        zero = torch.zeros((), device=loss.device)
        stats |= {
            POLICY_LOSS_KEY: -masked_mean(surrogate, mask),
            ENTROPY_KEY: masked_mean(entropy, mask),
            LEARNER_RESULTS_KL_KEY: zero if mean_kl is None else mean_kl,
        }
        if values is not None:
            assert squared_error is not None
            assert clipped_error is not None
            stats |= {
                VF_LOSS_KEY: masked_mean(clipped_error, mask),
                LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY: masked_mean(squared_error, mask),
                LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY: _explained_variance(
                    batch[Postprocessing.VALUE_TARGETS], values, mask
                ),
            }
    return loss


@torch.no_grad()
def _explained_variance(targets: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the share of the targets' variance that values explain, at least -1, as RLlib defines it.

    Args:
        targets: ``[rows]``, value targets.
        values: ``[rows]``, value estimates.
        mask: ``[rows]`` bool, the rows that count; None if all do.
    """
    errors = targets - values
    variance = masked_mean((targets - masked_mean(targets, mask)).square(), mask)
    residual_variance = masked_mean((errors - masked_mean(errors, mask)).square(), mask)
    return (1.0 - residual_variance / variance.clamp(min=1e-12)).clamp(min=-1.0)
