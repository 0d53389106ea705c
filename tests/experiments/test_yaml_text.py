import pytest

from rllib_reciprocator.experiments.schema import read_file, typed
from rllib_reciprocator.experiments.yaml_text import parse
from rllib_reciprocator.utils.errors import LONGEST_MESSAGE, UserError, output_path, user_path


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is a duplicate key, in lines 1 and 3"),
        ("x:\n  config:\n    lr: 1\n    gamma: 0\n    lr: 2", "'lr' is a duplicate key, in lines 3 and 5"),
        ("{a: 1, a: 2}", "'a' is a duplicate key, in lines 1 and 1"),
        ("a: &x [*x]", "nested more than 40 levels"),
        ("a: " + "[" * 3000, "nested more than 40 levels"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 40 levels"),
        ("a: 2024-13-45", "line 1: '2024-13-45' cannot be read"),
        ("a: 2024-12-24", "a: '2024-12-24' is a date; put it in quotes"),
        ("a: !!float abc", "line 1: 'abc' cannot be read"),
        ("a: !!timestamp x", "line 1: 'x' cannot be read"),
        ("a: !!bool maybe", "line 1: 'maybe' cannot be read"),
        ("a: !!set {b}", "a: .* is a set"),
        ("a: !!binary aGFsbG8=", "a: .* is a bytes"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("a: 9223372036854775808", "a: a number of 19 digits is too large"),
        ("a: {null: 1}", "a: None is not a valid key"),
        ("? [a]\n: 1", "unhashable key"),
        ("a: *missing", "undefined alias"),
        ("a: 'b\x07'", "special characters are not allowed"),
        ("--- {}\n--- {}", "found another document"),
        ("a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
         "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
         "e: [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]", "e: holds more than 100000 values"),
    ],
)  # fmt: skip
def test_yaml_errors_are_one_line_with_their_position(text, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        parse(text, "f.yaml")
    assert str(error.value).startswith("f.yaml: ")
    assert "\n" not in str(error.value)


def test_merge_keys_and_anchors_are_read():
    mapping = parse("base: &base {lr: 1, gamma: 0}\nown: {<<: *base, lr: 2}", "f")
    assert mapping["own"] == {"lr": 2, "gamma": 0}


def test_messages_are_one_printable_line():
    message = str(UserError("a\nb\0c\x1b[31m\ud83d" + "x" * 2000 + "the end"))
    assert len(message) <= LONGEST_MESSAGE
    assert message.isprintable()
    assert message.startswith(r"a b\x00c\x1b[31m\ud83dxxx")
    assert message.endswith("the end")


@pytest.mark.parametrize(
    "name",
    [
        "../../../evil",
        "a/b",
        "/abs",
        "..",
        ".",
        "",
        " ",
        "a ",
        "a.",
        "n" * 101,
        "ä" * 60,
        "a\0b",
        "a\nb",
        "a:b",
        "~",
        "-a",
    ],
)
def test_experiment_names_that_are_no_folder_names_are_refused(name):
    with pytest.raises(UserError, match=r"folder name may be|is not a valid experiment name"):
        typed(name, {"run": "PPO"}, "f")


@pytest.mark.parametrize("name", ["reciprocator-ipd", "a", "Ünï_1.2, x=3 +@y", "n" * 100])
def test_valid_experiment_names(name):
    assert typed(name, {"run": "PPO"}, "f").name == name


def test_name_is_not_a_key_of_an_experiment():
    with pytest.raises(UserError, match=r"x\.name: not known"):
        typed("x", {"run": "PPO", "name": "../evil"}, "f")


@pytest.mark.parametrize("path", ["~nouser/x", "a\0b", "", "x" * 5000])
def test_invalid_paths_are_refused(path):
    with pytest.raises(UserError, match="--out: "):
        user_path(path, "--out")
    with pytest.raises(UserError):
        read_file(path)
    for key in ("restore", "storage_path"):
        with pytest.raises(UserError, match=f"x.{key}: "):
            typed("x", {"run": "PPO", key: path}, "f")


def test_output_paths_are_checked_first(tmp_path):
    for path in (str(tmp_path), "/proc/nosuch/x.json", "~nouser/x"):
        with pytest.raises(UserError, match="--out"):
            output_path(path, "--out")
    assert output_path(None, "--out") is None
    assert output_path(str(tmp_path / "deep" / "x.json"), "--out") == tmp_path / "deep" / "x.json"
    assert (tmp_path / "deep").is_dir()


def test_files_that_are_no_experiment_files_are_refused(tmp_path):
    large = tmp_path / "large.yaml"
    large.write_text("#" * 1_000_001)
    with pytest.raises(UserError, match="is larger than"):
        read_file(large)
    with pytest.raises(UserError, match="it is not a file"):
        read_file("/dev/zero")
