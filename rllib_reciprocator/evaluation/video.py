"""Videos of episodes, with the actions, rewards and incentives of all players."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rllib_reciprocator.utils.errors import UserError, writing
from social_dilemmas.rendering import COLOURS

FORMATS = (".gif", ".mp4", ".png")
_WIDTH, _LINE, _MARGIN, _TICKS = 480, 46, 12, 18
_INK, _FAINT, _PAPER = (40, 40, 40), (205, 205, 205), (255, 255, 255)
_GAIN, _LOSS, _COIN = (46, 139, 87), (214, 69, 65), (214, 170, 40)
# Maximum columns and rows of frames per episode in an image of frames.
_SHEET_COLUMNS, _SHEET_ROWS = 4, 3


@dataclass
class Video:
    """Recording of one episode of T steps.

    Attributes:
        players: Name and kind of every player, e.g. ``player_0 (reciprocator)``.
        images: Images of the environment before the first step and after every step, T + 1 of ``[H, W, 3]`` uint8.
        actions: Names of the actions of all players, by step.
        rewards: Rewards of all players, by step.
        incentives: Incentives by step, giver and recipient. Empty if no player gives incentives.
        frames_per_second: Playback speed.
    """

    players: Sequence[str]
    images: list[np.ndarray] = field(default_factory=list, repr=False)
    actions: list[Sequence[str]] = field(default_factory=list, repr=False)
    rewards: list[Sequence[float]] = field(default_factory=list, repr=False)
    incentives: list[Sequence[Sequence[float]]] = field(default_factory=list, repr=False)
    frames_per_second: float = 4.0

    def frames(self) -> list[Image.Image]:
        """Renders all frames, of one size: the images, with the actions and rewards up to that step below them."""
        # All frames share one scale for the bars of rewards.
        largest = max((abs(value) for rewards in self.rewards for value in rewards), default=0.0) or 1.0
        return [self._frame(step, largest) for step in range(len(self.images))]

    def _frame(self, step: int, largest: float) -> Image.Image:
        """Renders the frame after the given number of steps."""
        image = Image.fromarray(self.images[step])
        scale = max(1, (_WIDTH - 2 * _MARGIN) // image.width)
        if image.width > _WIDTH - 2 * _MARGIN:
            image = image.resize((_WIDTH - 2 * _MARGIN, image.height * (_WIDTH - 2 * _MARGIN) // image.width))
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        height = image.height + 2 * _MARGIN + _LINE * len(self.players) + 24
        # Video codecs need even heights.
        frame = Image.new("RGB", (_WIDTH, height + height % 2), _PAPER)
        frame.paste(image, ((_WIDTH - image.width) // 2, _MARGIN))
        draw, top = ImageDraw.Draw(frame), image.height + 2 * _MARGIN
        small, large = ImageFont.load_default(12), ImageFont.load_default(14)
        draw.text((_MARGIN, top), f"step {step} of {len(self.images) - 1}", _INK, small)
        for index, name in enumerate(self.players):
            self._player(draw, index, name, step, top + 24 + index * _LINE, large, largest)
        if self.incentives and step:
            self._coins(draw, self.incentives[step - 1], top + 24, small)
        return frame

    def _coins(
        self,
        draw: ImageDraw.ImageDraw,
        step_incentives: Sequence[Sequence[float]],
        top: int,
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    ) -> None:
        """Draws a coin per giver on every recipient's line, in the giver's color and scaled by the incentive."""
        largest = max((value for step in self.incentives for row in step for value in row), default=0.0) or 1.0
        for recipient in range(len(self.players)):
            right = _WIDTH - _MARGIN - 170
            for giver, row in enumerate(step_incentives):
                value = row[recipient]
                if giver == recipient or value < 0.005 * largest:
                    continue
                radius, middle = 2 + round(6 * value / largest), top + recipient * _LINE + 9
                center, color = right - 50, COLOURS[giver % len(COLOURS)]
                draw.text((right, middle), f"+{value:.2f}", _INK, font, anchor="rm")
                draw.ellipse((center - radius, middle - radius, center + radius, middle + radius), color, _COIN, 2)
                right -= 68

    def _player(
        self,
        draw: ImageDraw.ImageDraw,
        index: int,
        name: str,
        step: int,
        top: int,
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
        largest: float,
    ) -> None:
        """Draws a player's line: its name, last action and return so far, and one bar per step for its reward."""
        color = COLOURS[index % len(COLOURS)]
        draw.rectangle((_MARGIN, top + 3, _MARGIN + 12, top + 15), color)
        draw.text((_MARGIN + 20, top), name, _INK, font)
        partial_return = sum(self.rewards[t][index] for t in range(step))
        last_action = self.actions[step - 1][index] if step else ""
        draw.text((_WIDTH - _MARGIN, top), f"{last_action}   return {partial_return:g}", _INK, font, anchor="ra")
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


