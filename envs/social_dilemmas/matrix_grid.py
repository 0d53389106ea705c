"""Matrix games in a grid: agents choose by what they collect, and play when one's beam meets another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from social_dilemmas import maps
from social_dilemmas.grid_map import MOVES, SAND, TURNS, Letter, read_map
from social_dilemmas.grid_world import FIRE, STAY, GridWorld, Rays, check_ranges
from social_dilemmas.matrix_game import read_table
from social_dilemmas.registry import did_you_mean

TOKEN = 2
# Letters of the kinds of tokens in maps, as many as there are classes left for them.
KINDS = "abcdef"
INTERACT = "interact"
# Rewards of who chooses the row and who chooses the column, in Melting Pot 2.0's figures.
TABLES = {
    "prisoners_dilemma": [[(3.0, 3.0), (0.0, 5.0)], [(5.0, 0.0), (1.0, 1.0)]],
    "stag_hunt": [[(4.0, 4.0), (0.0, 2.0)], [(2.0, 0.0), (2.0, 2.0)]],
    "chicken": [[(3.0, 3.0), (2.0, 5.0)], [(5.0, 2.0), (0.0, 0.0)]],
}


class MatrixGrid(GridWorld):
    """A two-player matrix game played by agents who collect tokens and then meet ("in the matrix").

    | | |
    |---|---|
    | observation | ``[rows + 3 * K, columns]`` uint8, classes of what an agent sees (:class:`GridWorld`), then bars |
    | action | left, right, forward, back, stay, turn_right, turn_left, interact |
    | reward | what the table gives for the kinds of tokens that two have when they interact |
    | end | truncated after ``num_steps`` |
    | state | ``[rows + N * K, columns]`` uint8, classes of the whole map, then bars of each agent's tokens |
    | outcomes | ``cooperation_rate``, ``interactions_per_step``, ``tokens_per_step`` |

    There are K kinds of tokens, one for each action of the table. A bar is a row with as many cells of its kind as
    there are tokens, up to the number of columns: K bars for what one has, K for what one had at one's last
    interaction, and K for what the other had. ``cooperation_rate`` is the mean share of the first kind at one's
    interactions, and 0 if there was none.

    In each step agents return from where they were sent, turn and move; take the token they stand on; interact; and
    then tokens grow again where there was one: each with chance ``regrowth`` where no agent is, and all at once when
    nobody is on the map. Two interact if the beam of one reaches the other and each has a token. With ``x`` and ``y``
    their shares of the kinds, ``initial_tokens`` of each kind counted too, they get ``x A y`` and ``x B y``, where A
    and B are the two tables of ``payoffs``; the earlier in the order of agents chooses the row. Then both have no
    tokens, and are away for ``freeze_steps``. Nobody interacts with two at once: pairs are drawn, one after the other,
    from all who could interact, each with the same chance.

    Presets, chosen by ``map``: ``small`` is a room of 5x5; ``melting_pot`` has the figures of the repeated games of
    Melting Pot 2.0 (Agapiou et al., 2022), on a map with the same counts. What is set beside ``map`` goes before the
    preset.

    Differs from Melting Pot: rewards come at once and agents leave at once, where there both stand still for 16 steps
    before that and are away for 5 more, of which ``freeze_steps`` is the sum; beams go over tokens and do not destroy
    them; tokens may grow again from the next step on, where there they wait for 10; there is no end drawn by chance
    after 1,000 steps.

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
        """Builds the game.

        Args:
            map: The map as text: ``@`` wall, ``a`` a token of the first kind, ``b`` of the second and so on to ``f``,
                ``?`` of a kind that is drawn for each episode, ``P`` where agents may start, a digit where the agent of
                that number does, blank for sand.
            num_agents: N.
            payoffs: The table: ``prisoners_dilemma``, ``stag_hunt`` or ``chicken``; or nested sequences ``[K][K][2]``,
                the rewards of two by the kind of the first and of the second.
            initial_tokens: How many of each kind count beside those that one has.
            regrowth: Chance of a token that was taken in a step.
            view: Cells that an agent sees on every side; or ahead, behind and on each side; or ``map`` for all of it,
                from above.
            beam_length: Cells of each of the three rays of a beam.
            cooldown: Steps after a beam in which one cannot fire.
            freeze_steps: How many steps who interacted is away, to return to a free cell to start on; with 0 they stay
                where they are.
            random_starts: Whether any agent may start where a digit is too.
            num_steps: Steps of an episode.
            num_games: B, how many copies are stepped together.
            device: Where all tensors live.

        Raises:
            ValueError: If the map cannot be read or has no tokens, the table is not square, or a number is out of
                range.
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
            raise ValueError(f"map: there are no tokens; give some of {', '.join(tokens)}")
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
        # What each agent has; and what it had, and the other, when it last interacted.
        self._tokens = torch.zeros(kinds, num_agents, num_games, dtype=torch.uint8, device=self.device)
        self._met = torch.zeros(2, *self._tokens.shape, dtype=torch.uint8, device=self.device)
        self._kinds = self._fresh[: self._places].repeat(1, num_games)

    def _initial_state(self) -> dict[str, Tensor]:
        begun = super()._initial_state()
        kinds = begun["_ground"][: self._places]
        if self._drawn.any():
            draws = TOKEN + (self._uniform(self._places, copies_last=True) * self.num_kinds).to(torch.uint8)
            kinds = torch.where(self._drawn, draws, kinds)
            begun["_ground"][: self._places] = kinds
        fresh = {"_tokens": torch.zeros_like(self._tokens), "_met": torch.zeros_like(self._met)}
        return {**begun, **fresh, "_kinds": kinds.clone()}

    def _play(self, actions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        actions = self._begin(actions)
        self._move(actions)
        ground = self._lying()
        taken = self._take(ground)
        fires = actions == self._interact
        rays = self._cast(ground, fires)
        partner = self._partners(rays)
        rewards, share = self._settle(partner)
        interacted = partner != self._agents[:, None]
        self._freeze(interacted)
        self._grow(ground)
        self._ground = self._shine(ground, [(rays, fires, FIRE)])
        outcomes = {"tokens": taken.float(), "interactions": interacted.float(), "first_shares": share * interacted}
        terminated = torch.zeros(self.num_games, dtype=torch.bool, device=self.device)
        return rewards.t(), terminated, {name: values.t() for name, values in outcomes.items()}

    def _take(self, ground: Tensor) -> Tensor:
        """Gives agents the tokens they stand on, which are taken off ``[P, B]``; who got one, ``[N, B]`` bool."""
        under = ground.gather(0, self._cells)
        # What lies where nobody is, or under a wall, is sand or a wall.
        taken = under >= TOKEN
        ground.scatter_(0, self._cells, under.masked_fill(taken, SAND))
        kinds = torch.arange(TOKEN, TOKEN + self.num_kinds, dtype=torch.uint8, device=self.device)
        got = under == kinds[:, None, None]
        self._tokens = self._tokens + (got & (self._tokens < 255)).to(torch.uint8)
        return taken

    def _partners(self, rays: Rays) -> Tensor:
        """With whom each agent interacts, ``[N, B]`` int64; oneself for nobody."""
        n, games = self.num_agents, self.num_games
        reached = torch.zeros(n * (n + 1) * games, dtype=torch.bool, device=self.device)
        shooter = torch.div(rays.who, games, rounding_mode="floor")
        reached[((shooter * (n + 1) + rays.struck()) * games + rays.copies).view(-1)] = True
        reached = reached.view(n, n + 1, games)[:, 1:]
        ready = self._tokens.amax(0) > 0
        could = (reached | reached.transpose(0, 1)) & ready & ready[:, None]
        # Each pair once, in an order drawn at random; those who cannot come last.
        order = self._uniform(n * n, copies_last=True)
        order = torch.where((could & self._comes_after).flatten(0, 1), order, 2.0).view(n, n, games)
        partner = self._agents[:, None].expand(n, games)
        for _ in range(n // 2):
            best, pair = order.flatten(0, 1).min(0)
            one, other = torch.div(pair, n, rounding_mode="floor"), pair % n
            meets = best < 2.0
            one, other = torch.where(meets, one, n), torch.where(meets, other, n)
            is_one, is_other = self._agents[:, None] == one, self._agents[:, None] == other
            partner = torch.where(is_one, other, torch.where(is_other, one, partner))
            met = is_one | is_other
            order = torch.where(met | met[:, None], 2.0, order)
        return partner

    def _settle(self, partner: Tensor) -> tuple[Tensor, Tensor]:
        """What agents get, and their shares of the first kind, ``[N, B]``; who interacted has no tokens any more."""
        met = partner != self._agents[:, None]
        of_other = self._tokens.gather(1, partner.expand_as(self._tokens))
        counts = self._tokens.float() + self._initial_tokens
        shares = counts / counts.sum(0).clamp(min=1.0)
        of_others = shares.gather(1, partner.expand_as(shares))
        # The earlier of two chooses the row.
        of_row, of_column = self._table.unbind(-1)
        by_row = torch.einsum("anb,ac,cnb->nb", shares, of_row, of_others)
        by_column = torch.einsum("anb,ac,cnb->nb", of_others, of_column, shares)
        rewards = torch.where(self._agents[:, None] < partner, by_row, by_column)
        self._met = torch.where(met, torch.stack([self._tokens, of_other]), self._met)
        self._tokens = self._tokens.masked_fill(met, 0)
        return rewards * met, shares[0]

    def _grow(self, ground: Tensor) -> None:
        """Lets tokens grow again, on ``[P, B]`` uint8, in place."""
        grows = self._uniform(self._places, copies_last=True) < self._regrowth
        grows &= ~self._somebody_on(self._places)
        grows |= (self._cells == self.map.nowhere).all(0)
        places = ground[: self._places]
        places.copy_(torch.where(grows, self._kinds, places))

    def _bars(self, columns: int) -> Tensor:
        """Rows with as many tokens of a kind as there are, ``[K, 1 + columns, columns]`` uint8 by kind and count."""
        kinds = torch.arange(TOKEN, TOKEN + self.num_kinds, dtype=torch.uint8)
        full = torch.ones(1 + columns, columns, dtype=torch.bool).tril(-1)
        return torch.where(full, kinds[:, None, None], SAND).to(torch.uint8).to(self.device)

    def _as_bars(self, counts: Tensor, bars: Tensor) -> Tensor:
        """The bars of counts ``[R * K, N, B]`` uint8, ``[B, N, R * K, columns]``."""
        kinds, lengths, columns = bars.shape
        first = torch.arange(0, kinds * lengths, lengths, device=self.device).repeat(len(counts) // kinds)
        rows = counts.permute(2, 1, 0).clamp(max=columns) + first
        return bars.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)

    def _observe(self) -> Tensor:
        """Classes of what each agent sees, and its bars, ``[B, N, rows + 3 * K, columns]`` uint8."""
        counts = torch.cat([self._tokens, self._met.flatten(0, 1)])
        return torch.cat([super()._observe(), self._as_bars(counts, self._bars_seen)], 2)

    def state(self) -> Tensor:
        """Classes of the whole map, and the bars of each agent's tokens, ``[B, rows + N * K, columns]`` uint8."""
        return torch.cat([super().state(), self._as_bars(self._tokens, self._bars_of_map).flatten(1, 2)], 1)

    @staticmethod
    def summarize(totals: dict[str, Tensor], num_steps: float | Tensor) -> dict[str, Tensor]:
        """The mean share of the first kind at interactions (0 if there was none), and events a step."""
        return {
            "cooperation_rate": totals["first_shares"] / totals["interactions"].clamp(min=1.0),
            "interactions_per_step": totals["interactions"] / num_steps,
            "tokens_per_step": totals["tokens"] / num_steps,
        }

    def _caption(self, copy: int) -> str:
        held = self._tokens[..., copy].t().tolist()
        shown = (
            f"{agent}: " + " ".join(f"{k}{name}" for k, name in zip(of, KINDS, strict=False))
            for agent, of in enumerate(held)
        )
        return f"{super()._caption(copy)}   {'   '.join(shown)}"


def _table(payoffs: str | Sequence) -> Tensor:
    """The payoff table, ``[K, K, 2]`` float32."""
    if isinstance(payoffs, str):
        if payoffs not in TABLES:
            raise ValueError(f"payoffs: there is no table {payoffs!r}{did_you_mean(payoffs, TABLES)}; or give one")
        payoffs = TABLES[payoffs]
    table = read_table(payoffs)
    kinds = len(table) if table.dim() else 0
    if not 2 <= kinds <= len(KINDS) or table.shape != (kinds, kinds, 2):
        shape = "x".join(map(str, table.shape))
        raise ValueError(f"payoffs has shape {shape}; it must be K x K x 2, with K from 2 to {len(KINDS)}")
    return table
