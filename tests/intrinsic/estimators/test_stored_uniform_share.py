"""Tests of the uniform share in checkpoints of this and of former versions."""

import copy
import pickle
import shutil
from pathlib import Path

import pytest

from rllib_reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.reciprocator.reciprocator import Reciprocator
from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings
from rllib_reciprocator.utils.checkpoints import read_config
from tests.helpers.uniform_share import batched, share_of


@pytest.fixture(scope="module")
def checkpoint(ray_cluster, tmp_path_factory):
    algo = batched(env="coins_v0", balance_decay=0.9).build_algo()
    algo.train()
    path = algo.save_to_path(tmp_path_factory.mktemp("new") / "checkpoint")
    algo.stop()
    return Path(path)


def copy_in_former_version(checkpoint, folder, stored):
    """Copies a checkpoint into the format of versions in which ``uniform_share`` was 0 by default."""
    shutil.copytree(checkpoint, folder)
    file = folder / "class_and_ctor_args.pkl"
    content = pickle.loads(file.read_bytes())
    (state,), _ = content["ctor_args_and_kwargs"]
    del state["_defaults_version"]
    if stored == "no settings":
        state["intrinsic_settings"] = {}
    else:
        settings = copy.deepcopy(state["intrinsic_settings"]["reciprocity"])
        assert "uniform_share" not in settings.model_fields_set
        del settings.__dict__["uniform_share"]
        if stored == "0.0":
            settings.__dict__["uniform_share"] = 0.0
        state["intrinsic_settings"] = {"reciprocity": settings}
    file.write_bytes(pickle.dumps(content))
    file = folder / "learner_group/learner/rl_module/influence/class_and_ctor_args.pkl"
    content = pickle.loads(file.read_bytes())
    _, arguments = content["ctor_args_and_kwargs"]
    del arguments["model_config"]["uniform_share"]
    file.write_bytes(pickle.dumps(content))
    return folder


@pytest.mark.parametrize("stored", ["0.0", "nothing", "no settings"])
def test_checkpoints_of_former_versions_keep_a_share_of_0(checkpoint, tmp_path, stored):
    former = copy_in_former_version(checkpoint, tmp_path / "former", stored)
    config = read_config(former)
    assert share_of(config) == 0.0
    # The share is kept when other settings are derived from the config, and when it is saved again.
    assert share_of(config.copy(copy_frozen=False).reciprocity(weight=0.1)) == 0.0
    state = pickle.loads(pickle.dumps(config.get_state()))
    assert share_of(ReciprocatorConfig.from_state(state).reciprocity(weight=0.1)) == 0.0
    # A player from such a checkpoint comes with its own estimator.
    config = batched({"player_0": "reciprocator", "player_1": f"checkpoint/{former}"}, env="coins_v0")
    assert share_of(config) == 0.3
    spec = config.rl_module_spec.rl_module_specs["influence+player_1"]
    assert spec.model_config.get("uniform_share", 0.0) == 0.0


def test_new_checkpoints_keep_their_share(checkpoint):
    config = read_config(checkpoint)
    assert share_of(config) == share_of(config.copy(copy_frozen=False).reciprocity(weight=0.1)) == 0.3
    assert pickle.loads(pickle.dumps(ReciprocitySettings(uniform_share=0.2))).uniform_share == 0.2
    assert pickle.loads(pickle.dumps(ReciprocitySettings())).model_fields_set == set()


@pytest.mark.parametrize("former", [False, True])
def test_restored_algorithm_keeps_the_share_of_its_checkpoint(ray_cluster, checkpoint, tmp_path, former):
    path = copy_in_former_version(checkpoint, tmp_path / "former", "nothing") if former else checkpoint
    algo = Reciprocator.from_checkpoint(str(path))
    try:
        assert algo.env_runner.module["influence"].unwrapped().uniform_share == (0.0 if former else 0.3)
    finally:
        algo.stop()