def side_by_side(videos: Sequence[Video]) -> list[Image.Image]:
    """Arranges the frames of several videos in a grid. Shorter videos show their last frame until the end."""
    frames_by_video = [video.frames() for video in videos]
    width, height = frames_by_video[0][0].size
    columns = ceil(sqrt(len(videos)))
    grid_frames = []
    for step in range(max(map(len, frames_by_video))):
        grid_frame = Image.new("RGB", (columns * width, -(-len(videos) // columns) * height), _PAPER)
        for k, frames in enumerate(frames_by_video):
            grid_frame.paste(frames[min(step, len(frames) - 1)], (k % columns * width, k // columns * height))
        grid_frames.append(grid_frame)
    return grid_frames


def gif(videos: Sequence[Video]) -> bytes:
    """Encodes videos, arranged in a grid, as an animated GIF."""
    first, *rest = side_by_side(videos)
    stream = BytesIO()
    duration = round(1000 / videos[0].frames_per_second)
    first.save(stream, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    return stream.getvalue()


def sheet(videos: Sequence[Video]) -> Image.Image:
    """Builds an image with frames at equal intervals from every video, one video below the other."""
    rows = []
    for video in videos:
        frames = video.frames()
        count = min(len(frames), _SHEET_COLUMNS * _SHEET_ROWS)
        panels = [frames[round(k * (len(frames) - 1) / max(1, count - 1))] for k in range(count)]
        rows += [panels[k : k + _SHEET_COLUMNS] for k in range(0, count, _SHEET_COLUMNS)]
    width, height = rows[0][0].size
    image = Image.new("RGB", (max(map(len, rows)) * width, len(rows) * height), _PAPER)
    for row, panels in enumerate(rows):
        for column, frame in enumerate(panels):
            image.paste(frame, (column * width, row * height))
    return image


def check_format(file: Path) -> None:
    """Checks that videos can be written in the format of a file.

    Raises:
        UserError: If the suffix is not one of ``FORMATS``, or the package that encodes this format is not installed.
    """
    if file.suffix.lower() not in FORMATS:
        raise UserError(f"--render {file}: give a file that ends in {', '.join(FORMATS)}")
    if file.suffix.lower() == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError:
            raise UserError(
                f"--render {file}: mp4 needs imageio-ffmpeg; install it with pip install rllib_reciprocator[video]"
            ) from None


def write_videos(videos: Sequence[Video], file: Path) -> None:
    """Writes videos, arranged in a grid, as ``.gif`` or ``.mp4``, or an image with some of their frames as ``.png``.

    Raises:
        UserError: If the file cannot be written.
    """
    check_format(file)
    with writing("--render", file):
        if file.suffix.lower() == ".gif":
            file.write_bytes(gif(videos))
        elif file.suffix.lower() == ".png":
            sheet(videos).save(file)
        else:
            _write_video(videos, file)


def _write_video(videos: Sequence[Video], file: Path) -> None:
    import imageio_ffmpeg

    frames = side_by_side(videos)
    fps = videos[0].frames_per_second
    writer = imageio_ffmpeg.write_frames(str(file), frames[0].size, fps=fps, macro_block_size=2)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
