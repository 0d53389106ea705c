"""Games as moving pictures, with what the players did and got beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rllib_reciprocator.experiments.errors import UserError, writing
from social_dilemmas.rendering import COLOURS

FORMATS = (".gif", ".mp4", ".png")
_WIDTH, _LINE, _MARGIN, _TICKS = 480, 46, 12, 18
_INK, _FAINT, _PAPER = (40, 40, 40), (205, 205, 205), (255, 255, 255)
_GAIN, _LOSS, _COIN = (46, 139, 87), (214, 69, 65), (214, 170, 40)
# A picture of a whole game shows at most so many of its steps.
_SHEET_COLUMNS, _SHEET_ROWS = 4, 3


@dataclass
class Film:
    """A game as it was played.

    Attributes:
        players: Name and kind of each, as ``player_0 (reciprocator)``.
        pictures: Of the game before the first step and after each step, ``[H, W, 3]`` uint8.
        actions: What each player did in each step, as it is called.
        rewards: What each got in each step.
        incentives: What each gave each other in each step, by giver and recipient, if anybody gives.
        frames_per_second: How fast it is shown.
    """

    players: Sequence[str]
    pictures: list[np.ndarray] = field(default_factory=list, repr=False)
    actions: list[Sequence[str]] = field(default_factory=list, repr=False)
    rewards: list[Sequence[float]] = field(default_factory=list, repr=False)
    incentives: list[Sequence[Sequence[float]]] = field(default_factory=list, repr=False)
    frames_per_second: float = 4.0

    def frames(self) -> list[Image.Image]:
        """The pictures with what players did so far below them, all of one size."""
        largest = max((abs(value) for rewards in self.rewards for value in rewards), default=0.0) or 1.0
        return [self._frame(step, largest) for step in range(len(self.pictures))]

    def _frame(self, step: int, largest: float) -> Image.Image:
        """The picture after so many steps."""
        picture = Image.fromarray(self.pictures[step])
        scale = max(1, (_WIDTH - 2 * _MARGIN) // picture.width)
        if picture.width > _WIDTH - 2 * _MARGIN:
            picture = picture.resize((_WIDTH - 2 * _MARGIN, picture.height * (_WIDTH - 2 * _MARGIN) // picture.width))
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
        height = picture.height + 2 * _MARGIN + _LINE * len(self.players) + 24
        frame = Image.new("RGB", (_WIDTH, height + height % 2), _PAPER)
        frame.paste(picture, ((_WIDTH - picture.width) // 2, _MARGIN))
        draw, top = ImageDraw.Draw(frame), picture.height + 2 * _MARGIN
        small, large = ImageFont.load_default(12), ImageFont.load_default(14)
        draw.text((_MARGIN, top), f"step {step} of {len(self.pictures) - 1}", _INK, small)
        for index, name in enumerate(self.players):
            self._player(draw, index, name, step, top + 24 + index * _LINE, large, largest)
        if self.incentives and step:
            self._coins(draw, self.incentives[step - 1], top + 24, small)
        return frame

    def _coins(self, draw: ImageDraw.ImageDraw, given: Sequence[Sequence[float]], top: int, font: Any) -> None:
        """A coin on each recipient's line for every giver, as large as what was given, in the giver's colour."""
        most = max((value for step in self.incentives for row in step for value in row), default=0.0) or 1.0
        for recipient in range(len(self.players)):
            right = _WIDTH - _MARGIN - 170
            for giver, row in enumerate(given):
                value = row[recipient]
                if giver == recipient or value < 0.005 * most:
                    continue
                radius, middle = 2 + round(6 * value / most), top + recipient * _LINE + 9
                centre, colour = right - 50, COLOURS[giver % len(COLOURS)]
                draw.text((right, middle), f"+{value:.2f}", _INK, font, anchor="rm")
                draw.ellipse((centre - radius, middle - radius, centre + radius, middle + radius), colour, _COIN, 2)
                right -= 68

    def _player(
        self, draw: ImageDraw.ImageDraw, index: int, name: str, step: int, top: int, font: Any, largest: float
    ) -> None:
        """A player's line: who it is, its last action, its return so far, and a tick a step for what it got."""
        colour = COLOURS[index % len(COLOURS)]
        draw.rectangle((_MARGIN, top + 3, _MARGIN + 12, top + 15), colour)
        draw.text((_MARGIN + 20, top), name, _INK, font)
        gained = sum(self.rewards[t][index] for t in range(step))
        last = self.actions[step - 1][index] if step else ""
        draw.text((_WIDTH - _MARGIN, top), f"{last}   return {gained:g}", _INK, font, anchor="ra")
        steps = len(self.rewards)
        middle = top + 20 + _TICKS // 2
        draw.line((_MARGIN, middle, _WIDTH - _MARGIN, middle), _FAINT)
        for t in range(step):
            value = self.rewards[t][index]
            left = _MARGIN + (_WIDTH - 2 * _MARGIN) * t // steps
            right = max(left, _MARGIN + (_WIDTH - 2 * _MARGIN) * (t + 1) // steps - 2)
            end = middle - round(value / largest * _TICKS / 2)
            if value:
                draw.rectangle((left, min(middle, end), right, max(middle, end)), _GAIN if value > 0 else _LOSS)


def side_by_side(films: Sequence[Film]) -> list[Image.Image]:
    """The frames of several films as one, in rows and columns; one that is over shows its end."""
    of_films = [film.frames() for film in films]
    width, height = of_films[0][0].size
    columns = ceil(sqrt(len(films)))
    together = []
    for step in range(max(map(len, of_films))):
        frame = Image.new("RGB", (columns * width, -(-len(films) // columns) * height), _PAPER)
        for k, frames in enumerate(of_films):
            frame.paste(frames[min(step, len(frames) - 1)], (k % columns * width, k // columns * height))
        together.append(frame)
    return together


def gif(films: Sequence[Film]) -> bytes:
    """Films side by side as an animated GIF."""
    first, *rest = side_by_side(films)
    stream = BytesIO()
    duration = round(1000 / films[0].frames_per_second)
    first.save(stream, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    return stream.getvalue()


def sheet(films: Sequence[Film]) -> Image.Image:
    """Steps spread over the whole of each film side by side on one picture, one film below the other."""
    rows = []
    for film in films:
        frames = film.frames()
        count = min(len(frames), _SHEET_COLUMNS * _SHEET_ROWS)
        shown = [frames[round(k * (len(frames) - 1) / max(1, count - 1))] for k in range(count)]
        rows += [shown[k : k + _SHEET_COLUMNS] for k in range(0, count, _SHEET_COLUMNS)]
    width, height = rows[0][0].size
    picture = Image.new("RGB", (max(map(len, rows)) * width, len(rows) * height), _PAPER)
    for row, shown in enumerate(rows):
        for column, frame in enumerate(shown):
            picture.paste(frame, (column * width, row * height))
    return picture


def check_format(file: Path) -> None:
    """Checks that a film can be written to such a file.

    Raises:
        UserError: If not.
    """
    if file.suffix.lower() not in FORMATS:
        raise UserError(f"--render {file}: give a file that ends in {', '.join(FORMATS)}")
    if file.suffix.lower() == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError:
            raise UserError(
                f"--render {file}: mp4 needs imageio-ffmpeg; pip install rllib_reciprocator[video]"
            ) from None


def write_films(films: Sequence[Film], file: Path) -> None:
    """Writes films side by side as ``.gif`` or ``.mp4``, or steps of them on one picture as ``.png``.

    Raises:
        UserError: If the file cannot be written.
    """
    check_format(file)
    with writing("--render", file):
        if file.suffix.lower() == ".gif":
            file.write_bytes(gif(films))
        elif file.suffix.lower() == ".png":
            sheet(films).save(file)
        else:
            _write_video(films, file)


def _write_video(films: Sequence[Film], file: Path) -> None:
    import imageio_ffmpeg

    frames = side_by_side(films)
    speed = films[0].frames_per_second
    writer = imageio_ffmpeg.write_frames(str(file), frames[0].size, fps=speed, macro_block_size=2)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
