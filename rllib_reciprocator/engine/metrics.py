"""Env-runner metrics: RLlib's usual ones, computed from columns instead of episodes, and social outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

from rllib_reciprocator.engine.masks import RolloutMask
from rllib_reciprocator.utils.metric_names import INNER_EPISODES, OUTCOMES, REWARD_PER_STEP

if TYPE_CHECKING:
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

    from rllib_reciprocator.engine.context import RunContext
    from rllib_reciprocator.engine.env_runner import BatchedEnvRunner
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch
    from social_dilemmas.batched_game import BatchedGame

SOCIAL, POOL = "social", "pool"
EFFICIENCY, EQUALITY, REWARD_GAP = "efficiency", "equality", "reward_gap"


def social_outcomes(rewards: Tensor, lowest: float) -> dict[str, float]:
    """Computes social outcome metrics from the rewards of all agents.

    Args:
        rewards: ``[N]``, reward of each agent per step or per episode.
        lowest: Lowest reward that the environment can give.

    Returns:
        ``efficiency``, the sum of rewards; ``reward_gap``, the largest minus the smallest reward; and in environments
        without negative rewards ``equality``, one minus the Gini coefficient of the rewards, 1 if all are zero.

    Source: Perolat et al. (2017), utilitarian metric and equality, which is not defined for negative returns.
    """
    metrics = {EFFICIENCY: float(rewards.sum()), REWARD_GAP: float(rewards.max() - rewards.min())}
    if lowest >= 0.0:
        differences = float((rewards[:, None] - rewards[None, :]).abs().sum())
        total = metrics[EFFICIENCY]
        metrics[EQUALITY] = 1.0 - differences / (2 * len(rewards) * total) if total else 1.0
    return metrics


class RolloutLogger:
    """Logger of rollout metrics, which keeps the running sums of episodes that continue in the next rollout."""

    def __init__(self, game: BatchedGame, context: RunContext) -> None:
        """Initializes the running sums to zero.

        Args:
            game: The parallel environments.
            context: Facts about the run.
        """
        self.game, self.context = game, context
        # Running returns, and number of steps, of the current episodes: [B, N + 1].
        self._running = torch.zeros(game.num_games, game.num_agents + 1, device=game.device)
        # Running outcomes, and number of steps, of the current episodes; None before the first rollout.
        self._running_outcomes: Tensor | None = None

    def log(self, runner: BatchedEnvRunner, batch: RolloutBatch, *, only_first: bool = False) -> None:
        """Logs steps, episodes, extrinsic returns and outcomes of one rollout, and the metrics of trackers.

        Args:
            runner: Env runner whose metrics logger is used.
            batch: The rollout.
            only_first: If True, only the first episode of each environment counts.
        """
        metrics, agents = runner.metrics, self.game.agents
        rewards, ended, outcomes = batch.rewards, batch.ended, batch.outcomes
        num_steps = batch.env_steps()
        mask = self.context.mask(batch)
        self._log_steps(runner, num_steps, mask)
        steps = float(num_steps)
        valid_mask = mask.valid if self.game.terminates_early else None
        if valid_mask is not None:
            rewards = rewards * valid_mask[..., None]
            outcomes = {name: values * valid_mask[..., None] for name, values in outcomes.items()}
        totals = {name: values.sum((0, 1)) for name, values in outcomes.items()}
        rates = self.game.summarize(totals, steps)
        if self.game.episode_outcomes:
            ends = ended if valid_mask is None else ended & valid_mask
            ep_rates = self._episode_outcomes(outcomes, ends, reset=only_first)
            rates = {name: rate for name, rate in rates.items() if name not in self.game.episode_outcomes} | ep_rates
        for name, values in rates.items():
            for agent, rate in zip(agents, values.tolist(), strict=True):
                metrics.log_value((OUTCOMES, agent, name), rate, reduce="mean")
        per_step = rewards.sum((0, 1)).cpu() / steps
        for agent, value in zip(agents, per_step.tolist(), strict=True):
            metrics.log_value((REWARD_PER_STEP, agent), value, reduce="mean")
        for name, value in social_outcomes(per_step, self.game.reward_range[0]).items():
            metrics.log_value((SOCIAL, name), value, reduce="mean")
        if mask.members is not None:
            self._log_members(metrics, batch, mask, steps)
        self._log_episodes(metrics, rewards, ended if valid_mask is None else ended & valid_mask, fresh=only_first)
        columns, members = {**batch.columns, "actions": batch.actions}, batch.pool_members
        if valid_mask is not None and runner.trackers:
            columns = {name: column[valid_mask][None] for name, column in columns.items()}
            members = None if members is None else members[valid_mask][None]
        for tracker in runner.trackers:
            tracker.log(metrics, agents, columns, members)

    def log_inner_episodes(self, runner: BatchedEnvRunner, batch: RolloutBatch, first: int) -> None:
        """Logs rewards per step and outcomes of each inner episode of a meta-episode, by its index.

        Args:
            runner: Env runner whose metrics logger is used.
            batch: Rollout of whole inner episodes.
            first: Index of its first inner episode.
        """
        horizon = self.game.horizon
        rewards = batch.rewards.unflatten(1, (-1, horizon)).mean((0, 2))
        totals = {name: values.unflatten(1, (-1, horizon)).sum((0, 2)) for name, values in batch.outcomes.items()}
        rates = self.game.summarize(totals, float(horizon * len(batch.rewards)))
        for name, values in {REWARD_PER_STEP: rewards, **rates}.items():
            for index, agent_values in enumerate(values.tolist(), start=first):
                for agent, value in zip(self.game.agents, agent_values, strict=True):
                    runner.metrics.log_value((INNER_EPISODES, agent, name, str(index)), value, reduce="mean")

    def get_state(self) -> dict[str, Tensor]:
        """Returns the running sums of the current episodes."""
        state = {"running": self._running}
        return state if self._running_outcomes is None else {**state, "running_outcomes": self._running_outcomes}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state returned by :meth:`get_state`."""
        self._running = state["running"]
        # Checkpoints of earlier versions have no running outcomes.
        self._running_outcomes = state.get("running_outcomes")

    def drop_episodes(self, where: Tensor | None) -> None:
        """Resets the running sums of environments whose current episode is not played to its end.

        Args:
            where: ``[B]`` bool, the environments; None for all.
        """
        if where is None:
            where = torch.ones(len(self._running), dtype=torch.bool, device=self._running.device)
        self._running = torch.where(where[:, None], 0.0, self._running)
        if self._running_outcomes is not None:
            self._running_outcomes = torch.where(where[:, None], 0.0, self._running_outcomes)

    def follow_episodes(self, batch: RolloutBatch) -> None:
        """Updates the running sums with a rollout that is not logged."""
        with_length = torch.cat([batch.rewards, torch.ones_like(batch.rewards[..., :1])], -1)
        _, self._running = episode_sums(with_length, batch.ended, self._running)
        if self.game.episode_outcomes:
            self._episode_outcomes(batch.outcomes, batch.ended, reset=False)

    def _log_steps(self, runner: BatchedEnvRunner, steps: int, mask: RolloutMask) -> None:
        """Logs the numbers of environment, agent and module steps that count.

        Args:
            runner: Env runner whose metrics logger is used.
            steps: Number of environment steps that count.
            mask: Mask of the rollout.
        """
        metrics = runner.metrics
        by_module: dict[str, int] = {}
        for seat in self.context.seats():
            member_mask = mask.of_member(seat.agent, seat.member) if mask.pooled[seat.agent] else None
            member_steps = steps if member_mask is None else int(member_mask.sum())
            by_module[seat.module_id] = by_module.get(seat.module_id, 0) + member_steps
        by_agent = dict.fromkeys(self.game.agents, steps)
        runner.num_env_steps_sampled_lifetime += steps
        metrics.log_value(NUM_ENV_STEPS_SAMPLED, steps, reduce="sum")
        metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, steps, reduce="lifetime_sum", with_throughput=True)
        metrics.log_value(WEIGHTS_SEQ_NO, runner.weights_seq_no, window=1)
        for key, lifetime, counts in (
            (NUM_AGENT_STEPS_SAMPLED, NUM_AGENT_STEPS_SAMPLED_LIFETIME, by_agent),
            (NUM_MODULE_STEPS_SAMPLED, NUM_MODULE_STEPS_SAMPLED_LIFETIME, by_module),
        ):
            for name, num_steps in counts.items():
                metrics.log_value((key, name), num_steps, reduce="sum")
                metrics.log_value((lifetime, name), num_steps, reduce="lifetime_sum")

    def _log_episodes(self, metrics: MetricsLogger, rewards: Tensor, ended: Tensor, *, fresh: bool) -> None:
        """Logs the episodes that ended in the rollout; other episodes are logged with the rollout in which they end.

        Args:
            metrics: The metrics logger.
            rewards: ``[B, T, N]``.
            ended: ``[B, T]`` bool, True if an episode ended with the step.
            fresh: If True, all episodes started with this rollout, and those that did not end in it are dropped.
        """
        running = torch.zeros_like(self._running) if fresh else self._running
        with_length = torch.cat([rewards, torch.ones_like(rewards[..., :1])], -1)
        sums, running = episode_sums(with_length, ended, running)
        self._running = torch.zeros_like(running) if fresh else running
        if not len(sums):
            return
        returns, lengths = sums[:, :-1], sums[:, -1]
        metrics.log_value(NUM_EPISODES, len(sums), reduce="sum")
        metrics.log_value(NUM_EPISODES_LIFETIME, len(sums), reduce="lifetime_sum")
        metrics.log_value(EPISODE_LEN_MEAN, float(lengths.mean()), reduce="mean")
        collective = returns.sum(1)
        metrics.log_value(EPISODE_RETURN_MEAN, float(collective.mean()), reduce="mean")
        metrics.log_value(EPISODE_RETURN_MIN, float(collective.min()), reduce="min")
        metrics.log_value(EPISODE_RETURN_MAX, float(collective.max()), reduce="max")
        for agent, value in zip(self.game.agents, returns.mean(0).tolist(), strict=True):
            metrics.log_value((EPISODE_AGENT_RETURN_MEAN, agent), value, reduce="mean")

    def _episode_outcomes(self, outcomes: dict[str, Tensor], ended: Tensor, *, reset: bool) -> dict[str, Tensor]:
        """Computes the rates that are defined for whole episodes, over the episodes that ended in this rollout.

        Args:
            outcomes: ``[B, T, N]`` by name.
            ended: ``[B, T]`` bool, True if an episode ended with the step.
            reset: If True, all episodes started with this rollout, and those that did not end in it are dropped.

        Returns:
            ``[N]`` by name; empty if no episode ended.
        """
        names = sorted(outcomes)
        values = torch.cat(
            [*(outcomes[name] for name in names), torch.ones_like(ended[..., None], dtype=torch.float32)], -1
        )
        running = self._running_outcomes
        if running is None or reset:
            running = torch.zeros_like(values[:, 0])
        sums, running = episode_sums(values, ended, running)
        self._running_outcomes = torch.zeros_like(running) if reset else running
        if not len(sums):
            return {}
        total = sums.sum(0)
        by_name = dict(zip(names, total[:-1].unflatten(0, (len(names), -1)), strict=True))
        rates = self.game.summarize(by_name, float(total[-1]))
        return {name: rates[name] for name in sorted(self.game.episode_outcomes)}

    def _log_members(self, metrics: MetricsLogger, batch: RolloutBatch, mask: RolloutMask, steps: float) -> None:
        """Logs the share of steps in which each pool member plays, and the mean reward of all agents in these steps.

        Args:
            metrics: The metrics logger.
            batch: The rollout.
            mask: Mask of the rollout.
            steps: Number of environment steps that count.
        """
        for seat in self.context.seats():
            if not mask.pooled[seat.agent]:
                continue
            member_mask = mask.of_member(seat.agent, seat.member)
            assert member_mask is not None
            member_steps = float(member_mask.sum())
            key = (POOL, self.game.agents[seat.agent], seat.module_id)
            metrics.log_value((*key, "share_of_steps"), member_steps / steps, reduce="mean")
            if member_steps:
                means = (batch.rewards * member_mask[..., None]).sum((0, 1)) / member_steps
                for agent, value in zip(self.game.agents, means.tolist(), strict=True):
                    metrics.log_value((*key, REWARD_PER_STEP, agent), value, reduce="mean")


