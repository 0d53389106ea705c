"""Renders grid worlds as text and images: named tiles for the ground, wedges for agents, light for beams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from social_dilemmas.rendering import COLOURS

TILE = 24
# Supersampling factor for smooth edges.
_FINER = 4
_PAPER, _INK = (255, 255, 255), (40, 40, 40)
_LINE = 20
# Minimum image width in pixels, so that captions fit.
_NARROWEST = 240
_LIGHT = {"cleaning": (120, 220, 255), "zap": (255, 225, 40), "interact": (255, 225, 40)}
_GLYPHS = {"sand": " .", "grass": " ,", "wall": "##", "apple": " o", "stream": " -", "river": " ~", "waste": " %"}
_HEADINGS = "^>v<"


@dataclass(frozen=True)
class GridPicture:
    """Contents of the image of a grid.

    Attributes:
        ground: ``[rows, columns]`` int, tile indices into ``names``.
        names: Names of the tiles.
        light: ``[rows, columns]`` int, number of the beam on each cell, 0 for none.
        beams: Names of the beams by number.
        agents: Row, column and heading of each agent on the map, by agent index.
        caption: Text above the image, one line.
    """

    ground: np.ndarray
    names: Sequence[str]
    light: np.ndarray
    beams: Mapping[int, str]
    agents: dict[int, tuple[int, int, int]]
    caption: str


def write(picture: GridPicture) -> str:
    """Renders a grid as text, two characters per cell: agents as heading and index; cells in a beam end in + or *."""
    cells = [[_GLYPHS.get(picture.names[k], f" {picture.names[k][-1]}") for k in row] for row in picture.ground]
    for row, column in zip(*np.nonzero(picture.light), strict=True):
        cells[row][column] = cells[row][column][0] + "+*"[picture.light[row, column] - 1]
    for agent, (row, column, heading) in picture.agents.items():
        cells[row][column] = _HEADINGS[heading] + np.base_repr(agent, 36)
    return "\n".join([picture.caption, *("".join(row).rstrip() for row in cells)])


def draw(picture: GridPicture) -> np.ndarray:
    """Renders a grid with 24 pixels per cell, a caption and a legend, as an image ``[height, width, 3]`` uint8."""
    tiles = np.stack([_tile(name) for name in picture.names])
    image = tiles[picture.ground]
    for number, name in picture.beams.items():
        is_lit = picture.light == number
        image[is_lit] = (0.45 * image[is_lit] + 0.55 * np.array(_LIGHT[name])).astype(np.uint8)
    for agent, (row, column, heading) in picture.agents.items():
        sprite = _sprite(agent, heading)
        opaque = sprite[..., 3:] / 255.0
        image[row, column] = (image[row, column] * (1.0 - opaque) + sprite[..., :3] * opaque).astype(np.uint8)
    rows, columns = picture.ground.shape
    board = image.transpose(0, 2, 1, 3, 4).reshape(rows * TILE, columns * TILE, 3)
    width = max(columns * TILE, _NARROWEST)
    padding = (width - columns * TILE) // 2
    board = np.pad(board, ((0, 0), (padding, width - columns * TILE - padding), (0, 0)), constant_values=255)
    legend = _legend(tuple(picture.names), tuple(picture.beams.values()), width)
    return np.concatenate([_text(picture.caption, width), board, legend])


@lru_cache(maxsize=256)
def _text(line: str, width: int) -> np.ndarray:
    image = Image.new("RGB", (width, _LINE), _PAPER)
    ImageDraw.Draw(image).text((4, _LINE // 2), line, _INK, ImageFont.load_default(11), anchor="lm")
    return np.asarray(image)


@lru_cache(maxsize=64)
def _legend(names: tuple[str, ...], beams: tuple[str, ...], width: int) -> np.ndarray:
    """Renders the legend of tiles and beams, in as many lines as needed."""
    font = ImageFont.load_default(11)
    entries = [(name, _tile(name)) for name in names if name != "wall"]
    entries += [(name, (0.45 * _tile("sand") + 0.55 * np.array(_LIGHT[name])).astype(np.uint8)) for name in beams]
    places, x, y = [], 4, 4
    for name, _ in entries:
        entry_width = 18 + int(font.getlength(name)) + 10
        if x > 4 and x + entry_width > width:
            x, y = 4, y + _LINE
        places.append((x, y))
        x += entry_width
    image = Image.new("RGB", (width, y + _LINE), _PAPER)
    pen = ImageDraw.Draw(image)
    for (name, tile), (x, y) in zip(entries, places, strict=True):
        image.paste(Image.fromarray(tile).resize((14, 14)), (x, y))
        pen.text((x + 18, y + 7), name, _INK, font, anchor="lm")
    return np.asarray(image)


@lru_cache(maxsize=64)
def _tile(name: str) -> np.ndarray:
    """Draws the tile of one cell, ``[24, 24, 3]`` uint8. Tiles differ in shape, and not only in color."""
    size = TILE * _FINER
    ground = {
        "grass": (222, 232, 190),
        "apple": (222, 232, 190),
        "wall": (96, 96, 104),
        "river": (112, 170, 222),
        "stream": (160, 202, 236),
        "waste": (112, 170, 222),
    }.get(name, (236, 224, 196))
    image = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(image)
    if name == "wall":
        pen.rectangle((0, size * 0.46, size, size * 0.5), (70, 70, 78))
        pen.rectangle((size * 0.48, 0, size * 0.52, size * 0.46), (70, 70, 78))
    elif name in ("river", "stream"):
        for row in (0.3, 0.7):
            waves = [(x, size * row + size * 0.05 * sin(x / size * 4 * pi)) for x in range(size)]
            pen.line(waves, (205, 230, 248), size // 24)
    elif name == "waste":
        for shift in range(-size, size, size // 4):
            pen.line((shift, 0, shift + size, size), (84, 62, 38), size // 9)
            pen.line((shift, size, shift + size, 0), (84, 62, 38), size // 24)
    elif name == "apple":
        pen.ellipse((size * 0.24, size * 0.28, size * 0.76, size * 0.8), (200, 30, 40), (120, 10, 20), size // 30)
        pen.line((size * 0.5, size * 0.3, size * 0.6, size * 0.12), (70, 50, 30), size // 16)
    elif name.startswith("token"):
        corners = ord(name[-1]) - ord("a") + 3
        points = [
            (size * (0.5 + 0.3 * sin(2 * pi * k / corners)), size * (0.5 - 0.3 * cos(2 * pi * k / corners)))
            for k in range(corners)
        ]
        pen.polygon(points, COLOURS[(corners - 1) % len(COLOURS)], (40, 40, 40))
    return np.asarray(image.resize((TILE, TILE), Image.Resampling.LANCZOS))


@lru_cache(maxsize=256)
def _sprite(agent: int, heading: int) -> np.ndarray:
    """Draws an agent as a wedge that points in its heading, with its index, ``[24, 24, 4]`` uint8."""
    size = TILE * _FINER
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    points = [(0.5, 0.02), (0.93, 0.5), (0.88, 0.97), (0.12, 0.97), (0.07, 0.5)]
    corners = points
    for _ in range(heading):
        corners = [(1.0 - y, x) for x, y in corners]
    color = COLOURS[agent % len(COLOURS)]
    pen.polygon([(x * size, y * size) for x, y in corners], (*color, 255), (20, 20, 20, 255), size // 24)
    x, y = sum(x for x, _ in corners) / 5, sum(y for _, y in corners) / 5
    font = ImageFont.load_default(int(size * 0.52))
    pen.text((x * size, y * size), str(agent), (255, 255, 255, 255), font, anchor="mm")
    return np.asarray(image.resize((TILE, TILE), Image.Resampling.LANCZOS))
