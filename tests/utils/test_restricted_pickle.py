"""Tests of the readers of checkpoints with forged pickles."""

import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_reciprocator.utils.checkpoints import MODULE_PATH, check_pickles, read_constructor
from rllib_reciprocator.utils.restricted_pickle import (
    BUILT,
    CALLED,
    NAMED,
    ConstructorUnpickler,
    WeightsUnpickler,
    _look_up,
)
from tests.helpers.forged_pickles import (
    BUILD,
    DICT,
    EMPTY_TUPLE,
    MARK,
    NEWOBJ,
    NONE,
    PROTO,
    REDUCE,
    SETITEM,
    STOP,
    TUPLE,
    Touch,
    canary,
    data,
    forged_into,
    forgeries,
    named,
    rllib_classes,
    text,
)

OLD = Path(__file__).parents[1] / "data" / "reciprocator_0_1_0_ipd.zip"
# Classes whose constructors unpickle bytes, start processes or write files, and classes in genuine checkpoints.
SAMPLE = (
    ("ray.rllib.connectors.agent.state_buffer", "StateBufferConnector"),
    ("ray.rllib.examples.envs.classes.env_with_subprocess", "EnvWithSubprocess"),
    ("ray.rllib.offline.json_writer", "JsonWriter"),
    ("ray.rllib.algorithms.algorithm_config", "AlgorithmConfig"),
    ("ray.rllib.algorithms.algorithm_config", "TorchCompileWhatToCompile"),
    ("ray.rllib.callbacks.callbacks", "RLlibCallback"),
    ("ray.rllib.core.rl_module.multi_rl_module", "MultiRLModule"),
    ("ray.rllib.core.rl_module.rl_module", "RLModuleSpec"),
    ("ray.rllib.utils.metrics.stats.mean", "MeanStats"),
)


