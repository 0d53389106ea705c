"""Losses of policies and critics."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from ray.rllib.algorithms.ppo.ppo import (
    LEARNER_RESULTS_KL_KEY,
    LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY,
    LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY,
)
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rllib_reciprocator.models import LOGITS, all_log_probs
from rllib_reciprocator.utils.distributed import masked_mean, mean_of_counted

# Names of losses: the clipped surrogate objective of PPO, and policy gradients without and with a critic.
PPO_LOSS, POLICY_GRADIENT, ACTOR_CRITIC = "ppo", "pg", "ac"
# Losses that need a critic.
WITH_CRITIC = (PPO_LOSS, ACTOR_CRITIC)
# Regularizers of policy gradients (``entropy_form``).
ENTROPY, UNIFORM_KL = "entropy", "uniform_kl"


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
    clipped = ratio.clamp(1.0 - config.clip_param, 1.0 + config.clip_param)
    surrogate = torch.min(advantages * ratio, advantages * clipped)
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


def policy_gradient_loss(
    module: Any,
    batch: dict[str, Tensor],
    out: dict[str, Tensor],
    *,
    entropy_coeff: Tensor | float,
    entropy_form: str,
    stats: dict[str, Tensor] | None = None,
) -> Tensor:
    """Computes the policy-gradient loss, summed over rows.

    Source: Williams (1992). Yang et al. (2020) also sum over the steps of an episode.

    Args:
        module: The module.
        batch: Rows with actions and advantages; rows where ``loss_mask`` is false do not count.
        out: Outputs of the module's forward pass.
        entropy_coeff: Weight of the regularizer.
        entropy_form: Regularizer: ``entropy``; or ``uniform_kl``, the mean log-probability of all actions without
            exploration.
        stats: Dict to which the terms of the loss are added by metric name; None if they are not logged.

    Returns:
        A scalar.
    """
    mask = batch.get(Columns.LOSS_MASK)
    distribution = module.get_train_action_dist_cls()
    policy = distribution.from_logits(out[Columns.ACTION_DIST_INPUTS])
    gains = policy.logp(batch[Columns.ACTIONS]) * batch[Postprocessing.ADVANTAGES]
    if entropy_form == UNIFORM_KL:
        logits = out.get(LOGITS, out[Columns.ACTION_DIST_INPUTS])
        bonus = all_log_probs(distribution.from_logits(logits), logits).mean(-1)
    else:
        bonus = policy.entropy()
    if stats is not None:
        stats |= {POLICY_LOSS_KEY: -masked_mean(gains, mask), ENTROPY_KEY: masked_mean(policy.entropy(), mask)}
    rows = -gains - entropy_coeff * bonus
    return rows.sum() if mask is None else (rows * mask).sum()


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
    unexplained = masked_mean((errors - masked_mean(errors, mask)).square(), mask)
    return (1.0 - unexplained / variance.clamp(min=1e-12)).clamp(min=-1.0)
