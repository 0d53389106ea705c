"""Matrix games on a grid: agents select a strategy by collecting tokens, and play when a beam hits another agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from social_dilemmas import maps
from social_dilemmas.grid_beams import FIRE, Rays
from social_dilemmas.grid_map import MOVES, SAND, TURNS, Letter, read_map
from social_dilemmas.grid_world import STAY, GridWorld, check_ranges
from social_dilemmas.matrix_game import read_table
from social_dilemmas.registry import did_you_mean

TOKEN = 2
# Letters of the kinds of tokens in maps, one for each ground class that is left for tokens.
KINDS = "abcdef"
INTERACT = "interact"
# Rewards (row agent, column agent), with the values of Melting Pot 2.0.
TABLES = {
    "prisoners_dilemma": [[(3.0, 3.0), (0.0, 5.0)], [(5.0, 0.0), (1.0, 1.0)]],
    "stag_hunt": [[(4.0, 4.0), (0.0, 2.0)], [(2.0, 0.0), (2.0, 2.0)]],
    "chicken": [[(3.0, 3.0), (2.0, 5.0)], [(5.0, 2.0), (0.0, 0.0)]],
}


class MatrixGrid(GridWorld):
    """Two-player matrix game between agents that collect tokens and then interact by a beam ("in the matrix").

    | | |
    |---|---|
    | observation | ``[rows + 3 * K, columns]`` uint8, classes of the cells in view (:class:`GridWorld`), then bars |
    | action | left, right, forward, back, stay, turn_right, turn_left, interact |
    | reward | payoff of the mixed strategies that two agents hold as tokens when they interact |
    | end | truncated after ``num_steps`` |
    | state | ``[rows + N * K, columns]`` uint8, classes of the whole map, then bars of each agent's tokens |
    | outcomes | ``cooperation_rate``, ``interactions_per_step``, ``tokens_per_step`` |

    There are K kinds of tokens, one for each action of the payoff table. A bar is a row with one cell per token of its
    kind, up to the number of columns: K bars for the tokens that the agent holds, K for those that it held at its last
    interaction, and K for those that its partner held. ``cooperation_rate`` is the mean fraction of the first kind at
    the interactions of an agent, and 0 if there was none.

    In each step, frozen agents may return, agents turn and move, collect the token on their cell, and interact; then
    taken tokens regrow: each with probability ``regrowth`` if no agent is on its cell, and all together when no agent
    is on the map. Two agents interact if the beam of one reaches the other and each holds a token. With ``x`` and ``y``
    their fractions of the kinds, counting ``initial_tokens`` additional tokens of each kind, they get ``x A y`` and ``x
    B y``, where A and B are the two tables of ``payoffs``. The agent that comes first in the order of agents is the row
    player. Then both lose their tokens, and are off the map for ``freeze_steps`` steps. An agent interacts with one
    other agent at most: pairs are drawn one after another, uniformly from all pairs that can still interact.

    Presets, selected by ``map``: ``small`` is a room of 5x5 cells. ``melting_pot`` has the parameters of the repeated
    games of Melting Pot 2.0 (Agapiou et al., 2022), on a map with the same cell counts. Other settings override the
    preset.

    Differs from Melting Pot: Rewards are given immediately and agents leave immediately; in Melting Pot, both agents
    stand still for 16 steps before that and are off the map for 5 more, and ``freeze_steps`` is the sum. Beams pass
    over tokens and do not destroy them. Tokens may regrow from the next step on; in Melting Pot, they wait for 10
    steps. Episodes do not end at random after 1,000 steps.

    Version history: v0, first.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {
            "map": maps.MATRIX_SMALL,
            "num_steps": 100,
            "view": 4,
            "freeze_steps": 3,
        },
        "melting_pot": {"map": maps.MATRIX_MELTING_POT},
    }
    state_names: ClassVar[tuple[str, ...]] = (*GridWorld.state_names, "_kinds", "_tokens", "_met")

    def __init__(
        self,
        map: str = maps.MATRIX_MELTING_POT,
        num_agents: int = 2,
        *,
        payoffs: str | Sequence = "prisoners_dilemma",
        initial_tokens: int = 1,
        regrowth: float = 0.02,
        view: int | tuple[int, int, int] | str = (3, 1, 2),
        beam_length: int = 3,
        cooldown: int = 2,
        freeze_steps: int = 21,
        random_starts: bool = False,
        num_steps: int = 1000,
        num_games: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        """Builds the environments.

        Args:
            map: The map as text: ``@`` wall, ``a`` a token of the first kind, ``b`` of the second and so on to ``f``,
                ``?`` a token of a kind that is drawn for each episode, ``P`` start cell of any agent, a digit for the
                start cell of the agent with that index, blank for sand.
            num_agents: N, number of agents.
            payoffs: Payoff table: ``prisoners_dilemma``, ``stag_hunt`` or ``chicken``; or nested sequences
                ``[K][K][2]``, the rewards of both agents by the kind of the row agent and of the column agent.
            initial_tokens: Number of tokens of each kind that count in addition to the collected ones.
            regrowth: Probability per step that a taken token regrows.
            view: Number of cells that an agent sees in every direction; or a sequence of the numbers of cells ahead,
                behind and on each side; or ``map`` for the whole map, seen from above.
            beam_length: Number of cells of each of the three rays of a beam.
            cooldown: Number of steps after firing a beam in which an agent cannot fire again.
            freeze_steps: Number of steps for which agents that interacted are off the map, before they return to a
                free start cell. If 0, they stay on their cells.
            random_starts: If True, any agent may also start on the cells with digits.
            num_steps: Episode length, in steps.
            num_games: B, number of parallel environments.
            device: Device of all tensors.

        Raises:
            ValueError: If the map cannot be read or has no tokens, the payoff table is not square, or a number is out
                of range.
        """
        table = _table(payoffs)
        kinds = len(table)
        tokens = {name: Letter(TOKEN + k, 0) for k, name in enumerate(KINDS[:kinds])} | {"?": Letter(TOKEN, 0)}
        super().__init__(
            read_map(map, {**tokens, "P": Letter(SAND, 1, starts=True), " ": Letter(SAND, 1)}, random_starts),
            (*MOVES, STAY, *TURNS, INTERACT),
            view=view,
            beam_length=beam_length,
            cooldowns={INTERACT: cooldown},
            freeze_steps=freeze_steps,
            num_agents=num_agents,
            num_steps=num_steps,
            num_games=num_games,
            device=device,
        )
        check_ranges({"initial_tokens": initial_tokens}, 0, 100)
        check_ranges({"regrowth": regrowth}, 0, 1)
        self._places = self.map.blocks[0]
        if not self._places:
            raise ValueError(f"map: there are no tokens; add some of {', '.join(tokens)}")
        self.num_kinds = kinds
        self.class_names = (*self.class_names, *(f"token {name}" for name in KINDS[:kinds]))
        self.beam_names[2] = INTERACT
        self.reward_range = (min(0.0, float(table.min())), max(0.0, float(table.max())))
        self._table, self._initial_tokens, self._regrowth = table.to(self.device), initial_tokens, regrowth
        self._interact = self.action_names.index(INTERACT)
        top = self.num_classes - 1
        rows, columns = self.view_size
        self.observation_space = gymnasium.spaces.Box(0, top, (rows + 3 * kinds, columns), np.uint8)
        rows, columns = self.map.size
        top = int(self.state_space.high.max())
        self.state_space = gymnasium.spaces.Box(0, top, (rows + kinds * num_agents, columns), np.uint8)
        self._bars_seen, self._bars_of_map = self._bars(self.view_size[1]), self._bars(columns)
        self._drawn = torch.tensor([letter == "?" for letter in map if letter in tokens], device=self.device)[:, None]
        # Tokens that each agent holds; and those that it and its partner held at its last interaction.
        self._tokens = torch.zeros(kinds, num_agents, num_games, dtype=torch.uint8, device=self.device)
        self._met = torch.zeros(2, *self._tokens.shape, dtype=torch.uint8, device=self.device)
        self._kinds = self._fresh[: self._places].repeat(1, num_games)

    def _initial_state(self) -> dict[str, Tensor]:
        initial_state = super()._initial_state()
        kinds = initial_state["_ground"][: self._places]
        if self._drawn.any():
            draws = TOKEN + (self._uniform(self._places, copies_last=True) * self.num_kinds).to(torch.uint8)
            kinds = torch.where(self._drawn, draws, kinds)
            initial_state["_ground"][: self._places] = kinds
        cleared_state = {"_tokens": torch.zeros_like(self._tokens), "_met": torch.zeros_like(self._met)}
        return {**initial_state, **cleared_state, "_kinds": kinds.clone()}

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        actions = self._begin(actions)
        self._move(actions)
        ground = self._ground_without_beams()
        is_collected = self._take(ground)
        fires = actions == self._interact
        rays = self._cast(ground, fires)
        partner = self._partners(rays)
        rewards, share = self._settle(partner)
        has_interacted = partner != self._agents[:, None]
        self._freeze(has_interacted)
        self._grow(ground)
        self._ground = self._shine(ground, [(rays, fires, FIRE)])
        outcomes = {
            "tokens": is_collected.float(),
            "interactions": has_interacted.float(),
            "first_shares": share * has_interacted,
        }
        terminated = torch.zeros(self.num_games, dtype=torch.bool, device=self.device)
        return rewards.t(), terminated, {name: values.t() for name, values in outcomes.items()}

    def _take(self, ground: Tensor) -> Tensor:
        """Moves tokens from the ground ``[P, B]`` to the agents on them. Returns a mask of these agents, ``[N, B]``."""
        ground_below = ground.gather(0, self._cells)
        # The cell of agents off the map is sand, so that they collect nothing.
        is_token = ground_below >= TOKEN
        ground.scatter_(0, self._cells, ground_below.masked_fill(is_token, SAND))
        kinds = torch.arange(TOKEN, TOKEN + self.num_kinds, dtype=torch.uint8, device=self.device)
        is_kind = ground_below == kinds[:, None, None]
        self._tokens = self._tokens + (is_kind & (self._tokens < 255)).to(torch.uint8)
        return is_token

    def _partners(self, rays: Rays) -> Tensor:
        """Returns the partner that each agent interacts with, ``[N, B]`` int64; the agent itself if there is none."""
        n, games = self.num_agents, self.num_games
        is_hit = torch.zeros(n * (n + 1) * games, dtype=torch.bool, device=self.device)
        shooter = torch.div(rays.shooters, games, rounding_mode="floor")
        is_hit[((shooter * (n + 1) + rays.hit_agents()) * games + rays.env_indices).view(-1)] = True
        is_hit = is_hit.view(n, n + 1, games)[:, 1:]
        ready = self._tokens.amax(0) > 0
        can_interact = (is_hit | is_hit.transpose(0, 1)) & ready & ready[:, None]
        # Consider each pair once, in random order. Pairs that cannot interact get 2.0, above all random numbers.
        order = self._uniform(n * n, copies_last=True)
        order = torch.where((can_interact & self._comes_after).flatten(0, 1), order, 2.0).view(n, n, games)
        partner = self._agents[:, None].expand(n, games)
        for _ in range(n // 2):
            best, pair = order.flatten(0, 1).min(0)
            first_agent, second_agent = torch.div(pair, n, rounding_mode="floor"), pair % n
            has_pair = best < 2.0
            first_agent, second_agent = torch.where(has_pair, first_agent, n), torch.where(has_pair, second_agent, n)
            is_first, is_second = self._agents[:, None] == first_agent, self._agents[:, None] == second_agent
            partner = torch.where(is_first, second_agent, torch.where(is_second, first_agent, partner))
            is_paired = is_first | is_second
            order = torch.where(is_paired | is_paired[:, None], 2.0, order)
        return partner

    def _settle(self, partner: Tensor) -> tuple[Tensor, Tensor]:
        """Settles interactions and clears their tokens. Returns rewards and fractions of the first kind, ``[N, B]``."""
        has_interacted = partner != self._agents[:, None]
        partner_tokens = self._tokens.gather(1, partner.expand_as(self._tokens))
        counts = self._tokens.float() + self._initial_tokens
        shares = counts / counts.sum(0).clamp(min=1.0)
        partner_shares = shares.gather(1, partner.expand_as(shares))
        # The first agent of a pair is the row player.
        row_payoffs, column_payoffs = self._table.unbind(-1)
        row_rewards = torch.einsum("anb,ac,cnb->nb", shares, row_payoffs, partner_shares)
        column_rewards = torch.einsum("anb,ac,cnb->nb", partner_shares, column_payoffs, shares)
        rewards = torch.where(self._agents[:, None] < partner, row_rewards, column_rewards)
        self._met = torch.where(has_interacted, torch.stack([self._tokens, partner_tokens]), self._met)
        self._tokens = self._tokens.masked_fill(has_interacted, 0)
        return rewards * has_interacted, shares[0]

    def _grow(self, ground: Tensor) -> None:
        """Regrows tokens on the ground, ``[P, B]`` uint8, in place."""
        grows = self._uniform(self._places, copies_last=True) < self._regrowth
        grows &= ~self._is_occupied(self._places)
        grows |= (self._cells == self.map.nowhere).all(0)
        places = ground[: self._places]
        places.copy_(torch.where(grows, self._kinds, places))

    def _bars(self, columns: int) -> Tensor:
        """Builds the bars of all kinds and token counts, ``[K, 1 + columns, columns]`` uint8."""
        kinds = torch.arange(TOKEN, TOKEN + self.num_kinds, dtype=torch.uint8)
        full = torch.ones(1 + columns, columns, dtype=torch.bool).tril(-1)
        return torch.where(full, kinds[:, None, None], SAND).to(torch.uint8).to(self.device)

    def _as_bars(self, counts: Tensor, bars: Tensor) -> Tensor:
        """Looks up the bars of token counts ``[R * K, N, B]`` uint8. Returns ``[B, N, R * K, columns]``."""
        kinds, lengths, columns = bars.shape
        first = torch.arange(0, kinds * lengths, lengths, device=self.device).repeat(len(counts) // kinds)
        rows = counts.permute(2, 1, 0).clamp(max=columns) + first
        return bars.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)

    def _observe(self) -> Tensor:
        """Returns the classes in the view of each agent, and its bars, ``[B, N, rows + 3 * K, columns]`` uint8."""
        counts = torch.cat([self._tokens, self._met.flatten(0, 1)])
        return torch.cat([super()._observe(), self._as_bars(counts, self._bars_seen)], 2)

    def state(self) -> Tensor:
        """Returns the classes of the whole map, and all token bars, ``[B, rows + N * K, columns]`` uint8."""
        return torch.cat([super().state(), self._as_bars(self._tokens, self._bars_of_map).flatten(1, 2)], 1)

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """Returns the mean fraction of the first kind at interactions (0 if there was none), and events per step."""
        return {
            "cooperation_rate": totals["first_shares"] / totals["interactions"].clamp(min=1.0),
            "interactions_per_step": totals["interactions"] / num_steps,
            "tokens_per_step": totals["tokens"] / num_steps,
        }

    def _caption(self, copy: int) -> str:
        tokens = self._tokens[..., copy].t().tolist()
        descriptions = (
            f"{agent}: " + " ".join(f"{k}{name}" for k, name in zip(counts, KINDS, strict=False))
            for agent, counts in enumerate(tokens)
        )
        return f"{super()._caption(copy)}   {'   '.join(descriptions)}"


def _table(payoffs: str | Sequence) -> Tensor:
    """Returns the payoff table, ``[K, K, 2]`` float32."""
    if isinstance(payoffs, str):
        if payoffs not in TABLES:
            raise ValueError(f"payoffs: there is no table {payoffs!r}{did_you_mean(payoffs, TABLES)}; or pass a table")
        payoffs = TABLES[payoffs]
    table = read_table(payoffs)
    kinds = len(table) if table.dim() else 0
    if not 2 <= kinds <= len(KINDS) or table.shape != (kinds, kinds, 2):
        shape = "x".join(map(str, table.shape))
        raise ValueError(f"payoffs has shape {shape}; it must be K x K x 2, with K from 2 to {len(KINDS)}")
    return table
