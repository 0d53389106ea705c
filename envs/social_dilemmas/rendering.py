"""Game states as text and RGB arrays; knows cells and choices, no rules."""

from __future__ import annotations

import numpy as np

_CELL = 48
_BACKGROUND, _LINE = (245, 245, 245), (200, 200, 200)
COLOURS = (
    (214, 69, 65),
    (52, 104, 192),
    (46, 139, 87),
    (230, 159, 0),
    (123, 79, 166),
    (0, 160, 170),
    (120, 90, 60),
    (90, 90, 90),
)
_COOPERATED, _DEFECTED, _NONE = (46, 139, 87), (214, 69, 65), (190, 190, 190)


def _names(index: int) -> str:
    return chr(ord("A") + index % 26)


def write_grid(grid_size: tuple[int, int], agent_cells: list[int], coin_cells: list[int]) -> str:
    """A grid as text, one line a row: capital letters are agents, small ones their coins, ``*`` several agents."""
    height, width = grid_size
    marks = ["."] * (height * width)
    for index, cell in enumerate(coin_cells):
        marks[cell] = _names(index).lower()
    for index, cell in enumerate(agent_cells):
        marks[cell] = "*" if agent_cells.count(cell) > 1 else _names(index)
    return "\n".join(" ".join(marks[row * width : (row + 1) * width]) for row in range(height))


def draw_grid(grid_size: tuple[int, int], agent_cells: list[int], coin_cells: list[int]) -> np.ndarray:
    """A grid as an image, ``[H * 48, W * 48, 3]`` uint8: discs are coins, squares agents (side by side on one cell)."""
    height, width = grid_size
    image = np.empty((height * _CELL, width * _CELL, 3), np.uint8)
    image[:] = _BACKGROUND
    image[::_CELL], image[:, ::_CELL] = _LINE, _LINE
    rows, columns = np.mgrid[:_CELL, :_CELL] - _CELL / 2 + 0.5
    disc = rows**2 + columns**2 < (_CELL / 5) ** 2
    ring = ~(np.maximum(abs(rows), abs(columns)) < _CELL * 0.32) & (np.maximum(abs(rows), abs(columns)) < _CELL * 0.44)

    def cell_of(cell: int) -> np.ndarray:
        top, left = cell // width * _CELL, cell % width * _CELL
        return image[top : top + _CELL, left : left + _CELL]

    for index, cell in enumerate(coin_cells):
        cell_of(cell)[disc] = COLOURS[index % len(COLOURS)]
    for index, cell in enumerate(agent_cells):
        together = [other for other, there in enumerate(agent_cells) if there == cell]
        share = together.index(index)
        columns_of = np.arange(_CELL) * len(together) // _CELL == share
        cell_of(cell)[ring & columns_of[None, :]] = COLOURS[index % len(COLOURS)]
    return image


def draw_choices(actions: list[int] | None, num_agents: int) -> np.ndarray:
    """Last choices as squares side by side, ``[48, N * 48, 3]`` uint8: green 0, red 1, grey none yet."""
    image = np.empty((_CELL, num_agents * _CELL, 3), np.uint8)
    image[:] = _BACKGROUND
    for index in range(num_agents):
        colour = _NONE if actions is None else (_COOPERATED, _DEFECTED)[actions[index]]
        image[4:-4, index * _CELL + 4 : (index + 1) * _CELL - 4] = colour
    return image