def episode_sums(values: Tensor, ended: Tensor, running: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the sums of values over episodes that follow each other in a rollout.

    The sum of an episode is the cumulative sum at its end minus that at the end of the previous episode.

    Args:
        values: ``[B, T, K]``.
        ended: ``[B, T]`` bool, True if an episode ended with the step.
        running: ``[B, K]``, running sums of the episodes that continue from the previous rollout.

    Returns:
        Sums of the episodes that ended, ``[episodes, K]``, and running sums of those that did not, ``[B, K]``.
    """
    running_sums = running[:, None] + values.cumsum(1)
    # In the common case of at most one end, with the last step, no differences are needed.
    if not bool(ended[:, :-1].any()):
        is_done = ended[:, -1]
        return running_sums[is_done, -1], torch.where(is_done[:, None], 0.0, running_sums[:, -1])
    last_end = torch.where(ended, torch.arange(ended.shape[1], device=ended.device), -1).cummax(1).values
    at_last_end = (
        running_sums.gather(1, last_end.clamp(min=0)[..., None].expand_as(running_sums)) * (last_end >= 0)[..., None]
    )
    before = torch.cat([torch.zeros_like(at_last_end[:, :1]), at_last_end[:, :-1]], 1)
    return (running_sums - before)[ended], running_sums[:, -1] - at_last_end[:, -1]
