"""What Cleanup and Harvest have in common: apples that are eaten and grow, and agents who zap each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from social_dilemmas.grid_map import MOVES, SAND, TURNS, GridMap
from social_dilemmas.grid_world import FIRE, STAY, ZAP, GridWorld, Rays, check_ranges

APPLE = 2
# Rewards, beams as GridWorld._shine takes them, and outcomes.
Fired = tuple[Tensor, list[tuple[Rays, Tensor, int]], dict[str, Tensor]]


class Orchard(GridWorld):
    """A grid on which apples lie; agents eat what they stand on, and may zap.

    A subclass says what else beams do and how apples grow.
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
        """Builds the game.

        Args:
            grid_map: The map, whose first block is where apples grow.
            more_actions: Actions beside moves, turns and zapping.
            turning: Whether agents turn; if not, all face up for ever.
            zapping: Whether agents may zap.
            zap_cost: What it costs to zap.
            zap_penalty: What it costs to be hit.
            cooldowns: As for :class:`GridWorld`.
            **settings: The other settings of :class:`GridWorld`.

        Raises:
            ValueError: If the map has no orchard, or a number is out of range.
        """
        actions = (*MOVES, STAY, *(TURNS if turning else ()), *((ZAP,) if zapping else ()), *more_actions)
        super().__init__(grid_map, actions, cooldowns={k: v for k, v in cooldowns.items() if k in actions}, **settings)
        check_ranges({"zap_cost": zap_cost, "zap_penalty": zap_penalty}, 0, 1e6)
        if not grid_map.blocks[0]:
            raise ValueError("map: there is no orchard; apples grow on A and B")
        self._orchard = grid_map.blocks[0]
        self._zap_cost, self._zap_penalty = zap_cost, zap_penalty
        # No action is that of who may not.
        self._zap = actions.index(ZAP) if zapping else -1
        if zapping:
            self.beam_names[2] = ZAP
        self.reward_range = (-zap_cost - zap_penalty * (self.num_agents - 1) if zapping else 0.0, 1.0)

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        actions = self._begin(actions)
        self._move(actions)
        ground = self._lying()
        under = ground.gather(0, self._cells)
        eaten = under == APPLE
        ground.scatter_(0, self._cells, under.masked_fill_(eaten, SAND))
        apples = eaten.float()
        outcomes = {"apples": apples, "apple_steps": apples * (self._steps + 1)}
        rewards, beams, more = self._fire(actions, ground, apples)
        self._grow(ground)
        self._ground = self._shine(ground, beams) if beams else ground
        terminated = torch.zeros(self.num_games, dtype=torch.bool, device=self.device)
        return rewards.t(), terminated, {name: values.t() for name, values in {**outcomes, **more}.items()}

    def _fire(self, actions: Tensor, ground: Tensor, rewards: Tensor) -> Fired:
        """Fires all beams.

        Args:
            actions: ``[N, B]``.
            ground: ``[P, B]`` uint8 after eating; may be changed.
            rewards: ``[N, B]`` so far.

        Returns:
            Rewards, beams as :meth:`_shine` takes them, and outcomes, ``[N, B]``.
        """
        zaps = actions == self._zap
        return self._settle_zaps(self._cast(ground, zaps), zaps, rewards)

    def _settle_zaps(self, rays: Rays, zaps: Tensor, rewards: Tensor) -> Fired:
        """What follows for who zaps and who is hit, as :meth:`_fire` returns it."""
        if self._zap < 0:
            return rewards, [], {}
        hits, fired = self._hits(rays, zaps), zaps.float()
        hit = hits > 0
        rewards = rewards.add(fired, alpha=-self._zap_cost).add_(hits, alpha=-self._zap_penalty)
        # Those are away who were not sent just now.
        disturbed = (hit | (self._gone > 0)).float()
        self._freeze(hit)
        return rewards, [(rays, zaps, FIRE)], {"zaps": fired, "disturbed": disturbed}

    @abstractmethod
    def _grow(self, ground: Tensor) -> None:
        """Lets things grow on the ground, ``[P, B]`` uint8, in place."""

    def _grow_apples(self, ground: Tensor, chance: Tensor) -> None:
        """Lets apples grow where neither apple nor agent is.

        Args:
            ground: ``[P, B]`` uint8, changed in place.
            chance: Of each cell, ``[orchard, B]`` or ``[B]``.
        """
        orchard = ground[: self._orchard]
        grows = self._uniform(self._orchard, copies_last=True) < chance
        grows &= ~self._somebody_on(self._orchard)
        orchard.masked_fill_(grows, APPLE)

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Events a step; the mean step of an apple (0 if there was none); the share of steps in peace."""
        apples = totals["apples"]
        rates = {"apples_per_step": apples / num_steps, "sustainability": totals["apple_steps"] / apples.clamp(min=1.0)}
        if "zaps" in totals:
            rates |= {"zaps_per_step": totals["zaps"] / num_steps, "peace": 1.0 - totals["disturbed"] / num_steps}
        return rates

    def _caption(self, copy: int) -> str:
        apples = int((self._lying()[: self._orchard, copy] == APPLE).sum())
        return f"{super()._caption(copy)}   apples {apples}"

    def _tile_names(self) -> list[str]:
        return [*super()._tile_names(), "grass"]

    def _tiles(self, ground: np.ndarray) -> np.ndarray:
        """Free cells of the orchard are grass."""
        tiles = ground.astype(int)
        free = tiles[: self._orchard] == SAND
        tiles[: self._orchard][free] = len(self.class_names)
        return tiles
