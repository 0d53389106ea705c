"""Tests the readers of checkpoints with pickles that do what genuine ones do not."""

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
# With constructors that unpickle bytes, start processes and write files, and some of which genuine checkpoints have.
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
    """Imports all that is listed, so that whatever is imported later was imported by a forgery."""
    values = {name: _look_up(*name) for name in sorted(CALLED | BUILT | NAMED)}
    missing = {module for (module, _), value in values.items() if value is None}
    assert missing <= {"pathlib._local"}, "a name on the lists is not one of this version of its library"
    return values


def may_be_made(module, name):
    """Returns True for the few classes of RLlib of which settings are made; making them does nothing."""
    return (module, name) in BUILT | CALLED


def test_few_classes_of_rllib_may_be_made():
    assert {name for module, name in BUILT | CALLED if module.startswith("ray.")} == {
        "DefaultModelConfig", "MultiRLModuleSpec", "RLModuleSpec", "TorchCompileWhatToCompile",
    }  # fmt: skip


@pytest.mark.parametrize("every", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_is_done_to_any_class_of_rllib_is_refused(listed, tmp_path, every):
    executed = tmp_path / "executed"
    classes = rllib_classes()
    assert len(classes) > 700
    assert set(SAMPLE) <= set(classes)
    with canary(executed):
        for module, name in (*SAMPLE, *classes[::every]):
            for does, opcodes in forgeries(module, name, executed).items():
                content = PROTO + opcodes + STOP
                with pytest.raises(pickle.UnpicklingError):
                    WeightsUnpickler(io.BytesIO(content)).load()
                reader = ConstructorUnpickler(io.BytesIO(content))
                try:
                    reader.load()
                    refused = bool(reader.stand_ins)
                except (pickle.UnpicklingError, TypeError, ValueError):
                    refused = True
                assert refused or ("the class" not in does and may_be_made(module, name)), (module, name, does)


PLACES = (
    "class_and_ctor_args.pkl",
    f"{MODULE_PATH}/player_0/class_and_ctor_args.pkl",
    f"{MODULE_PATH}/player_0/module_state.pkl",
    f"{MODULE_PATH}/module_state.pkl",
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("classes", [SAMPLE, pytest.param(None, marks=pytest.mark.slow)], ids=["sample", "all"])
def test_a_genuine_pickle_that_does_something_first_is_refused(listed, tmp_path, checkpoint, place, classes):
    """Nothing of the forgery is left in what is read: the file has to be refused for what it does."""
    executed, file = tmp_path / "executed", checkpoint / place
    genuine = file.read_bytes()
    read = read_constructor if file.name == "class_and_ctor_args.pkl" else check_pickles
    read(file.parent)
    with canary(executed):
        for module, name in classes or rllib_classes():
            for does, opcodes in forgeries(module, name, executed).items():
                file.write_bytes(forged_into(genuine, opcodes))
                try:
                    read(file.parent)
                except ValueError as error:
                    assert f"{file}: cannot be read (" in str(error)  # noqa: PT017 -- not all are refused
                else:
                    assert read is read_constructor, (module, name, does)
                    assert "the class" not in does, (module, name, does)
                    assert may_be_made(module, name), (module, name, does)
    file.write_bytes(genuine)
    read(file.parent)


def test_the_canary_notices(tmp_path):
    """Unpickles without looking, and sees that the canary fails."""
    executed = tmp_path / "executed"
    forged = forgeries("ray.rllib.connectors.agent.state_buffer", "StateBufferConnector", executed)
    with pytest.raises(AssertionError), canary(executed):
        pickle.loads(PROTO + forged["REDUCE of a context and bytes"] + STOP)
    assert executed.exists()
    forged = forgeries("ray.rllib.examples.envs.classes.env_with_subprocess", "EnvWithSubprocess", tmp_path / "none")
    from ray.rllib.examples.envs.classes.env_with_subprocess import EnvWithSubprocess

    command = EnvWithSubprocess.UNIQUE_CMD
    with pytest.raises(AssertionError), canary(tmp_path / "none"):
        pickle.loads(PROTO + forged["BUILD of slots on the class"] + STOP)
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
        call(DTYPE, text("f4"), FALSE, FALSE),  # NumPy's own, which all arrays share
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
        NONE + NONE + b"a", pickled("x") + b"(NNu", pickled(1) + pickled(2) + b"a",  # items of what has none
    ],
)  # fmt: skip
def test_weights_are_read_by_what_numpy_and_torch_reconstruct_theirs_with(tmp_path, monkeypatch, content):
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
def test_opcodes_that_checkpoints_do_not_have(tmp_path, content, reader):
    """Covers older protocols, persistent ids, copyreg's codes, buffers from elsewhere, and what is not whole."""
    with canary(tmp_path / "executed"), pytest.raises(Exception) as raised:  # noqa: PT011 -- as broken pickles do
        reader(io.BytesIO(content)).load()
    assert not isinstance(raised.value, AssertionError)


