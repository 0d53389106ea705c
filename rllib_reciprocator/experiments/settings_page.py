"""All settings as a page of Markdown, from the code that checks them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import social_dilemmas
from rllib_reciprocator.algorithms.coala.config import COALASettings
from rllib_reciprocator.algorithms.reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.registry import BATCHED, algorithm_class
from rllib_reciprocator.engine import BatchedConfig
from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings
from rllib_reciprocator.intrinsic.registry import intrinsic_names, intrinsic_reward
from rllib_reciprocator.models import ActorCriticModule
from rllib_reciprocator.models.settings import ModelSettings
from rllib_reciprocator.players import LearningSettings
from rllib_reciprocator.players.players import OWN_SETTINGS, assign
from rllib_reciprocator.players.scripted import STRATEGIES
from rllib_reciprocator.rllib_episodes.reciprocate import SETTINGS

_PPO_OF_OURS = (
    "lr", "gamma", "lambda_", "clip_param", "entropy_coeff", "num_epochs", "minibatch_size", "vf_loss_coeff",
    "num_envs_per_env_runner", "shuffle_batch_per_epoch", "use_kl_loss",
)  # fmt: skip


def settings_page() -> str:
    """The page.

    Raises:
        KeyError: If a setting has no description.
    """
    config = ReciprocatorConfig()
    reciprocity = described(ReciprocatorConfig.reciprocity)
    training = described(BatchedConfig.training) | described(BatchedConfig.env_runners)
    experiment = described(Experiment, "Attributes")
    about_meta = described(COALASettings, "Attributes")
    learning = described(LearningSettings, "Attributes")
    parts = [
        "# Settings",
        "This page is made from the code that checks settings. Keys that are not known are errors.",
        "## Of an experiment",
        "Keys of an entry of a YAML file, beside its name.",
        _table((name, _default(field), experiment[name]) for name, field in _fields(Experiment) if name != "name"),
        "## `config`",
        "All of RLlib's settings of the algorithm, by RLlib's names; `lambda` for `lambda_`, `model_config` for"
        " networks. `Reciprocator` and the others on the batched engine differ from RLlib's PPO in these defaults:",
        _table((name, repr(getattr(config, name)), "") for name in _PPO_OF_OURS),
        "and has these of its own:",
        _table((name, repr(getattr(config, name)), training[name]) for name in training if hasattr(config, name)),
        "## `config.players`",
        "Player by agent or pattern of agents. " + _markdown(_paragraphs(assign)[1]),
        _players(),
        f"A player that learns may have settings of its own: {_listed(OWN_SETTINGS)} and `model_config`. Strategies:"
        f" {_listed(STRATEGIES)}.",
        "## `config.reciprocity`",
        f"With RLlib's own algorithms (`run: PPO`, `APPO`, `IMPALA`): {_listed(sorted(SETTINGS))}.",
        _table((name, _default(field), reciprocity[name]) for name, field in _fields(ReciprocitySettings)),
        *_intrinsic_rewards(),
        "## `config.meta`",
        "Where somebody learns between inner episodes; `run: COALA` and `run: Shaper` have more of them.",
        _table((name, _default(field), about_meta[name]) for name, field in _fields(COALASettings)),
        "## `config.learning_players`",
        "By NAME of a player `learner/NAME`, beside `pg` and `a2c`: how it learns inside the environment.",
        _table((field.alias or name, _default(field), learning[name]) for name, field in _fields(LearningSettings)),
        "## `config.model_config`",
        "Of the algorithms on the batched engine, `model: actor_critic`; `model: rllib` takes RLlib's"
        " `DefaultModelConfig` instead. " + _markdown(_paragraphs(ActorCriticModule)[1]),
        _table((name, _default(field), "") for name, field in _fields(ModelSettings)),
        "## Of single algorithms",
        *_of_algorithms(),
        "## `config.env_config`",
    ]
    for game in social_dilemmas.game_ids():
        spec = social_dilemmas.spec(game)
        parts += [f"### `{game}`", spec.summary]
        about = described(spec.builder())
        parts.append(
            _table((name, _value(default), about.get(name, "")) for name, (_, default) in spec.settings().items())
        )
    return "\n\n".join(parts) + "\n"


def _of_algorithms() -> Iterable[str]:
    """For each algorithm on the engine the settings that it alone has."""
    of_all = described(BatchedConfig.training)
    for name in BATCHED:
        config = algorithm_class(name).get_default_config()
        own = {key: about for key, about in described(type(config).training).items() if key not in of_all}
        if own:
            yield f"`run: {name}`:"
            yield _table((key, repr(getattr(config, key)), about) for key, about in own.items() if hasattr(config, key))


def _intrinsic_rewards() -> Iterable[str]:
    """A section for each intrinsic reward but the first, which has its own."""
    for name in intrinsic_names()[1:]:
        settings = intrinsic_reward(name).settings_class()
        about = described(settings, "Attributes")
        yield f"## `config.{name}`"
        yield f"For players with `intrinsic: {{{name}: {{}}}}`, which may set any of it for themselves."
        yield _table((each, _default(field), about[each]) for each, field in _fields(settings))


def described(target: Any, section: str = "Args") -> dict[str, str]:
    """What a Google-style docstring says of each argument or attribute, by name; of a class, its constructor too."""
    texts = [inspect.getdoc(target) or ""]
    if inspect.isclass(target):
        texts.append(inspect.getdoc(target.__init__) or "")
    found: dict[str, str] = {}
    for text in texts:
        block = re.search(rf"^{section}:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
        entries = re.findall(r"^    (\w+): (.*(?:\n        .*|\n(?=\n))*)", block[1] if block else "", re.MULTILINE)
        found |= {name: " ".join(about.split()) for name, about in entries}
    return found


def _paragraphs(target: Any) -> list[str]:
    return [" ".join(part.split()) for part in (inspect.getdoc(target) or "").split("\n\n")]


def _players() -> str:
    """The list of the players mapping's docstring."""
    parts = (inspect.getdoc(assign) or "").split("\n\n")
    return _markdown(next(part for part in parts if part.startswith("- ")))


def _fields(model: Any) -> Iterable[tuple[str, Any]]:
    return model.model_fields.items()


def _default(field: Any) -> str:
    return "required" if field.is_required() else _value(field.get_default(call_default_factory=True))


def _value(value: Any) -> str:
    return "required" if value is inspect.Parameter.empty else repr(value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Rows of name, default and description; the last column is left out where nobody has any."""
    cells = [(f"`{name}`", f"`{default}`", _markdown(about)) for name, default, about in rows]
    width = 3 if any(about for *_, about in cells) else 2
    lines = [("setting", "default", "")[:width], ("---",) * width, *(row[:width] for row in cells)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def _markdown(text: str) -> str:
    """A docstring's text as Markdown: one kind of quotes."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")
