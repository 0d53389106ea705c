"""Maps of grids: read from text, their cells numbered, and tables of what is where seen from a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# What an action leads to, seen facing up, as (down, right); and how far it turns: 0 is up, 1 right, 2 down, 3 left.
MOVES = {"left": (0, -1), "right": (0, 1), "forward": (-1, 0), "back": (1, 0)}
TURNS = {"turn_right": 1, "turn_left": 3}
SAND, WALL = 0, 1
# For each pose there is a table of where each cell is seen from it.
MAX_CELLS = 1024


class View(NamedTuple):
    """How many cells an agent sees: ahead, behind, and on each side."""

    ahead: int
    behind: int
    side: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.ahead + self.behind + 1, 2 * self.side + 1


class Letter(NamedTuple):
    """What a letter of a map stands for.

    Attributes:
        ground: The class of what lies there at the start.
        block: Cells of one block are numbered one after the other, in the order of the blocks.
        starts: Whether an agent may start there.
    """

    ground: int
    block: int
    starts: bool = False


@dataclass(frozen=True, eq=False)
class GridMap:
    """A map, its cells numbered: those that can be walked on, one number for all walls, one for who is nowhere.

    Attributes:
        size: Rows and columns.
        places: ``[P - 2, 2]`` int64, row and column of each cell that can be walked on.
        numbers: ``[rows, columns]`` int64, each cell's number.
        ground: ``[P]`` uint8, what lies there at the start.
        blocks: How many cells each block has.
        starts: Numbers of the cells where any agent may start.
        fixed_starts: Of the first agents the cells where each starts, if the map says so.
    """

    size: tuple[int, int]
    places: np.ndarray
    numbers: np.ndarray
    ground: np.ndarray
    blocks: tuple[int, ...]
    starts: tuple[int, ...]
    fixed_starts: tuple[int, ...]

    @property
    def wall(self) -> int:
        """The number of all walls."""
        return len(self.places)

    @property
    def nowhere(self) -> int:
        """The number of a cell that is not on the map."""
        return len(self.places) + 1

    @property
    def count(self) -> int:
        """P, how many numbers there are."""
        return len(self.places) + 2

    def reached(self, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
        """The cells at some offsets from each pose, ``[P * 4, offsets]`` int64 by ``cell * 4 + heading``.

        Args:
            offsets: Down and right, as seen facing up.
        """
        down, right = np.array(offsets, dtype=np.int64).T
        turned = np.array([(down, right), (right, -down), (-down, -right), (-right, down)])
        room = int(np.abs(turned).max(initial=0))
        padded = np.pad(self.numbers, room, constant_values=self.wall)
        at = self.places[:, :, None, None] + turned.transpose(1, 0, 2)[None] + room
        found = np.full((self.count, 4, len(offsets)), self.wall)
        found[: self.wall] = padded[at[:, 0], at[:, 1]]
        return found.reshape(-1, len(offsets))

    def seen_at(self, view: View) -> np.ndarray:
        """Where each cell is in what is seen from each pose, ``[P * 4, P]`` int16; what is not seen is at oneself."""
        columns = view.shape[1]
        down, right = (self.places[None] - self.places[:, None]).transpose(2, 0, 1)
        below = np.stack([down, -right, -down, right], 1)
        beside = np.stack([right, down, -right, -down], 1)
        near = (below >= -view.ahead) & (below <= view.behind) & (abs(beside) <= view.side)
        found = np.full((self.count, 4, self.count), view.ahead * columns + view.side, dtype=np.int16)
        at = (below + view.ahead) * columns + beside + view.side
        found[: self.wall, :, : self.wall] = np.where(near, at, found[: self.wall, :, : self.wall])
        return found.reshape(-1, self.count)


def read_map(text: str, letters: Mapping[str, Letter], random_starts: bool = False) -> GridMap:
    """Reads a map.

    Args:
        text: A line a row. Besides the given letters ``@`` is a wall, and a digit the cell where the agent of that
            number starts, on sand. What is beside the map is a wall too.
        letters: What the letters stand for.
        random_starts: Whether any agent may start where a digit is too.

    Raises:
        ValueError: If a line is shorter than another, or a letter is not known.
    """
    return _read_map(text, tuple(letters.items()), random_starts)


@lru_cache(maxsize=64)
def _read_map(text: str, of_letters: tuple[tuple[str, Letter], ...], random_starts: bool) -> GridMap:
    lines = text.strip("\n").split("\n")
    width = max(map(len, lines))
    blocks = 1 + max(letter.block for _, letter in of_letters)
    digits = {str(k): Letter(SAND, blocks - 1) for k in range(10)}
    letters = {**digits, **dict(of_letters)}
    found: list[list[tuple[int, int, str]]] = [[] for _ in range(blocks)]
    for row, line in enumerate(lines):
        if len(line) != width:
            raise ValueError(f"map: row {row} has {len(line)} cells, others have {width}")
        for column, name in enumerate(line):
            if name == "@":
                continue
            if name not in letters:
                known = ", ".join(map(repr, ["@", *dict(of_letters)]))
                raise ValueError(f"map: row {row}, column {column}: {name!r} is not one of {known} or a digit")
            found[letters[name].block].append((row, column, name))
    cells = [cell for block in found for cell in block]
    if not 1 <= len(cells) <= MAX_CELLS:
        raise ValueError(f"map: {len(cells)} cells can be walked on; it must be from 1 to {MAX_CELLS}")
    wall = len(cells)
    numbers = np.full((len(lines), width), wall)
    for number, (row, column, _) in enumerate(cells):
        numbers[row, column] = number
    of_digit = {name: number for number, (_, _, name) in enumerate(cells) if name in digits}
    fixed = tuple(of_digit[name] for name in sorted(of_digit))
    if sorted(of_digit) != [str(k) for k in range(len(fixed))] or len(fixed) < sum(c[2] in of_digit for c in cells):
        raise ValueError("map: digits number the agents that start there, each once, from 0 on")
    freed = fixed if random_starts else ()
    return GridMap(
        size=(len(lines), width),
        places=np.array([(row, column) for row, column, _ in cells]),
        numbers=numbers,
        ground=np.array([*(letters[name].ground for *_, name in cells), WALL, SAND], dtype=np.uint8),
        blocks=tuple(map(len, found)),
        starts=tuple(k for k, (_, _, name) in enumerate(cells) if letters[name].starts or k in freed),
        fixed_starts=() if random_starts else fixed,
    )


def view_of(written: int | Sequence[int] | str) -> View | None:
    """What a setting says that agents see; None for the whole map.

    Raises:
        ValueError: If it says nothing of the kind.
    """
    if written == "map":
        return None
    cells: list[Any] = [written] * 3 if isinstance(written, int) else list(written)
    if len(cells) != 3 or not all(isinstance(each, int) and 0 <= each <= 50 for each in cells):
        raise ValueError(f"view is {written!r}; give cells on every side, or [ahead, behind, side], up to 50, or map")
    return View(*cells)


@lru_cache(maxsize=64)
def tables(
    grid_map: GridMap, view: View | None, actions: tuple[str, ...], beam_length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By pose ``cell * 4 + heading``: where actions lead, where rays go, which cells are seen, and where others are.

    Returns:
        ``[P * 4 * A]`` poses; ``[3 * L, P * 4]`` cells; ``[P * 4, cells of the view]`` cells; ``[P * 4, P]`` places in
        the view (:meth:`GridMap.seen_at`), or ``[1, P]`` in the map if all of it is seen.
    """
    cells, headings = np.divmod(np.arange(grid_map.count * 4)[:, None], 4)
    led_to = grid_map.reached([MOVES.get(name, (0, 0)) for name in actions])
    led_to = np.where(led_to == grid_map.wall, cells, led_to)
    turned = (headings + np.array([TURNS.get(name, 0) for name in actions])) % 4
    # The middle ray starts in front of the agent, the side rays beside it.
    paths = [(-k - (side == 0), side) for side in (0, -1, 1) for k in range(beam_length)]
    rays = grid_map.reached(paths).T if paths else np.zeros((0, grid_map.count * 4), dtype=np.int64)
    if view is None:
        columns = grid_map.size[1]
        at = np.full((1, grid_map.count), columns * grid_map.size[0])
        at[0, : grid_map.wall] = grid_map.places @ np.array([columns, 1])
        seen, seen_at = np.zeros((0, 0), dtype=np.int64), at
    else:
        box = [(r, c) for r in range(-view.ahead, view.behind + 1) for c in range(-view.side, view.side + 1)]
        seen, seen_at = grid_map.reached(box), grid_map.seen_at(view)
    led_to = (led_to * 4 + turned).ravel()
    made = [torch.from_numpy(np.ascontiguousarray(each)) for each in (led_to, rays, seen, seen_at)]
    return made[0], made[1], made[2], made[3]
