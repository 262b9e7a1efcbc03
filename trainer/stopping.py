"""SIGTERM and Ctrl-C as a wish that is met after a step, when there is something to save."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainer.errors import Terminated


class StopRequest:
    """What the process was asked to do while it trained."""

    def __init__(self) -> None:
        """Nothing was asked so far."""
        self.signal: int | None = None

    def __bool__(self) -> bool:
        """Whether the process was asked to end."""
        return self.signal is not None

    def stop(self, saved: str) -> None:
        """Ends the training as the one who sent the signal expects it.

        Raises:
          KeyboardInterrupt: It was Ctrl-C.
          Terminated: It was SIGTERM.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(saved)
        raise Terminated(f"terminated, {saved}; run the same command again to go on.")


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Notes SIGTERM and the first Ctrl-C while it is open. The second Ctrl-C interrupts at once.

    Only the main thread gets signals; in another one nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: Any) -> None:
        request.signal = number
        signal.signal(number, before[number])

    numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
