"""Progress of long work: a live bar on a terminal, timed plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Iterator, Sequence, TypeVar

from tqdm import tqdm

EMA_KEEP = 0.6  # weight of the old average when a value is added, as in 3DGS's progress bar
SECONDS_BETWEEN_LINES = 10.0
Item = TypeVar("Item")


class Progress:
    """The progress of training: loss, PSNR (exponential moving averages), Gaussians, it/s and time left.

    Callers read numbers off the device only every `Progress.INTERVAL` iterations: each read waits for a GPU.
    """

    INTERVAL = 10

    def __init__(self, first: int, last: int, quiet: bool = False, terminal: bool | None = None) -> None:
        """Start after iteration `first` of `last`. terminal: whether to show a bar; None asks stderr."""
        self._done, self._last, self._quiet = first, last, quiet
        self._printed, self._printed_at = first, time.monotonic()  # iteration and time of the last line
        self._averages: dict[str, float] = {}
        terminal = sys.stderr.isatty() if terminal is None else terminal
        live = terminal and not quiet
        self._bar = tqdm(total=last, initial=first, desc="Training", dynamic_ncols=True) if live else None

    def update(self, iteration: int, loss: float, psnr: float, gaussians: int) -> None:
        """Add the numbers of `iteration` to the averages, and show them when a line is due."""
        for name, value in (("loss", loss), ("PSNR", psnr)):
            old = self._averages.get(name, value)
            self._averages[name] = EMA_KEEP * old + (1 - EMA_KEEP) * value
        advanced, self._done = iteration - self._done, iteration
        if self._bar is not None:
            self._bar.set_postfix_str(self._numbers(gaussians), refresh=False)
            self._bar.update(advanced)
        elif not self._quiet and (self._seconds() >= SECONDS_BETWEEN_LINES or iteration == self._last):
            print(self._line(gaussians), flush=True)
            self._printed, self._printed_at = iteration, time.monotonic()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.write(text)
        elif not self._quiet:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _seconds(self) -> float:
        return time.monotonic() - self._printed_at

    def _numbers(self, gaussians: int) -> str:
        return (
            f"loss {self._averages['loss']:.4f}, PSNR {self._averages['PSNR']:.2f}, {gaussians:,} Gaussians"
        )

    def _line(self, gaussians: int) -> str:
        # The rate since the last line, because iterations become slower as Gaussians are added.
        rate = (self._done - self._printed) / max(self._seconds(), 1e-9)
        left = tqdm.format_interval((self._last - self._done) / max(rate, 1e-9))
        return f"[{self._done}/{self._last}] {self._numbers(gaussians)}, {rate:.1f} it/s, {left} left"


def each(items: Sequence[Item], title: str, quiet: bool = False) -> Iterator[Item]:
    """Iterate over `items` with a bar on a terminal, and timed lines elsewhere."""
    if quiet or sys.stderr.isatty():
        yield from tqdm(items, desc=title, disable=quiet, dynamic_ncols=True)
        return
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    for index, item in enumerate(items):
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            print(f"{title} [{index}/{len(items)}]", flush=True)
        yield item


class Counter:
    """The progress of work in another process: a bar on a terminal, timed lines elsewhere."""

    def __init__(self, title: str, total: int, quiet: bool = False) -> None:
        self._title, self._printed, self._quiet = title, (0, total), quiet
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
        live = sys.stderr.isatty() and not quiet
        self._bar = tqdm(desc=title, total=total or None, dynamic_ncols=True) if live else None

    def __enter__(self) -> Counter:
        if self._bar is None and not self._quiet:
            print(f"{self._title} ...", flush=True)
        return self

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` items are finished; a total of 0 is unknown."""
        if self._bar is not None:
            self._bar.total = total or None
            self._bar.update(done - self._bar.n)
        elif not self._quiet and time.monotonic() >= self._next_line and self._printed != (done, total):
            print(f"{self._title} [{done}/{total or '?'}]", flush=True)
            self._next_line, self._printed = time.monotonic() + SECONDS_BETWEEN_LINES, (done, total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
