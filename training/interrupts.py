"""Ctrl-C and other signals, deferred while something must not be left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The exception that a signal raises; commands end with 128 + its number, as shells report it."""

    number = signal.SIGINT


class Interrupts:
    """A context in which a signal of ENDING raises Interrupted: at once, or when what is `held` is done.

    A second one does not wait (`is_forced`). Signals that are ignored, as in background jobs, stay ignored.
    """

    def __init__(self) -> None:
        self.is_forced = False
        self._held, self._waiting = False, 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._arrive)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Complete the block, then raise the signal that arrived meanwhile."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._waiting:
            self._raise(self._waiting)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if self._held and not self._waiting:
            self._waiting = number
            return
        self.is_forced = self._held
        self._raise(number)

    def _raise(self, number: int) -> None:
        self._waiting = 0
        interruption = Interrupted()
        interruption.number = signal.Signals(number)
        raise interruption