def test_what_settings_are_made_with_takes_only_what_it_is_given_by_genuine_ones():
    pcg, seeds = named("numpy.random._pcg64", "PCG64"), named("numpy.random.bit_generator", "SeedSequence")
    generator, bits = (named("numpy.random._pickle", f"__{name}_ctor") for name in ("generator", "bit_generator"))
    made, stand_ins = settings(call(generator, call(bits, pcg)))
    assert isinstance(made, np.random.Generator)
    assert not stand_ins
    spec = named("ray.rllib.core.rl_module.rl_module", "RLModuleSpec")
    callbacks = named("ray.rllib.callbacks.callbacks", "RLlibCallback")
    unpickle_seeds = named("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence")
    space = named("gymnasium.spaces.box", "Box") + EMPTY_TUPLE + NEWOBJ
    player = named("rllib_reciprocator.players.players", "Player") + EMPTY_TUPLE + NEWOBJ
    model = named("rllib_reciprocator.intrinsic.reciprocity.settings", "ReciprocitySettings") + EMPTY_TUPLE + NEWOBJ
    partial_of = named("functools", "partial")
    ours = named("rllib_reciprocator.rllib_episodes.modules", "_module_of")
    for content in (
        call(bits, callbacks), call(generator, text("PCG64"), callbacks), call(unpickle_seeds, pcg, pickled(1), NONE),
        call(partial_of, callbacks), call(partial_of, ours, NONE), call(partial_of, named("os", "system")),
        seeds + DICT + BUILD,
        call(partial_of, ours) + MARK + callbacks + EMPTY_TUPLE + DICT + NONE + TUPLE + BUILD,
        call(ours, pickled({})), call(spec, callbacks), spec + MARK + NONE + TUPLE + NEWOBJ,
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


def test_a_tensors_storage_is_read_by_pytorchs_own_list(tmp_path):
    tensor = torch.arange(3.0)
    assert torch.equal(weights(pickled(tensor)), tensor)
    file = io.BytesIO()
    torch.save({"x": Touch(tmp_path / "executed")}, file)
    with canary(tmp_path / "executed"), pytest.raises(pickle.UnpicklingError):
        weights(call(named("torch.storage", "_load_from_bytes"), data(file.getvalue())))


def test_folders_behind_links_are_looked_through(checkpoint, tmp_path):
    """RLlib follows links; a loop of them ends."""
    hidden = tmp_path / "hidden"
    (checkpoint / MODULE_PATH / "player_0").rename(hidden)
    (checkpoint / MODULE_PATH / "player_0").symlink_to(hidden)
    (hidden / "loop").symlink_to(checkpoint)
    check_pickles(checkpoint)
    (hidden / "module_state.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    with canary(tmp_path / "executed"), pytest.raises(ValueError, match=r"refers to posix\.system"):
        check_pickles(checkpoint)
