"""Base class of Cleanup and Harvest: apples that grow and are eaten, and agents that zap each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from social_dilemmas.grid_beams import FIRE, Rays
from social_dilemmas.grid_map import MOVES, SAND, TURNS, GridMap
from social_dilemmas.grid_world import STAY, ZAP, GridWorld, check_ranges

APPLE = 2
# Rewards, beams in the format of GridWorld._shine, and outcomes.
Fired = tuple[Tensor, list[tuple[Rays, Tensor, int]], dict[str, Tensor]]


class Orchard(GridWorld):
    """Base class of grid worlds with apples, in which agents eat the apple on their cell and can zap each other.

    Subclasses define the other effects of beams and the growth of apples.
    """

    class_names: tuple[str, ...] = ("sand", "wall", "apple")
    episode_outcomes = frozenset({"sustainability"})

    def __init__(
        self,
        grid_map: GridMap,
        more_actions: Sequence[str] = (),
        *,
        turning: bool,
        zapping: bool,
        zap_cost: float,
        zap_penalty: float,
        cooldowns: Mapping[str, int],
        **settings: Any,
    ) -> None:
        """Builds the environments.

        Args:
            grid_map: The map. Apples grow on the cells of its first block.
            more_actions: Actions in addition to moves, turns and zapping.
            turning: If True, agents can turn. If False, they always face up.
            zapping: If True, agents can zap each other.
            zap_cost: Amount subtracted from the reward of an agent that zaps.
            zap_penalty: Amount subtracted from the reward of an agent for each ray that hits it.
            cooldowns: Cooldown by action, see :class:`GridWorld`.
            **settings: Further settings of :class:`GridWorld`.

        Raises:
            ValueError: If the map has no orchard, or a number is out of range.
        """
        actions = (*MOVES, STAY, *(TURNS if turning else ()), *((ZAP,) if zapping else ()), *more_actions)
        super().__init__(grid_map, actions, cooldowns={k: v for k, v in cooldowns.items() if k in actions}, **settings)
        check_ranges({"zap_cost": zap_cost, "zap_penalty": zap_penalty}, 0, 1e6)
        if not grid_map.blocks[0]:
            raise ValueError("map: there is no orchard; add cells where apples grow (A or B)")
        self._orchard = grid_map.blocks[0]
        self._zap_cost, self._zap_penalty = zap_cost, zap_penalty
        # -1 if agents cannot zap, which equals no action.
        self._zap = actions.index(ZAP) if zapping else -1
        if zapping:
            self.beam_names[2] = ZAP
        self.reward_range = (-zap_cost - zap_penalty * (self.num_agents - 1) if zapping else 0.0, 1.0)

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        actions = self._begin(actions)
        self._move(actions)
        ground = self._ground_without_beams()
        ground_below = ground.gather(0, self._cells)
        is_eaten = ground_below == APPLE
        ground.scatter_(0, self._cells, ground_below.masked_fill_(is_eaten, SAND))
        apples = is_eaten.float()
        outcomes = {"apples": apples, "apple_steps": apples * (self._steps + 1)}
        rewards, beams, beam_outcomes = self._fire(actions, ground, apples)
        self._grow(ground)
        self._ground = self._shine(ground, beams) if beams else ground
        terminated = torch.zeros(self.num_games, dtype=torch.bool, device=self.device)
        return rewards.t(), terminated, {name: values.t() for name, values in {**outcomes, **beam_outcomes}.items()}

    def _fire(self, actions: Tensor, ground: Tensor, rewards: Tensor) -> Fired:
        """Fires all beams.

        Args:
            actions: ``[N, B]``.
            ground: ``[P, B]`` uint8, ground classes after eating. May be changed in place.
            rewards: ``[N, B]``, rewards of the step so far.

        Returns:
            Tuple of the rewards ``[N, B]``, the beams in the format of :meth:`_shine`, and the outcomes ``[N, B]``.
        """
        zaps = actions == self._zap
        return self._settle_zaps(self._cast(ground, zaps), zaps, rewards)

    def _settle_zaps(self, rays: Rays, zaps: Tensor, rewards: Tensor) -> Fired:
        """Applies costs, penalties and freezing of zaps. Returns the same tuple as :meth:`_fire`."""
        if self._zap < 0:
            return rewards, [], {}
        hits, zap_counts = self._hits(rays, zaps), zaps.float()
        is_hit = hits > 0
        rewards = rewards.add(zap_counts, alpha=-self._zap_cost).add_(hits, alpha=-self._zap_penalty)
        # The freeze times do not include the agents hit in this step yet.
        is_disturbed = (is_hit | (self._gone > 0)).float()
        self._freeze(is_hit)
        return rewards, [(rays, zaps, FIRE)], {"zaps": zap_counts, "disturbed": is_disturbed}

    @abstractmethod
    def _grow(self, ground: Tensor) -> None:
        """Applies one step of growth to the ground, ``[P, B]`` uint8, in place."""

    def _grow_apples(self, ground: Tensor, chance: Tensor) -> None:
        """Grows apples on orchard cells without an agent.

        Args:
            ground: ``[P, B]`` uint8, changed in place.
            chance: Growth probability of each cell, ``[orchard, B]`` or ``[B]``.
        """
        orchard = ground[: self._orchard]
        grows = self._uniform(self._orchard, copies_last=True) < chance
        grows &= ~self._is_occupied(self._orchard)
        orchard.masked_fill_(grows, APPLE)

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Returns events per step, the mean time step of eaten apples (0 if none) and the rate of peaceful steps."""
        apples = totals["apples"]
        rates = {"apples_per_step": apples / num_steps, "sustainability": totals["apple_steps"] / apples.clamp(min=1.0)}
        if "zaps" in totals:
            rates |= {"zaps_per_step": totals["zaps"] / num_steps, "peace": 1.0 - totals["disturbed"] / num_steps}
        return rates

    def _caption(self, copy: int) -> str:
        apples = int((self._ground_without_beams()[: self._orchard, copy] == APPLE).sum())
        return f"{super()._caption(copy)}   apples {apples}"

    def _tile_names(self) -> list[str]:
        return [*super()._tile_names(), "grass"]

    def _tiles(self, ground: np.ndarray) -> np.ndarray:
        """Returns the tile indices, with grass on the empty cells of the orchard."""
        tiles = ground.astype(int)
        free = tiles[: self._orchard] == SAND
        tiles[: self._orchard][free] = len(self.class_names)
        return tiles