@pytest.fixture
def checkpoint(tmp_path):
    shutil.unpack_archive(OLD, tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture(scope="module")
def listed():
    """Imports all listed names, so that any later import is that of a forgery."""
    values = {name: _look_up(*name) for name in sorted(CALLED | BUILT | NAMED)}
    missing = {module for (module, _), value in values.items() if value is None}
    assert missing <= {"pathlib._local"}, "a listed name does not exist in the installed version of its library"
    return values


def may_be_built(module, name):
    """Returns True for the few RLlib classes in settings, whose construction has no side effects."""
    return (module, name) in BUILT | CALLED


def test_few_rllib_classes_may_be_built():
    assert {name for module, name in BUILT | CALLED if module.startswith("ray.")} == {
        "DefaultModelConfig", "MultiRLModuleSpec", "RLModuleSpec", "TorchCompileWhatToCompile",
    }  # fmt: skip


@pytest.mark.parametrize("every", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_forgeries_with_rllib_classes_are_refused(listed, tmp_path, every):
    canary_file = tmp_path / "executed"
    classes = rllib_classes()
    assert len(classes) > 700
    assert set(SAMPLE) <= set(classes)
    with canary(canary_file):
        for module, name in (*SAMPLE, *classes[::every]):
            for effect, opcodes in forgeries(module, name, canary_file).items():
                content = PROTO + opcodes + STOP
                with pytest.raises(pickle.UnpicklingError):
                    WeightsUnpickler(io.BytesIO(content)).load()
                reader = ConstructorUnpickler(io.BytesIO(content))
                try:
                    reader.load()
                    is_refused = bool(reader.stand_ins)
                except (pickle.UnpicklingError, TypeError, ValueError):
                    is_refused = True
                assert is_refused or ("the class" not in effect and may_be_built(module, name)), (module, name, effect)


PLACES = (
    "class_and_ctor_args.pkl",
    f"{MODULE_PATH}/player_0/class_and_ctor_args.pkl",
    f"{MODULE_PATH}/player_0/module_state.pkl",
    f"{MODULE_PATH}/module_state.pkl",
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("classes", [SAMPLE, pytest.param(None, marks=pytest.mark.slow)], ids=["sample", "all"])
def test_genuine_pickles_with_forged_opcodes_are_refused(listed, tmp_path, checkpoint, place, classes):
    """Uses forgeries that leave no object behind, so that only their opcodes can be the reason for a refusal."""
    canary_file, file = tmp_path / "executed", checkpoint / place
    genuine = file.read_bytes()
    reader = read_constructor if file.name == "class_and_ctor_args.pkl" else check_pickles
    reader(file.parent)
    with canary(canary_file):
        for module, name in classes or rllib_classes():
            for effect, opcodes in forgeries(module, name, canary_file).items():
                file.write_bytes(forged_into(genuine, opcodes))
                try:
                    reader(file.parent)
                except ValueError as error:
                    assert f"{file}: cannot be read (" in str(error)  # noqa: PT017 -- not all are refused
                else:
                    assert reader is read_constructor, (module, name, effect)
                    assert "the class" not in effect, (module, name, effect)
                    assert may_be_built(module, name), (module, name, effect)
    file.write_bytes(genuine)
    reader(file.parent)


def test_canary_fails_for_executed_forgeries(tmp_path):
    """Unpickles without checks, and expects the canary to fail."""
    canary_file = tmp_path / "executed"
    opcodes = forgeries("ray.rllib.connectors.agent.state_buffer", "StateBufferConnector", canary_file)
    with pytest.raises(AssertionError), canary(canary_file):
        pickle.loads(PROTO + opcodes["REDUCE of a context and bytes"] + STOP)
    assert canary_file.exists()
    opcodes = forgeries("ray.rllib.examples.envs.classes.env_with_subprocess", "EnvWithSubprocess", tmp_path / "none")
    from ray.rllib.examples.envs.classes.env_with_subprocess import EnvWithSubprocess

    command = EnvWithSubprocess.UNIQUE_CMD
    with pytest.raises(AssertionError), canary(tmp_path / "none"):
        pickle.loads(PROTO + opcodes["BUILD of slots on the class"] + STOP)
    EnvWithSubprocess.UNIQUE_CMD = command
    del EnvWithSubprocess.path


def weights(content):
    return WeightsUnpickler(io.BytesIO(PROTO + content + STOP)).load()


def settings(content):
    reader = ConstructorUnpickler(io.BytesIO(PROTO + content + STOP))
    return reader.load(), reader.stand_ins


def call(target, *arguments):
    return target + MARK + b"".join(arguments) + TUPLE + REDUCE


def pickled(value):
    return pickle.dumps(value, 4)[2:-1]


DTYPE = named("numpy", "dtype")
FALSE, TRUE = b"\x89", b"\x88"


@pytest.mark.parametrize(
    "content",
    [
        call(DTYPE, text("O"), FALSE, TRUE),
        call(DTYPE, text("f4"), FALSE, FALSE),  # NumPy's dtype object that all arrays share
        call(DTYPE, pickled([("x", "O")]), FALSE, TRUE),
        call(DTYPE, text("f4"), FALSE, TRUE) + pickled((3, "<", None, ("x",), {}, 8, 8, 0)) + BUILD,
        call(DTYPE, text("f4"), FALSE, TRUE) + pickled((3, "<", None, None, None, -1, -1, 63)) + BUILD,
        call(named("numpy._core.multiarray", "scalar"), call(DTYPE, text("f4"), FALSE, TRUE), data(b"")),
        call(named("numpy._core.multiarray", "_reconstruct"), named("numpy", "dtype"), pickled((0,)), data(b"b")),
        call(named("numpy._core.numeric", "_frombuffer"), pickled([1]), DTYPE, pickled((1,)), text("C")),
        call(named("torch.storage", "_load_from_bytes"), data(pickle.dumps(Touch("executed")))),
        call(named("torch._utils", "_rebuild_tensor_v2"), NONE, pickled(0), pickled((1,)), pickled((1,)), FALSE, NONE),
        call(named("torch._utils", "_rebuild_from_type_v2"), NONE, NONE, EMPTY_TUPLE, NONE),
        call(named("torch", "load"), text("x")),
        call(named("collections", "OrderedDict"), pickled([1])),
        named("numpy._core.numeric", "_frombuffer") + DICT + BUILD,
        named("numpy", "ndarray") + DICT + text("x") + NONE + SETITEM + BUILD,
        named("numpy", "ndarray") + EMPTY_TUPLE + NEWOBJ,
        named("numpy", "f2py.os.system"),
        named("numpy._core", "multiarray.scalar"),
        call(named("builtins", "getattr"), named("numpy", "ndarray"), text("tofile")),
        call(named("functools", "partial"), named("numpy", "dtype")),
        call(named("copyreg", "_reconstructor"), named("numpy", "ndarray"), named("numpy", "ndarray"), NONE),
        text("a") + NONE + b"q\x00" + b"\x93",
        NONE + NONE + b"a", pickled("x") + b"(NNu", pickled(1) + pickled(2) + b"a",  # items of objects without items
    ],
)  # fmt: skip
def test_weights_are_read_only_with_functions_of_numpy_and_torch(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with canary(tmp_path / "executed"), pytest.raises((pickle.UnpicklingError, TypeError)):
        weights(content)


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.", b"(S'true'\nios\nsystem\n.", b"(cos\nsystem\nS'true'\no.",
        b"\x80\x04\x82\x01.", b"\x80\x04\x83\x01\x00.", b"\x80\x04\x84\x01\x00\x00\x00.", b"P1\n.", b"\x80\x04NQ.",
        b"I1\n.", b"\x80\x05\x97.", b"\x80\x05N\x98.", b"\x80\x04Nq\x00.", b"\x80\x04N2.", b"\x80\x06N.",
        b"\x80\x04h\x00.", b"\x80\x04R.", b"\x80\x04}(Nu.", b"", b"half", b"\x80\x04", b"\x80\x04\x93.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("reader", [WeightsUnpickler, ConstructorUnpickler])
def test_opcodes_not_used_by_checkpoints_are_refused(tmp_path, content, reader):
    """Covers older protocols, persistent ids, copyreg's codes, out-of-band buffers and truncated pickles."""
    with canary(tmp_path / "executed"), pytest.raises(Exception) as error:  # noqa: PT011 -- as broken pickles do
        reader(io.BytesIO(content)).load()
    assert not isinstance(error.value, AssertionError)


def test_constructors_in_settings_accept_only_genuine_arguments():
    pcg, seeds = named("numpy.random._pcg64", "PCG64"), named("numpy.random.bit_generator", "SeedSequence")
    generator, bits = (named("numpy.random._pickle", f"__{name}_ctor") for name in ("generator", "bit_generator"))
    rng, stand_ins = settings(call(generator, call(bits, pcg)))
    assert isinstance(rng, np.random.Generator)
    assert not stand_ins
    spec = named("ray.rllib.core.rl_module.rl_module", "RLModuleSpec")
    callbacks = named("ray.rllib.callbacks.callbacks", "RLlibCallback")
    unpickle_seeds = named("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence")
    space = named("gymnasium.spaces.box", "Box") + EMPTY_TUPLE + NEWOBJ
    player = named("rllib_reciprocator.engine.player_mapping", "Player") + EMPTY_TUPLE + NEWOBJ
    model = named("rllib_reciprocator.intrinsic.reciprocity.settings", "ReciprocitySettings") + EMPTY_TUPLE + NEWOBJ
    partial_of = named("functools", "partial")
    module_of = named("rllib_reciprocator.rllib_episodes.modules", "_module_of")
    for content in (
        call(bits, callbacks), call(generator, text("PCG64"), callbacks), call(unpickle_seeds, pcg, pickled(1), NONE),
        call(partial_of, callbacks), call(partial_of, module_of, NONE), call(partial_of, named("os", "system")),
        seeds + DICT + BUILD,
        call(partial_of, module_of) + MARK + callbacks + EMPTY_TUPLE + DICT + NONE + TUPLE + BUILD,
        call(module_of, pickled({})), call(spec, callbacks), spec + MARK + NONE + TUPLE + NEWOBJ,
        call(named("collections", "defaultdict"), callbacks), call(named("builtins", "getattr"), spec, text("build")),
        call(named("builtins", "str"), NONE), call(named("ray.rllib.algorithms.ppo.ppo", "PPO"), DICT),
        space + DICT + text("contains") + callbacks + SETITEM + BUILD,
        space + DICT + text("__deepcopy__") + callbacks + SETITEM + BUILD,
        player + MARK + NONE + DICT + text("kind") + NONE + SETITEM + TUPLE + BUILD,
        model + DICT + text("__class__") + callbacks + SETITEM + BUILD,
        model + pickled({"__dict__": {"for_game": 1}}) + BUILD,
        call(named("ray.rllib.algorithms.algorithm_config", "TorchCompileWhatToCompile"), text("forward_train"))
        + DICT + BUILD,
        named("ray.rllib.algorithms.algorithm_config", "AlgorithmConfig.DEFAULT_POLICY_MAPPING_FN") + DICT + BUILD,
        named("rllib_reciprocator.engine.config", "BatchedConfig.validate"),
        named("rllib_reciprocator", "Reciprocator"),
        named("rllib_reciprocator.cli.main", "app"), named("gymnasium.spaces.utils", "np.load"),
    ):  # fmt: skip
        try:
            assert settings(content)[1], content
        except (pickle.UnpicklingError, TypeError):
            continue


def test_tensor_storage_is_read_with_pytorchs_allow_list(tmp_path):
    tensor = torch.arange(3.0)
    assert torch.equal(weights(pickled(tensor)), tensor)
    file = io.BytesIO()
    torch.save({"x": Touch(tmp_path / "executed")}, file)
    with canary(tmp_path / "executed"), pytest.raises(pickle.UnpicklingError):
        weights(call(named("torch.storage", "_load_from_bytes"), data(file.getvalue())))


def test_folders_behind_links_are_checked(checkpoint, tmp_path):
    """Checks that links are followed, as RLlib does, and that loops of links end."""
    hidden = tmp_path / "hidden"
    (checkpoint / MODULE_PATH / "player_0").rename(hidden)
    (checkpoint / MODULE_PATH / "player_0").symlink_to(hidden)
    (hidden / "loop").symlink_to(checkpoint)
    check_pickles(checkpoint)
    (hidden / "module_state.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    with canary(tmp_path / "executed"), pytest.raises(ValueError, match=r"refers to posix\.system"):
        check_pickles(checkpoint)
