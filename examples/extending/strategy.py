"""A scripted strategy for matrix games: generous tit-for-tat, which forgives if any other player cooperated."""

from torch import Tensor

from rllib_reciprocator.players.scripted import View


def generous(view: View) -> Tensor:
    """Returns True for defection, ``[rows]`` bool: if all other players defected in the last step."""
    return view.others.all(-1)
