"""Callback that computes influence and reciprocal rewards of RLlib's episodes in the env runners that sampled them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.rllib.utils.typing import AgentID
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rllib_reciprocator.intrinsic.reciprocity import balance, balance_after, reciprocal_reward
from rllib_reciprocator.intrinsic.reciprocity.metrics import BALANCE, INFLUENCE, INFLUENCE_STD, log_by_pair
from rllib_reciprocator.intrinsic.reciprocity.specs import INFLUENCE_MODULE_ID
from rllib_reciprocator.rllib_episodes.influence import EpisodeReciprocity, influence_of
from rllib_reciprocator.rllib_episodes.influence_distributions import check_distributions
from rllib_reciprocator.rllib_episodes.reciprocal_rewards import INTRINSIC_REWARD
from rllib_reciprocator.utils.quantiles import QUANTILES, quantiles

# Maximum number of agents for which metrics are logged per pair. With more agents, means over all pairs are logged.
MAX_AGENTS_BY_PAIR = 8
RECIPROCAL_REWARD, RECIPROCAL_WEIGHT = "reciprocal_reward", "reciprocal_weight"


class EpisodeInfluenceCallback(RLlibCallback):
    """Callback that writes the weighted reciprocal reward of each step into an extra column of the sampled episodes.

    The influence balance of an episode is carried over from chunk to chunk. The config needs an ``EpisodeReciprocity``
    as ``config.episode_reciprocity``.
    """

    def __init__(self) -> None:
        """Initializes the callback without balances."""
        super().__init__()
        # Balances ``[N, N]`` after the last chunk of ongoing episodes, by episode id.
        self._balances: dict[str, Tensor] = {}
        # Number of completed training iterations; the algorithm sends it to its env runners.
        self.iteration = 0

    def on_train_result(self, *, algorithm: Algorithm, **kwargs: object) -> None:
        """Sends the number of the next iteration to the env runners."""
        send_iteration(algorithm)

    def on_checkpoint_loaded(self, *, algorithm: Algorithm, **kwargs: object) -> None:
        """Sends the iteration with which a restored run continues to the env runners."""
        send_iteration(algorithm)

    def on_env_runners_recreated(
        self, *, algorithm: Algorithm, env_runner_group: EnvRunnerGroup, env_runner_indices: list[int], **kwargs: object
    ) -> None:
        """Sends the iteration to env runners that were restarted."""
        _send(env_runner_group, algorithm.iteration, env_runner_indices)

    def on_algorithm_init(self, *, algorithm: Algorithm, **kwargs: object) -> None:
        """Checks that players report their action distributions if counterfactuals are expectations over them.

        Raises:
            ValueError: If a player does not report its action distribution.
        """
        modules = getattr(algorithm.env_runner, "module", None)
        if modules is not None and modules[INFLUENCE_MODULE_ID].unwrapped().uses_behavior:
            check_distributions({name: module for name, module in modules.items() if name != INFLUENCE_MODULE_ID})

    def on_sample_end(
        self,
        *,
        env_runner: EnvRunner,
        metrics_logger: MetricsLogger,
        samples: list[MultiAgentEpisode],
        **kwargs: object,
    ) -> None:
        """Adds the reciprocal rewards to the sampled episodes and logs metrics."""
        reciprocity: EpisodeReciprocity = env_runner.config.episode_reciprocity
        episodes = [episode for episode in samples if len(episode)]
        if not episodes:
            return
        steps = [reciprocity.joint_steps(episode) for episode in episodes]
        explore = bool(env_runner.config.explore)
        flat = influence_of(env_runner.module, reciprocity, episodes, steps, explore=explore)
        influence = list(flat.split([len(chunk_steps.state) for chunk_steps in steps]))
        balances, reciprocal = self._reciprocal(reciprocity, episodes, influence)
        weight = reciprocity.weight(self.iteration)
        metrics_logger.log_value(RECIPROCAL_WEIGHT, weight, window=1)
        agents = reciprocity.joint.agents
        for episode, chunk_steps, rewards in zip(episodes, steps, reciprocal, strict=True):
            for index, agent in enumerate(agents):
                if agent in chunk_steps.rows:
                    agent_weight = weight if agent in reciprocity.reciprocators else 0.0
                    _write(episode, agent, agent_weight * rewards[chunk_steps.rows[agent], index].numpy())
        # Episodes that the env runner dropped, e.g. at a reset, never end with a chunk that is done.
        ongoing_ids = {episode.id_ for episode in getattr(env_runner, "_ongoing_episodes", ())}
        self._balances = {id_: value for id_, value in self._balances.items() if id_ in ongoing_ids}
        self._log(metrics_logger, reciprocity, flat, torch.cat(balances), torch.cat(reciprocal))

    def _reciprocal(
        self, reciprocity: EpisodeReciprocity, episodes: Sequence[MultiAgentEpisode], influence: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Computes balances and reciprocal rewards of episode chunks, and stores the balances of ongoing episodes.

        Args:
            reciprocity: The specification of reciprocity.
            episodes: The episode chunks.
            influence: Influence of each chunk, ``[T, N, N]``.

        Returns:
            For each chunk the balances before every step, ``[T, N, N]``, and the reciprocal rewards, ``[T, N]``.
        """
        n = influence[0].shape[-1]
        balances: list[Tensor] = [influence[0]] * len(episodes)
        # The balance after a chunk is the initial balance of the next chunk of the same episode.
        for batch in _turns(episodes):
            padded_influence = pad_sequence([influence[index] for index in batch])
            initial = torch.stack([self._balances.get(episodes[index].id_, torch.zeros(n, n)) for index in batch])
            reset_mask = torch.zeros(padded_influence.shape[:2], dtype=torch.bool)
            batch_balances = balance(padded_influence, reciprocity.rule, reciprocity.balance_decay, reset_mask, initial)
            for column, index in enumerate(batch):
                episode, length = episodes[index], len(influence[index])
                balances[index] = batch_balances[:length, column]
                last = balances[index][-1], influence[index][-1]
                self._balances[episode.id_] = balance_after(*last, reciprocity.rule, reciprocity.balance_decay)
                if episode.is_done:
                    del self._balances[episode.id_]
        return balances, [reciprocal_reward(*pair, reciprocity.rule) for pair in zip(balances, influence, strict=True)]

    def _log(
        self,
        metrics: MetricsLogger,
        reciprocity: EpisodeReciprocity,
        influence: Tensor,
        balances: Tensor,
        reciprocal: Tensor,
    ) -> None:
        """Logs influence and balance by pair of agents, and the reciprocal rewards of Reciprocators."""
        agents = reciprocity.joint.agents
        if len(agents) <= MAX_AGENTS_BY_PAIR:
            log_by_pair(metrics, agents, influence, balances)
        else:
            std, mean = torch.std_mean(influence, 0, correction=0)
            off_diagonal = ~torch.eye(len(agents), dtype=torch.bool)
            for key, values in ((INFLUENCE, mean), (INFLUENCE_STD, std), (BALANCE, balances.mean(0))):
                metrics.log_value((key, "mean"), float(values[off_diagonal].mean()), reduce="mean")
        reward_quantiles = quantiles(reciprocal)
        for index, agent in enumerate(agents):
            if agent in reciprocity.reciprocators:
                metrics.log_value((RECIPROCAL_REWARD, str(agent)), float(reciprocal[:, index].mean()), reduce="mean")
                quantiles_key = (f"{RECIPROCAL_REWARD}_{QUANTILES}", str(agent))
                metrics.log_value(quantiles_key, reward_quantiles[index], reduce="item_series")


