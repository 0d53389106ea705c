"""Generates a Markdown page of all settings from the code that validates them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import social_dilemmas
from rllib_reciprocator.algorithms.coala.settings import COALASettings
from rllib_reciprocator.algorithms.reciprocator import ReciprocatorConfig
from rllib_reciprocator.algorithms.registry import BATCHED, algorithm_class
from rllib_reciprocator.engine import BatchedConfig
from rllib_reciprocator.engine.online_learner_settings import LearningSettings
from rllib_reciprocator.engine.player_mapping import OWN_SETTINGS, assign
from rllib_reciprocator.engine.registries import intrinsic_names, intrinsic_reward, player_kinds
from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.intrinsic.reciprocity import ReciprocitySettings
from rllib_reciprocator.models import ActorCriticModule
from rllib_reciprocator.models.settings import ModelSettings
from rllib_reciprocator.players.scripted import STRATEGIES
from rllib_reciprocator.rllib_episodes.episode_settings import SETTINGS

_PPO_OF_OURS = (
    "lr", "gamma", "lambda_", "clip_param", "entropy_coeff", "num_epochs", "minibatch_size", "vf_loss_coeff",
    "num_envs_per_env_runner", "shuffle_batch_per_epoch", "use_kl_loss",
)  # fmt: skip


def settings_page() -> str:
    """Returns the page, in Markdown.

    Raises:
        KeyError: If a setting has no description.
    """
    config = ReciprocatorConfig()
    reciprocity = descriptions_in(ReciprocatorConfig.reciprocity)
    engine = descriptions_in(BatchedConfig.training) | descriptions_in(BatchedConfig.env_runners)
    experiment = descriptions_in(Experiment, "Attributes")
    coala = descriptions_in(COALASettings, "Attributes")
    online_learner = descriptions_in(LearningSettings, "Attributes")
    parts = [
        "# Settings",
        "This page is generated from the code that validates settings. Unknown keys are errors.",
        "## Experiments",
        "Keys of an experiment in a YAML file. The name of the experiment is the key of its entry.",
        _table((name, _default(field), experiment[name]) for name, field in _fields(Experiment) if name != "name"),
        "## `config`",
        "All settings of the RLlib algorithm, under RLlib's names, with `lambda` for `lambda_` and `model_config` for"
        " networks. Compared with RLlib's PPO, `Reciprocator` and the other algorithms on the batched engine have these"
        " defaults:",
        _table((name, repr(getattr(config, name)), "") for name in _PPO_OF_OURS),
        "They also have these additional settings:",
        _table((name, repr(getattr(config, name)), engine[name]) for name in engine if hasattr(config, name)),
        "## `config.players`",
        "Maps agents or patterns of agents to players. " + _markdown(_paragraphs(assign)[1]),
        _players(),
        f"Kinds of players that are trained: {_code_list(player_kinds())}.",
        f"A player that learns can override these settings: {_code_list(OWN_SETTINGS)} and `model_config`. Strategies:"
        f" {_code_list(STRATEGIES)}.",
        "## `config.reciprocity`",
        f"With RLlib's own algorithms (`run: PPO`, `APPO`, `IMPALA`): {_code_list(sorted(SETTINGS))}.",
        _table((name, _default(field), reciprocity[name]) for name, field in _fields(ReciprocitySettings)),
        *_intrinsic_rewards(),
        "## `config.meta`",
        "Settings of meta-episodes, in which online learners learn between inner episodes. `run: COALA` and"
        " `run: Shaper` have all of them, other algorithms only some.",
        _table((name, _default(field), coala[name]) for name, field in _fields(COALASettings)),
        "## `config.learning_players`",
        "Settings of online learners, by the NAME in `learner/NAME`: `pg`, `a2c`, or the name of an additional one.",
        _table(
            (field.alias or name, _default(field), online_learner[name]) for name, field in _fields(LearningSettings)
        ),
        "## `config.model_config`",
        "Settings of `model: actor_critic`, the default of the algorithms on the batched engine. `model: rllib` takes"
        " the settings of RLlib's `DefaultModelConfig` instead. " + _markdown(_paragraphs(ActorCriticModule)[1]),
        _table((name, _default(field), "") for name, field in _fields(ModelSettings)),
        "## Settings of single algorithms",
        *_of_algorithms(),
        "## `config.env_config`",
    ]
    for game in social_dilemmas.game_ids():
        spec = social_dilemmas.spec(game)
        parts += [f"### `{game}`", spec.summary]
        argument_docs = descriptions_in(spec.builder())
        parts.append(
            _table(
                (name, _value(default), argument_docs.get(name, "")) for name, (_, default) in spec.settings().items()
            )
        )
    return "\n\n".join(parts) + "\n"


def _of_algorithms() -> Iterable[str]:
    """Yields tables of the settings that single algorithms have in addition to the shared ones."""
    shared_settings = descriptions_in(BatchedConfig.training)
    for name in BATCHED:
        config = algorithm_class(name).get_default_config()
        extra_settings = {
            key: text for key, text in descriptions_in(type(config).training).items() if key not in shared_settings
        }
        if extra_settings:
            yield f"`run: {name}`:"
            yield _table(
                (key, repr(getattr(config, key)), text) for key, text in extra_settings.items() if hasattr(config, key)
            )


def _intrinsic_rewards() -> Iterable[str]:
    """Yields the sections of all intrinsic rewards except the first, which has its own section in the page."""
    for name in intrinsic_names()[1:]:
        settings = intrinsic_reward(name).settings_class
        descriptions = descriptions_in(settings, "Attributes")
        yield f"## `config.{name}`"
        yield f"For players with `intrinsic: {{{name}: {{}}}}`, which can override any of these settings."
        yield _table((key, _default(field), descriptions[key]) for key, field in _fields(settings))


def descriptions_in(target: object, section: str = "Args") -> dict[str, str]:
    """Returns the descriptions in a Google-style docstring by name; for a class, also those of its constructor."""
    texts = [inspect.getdoc(target) or ""]
    if inspect.isclass(target):
        texts.append(inspect.getdoc(target.__init__) or "")
    descriptions: dict[str, str] = {}
    for text in texts:
        block = re.search(rf"^{section}:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
        entries = re.findall(r"^    (\w+): (.*(?:\n        .*|\n(?=\n))*)", block[1] if block else "", re.MULTILINE)
        descriptions |= {name: " ".join(description.split()) for name, description in entries}
    return descriptions


def _paragraphs(target: object) -> list[str]:
    return [" ".join(part.split()) for part in (inspect.getdoc(target) or "").split("\n\n")]


def _players() -> str:
    """Returns the list of players in the docstring of :func:`assign`, in Markdown."""
    parts = (inspect.getdoc(assign) or "").split("\n\n")
    return _markdown(next(part for part in parts if part.startswith("- ")))


def _fields(model: type[BaseModel]) -> Iterable[tuple[str, Any]]:
    return model.model_fields.items()


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else _value(field.get_default(call_default_factory=True))


def _value(value: object) -> str:
    return "required" if value is inspect.Parameter.empty else repr(value)


def _code_list(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Formats rows of name, default and description as a table; omits the last column if it is empty."""
    cells = [(f"`{name}`", f"`{default}`", _markdown(description)) for name, default, description in rows]
    width = 3 if any(description for *_, description in cells) else 2
    lines = [("setting", "default", "")[:width], ("---",) * width, *(row[:width] for row in cells)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def _markdown(text: str) -> str:
    """Converts the roles and literals of a docstring's text to Markdown."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")
