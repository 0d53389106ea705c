"""Ctrl-C and SIGTERM while trials run: they end, Ray goes, and the command says how to go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A signal ended the command; as a KeyboardInterrupt, no error that anybody should handle.

    Attributes:
        signal: Its number.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message or f"interrupted by {signal.Signals(number).name}")
        self.signal = number

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.signal


class _Handler:
    """Takes the first signal down and tells Tune, which ends its trials in order; the second ends at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        at_work = signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN, None)
        if self.received is not None or not at_work:
            raise Interrupted(number)
        self.received = number
        signal.raise_signal(signal.SIGUSR1)


@contextmanager
def interruptible() -> Iterator[_Handler]:
    """Within it SIGINT and SIGTERM are told to a run of Tune's; where none is under way, they raise Interrupted.

    Does nothing outside the main thread, where Python has no signals.
    """
    # Tune then leaves SIGINT to us. It ends as well with SIGUSR1, which it always listens to while it runs.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    handler = _Handler()
    if threading.current_thread() is not threading.main_thread():
        yield handler
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in numbers}
    own = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        yield handler
    finally:
        signal.signal(signal.SIGUSR1, own)
        for number, former in before.items():
            signal.signal(number, former)
