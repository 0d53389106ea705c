"""Tests which pickles are read, and which objects they may contain."""

import io
import pickle
from pathlib import Path

import pytest
import torch
from ray import cloudpickle

from rllib_reciprocator.utils.checkpoints import (
    TRUST,
    check_pickles,
    read_constructor,
    unpickle,
)
from rllib_reciprocator.utils.restricted_pickle import ConstructorUnpickler
from tests.helpers.forged_pickles import PROTO, STOP, Touch, named


def test_classes_that_ray_subclassed_are_imported_by_name(tmp_path):
    """Covers Tune trials, in which Ray subclasses the algorithm and checkpoints contain the code of the subclass."""
    from rllib_reciprocator import Reciprocator

    subclass = type("Reciprocator", (Reciprocator,), {"__module__": Reciprocator.__module__, "new": lambda self: 1})
    file = tmp_path / "class_and_ctor_args.pkl"
    file.write_bytes(cloudpickle.dumps({"class": subclass, "ctor_args_and_kwargs": (({"lr": 1},), {})}))
    assert read_constructor(tmp_path) == (Reciprocator, ({"lr": 1},), {})
    user_class = type("Own", (Reciprocator,), {"__module__": "users.package"})
    file.write_bytes(cloudpickle.dumps({"class": user_class, "ctor_args_and_kwargs": ((), {})}))
    with pytest.raises(ValueError, match=r"refers to users\.package\.Own"):
        read_constructor(tmp_path)
    file.write_bytes(cloudpickle.dumps({"class": Reciprocator, "ctor_args_and_kwargs": (({"f": lambda: 1},), {})}))
    with pytest.raises(ValueError, match="contains the code of a function, which is not on the list; --trust"):
        read_constructor(tmp_path)
    user_class = type("Own", (), {"__module__": "__main__"})
    file.write_bytes(
        cloudpickle.dumps({"class": Reciprocator, "ctor_args_and_kwargs": (({"callbacks": user_class},), {})})
    )
    with pytest.raises(
        ValueError, match=r"contains the code of __main__\.Own, which is not on the list; --trust reads it"
    ):
        read_constructor(tmp_path)


def test_settings_do_not_need_classes_of_other_versions(tmp_path):
    """Reads a class that does not exist in this version: only its name is used."""
    content = PROTO + named("rllib_reciprocator.utils.gone", "Gone") + STOP
    file = tmp_path / "x.pkl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"refers to rllib_reciprocator\.utils\.gone\.Gone"):
        unpickle(file)
    assert ConstructorUnpickler(io.BytesIO(content)).load().name == "Gone"


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cray.rllib.utils.from_config\nfrom_config\n(S'os.system'\ntR.",
        b"\x80\x04\x8c\x24ray.rllib.algorithms.algorithm_config\x8c\x0bpathlib.osx\x93.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(ctorch\nSize\nS'__init__'\ntR.",
        b"ctorch\nload\n(S'x'\ntR.",
        b"cray.cloudpickle.cloudpickle\n_make_function\n.",
        b"cpickle\nloads\n(S'x'\ntR.",
        b"", b"half", b"\x80\x05",
    ],
)  # fmt: skip
def test_forbidden_and_broken_pickles_are_refused(tmp_path, content):
    file = tmp_path / "x.pkl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pkl: cannot be read"):
        unpickle(file)


def test_types_of_weights_and_settings_are_read(tmp_path):
    from collections import OrderedDict, defaultdict, deque
    from functools import partial

    import gymnasium
    import numpy as np

    from rllib_reciprocator.rllib_episodes.modules import _module_of

    weights = {
        "tensor": torch.arange(4.0).reshape(2, 2), "int": torch.arange(3), "array": np.eye(2, dtype=np.float32),
        "parameter": torch.nn.Parameter(torch.ones(2)), "scalar": np.float64(2.0), "ordered": OrderedDict(a=1),
        "order": np.asfortranarray(np.arange(6).reshape(2, 3)), "empty": np.zeros((0, 2)), "strided": np.arange(6)[::2],
    }  # fmt: skip
    settings = {
        "partial": partial(_module_of, {"a": "x"}), "space": gymnasium.spaces.Discrete(3, seed=1), "path": Path("/x"),
        "dict": gymnasium.spaces.Dict(a=gymnasium.spaces.Box(0.0, 1.0, (2,))), "rng": np.random.default_rng(1),
        "sets": ({1}, frozenset({2}), deque([3], 2)), "default": defaultdict(int, a=1), "slice": slice(1, 2),
    }  # fmt: skip
    file = tmp_path / "class_and_ctor_args.pkl"
    file.write_bytes(pickle.dumps(weights))
    result = unpickle(file)
    assert all(np.array_equal(result[name].detach(), weights[name].detach()) for name in ("tensor", "int", "parameter"))
    assert all(np.array_equal(result[name], weights[name]) for name in ("array", "scalar", "order", "empty", "strided"))
    assert result["ordered"] == weights["ordered"]
    file.write_bytes(pickle.dumps({"class": dict, "ctor_args_and_kwargs": ((), settings)}))
    _, _, result = read_constructor(tmp_path)
    assert all(result[name] == settings[name] for name in ("space", "dict", "sets", "path", "default", "slice"))
    assert result["rng"].random() == settings["rng"].random()
    assert result["partial"]("a") == "x"


def test_msgpack_files_are_refused(tmp_path):
    (tmp_path / "state.msgpack").write_bytes(b"")
    with pytest.raises(ValueError, match="may contain pickles"):
        check_pickles(tmp_path)


def test_trust_applies_to_the_process(tmp_path, monkeypatch):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    monkeypatch.setenv(TRUST, "1")
    check_pickles(tmp_path)
    assert unpickle(tmp_path / "x.pkl") == 0
    assert (tmp_path / "executed").exists()
