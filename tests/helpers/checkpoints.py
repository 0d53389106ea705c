"""Copies of checkpoints with changed files, and commands that read them."""

import json
import pickle
import shutil

from ray import cloudpickle

from rllib_reciprocator.utils.checkpoints import MODULE_PATH
from tests.helpers.forged_pickles import Touch


def copy_with_malicious_pickle(checkpoint, folder, place):
    """Copies a checkpoint and replaces one of its files by a pickle that creates the file ``executed``."""
    shutil.copytree(checkpoint, folder / "bad")
    (folder / "bad" / place).write_bytes(pickle.dumps({"x": Touch(folder / "executed")}))
    return folder / "bad"


PLACES = (
    "class_and_ctor_args.pkl",
    MODULE_PATH / "player_0" / "class_and_ctor_args.pkl",
    MODULE_PATH / "player_0" / "module_state.pkl",
    MODULE_PATH / "module_state.pkl",
)


def read_command(command, folder, out):
    """Returns the arguments of a command that reads a checkpoint."""
    train = ("train", "--algo", "Reciprocator", "--env", "ipd_v0", "--stop", "{training_iteration: 1}")
    players = {"player_0": f"checkpoint/{folder}", "player_1": "ppo"}
    return {
        "evaluate": ("evaluate", str(folder)),
        "tournament": ("tournament", str(folder), "scripted/tit_for_tat", "--out", str(out)),
        "train": (*train, "--restore", str(folder), "--storage-path", str(out)),
        "player": (*train, "--config", json.dumps({"players": players})),
    }[command]


def copy_with_settings(checkpoint, folder, **settings):
    """Copies a checkpoint and changes its settings."""
    shutil.copytree(checkpoint, folder)
    file = folder / "class_and_ctor_args.pkl"
    content = pickle.loads(file.read_bytes())
    content["ctor_args_and_kwargs"][0][0].update(settings)
    file.write_bytes(cloudpickle.dumps(content))
    return folder
