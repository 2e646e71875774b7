"""Ctrl-C and other signals, deferred while something must not be left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

import torch

from utils.ranks import ALONE, Ranks

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The exception that a signal raises; commands end with 128 + its number, as shells report it."""

    number = signal.SIGINT


class Interrupts:
    """A context in which a signal of ENDING raises Interrupted: at once, or when what is `held` is done.

    A second one does not wait (`is_forced`). Signals that are ignored, as in background jobs, stay ignored.
    Several ranks end together, when they have all done what is held.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.is_forced = False
        self._ranks = ranks
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
    def held(self, ranks: Ranks = ALONE) -> Iterator[None]:
        """Complete the block, then raise the signal that arrived meanwhile; with `ranks`, at any of them."""
        self._held, agreed = True, 0
        try:
            yield
            if ranks.count > 1:
                agreed = max(ranks.counts(self._waiting, torch.device("cpu")))
        finally:
            self._held = False
        if agreed or self._waiting and self._ranks.count == 1:
            self._raise(agreed or self._waiting)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if (self._held or self._ranks.count > 1) and not self._waiting:
            self._waiting = number
            return
        # Other ranks go on meanwhile: what they would have to do together cannot be done any more.
        self.is_forced = self._held or self._ranks.count > 1
        self._raise(number)

    def _raise(self, number: int) -> None:
        self._waiting = 0
        interruption = Interrupted()
        interruption.number = signal.Signals(number)
        raise interruption
