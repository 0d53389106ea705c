"""RLlib's usual env-runner metrics, from columns instead of episodes, and what is known of social dilemmas."""

from __future__ import annotations

from collections.abc import Sequence
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

from rllib_reciprocator.engine.masks import RolloutMask, count
from rllib_reciprocator.utils.metric_names import INNER_EPISODES, OUTCOMES, REWARD_PER_STEP

if TYPE_CHECKING:
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

    from rllib_reciprocator.engine.env_runner import BatchedEnvRunner
    from rllib_reciprocator.engine.sample import Sample
    from social_dilemmas.batched_game import BatchedGame

SOCIAL, POOL = "social", "pool"
EFFICIENCY, EQUALITY, REWARD_GAP = "efficiency", "equality", "reward_gap"


def social_outcomes(rewards: Tensor, lowest: float) -> dict[str, float]:
    """What rewards say of all agents together.

    Args:
        rewards: ``[N]``, what each agent got a step, or in an episode.
        lowest: The lowest reward that the game can give.

    Returns:
        ``efficiency``, their sum; ``reward_gap``, the largest less the smallest; and in games without negative rewards
        ``equality``, one less their Gini coefficient, 1 if all are zero.

    Source: Perolat et al. (2017), utilitarian metric and equality, which is not defined for negative returns.
    """
    found = {EFFICIENCY: float(rewards.sum()), REWARD_GAP: float(rewards.max() - rewards.min())}
    if lowest >= 0.0:
        differences = float((rewards[:, None] - rewards[None, :]).abs().sum())
        total = found[EFFICIENCY]
        found[EQUALITY] = 1.0 - differences / (2 * len(rewards) * total) if total else 1.0
    return found


