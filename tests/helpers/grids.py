"""Situations on grids, set up by hand."""

import torch

import social_dilemmas

UP, RIGHT, DOWN, LEFT = range(4)


def situation(text, poses, game="cleanup_v0", copies=3, **settings):
    """A game with agents where one wants them: row, column and heading of each."""
    made = social_dilemmas.make(game, copies, map=text, num_agents=len(poses), **settings)
    made.reset(seed=0)
    made._cells = torch.tensor([[made.map.numbers[row, column]] * copies for row, column, _ in poses])
    made._headings = torch.tensor([[heading] * copies for *_, heading in poses])
    return made


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
