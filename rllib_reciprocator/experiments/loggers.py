"""Ray's callbacks for the loggers that an experiment requests."""

from __future__ import annotations

import re
from typing import Any

from rllib_reciprocator.experiments.schema import Experiment
from rllib_reciprocator.utils.errors import UserError

_LOGGER_HINTS = {
    "wandb": "run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline",
    "mlflow": "set MLFLOW_TRACKING_URI to a server or a database, as sqlite:///mlflow.db",
}


def check_loggers(experiment: Experiment) -> None:
    """Checks that the requested loggers can log, e.g. that an account or a tracking store is configured.

    Raises:
        UserError: If a logger cannot log.
    """
    for name in experiment.loggers:
        try:
            _logger(name, experiment).setup()
        except Exception as error:  # without an account or a server, they raise any type of exception
            # Only the first sentence is shown: the rest is about the classes of these packages.
            problem = re.split(r"(?<=\w)\.\s|\n", str(error).strip() or type(error).__name__)[0].rstrip(".")
            raise UserError(f"{experiment.name}.loggers: {name}: {problem}; {_LOGGER_HINTS[name]}") from None


def loggers(experiment: Experiment) -> list[Any]:
    """Returns Ray's callbacks for the requested loggers."""
    return [_logger(name, experiment) for name in experiment.loggers]


def _logger(name: str, experiment: Experiment) -> Any:
    """Returns Ray's callback for a logger."""
    if name == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        return WandbLoggerCallback(project=experiment.name)
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(experiment_name=experiment.name)
