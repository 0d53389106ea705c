"""Valid ranges of numeric settings, because RLlib accepts any number and fails late or never."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rllib_reciprocator.utils.errors import UserError
from social_dilemmas.batched_game import MAX_GAMES


@dataclass(frozen=True)
class Range:
    """Interval from ``least`` to ``most``.

    Attributes:
        least: Smallest value.
        most: Largest value. Infinity is out of range unless ``most`` is infinity.
        open: If True, ``least`` itself is out of range.
    """

    least: float
    most: float
    open: bool = False

    def __contains__(self, value: float) -> bool:
        is_above = value > self.least if self.open else value >= self.least
        return is_above and value <= self.most

    def __str__(self) -> str:
        """Returns the range as text that completes "must be"."""
        lower_bound = "above" if self.open else "at least"
        if self.most >= _LARGEST:
            return f"{lower_bound} {self.least:g}"
        return f"{lower_bound} {self.least:g} and at most {self.most:g}"


# Finite, but larger than any useful value.
_LARGEST = 1e300
_SHARE = Range(0.0, 1.0)
_POSITIVE = Range(0.0, _LARGEST, open=True)
_NOT_NEGATIVE = Range(0.0, _LARGEST)
_LIMIT = Range(0.0, math.inf, open=True)
_SECONDS = Range(0.0, math.inf)
_ANY = Range(-_LARGEST, _LARGEST)
_COUNT = Range(0, 10_000_000_000)
_AT_LEAST_ONE = Range(1, 10_000_000_000)
_PROCESSES = Range(0, 10_000)

RANGES: dict[str, Range] = {
    **dict.fromkeys(("lr", "_lr_vf", "actor_lr", "critic_lr", "alpha_lr"), _NOT_NEGATIVE),
    **dict.fromkeys(("gamma", "lambda", "lambda_", "decay", "momentum", "replay_proportion", "epsilon"), _SHARE),
    **dict.fromkeys(("entropy_coeff", "vf_loss_coeff", "kl_coeff", "kl_target"), _NOT_NEGATIVE),
    **dict.fromkeys(("clip_param", "adam_epsilon", "initial_alpha"), _POSITIVE),
    **dict.fromkeys(("vf_clip_param", "grad_clip", "clip_rewards", "training_intensity"), _LIMIT),
    "tau": Range(0.0, 1.0, open=True),
    # ShaperConfig checks the range of sigma.
    **dict.fromkeys(("v_min", "v_max", "target_entropy", "sigma"), _ANY),
    **dict.fromkeys(
        (
            "num_epochs", "critic_epochs", "minibatch_size", "train_batch_size", "train_batch_size_per_learner",
            "n_step", "num_atoms", "rollout_fragment_length", "evaluation_interval", "evaluation_duration",
            "metrics_num_episodes_for_smoothing", "max_requests_in_flight_per_env_runner",
            "broadcast_interval", "updates_per_iteration",
        ),
        _AT_LEAST_ONE,
    ),
    **dict.fromkeys(
        (
            "num_env_runners", "num_learners", "evaluation_num_env_runners", "num_offline_eval_runners",
            "num_aggregator_actors_per_learner", "num_gpus", "num_gpus_per_env_runner", "num_gpus_per_learner",
            "num_gpus_per_offline_eval_runner", "num_cpus_per_env_runner", "num_cpus_per_learner",
            "num_cpus_per_offline_eval_runner", "num_cpus_for_main_process",
        ),
        _PROCESSES,
    ),
    "num_envs_per_env_runner": Range(1, MAX_GAMES),
    "seed": Range(0, 2**31 - 1),
}  # fmt: skip
# Settings that accept a schedule, ``[[step, value], ..]``, in addition to a number.
SCHEDULED = (
    "lr", "actor_lr", "critic_lr", "alpha_lr", "lr_schedule", "entropy_coeff", "entropy_coeff_schedule", "epsilon",
    "sigma",
)  # fmt: skip


def range_of(name: str) -> Range:
    """Returns the valid range of a setting. A setting that is not in ``RANGES`` is a count, a length or a time."""
    if name in RANGES:
        return RANGES[name]
    return _SECONDS if name.endswith(("_s", "_ms", "_timeout")) else _COUNT


def check_range(path: str, name: str, value: object) -> None:
    """Checks that a number, or each number of a schedule, is in range. Other values are not checked.

    Args:
        path: Path of the setting, for messages.
        name: Name of the setting.
        value: Value of the setting.

    Raises:
        UserError: If a number is out of range, or if a schedule is invalid.
    """
    if name in SCHEDULED and isinstance(value, list):
        last_step = -1.0
        for point in value:
            if not isinstance(point, list | tuple) or len(point) != 2:
                raise UserError(f"{path}: {value!r}: a schedule is a list of [step, value]")
            step, number = point
            if (
                isinstance(step, bool)
                or not isinstance(step, int)
                or step <= last_step
                or (last_step < 0 and step != 0)
            ):
                raise UserError(f"{path}: {value!r}: the steps of a schedule must start at 0 and increase")
            last_step = step
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise UserError(f"{path}: {number!r} is not a number")
            check_range(path, name.removesuffix("_schedule"), number)
        if not value:
            raise UserError(f"{path}: a schedule needs at least one [step, value]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        valid_range = range_of(name)
        if value not in valid_range:
            raise UserError(f"{path}: {value} must be {valid_range}")
