"""Handles Ctrl-C and SIGTERM while trials run: trials end, Ray shuts down, and the command prints how to resume."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """Exception for a signal that ends the command. Like KeyboardInterrupt, it is no error that code should handle.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message or f"interrupted by {signal.Signals(number).name}")
        self.signal = number

    @property
    def exit_code(self) -> int:
        """Returns the exit code by the convention of shells: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.signal


class _Handler:
    """Signal handler that forwards the first signal to Tune, which ends its trials cleanly; the second ends at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        tune_is_running = signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN, None)
        if self.received is not None or not tune_is_running:
            raise Interrupted(number)
        self.received = number
        signal.raise_signal(signal.SIGUSR1)


@contextmanager
def interruptible() -> Iterator[_Handler]:
    """Forwards SIGINT and SIGTERM to Tune within the context; raises Interrupted if Tune runs no experiment.

    Installs no handlers outside the main thread, where Python does not allow them.
    """
    # Tune then leaves SIGINT to this handler. Tune also ends its trials at SIGUSR1, which it handles whenever it runs.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    handler = _Handler()
    if threading.current_thread() is not threading.main_thread():
        yield handler
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous_handlers = {number: signal.signal(number, handler) for number in numbers}
    previous_usr1_handler = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        yield handler
    finally:
        signal.signal(signal.SIGUSR1, previous_usr1_handler)
        for number, previous_handler in previous_handlers.items():
            signal.signal(number, previous_handler)
