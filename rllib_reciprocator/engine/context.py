"""Facts about a validated run that intrinsic rewards, update rules and the learner share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rllib_reciprocator.engine.masks import RolloutMask
from rllib_reciprocator.utils.import_paths import import_attribute

if TYPE_CHECKING:
    from rllib_reciprocator.engine.meta_episodes import MetaSettings
    from rllib_reciprocator.engine.player_mapping import Player
    from rllib_reciprocator.engine.rollout_batch import RolloutBatch
    from rllib_reciprocator.engine.update_rule import UpdateRule
    from social_dilemmas.batched_game import BatchedGame

PPO_RULE = "rllib_reciprocator.engine.updates.ppo:PPORule"


@dataclass(frozen=True)
class PlayerKind:
    """Kind of player that the engine trains, as named in ``players``.

    Attributes:
        update_rule: Import path of the :class:`UpdateRule` that updates its policy.
        module: Import path of its RLModule class, a subclass of ``ActorCriticModule``; empty for that class.
        intrinsic: Its intrinsic rewards: settings by name.
        spans_meta_episodes: If True, its memory and its values span all inner episodes of a meta-episode.
        advantage_steps: Import paths of its :class:`rllib_reciprocator.engine.AdvantageStep` classes, in call order.
        settings: Names and defaults of settings of the algorithm that only this kind of player has.
        trained_as: Name of the kind that it is a short form of; empty if it is not one.
        forms_populations: If True, ``meta.population`` replaces it by that many players with their own parameters.
        module_settings: Import path of a function ``(config, context, player) -> dict`` that returns settings of its
            module; empty if there are none.
    """

    update_rule: str = PPO_RULE
    module: str = ""
    intrinsic: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    spans_meta_episodes: bool = False
    advantage_steps: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    trained_as: str = ""
    forms_populations: bool = False
    module_settings: str = ""


class Seat(NamedTuple):
    """A pool member of an agent.

    Attributes:
        agent: Index of the agent.
        member: Index of the player among the agent's pool members.
        player: The player.
        module_id: Id of its module.
    """

    agent: int
    member: int
    player: Player
    module_id: str


@dataclass(frozen=True)
class RunContext:
    """Facts about a validated run. Each process builds its own from the configuration; it is never pickled.

    Attributes:
        game: One environment of the game, on the CPU.
        players: The player of each agent.
        kinds: Kinds of players that the engine trains, by name.
        module_ids: Module ids of the pool members of each agent, ``[agent][pool member]``.
        trained: Ids of the modules that are trained.
        gamma: Discount factor of the run.
        rollout_steps: T, number of steps of each environment in a rollout.
        whole_episodes: If True, rollouts start with a reset and cover complete episodes.
        completes_episodes: If True, a rollout counts the first complete episode of each environment only.
        samples_meta_episodes: If True, a rollout is a whole meta-episode.
        meta: Settings of meta-episodes.
        group_size: Number of environments in a group.
        num_environments: Number of environments of all env runners.
        environments_per_runner: Number of environments of each env runner.
        in_evaluation: If True, the run evaluates policies.
        seed: Seed of the run.
    """

    game: BatchedGame
    players: tuple[Player, ...]
    kinds: Mapping[str, PlayerKind]
    module_ids: tuple[tuple[str, ...], ...]
    trained: tuple[str, ...]
    gamma: float
    rollout_steps: int
    whole_episodes: bool
    completes_episodes: bool
    samples_meta_episodes: bool
    meta: MetaSettings
    group_size: int
    num_environments: int
    environments_per_runner: int
    in_evaluation: bool
    seed: int | None

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        return len(self.players)

    def kind_of(self, player: Player) -> PlayerKind:
        """Returns the kind of a player that the engine trains."""
        return self.kinds[player.algorithm]

    def rule_class(self, player: Player) -> type[UpdateRule]:
        """Returns the class of the update rule of a player that the engine trains."""
        return import_attribute(self.kind_of(player).update_rule)

    def seats(self) -> Iterator[Seat]:
        """Yields the pool members of all agents."""
        for agent, player in enumerate(self.players):
            for index, (member, _) in enumerate(player.pool_members):
                yield Seat(agent, index, member, self.module_ids[agent][index])

    def seats_of(self, module_id: str) -> list[Seat]:
        """Returns the agents that a module plays, with the index of the module among their pool members."""
        return [seat for seat in self.seats() if seat.module_id == module_id]

    def agents_of(self, module_id: str) -> list[int]:
        """Returns the indices of the S agents that a module plays."""
        return [seat.agent for seat in self.seats_of(module_id)]

    def player_of(self, module_id: str) -> Player:
        """Returns the player of a module; players that share parameters have equal settings."""
        return self.seats_of(module_id)[0].player

    def member_flags(self, holds: Callable[[Player], bool], device: torch.device | str) -> list[Tensor]:
        """Returns a flag per pool member of each agent, ``[members]`` bool for each agent.

        Args:
            holds: Returns the flag of a player.
            device: Device of the flags.
        """
        return [
            torch.tensor([holds(member) for member, _ in player.pool_members], device=device) for player in self.players
        ]

    def mask(self, batch: RolloutBatch) -> RolloutMask:
        """Returns the mask of the steps of a rollout that count."""
        is_pooled = tuple(len(player.pool_members) > 1 for player in self.players)
        return RolloutMask(batch.valid, batch.pool_members, is_pooled)
