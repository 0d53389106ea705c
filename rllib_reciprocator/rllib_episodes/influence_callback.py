"""Influence and reciprocal rewards of RLlib's episodes, computed in the env runners that sampled them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rllib_reciprocator.intrinsic.reciprocity import balance, balance_after, reciprocal_reward
from rllib_reciprocator.intrinsic.reciprocity.metrics import BALANCE, INFLUENCE, INFLUENCE_STD, log_by_pair
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.rllib_episodes.influence import EpisodeReciprocity, influence_of
from rllib_reciprocator.rllib_episodes.influence_distributions import check_distributions
from rllib_reciprocator.rllib_episodes.reciprocal_rewards import INTRINSIC_REWARD
from rllib_reciprocator.utils.quantiles import QUANTILES, quantiles

# With more agents than these, means over all pairs are logged instead of one figure a pair.
MAX_AGENTS_BY_PAIR = 8
RECIPROCAL_REWARD, RECIPROCAL_WEIGHT = "reciprocal_reward", "reciprocal_weight"


class EpisodeInfluenceCallback(RLlibCallback):
    """Writes the weighted reciprocal reward of each step into the sampled episodes, as a column of its own.

    An episode's balance goes on from chunk to chunk. Needs an ``EpisodeReciprocity`` as ``config.episode_reciprocity``.
    """

    def __init__(self) -> None:
        """Knows no episode yet."""
        super().__init__()
        self._balances: dict[str, Tensor] = {}
        # Training iterations before the present one, as the algorithm sends it to its env runners.
        self.iteration = 0

    def on_train_result(self, *, algorithm: Algorithm, **kwargs: Any) -> None:
        """Sends the number of the next iteration to the env runners; called by the algorithm after each."""
        send_iteration(algorithm)

    def on_checkpoint_loaded(self, *, algorithm: Algorithm, **kwargs: Any) -> None:
        """Sends the iteration that a restored run continues with."""
        send_iteration(algorithm)

    def on_env_runners_recreated(
        self, *, algorithm: Algorithm, env_runner_group: Any, env_runner_indices: list[int], **kwargs: Any
    ) -> None:
        """Sends the iteration to env runners that were restarted."""
        _send(env_runner_group, algorithm.iteration, env_runner_indices)

    def on_algorithm_init(self, *, algorithm: Any, **kwargs: Any) -> None:
        """Checks that players report their action distributions, where influence is an expectation over these.

        Raises:
            ValueError: If one reports none.
        """
        modules = getattr(algorithm.env_runner, "module", None)
        if modules is not None and modules[INFLUENCE_MODULE_ID].unwrapped().uses_behavior:
            check_distributions({name: module for name, module in modules.items() if name != INFLUENCE_MODULE_ID})

    def on_sample_end(
        self, *, env_runner: Any, metrics_logger: MetricsLogger, samples: list[MultiAgentEpisode], **kwargs: Any
    ) -> None:
        """Called by the env runner after each sample."""
        reciprocity: EpisodeReciprocity = env_runner.config.episode_reciprocity
        episodes = [episode for episode in samples if len(episode)]
        if not episodes:
            return
        steps = [reciprocity.joint_steps(episode) for episode in episodes]
        explore = bool(env_runner.config.explore)
        flat = influence_of(env_runner.module, reciprocity, episodes, steps, explore=explore)
        influence = list(flat.split([len(each.state) for each in steps]))
        before, reciprocal = self._reciprocal(reciprocity, episodes, influence)
        weight = reciprocity.weight(self.iteration)
        metrics_logger.log_value(RECIPROCAL_WEIGHT, weight, window=1)
        agents = reciprocity.joint.agents
        for episode, each, rewards in zip(episodes, steps, reciprocal, strict=True):
            for index, agent in enumerate(agents):
                if agent in each.rows:
                    counts = weight if agent in reciprocity.reciprocators else 0.0
                    _write(episode, agent, counts * rewards[each.rows[agent], index].numpy())
        going_on = {episode.id_ for episode in getattr(env_runner, "_ongoing_episodes", ())}
        self._balances = {id_: value for id_, value in self._balances.items() if id_ in going_on}
        self._log(metrics_logger, reciprocity, flat, torch.cat(before), torch.cat(reciprocal))

    def _reciprocal(
        self, reciprocity: EpisodeReciprocity, episodes: Sequence[MultiAgentEpisode], influence: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Balances before and reciprocal rewards of every step, by chunk; notes the balances of episodes under way.

        Chunks of one episode follow each other in the order in which they were sampled.
        """
        n = influence[0].shape[-1]
        before: list[Tensor] = [influence[0]] * len(episodes)
        for turn in _turns(episodes):
            padded = pad_sequence([influence[index] for index in turn])
            initial = torch.stack([self._balances.get(episodes[index].id_, torch.zeros(n, n)) for index in turn])
            never = torch.zeros(padded.shape[:2], dtype=torch.bool)
            balances = balance(padded, reciprocity.rule, reciprocity.balance_decay, never, initial)
            for place, index in enumerate(turn):
                episode, length = episodes[index], len(influence[index])
                before[index] = balances[:length, place]
                last = before[index][-1], influence[index][-1]
                self._balances[episode.id_] = balance_after(*last, reciprocity.rule, reciprocity.balance_decay)
                if episode.is_done:
                    del self._balances[episode.id_]
        return before, [reciprocal_reward(*each, reciprocity.rule) for each in zip(before, influence, strict=True)]

    def _log(
        self,
        metrics: MetricsLogger,
        reciprocity: EpisodeReciprocity,
        influence: Tensor,
        before: Tensor,
        reciprocal: Tensor,
    ) -> None:
        """Who influenced whom, and what Reciprocators got for it."""
        agents = reciprocity.joint.agents
        if len(agents) <= MAX_AGENTS_BY_PAIR:
            log_by_pair(metrics, agents, influence, before)
        else:
            spread, mean = torch.std_mean(influence, 0, correction=0)
            others = ~torch.eye(len(agents), dtype=torch.bool)
            for key, values in ((INFLUENCE, mean), (INFLUENCE_STD, spread), (BALANCE, before.mean(0))):
                metrics.log_value((key, "mean"), float(values[others].mean()), reduce="mean")
        distributed = quantiles(reciprocal)
        for index, agent in enumerate(agents):
            if agent in reciprocity.reciprocators:
                metrics.log_value((RECIPROCAL_REWARD, str(agent)), float(reciprocal[:, index].mean()), reduce="mean")
                told = (f"{RECIPROCAL_REWARD}_{QUANTILES}", str(agent))
                metrics.log_value(told, distributed[index], reduce="item_series")


