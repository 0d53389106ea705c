"""Game that raises an error, registered when the module is imported."""

from pathlib import Path

import torch

import social_dilemmas
from social_dilemmas.registry import GameSpec
from tests.helpers.games import Countdown


class Breaks(Countdown):
    """Countdown that raises an error once a file exists."""

    terminates_early = False

    def __init__(self, fuse="", num_steps=4, **settings):
        super().__init__(num_steps=num_steps, **settings)
        self.fuse = fuse

    def _play(self, actions):
        if self.fuse and Path(self.fuse).exists():
            raise ValueError("out of coins")
        rewards, ended, outcomes = super()._play(actions)
        return rewards, torch.zeros_like(ended), outcomes


BREAKS = GameSpec("breaks_v0", "tests.helpers.breaking_game:Breaks", "Raises an error once a file exists.")
social_dilemmas.register(BREAKS)
