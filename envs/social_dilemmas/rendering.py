"""Renders cells and choices as text and RGB arrays, independent of the rules of a game."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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
    """Renders a grid as text, one line per row: upper case for agents, lower case for coins, ``*`` if shared."""
    height, width = grid_size
    marks = ["."] * (height * width)
    for index, cell in enumerate(coin_cells):
        marks[cell] = _names(index).lower()
    for index, cell in enumerate(agent_cells):
        marks[cell] = "*" if agent_cells.count(cell) > 1 else _names(index)
    return "\n".join(" ".join(marks[row * width : (row + 1) * width]) for row in range(height))


def draw_grid(grid_size: tuple[int, int], agent_cells: list[int], coin_cells: list[int]) -> np.ndarray:
    """Renders a grid as an image, ``[H * 48, W * 48, 3]`` uint8, with discs for coins and squares for agents.

    Agents on the same cell are drawn next to each other.
    """
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
        agents_on_cell = [agent for agent, agent_cell in enumerate(agent_cells) if agent_cell == cell]
        column_index = agents_on_cell.index(index)
        columns_of = np.arange(_CELL) * len(agents_on_cell) // _CELL == column_index
        cell_of(cell)[ring & columns_of[None, :]] = COLOURS[index % len(COLOURS)]
    return image


def draw_choices(actions: list[int] | None, num_agents: int) -> np.ndarray:
    """Renders the last choices as squares, ``[48, N * 48, 3]`` uint8: green for 0, red for 1, gray if there is none."""
    image = np.empty((_CELL, num_agents * _CELL, 3), np.uint8)
    image[:] = _BACKGROUND
    for index in range(num_agents):
        color = _NONE if actions is None else (_COOPERATED, _DEFECTED)[actions[index]]
        image[4:-4, index * _CELL + 4 : (index + 1) * _CELL - 4] = color
    return image


def draw_places(names: Sequence[str], positions: Sequence[int], is_open: bool) -> np.ndarray:
    """Renders places side by side, with agents as numbered discs. The last is a door, green while it is open."""
    columns = max(2, max(positions.count(place) for place in range(len(names))))
    width, height = 2 * _CELL, _CELL * (2 + (columns - 1) // 2)
    image = Image.new("RGB", (width * len(names), height), _BACKGROUND)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(18)
    for place, name in enumerate(names):
        left = width * place
        is_door = place == len(names) - 1
        fill = ((188, 226, 196) if is_open else (236, 204, 202)) if is_door else _BACKGROUND
        pen.rectangle((left, 0, left + width - 1, height - 1), fill, _LINE, 2)
        label = f"{name} ({'open' if is_open else 'closed'})" if is_door else name
        pen.text((left + width // 2, _CELL // 2), label, (40, 40, 40), ImageFont.load_default(13), anchor="mm")
        for number, agent in enumerate(k for k, position in enumerate(positions) if position == place):
            x, y = left + _CELL * (number % 2), _CELL * (1 + number // 2)
            pen.ellipse((x + 6, y + 6, x + _CELL - 6, y + _CELL - 6), COLOURS[agent % len(COLOURS)])
            pen.text((x + _CELL // 2, y + _CELL // 2), str(agent), (255, 255, 255), font, anchor="mm")
    return np.asarray(image)
