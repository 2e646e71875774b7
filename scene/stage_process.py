"""A stage of structure from motion in a process of its own, and what its log tells.

COLMAP ends its process where it meets a defect of the data, and a process that hangs can be stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from pathlib import Path
from typing import Any, Callable

from utils.progress import Counter

# How far a stage is, in its log.
DONE = re.compile(r"(?:Processed file|Processing block|Processing image|Undistorting image) \[(\d+)/(\d+)")
REGISTERED = re.compile(r"Registering image #\d+ \(num_reg_frames=(\d+)\)")


def run_stage(
    title: str, work: Callable[[Any], None], argument: Any, log: Path, total: int, quiet: bool
) -> None:
    """Call `work` in another process and show how far it is. ValueError with its last words if it fails."""
    start = log.stat().st_size if log.is_file() else 0
    process = multiprocessing.get_context("spawn").Process(target=_in_child, args=(work, argument, log))
    process.start()
    try:
        with Counter(title, total, quiet) as counter, open(log, "ab"):
            while process.is_alive():
                process.join(1.0)
                counter.update(*progress_in(log, start, total))
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
    if process.exitcode:
        raise ValueError(f"{title.lower()} failed: {last_words(log, start)} (see {log})")


def _in_child(work: Callable[[Any], None], argument: Any, log: Path) -> None:
    with open(log, "ab", buffering=0) as file:
        for descriptor in (1, 2):  # also what C++ prints
            os.dup2(file.fileno(), descriptor)
        work(argument)


def progress_in(log: Path, start: int, total: int) -> tuple[int, int]:
    """Done and total, by the newest lines behind byte `start` of a log."""
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    if registered := REGISTERED.findall(text):
        return int(registered[-1]) + 1, total
    if done := DONE.findall(text):
        return int(done[-1][0]), int(done[-1][1])
    return 0, total


def last_words(log: Path, start: int) -> str:
    """What the log says last before it ends or a stack is printed, without time and place in the source."""
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith((" ", "***", "PC:", "Traceback"))]
    return (
        re.sub(r"^[EWIF]\d{8} [\d:.]+ \d+ (\S+\] )?", "", lines[-1]).strip() if lines else "no reason given"
    )
