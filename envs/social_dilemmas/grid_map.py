"""Grid maps: parsed from text, with numbered cells and lookup tables of moves, beams and views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Offsets (down, right) of moves for an agent that faces up, and rotations of turns in steps of 90 degrees clockwise.
# Headings are 0 for up, 1 for right, 2 for down and 3 for left.
MOVES = {"left": (0, -1), "right": (0, 1), "forward": (-1, 0), "back": (1, 0)}
TURNS = {"turn_right": 1, "turn_left": 3}
SAND, WALL = 0, 1
# Limits the memory of the view table, which has an entry for each pair of a pose and a cell.
MAX_CELLS = 1024


class View(NamedTuple):
    """Number of cells that an agent sees ahead, behind and on each side."""

    ahead: int
    behind: int
    side: int

    @property
    def shape(self) -> tuple[int, int]:
        """Returns the numbers of rows and columns."""
        return self.ahead + self.behind + 1, 2 * self.side + 1


class Letter(NamedTuple):
    """Meaning of a letter of a map.

    Attributes:
        ground: Ground class of the cell at the start of an episode.
        block: Block of the cell. Cells are numbered by block, and the cells of a block consecutively.
        starts: If True, agents may start on the cell.
    """

    ground: int
    block: int
    starts: bool = False


@dataclass(frozen=True, eq=False)
class GridMap:
    """Map with numbered cells: the walkable cells, one number for all walls, and one for agents off the map.

    Attributes:
        size: Number of rows and columns.
        places: ``[P - 2, 2]`` int64, row and column of each walkable cell.
        numbers: ``[rows, columns]`` int64, number of each cell.
        ground: ``[P]`` uint8, ground class of each cell at the start of an episode.
        blocks: Number of cells of each block.
        starts: Numbers of the cells where any agent may start.
        fixed_starts: Start cells of the first agents, which the map marks by digits.
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
        """Returns the number that all walls share."""
        return len(self.places)

    @property
    def nowhere(self) -> int:
        """Returns the number of the cell off the map."""
        return len(self.places) + 1

    @property
    def count(self) -> int:
        """Returns P, the count of cell numbers."""
        return len(self.places) + 2

    def cells_at(self, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
        """Returns the cells at given offsets from each pose, ``[P * 4, offsets]`` int64 by ``cell * 4 + heading``.

        Args:
            offsets: Offsets (down, right) for an agent that faces up.
        """
        down, right = np.array(offsets, dtype=np.int64).T
        rotated_offsets = np.array([(down, right), (right, -down), (-down, -right), (-right, down)])
        margin = int(np.abs(rotated_offsets).max(initial=0))
        padded_numbers = np.pad(self.numbers, margin, constant_values=self.wall)
        positions = self.places[:, :, None, None] + rotated_offsets.transpose(1, 0, 2)[None] + margin
        cells = np.full((self.count, 4, len(offsets)), self.wall)
        cells[: self.wall] = padded_numbers[positions[:, 0], positions[:, 1]]
        return cells.reshape(-1, len(offsets))

    def seen_at(self, view: View) -> np.ndarray:
        """Returns the position of each cell in the view from each pose, ``[P * 4, P]`` int16.

        Cells out of view get the position of the observing agent.
        """
        columns = view.shape[1]
        down, right = (self.places[None] - self.places[:, None]).transpose(2, 0, 1)
        rows_behind = np.stack([down, -right, -down, right], 1)
        columns_right = np.stack([right, down, -right, -down], 1)
        in_view = (rows_behind >= -view.ahead) & (rows_behind <= view.behind) & (abs(columns_right) <= view.side)
        positions = np.full((self.count, 4, self.count), view.ahead * columns + view.side, dtype=np.int16)
        view_positions = (rows_behind + view.ahead) * columns + columns_right + view.side
        positions[: self.wall, :, : self.wall] = np.where(
            in_view, view_positions, positions[: self.wall, :, : self.wall]
        )
        return positions.reshape(-1, self.count)


def read_map(text: str, letters: Mapping[str, Letter], random_starts: bool = False) -> GridMap:
    """Reads a map.

    Args:
        text: One line per row. In addition to ``letters``, ``@`` is a wall and a digit is the start cell of the agent
            with that index, on sand. Cells outside the map are walls.
        letters: Meaning of the letters.
        random_starts: If True, any agent may also start on the cells with digits.

    Raises:
        ValueError: If the lines have different lengths, a letter is unknown, there are too few or too many walkable
            cells, or the digits are not unique and consecutive.
    """
    return _read_map(text, tuple(letters.items()), random_starts)


@lru_cache(maxsize=64)
def _read_map(text: str, of_letters: tuple[tuple[str, Letter], ...], random_starts: bool) -> GridMap:
    lines = text.strip("\n").split("\n")
    width = max(map(len, lines))
    blocks = 1 + max(letter.block for _, letter in of_letters)
    digits = {str(k): Letter(SAND, blocks - 1) for k in range(10)}
    letters = {**digits, **dict(of_letters)}
    block_cells: list[list[tuple[int, int, str]]] = [[] for _ in range(blocks)]
    for row, line in enumerate(lines):
        if len(line) != width:
            raise ValueError(f"map: row {row} has {len(line)} cells; all rows must have {width}")
        for column, name in enumerate(line):
            if name == "@":
                continue
            if name not in letters:
                valid_letters = ", ".join(map(repr, ["@", *dict(of_letters)]))
                raise ValueError(f"map: row {row}, column {column}: {name!r} is not one of {valid_letters} or a digit")
            block_cells[letters[name].block].append((row, column, name))
    cells = [cell for block in block_cells for cell in block]
    if not 1 <= len(cells) <= MAX_CELLS:
        raise ValueError(f"map: {len(cells)} cells are walkable; there must be from 1 to {MAX_CELLS}")
    wall = len(cells)
    numbers = np.full((len(lines), width), wall)
    for number, (row, column, _) in enumerate(cells):
        numbers[row, column] = number
    starts_by_digit = {name: number for number, (_, _, name) in enumerate(cells) if name in digits}
    fixed_starts = tuple(starts_by_digit[name] for name in sorted(starts_by_digit))
    if sorted(starts_by_digit) != [str(k) for k in range(len(fixed_starts))] or len(fixed_starts) < sum(
        c[2] in starts_by_digit for c in cells
    ):
        raise ValueError("map: digits are agent indices; they must start at 0, be consecutive and occur once")
    extra_starts = fixed_starts if random_starts else ()
    return GridMap(
        size=(len(lines), width),
        places=np.array([(row, column) for row, column, _ in cells]),
        numbers=numbers,
        ground=np.array([*(letters[name].ground for *_, name in cells), WALL, SAND], dtype=np.uint8),
        blocks=tuple(map(len, block_cells)),
        starts=tuple(k for k, (_, _, name) in enumerate(cells) if letters[name].starts or k in extra_starts),
        fixed_starts=() if random_starts else fixed_starts,
    )


def view_of(setting: int | Sequence[int] | str) -> View | None:
    """Parses the setting ``view``. Returns None for the whole map.

    Raises:
        ValueError: If the setting is invalid.
    """
    if setting == "map":
        return None
    cells: list[Any] = [setting] * 3 if isinstance(setting, int) else list(setting)
    if len(cells) != 3 or not all(isinstance(count, int) and 0 <= count <= 50 for count in cells):
        raise ValueError(
            f"view is {setting!r}; it must be a number of cells, [ahead, behind, side] (each up to 50), or map"
        )
    return View(*cells)


@lru_cache(maxsize=64)
def tables(
    grid_map: GridMap, view: View | None, actions: tuple[str, ...], beam_length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Builds the lookup tables of moves, rays and views, by pose ``cell * 4 + heading``.

    Returns:
        Tuple of the pose after each action, ``[P * 4 * A]``; the cells of the rays, ``[3 * L, P * 4]``; the cells in
        the view, ``[P * 4, cells of the view]``; and the position of each cell in the view, ``[P * 4, P]``
        (:meth:`GridMap.seen_at`), or ``[1, P]`` on the map if the whole map is visible.
    """
    cells, headings = np.divmod(np.arange(grid_map.count * 4)[:, None], 4)
    targets = grid_map.cells_at([MOVES.get(name, (0, 0)) for name in actions])
    targets = np.where(targets == grid_map.wall, cells, targets)
    next_headings = (headings + np.array([TURNS.get(name, 0) for name in actions])) % 4
    # The middle ray starts in front of the agent, the side rays start next to it.
    ray_offsets = [(-k - (side == 0), side) for side in (0, -1, 1) for k in range(beam_length)]
    rays = grid_map.cells_at(ray_offsets).T if ray_offsets else np.zeros((0, grid_map.count * 4), dtype=np.int64)
    if view is None:
        columns = grid_map.size[1]
        map_positions = np.full((1, grid_map.count), columns * grid_map.size[0])
        map_positions[0, : grid_map.wall] = grid_map.places @ np.array([columns, 1])
        view_cells, view_positions = np.zeros((0, 0), dtype=np.int64), map_positions
    else:
        view_offsets = [(r, c) for r in range(-view.ahead, view.behind + 1) for c in range(-view.side, view.side + 1)]
        view_cells, view_positions = grid_map.cells_at(view_offsets), grid_map.seen_at(view)
    targets = (targets * 4 + next_headings).ravel()
    lookup_tables = [
        torch.from_numpy(np.ascontiguousarray(table)) for table in (targets, rays, view_cells, view_positions)
    ]
    return lookup_tables[0], lookup_tables[1], lookup_tables[2], lookup_tables[3]
