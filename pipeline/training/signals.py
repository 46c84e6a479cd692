"""Ctrl-C and SIGTERM as a wish to stop at a checkpoint."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_WISH_SECONDS = 1.0


@dataclass
class Caught:
    """The number of the signal that arrived, 0 before."""

    number: int = 0


@contextmanager
def on_stop_signal(ask: Callable[[str], None]) -> Iterator[Caught]:
    """Within, the first signal calls `ask` with its name; one a second later or more raises KeyboardInterrupt.

    (A terminal and a supervisor may both pass on the same wish.)

    Python runs signal handlers in the main thread only: elsewhere this does nothing.
    """
    caught, first = Caught(), 0.0

    def handler(number: int, frame: object) -> None:
        nonlocal first
        if caught.number:
            if time.monotonic() - first < _SAME_WISH_SECONDS:
                return
            raise KeyboardInterrupt
        caught.number, first = number, time.monotonic()
        ask(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)