class SampleLogger:
    """Logs what samples hold; it remembers the episodes that are under way between one sample and the next."""

    def __init__(self, game: BatchedGame, pool_members: Sequence[Sequence[tuple[str, float]]]) -> None:
        """Knows no episode yet.

        Args:
            game: The games.
            pool_members: For each agent the ids of the modules that may play it, with their shares.
        """
        self.game, self.pool_members = game, pool_members
        # Returns so far, and steps, of the episodes under way.
        self._running = torch.zeros(game.num_games, game.num_agents + 1, device=game.device)
        # Outcomes so far, and steps, of the episodes under way; None before the first sample.
        self._running_outcomes: Tensor | None = None

    def log(self, runner: BatchedEnvRunner, sample: Sample, *, only_first: bool = False) -> None:
        """Logs steps, episodes, extrinsic returns and outcomes of one sample, and what trackers recorded.

        Args:
            runner: Whose metrics these are.
            sample: The sample.
            only_first: Whether to look at the first episode of each game alone.
        """
        metrics, agents = runner.metrics, self.game.agents
        rewards, ended, outcomes = sample.rewards, sample.ended, sample.outcomes
        num_steps = sample.env_steps()
        mask = RolloutMask.from_columns(sample.joint, self.pool_members)
        self._log_steps(runner, num_steps, mask)
        steps = float(num_steps)
        counted = mask.valid if self.game.terminates_early else None
        if counted is not None:
            rewards = rewards * counted[..., None]
            outcomes = {name: values * counted[..., None] for name, values in outcomes.items()}
        totals = {name: values.sum((0, 1)) for name, values in outcomes.items()}
        rates = self.game.summarize(totals, steps)
        if self.game.episode_outcomes:
            ends = ended if counted is None else ended & counted
            of_episodes = self._episode_outcomes(outcomes, ends, reset=only_first)
            rates = {name: rate for name, rate in rates.items() if name not in self.game.episode_outcomes} | of_episodes
        for name, values in rates.items():
            for agent, rate in zip(agents, values.tolist(), strict=True):
                metrics.log_value((OUTCOMES, agent, name), rate, reduce="mean")
        per_step = rewards.sum((0, 1)).cpu() / steps
        for agent, value in zip(agents, per_step.tolist(), strict=True):
            metrics.log_value((REWARD_PER_STEP, agent), value, reduce="mean")
        for name, value in social_outcomes(per_step, self.game.reward_range[0]).items():
            metrics.log_value((SOCIAL, name), value, reduce="mean")
        if mask.members is not None:
            self._log_members(metrics, sample, mask, steps)
        self._log_episodes(metrics, rewards, ended if counted is None else ended & counted, fresh=only_first)
        joint = sample.joint
        if counted is not None and runner.trackers:
            joint = {name: column[counted][None] for name, column in joint.items()}
        for tracker in runner.trackers:
            tracker.log(metrics, agents, joint)

    def log_inner_episodes(self, runner: BatchedEnvRunner, sample: Sample, first: int) -> None:
        """Logs what agents get a step, and do, in each inner episode of a meta-episode, by its number.

        Args:
            runner: Whose metrics these are.
            sample: Of whole inner episodes.
            first: The number of the first of them.
        """
        horizon = self.game.horizon
        rewards = sample.rewards.unflatten(1, (-1, horizon)).mean((0, 2))
        totals = {name: values.unflatten(1, (-1, horizon)).sum((0, 2)) for name, values in sample.outcomes.items()}
        rates = self.game.summarize(totals, float(horizon * len(sample.rewards)))
        for name, values in {REWARD_PER_STEP: rewards, **rates}.items():
            for number, of_agents in enumerate(values.tolist(), start=first):
                for agent, value in zip(self.game.agents, of_agents, strict=True):
                    runner.metrics.log_value((INNER_EPISODES, agent, name, str(number)), value, reduce="mean")

    def get_state(self) -> dict[str, Tensor]:
        """The sums of the episodes under way."""
        state = {"running": self._running}
        return state if self._running_outcomes is None else {**state, "running_outcomes": self._running_outcomes}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`get_state` returned."""
        self._running = state["running"]
        # Checkpoints of earlier versions do not have it.
        self._running_outcomes = state.get("running_outcomes")

    def drop_episodes(self, where: Tensor) -> None:
        """Drops the episodes under way in some environments, ``[B]`` bool: they do not go on to their ends."""
        self._running = torch.where(where[:, None], 0.0, self._running)
        if self._running_outcomes is not None:
            self._running_outcomes = torch.where(where[:, None], 0.0, self._running_outcomes)

    def follow_episodes(self, sample: Sample) -> None:
        """Adds up the returns and outcomes of the episodes under way over a sample that is not logged."""
        with_length = torch.cat([sample.rewards, torch.ones_like(sample.rewards[..., :1])], -1)
        _, self._running = episode_sums(with_length, sample.ended, self._running)
        if self.game.episode_outcomes:
            self._episode_outcomes(sample.outcomes, sample.ended, reset=False)

    def _log_steps(self, runner: BatchedEnvRunner, steps: int, mask: RolloutMask) -> None:
        """Logs the environment steps that count, and those of each agent and of each module."""
        metrics = runner.metrics
        by_module: dict[str, int] = {}
        for agent, pool in enumerate(self.pool_members):
            for number, (module_id, _) in enumerate(pool):
                played = count(mask.of_member(agent, number)) if len(pool) > 1 else steps
                by_module[module_id] = by_module.get(module_id, 0) + played
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
        """Logs the episodes that ended; those that are under way count when they end, in whichever sample that is."""
        running = torch.zeros_like(self._running) if fresh else self._running
        with_length = torch.cat([rewards, torch.ones_like(rewards[..., :1])], -1)
        summed, running = episode_sums(with_length, ended, running)
        self._running = torch.zeros_like(running) if fresh else running
        if not len(summed):
            return
        returns, lengths = summed[:, :-1], summed[:, -1]
        metrics.log_value(NUM_EPISODES, len(summed), reduce="sum")
        metrics.log_value(NUM_EPISODES_LIFETIME, len(summed), reduce="lifetime_sum")
        metrics.log_value(EPISODE_LEN_MEAN, float(lengths.mean()), reduce="mean")
        collective = returns.sum(1)
        metrics.log_value(EPISODE_RETURN_MEAN, float(collective.mean()), reduce="mean")
        metrics.log_value(EPISODE_RETURN_MIN, float(collective.min()), reduce="min")
        metrics.log_value(EPISODE_RETURN_MAX, float(collective.max()), reduce="max")
        for agent, value in zip(self.game.agents, returns.mean(0).tolist(), strict=True):
            metrics.log_value((EPISODE_AGENT_RETURN_MEAN, agent), value, reduce="mean")

    def _episode_outcomes(self, outcomes: dict[str, Tensor], ended: Tensor, *, reset: bool) -> dict[str, Tensor]:
        """Computes the rates that are defined for whole episodes, over the episodes that ended in this sample.

        Args:
            outcomes: ``[B, T, N]`` by name.
            ended: ``[B, T]`` bool, if True an episode ended with that step.
            reset: If True, all episodes began with this sample, and those under way at its end are dropped.

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

    def _log_members(self, metrics: MetricsLogger, sample: Sample, mask: RolloutMask, steps: float) -> None:
        """Logs the share of steps in which each pool member plays, and the mean reward of all agents in them.

        Args:
            metrics: The logger.
            sample: The sample.
            mask: The steps that count.
            steps: Number of environment steps that count.
        """
        for index, pool in enumerate(self.pool_members):
            if len(pool) == 1:
                continue
            for number, (module_id, _) in enumerate(pool):
                played = mask.of_member(index, number)
                assert played is not None
                member_steps = float(played.sum())
                key = (POOL, self.game.agents[index], module_id)
                metrics.log_value((*key, "share_of_steps"), member_steps / steps, reduce="mean")
                if member_steps:
                    means = (sample.rewards * played[..., None]).sum((0, 1)) / member_steps
                    for agent, value in zip(self.game.agents, means.tolist(), strict=True):
                        metrics.log_value((*key, REWARD_PER_STEP, agent), value, reduce="mean")


def episode_sums(values: Tensor, ended: Tensor, running: Tensor) -> tuple[Tensor, Tensor]:
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
