"""Grid games in hand-made states."""

import torch

import social_dilemmas

UP, RIGHT, DOWN, LEFT = range(4)
SAND, WALL, APPLE, STREAM, CLEAN_RIVER, WASTE = range(6)
ROOM = "\n".join(["@" * 9, "@R    B @", *["@       @"] * 5, "@PPPPPPP@", "@" * 9])
RIVER = "\n".join(["@" * 9, *["@HHHH PB@"] * 3, "@PPPPPP @", "@" * 9])


def situation(text, poses, game="cleanup_v0", copies=3, **settings):
    """Builds a game with agents at the given poses: row, column and heading."""
    grid_game = social_dilemmas.make(game, copies, map=text, num_agents=len(poses), **settings)
    grid_game.reset(seed=0)
    grid_game._cells = torch.tensor([[grid_game.map.numbers[row, column]] * copies for row, column, _ in poses])
    grid_game._headings = torch.tensor([[heading] * copies for *_, heading in poses])
    return grid_game


def play(game, *actions):
    joint = torch.tensor([[game.action_names.index(name) for name in actions]] * game.num_games)
    return game.step(joint)


def where(game, agent, copy=0):
    return tuple(game.map.places[int(game._cells[agent, copy])].tolist())


def ground(game, copy=0):
    return (game._ground[:, copy] & 7).numpy()[game.map.numbers]


def lay(game, cells, what):
    for row, column in cells:
        game._ground[game.map.numbers[row, column]] = what