def send_iteration(algorithm: Algorithm) -> None:
    """Sends the number of the training iteration to all env runners.

    The weight of the reciprocal reward may follow a schedule by iterations. The number of weight updates does not tell:
    APPO and IMPALA make many of them in an iteration.
    """
    for group in (algorithm.env_runner_group, algorithm.eval_env_runner_group):
        if group is not None:
            _send(group, algorithm.iteration)


def _send(group: Any, iteration: int, indices: list[int] | None = None) -> None:
    # A timeout of zero, since busy env runners of asynchronous algorithms would hold up the algorithm. Actors process
    # requests in order: samples that are asked for after this have the new iteration.
    group.foreach_env_runner(
        partial(_set_iteration, iteration=iteration),
        remote_worker_ids=indices,
        local_env_runner=indices is None,
        timeout_seconds=0.0,
    )


def _set_iteration(runner: Any, iteration: int) -> None:
    for callback in runner._callbacks:
        if isinstance(callback, EpisodeInfluenceCallback):
            callback.iteration = iteration


def _turns(episodes: Sequence[MultiAgentEpisode]) -> list[list[int]]:
    """Indices of chunks in turns, so that no turn has two chunks of one episode and earlier ones come first."""
    turns: list[list[int]] = []
    seen: dict[str, int] = {}
    for index in sorted(range(len(episodes)), key=lambda k: episodes[k].env_t_started):
        turn = seen.get(episodes[index].id_, -1) + 1
        seen[episodes[index].id_] = turn
        if turn == len(turns):
            turns.append([])
        turns[turn].append(index)
    return turns


def _write(episode: MultiAgentEpisode, agent: Any, values: np.ndarray) -> None:
    """Puts a value for each of the agent's steps into its episode; zeros for those that began in earlier chunks."""
    own = episode.agent_episodes[agent]
    lookback = own.actions.lookback
    data = np.concatenate([np.zeros(lookback + len(own) - len(values)), values]).astype(np.float32)
    own.extra_model_outputs[INTRINSIC_REWARD] = InfiniteLookbackBuffer(data=data, lookback=lookback)
