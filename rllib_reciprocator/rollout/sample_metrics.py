"""RLlib's usual env-runner metrics, from columns instead of episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from ray.rllib.utils.metrics import (
    EPISODE_AGENT_RETURN_MEAN,
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    NUM_AGENT_STEPS_SAMPLED,
    NUM_AGENT_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    NUM_MODULE_STEPS_SAMPLED,
    NUM_MODULE_STEPS_SAMPLED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from torch import Tensor

if TYPE_CHECKING:
    from rllib_reciprocator.rollout.batched_env_runner import BatchedEnvRunner
    from rllib_reciprocator.rollout.columnar_sample import ColumnarSample

OUTCOMES = "outcomes"


def log_sample(runner: BatchedEnvRunner, sample: ColumnarSample, running: Tensor) -> Tensor:
    """Logs steps, episodes, extrinsic returns and outcomes of one sample.

    Args:
        runner: Whose metrics these are.
        sample: The sample.
        running: ``[B, N + 1]``, returns so far, and steps, of the episodes that were under way when the sample began.

    Returns:
        ``[B, N + 1]``: the same of the episodes now under way.
    """
    metrics, agents = runner.metrics, runner.game.agents
    steps = sample.env_steps()
    runner.num_env_steps_sampled_lifetime += steps
    metrics.log_value(NUM_ENV_STEPS_SAMPLED, steps, reduce="sum")
    metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, steps, reduce="lifetime_sum", with_throughput=True)
    metrics.log_value(WEIGHTS_SEQ_NO, runner._weights_seq_no, window=1)
    for agent in agents:
        for key in (NUM_AGENT_STEPS_SAMPLED, NUM_MODULE_STEPS_SAMPLED):
            metrics.log_value((key, agent), steps, reduce="sum")
        for key in (NUM_AGENT_STEPS_SAMPLED_LIFETIME, NUM_MODULE_STEPS_SAMPLED_LIFETIME):
            metrics.log_value((key, agent), steps, reduce="lifetime_sum")

    rates = runner.game.summarize({name: total.sum(0) for name, total in sample.outcomes.items()}, steps)
    for name, values in rates.items():
        for agent, value in zip(agents, values.tolist(), strict=True):
            metrics.log_value((OUTCOMES, agent, name), value, reduce="mean")

    ended = sample.terminated | sample.truncated
    summed, running = _episode_sums(
        torch.cat([sample.rewards, torch.ones_like(sample.rewards[..., :1])], -1), ended, running
    )
    if episodes := len(summed):
        returns, lengths = summed[:, :-1], summed[:, -1]
        metrics.log_value(NUM_EPISODES, episodes, reduce="sum")
        metrics.log_value(NUM_EPISODES_LIFETIME, episodes, reduce="lifetime_sum")
        metrics.log_value(EPISODE_LEN_MEAN, float(lengths.mean()), reduce="mean")
        collective = returns.sum(1)
        metrics.log_value(EPISODE_RETURN_MEAN, float(collective.mean()), reduce="mean")
        metrics.log_value(EPISODE_RETURN_MIN, float(collective.min()), reduce="min")
        metrics.log_value(EPISODE_RETURN_MAX, float(collective.max()), reduce="max")
        for agent, value in zip(agents, returns.mean(0).tolist(), strict=True):
            metrics.log_value((EPISODE_AGENT_RETURN_MEAN, agent), value, reduce="mean")
    return running


def _episode_sums(values: Tensor, ended: Tensor, running: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the episodes that ended, ``[episodes, K]``, and so far over the others, ``[B, K]``.

    A sum is the difference between what is cumulated at an episode's end and at the end before it.

    Args:
        values: ``[B, T, K]``, what to sum.
        ended: ``[B, T]`` bool, whether an episode ended with that step.
        running: ``[B, K]``, sums so far of the episodes that were under way.
    """
    cumulated = running[:, None] + values.cumsum(1)
    if not bool(ended[:, :-1].any()):
        done = ended[:, -1]
        return cumulated[done, -1], torch.where(done[:, None], 0.0, cumulated[:, -1])
    last_end = torch.where(ended, torch.arange(ended.shape[1], device=ended.device), -1).cummax(1).values
    at_last_end = (
        cumulated.gather(1, last_end.clamp(min=0)[..., None].expand_as(cumulated)) * (last_end >= 0)[..., None]
    )
    before = torch.cat([torch.zeros_like(at_last_end[:, :1]), at_last_end[:, :-1]], 1)
    return (cumulated - before)[ended], cumulated[:, -1] - at_last_end[:, -1]