def send_iteration(algorithm: Algorithm) -> None:
    """Sends the number of the training iteration to all env runners.

    The weight of the reciprocal reward may follow a schedule by iteration. The iteration cannot be derived from the
    number of weight updates, since APPO and IMPALA make many updates per iteration.
    """
    for group in (algorithm.env_runner_group, algorithm.eval_env_runner_group):
        if group is not None:
            _send(group, algorithm.iteration)


def _send(group: EnvRunnerGroup, iteration: int, indices: list[int] | None = None) -> None:
    # The timeout is zero because busy env runners of asynchronous algorithms would block the algorithm. Actors process
    # requests in order, so that samples requested after this call use the new iteration.
    group.foreach_env_runner(
        partial(_set_iteration, iteration=iteration),
        remote_worker_ids=indices,
        local_env_runner=indices is None,
        timeout_seconds=0.0,
    )


def _set_iteration(runner: EnvRunner, iteration: int) -> None:
    for callback in runner._callbacks:
        if isinstance(callback, EpisodeInfluenceCallback):
            callback.iteration = iteration


def _turns(episodes: Sequence[MultiAgentEpisode]) -> list[list[int]]:
    """Groups episode chunks into batches that can be processed at once.

    Args:
        episodes: The episode chunks, of which several may belong to one episode.

    Returns:
        Batches of indices of chunks. No batch has two chunks of one episode, and earlier chunks are in earlier batches.
    """
    batches: list[list[int]] = []
    last_batch: dict[str, int] = {}
    for index in sorted(range(len(episodes)), key=lambda k: episodes[k].env_t_started):
        position = last_batch.get(episodes[index].id_, -1) + 1
        last_batch[episodes[index].id_] = position
        if position == len(batches):
            batches.append([])
        batches[position].append(index)
    return batches


def _write(episode: MultiAgentEpisode, agent: AgentID, values: np.ndarray) -> None:
    """Writes one intrinsic reward per own step into an agent's episode; zero for steps that began in earlier chunks."""
    agent_episode = episode.agent_episodes[agent]
    lookback = agent_episode.actions.lookback
    data = np.concatenate([np.zeros(lookback + len(agent_episode) - len(values)), values]).astype(np.float32)
    agent_episode.extra_model_outputs[INTRINSIC_REWARD] = InfiniteLookbackBuffer(data=data, lookback=lookback)
