"""Ctrl-C and SIGTERM, served when it suits the work."""

import signal
import sys
import threading


class Signals:
    """Remembers the first SIGINT or SIGTERM in ``caught``, to be served between two steps; a second one interrupts at once."""

    def __init__(self):
        self.caught: int | None = None
        self._previous: dict = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._catch) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = number
        print("stopping after this step (again: at once)", file=sys.stderr)
