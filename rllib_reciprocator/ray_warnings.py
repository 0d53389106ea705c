"""Warnings of Ray's that are about Ray itself, and come with every run whatever a user does."""

from __future__ import annotations

import logging

# Logger, and how its message begins.
_ALWAYS_THERE = (
    ("ray.rllib.algorithms.algorithm_config", "You are running"),
    ("ray._private.authentication.authentication_token_setup", "Token authentication is enabled"),
    ("ray._common.deprecation", "DeprecationWarning: `RLModule(config="),
    ("ray.tune.utils.util", "Install gputil"),
)


class _Drop(logging.Filter):
    """Drops the records whose message begins so."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be logged."""
        return not record.getMessage().startswith(self.name)


def drop() -> None:
    """Keeps these warnings, and no others, out of this process's log."""
    for name, beginning in _ALWAYS_THERE:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Drop) and each.name == beginning for each in logger.filters):
            logger.addFilter(_Drop(beginning))
