"""Run a stage of structure from motion in a child process, and read its progress from its log.

COLMAP ends its whole process where it meets a defect of the data. A child process that hangs can be stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from pathlib import Path
from typing import Any, Callable

from utils.progress import Counter

# Lines of the log that tell the progress of a stage.
DONE = re.compile(r"(?:Processed file|Processing block|Processing image|Undistorting image) \[(\d+)/(\d+)")
REGISTERED = re.compile(r"Registering image #\d+ \(num_reg_frames=(\d+)\)")


def run_stage(
    title: str, work: Callable[[Any], None], argument: Any, log: Path, total: int, quiet: bool
) -> None:
    """Call `work(argument)` in a child process and show its progress.

    Raise ValueError, with the last message of `log`, if it fails.
    """
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
        # Output of C++ goes to the descriptors, not to sys.stdout.
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        work(argument)


def progress_in(log: Path, start: int, total: int) -> tuple[int, int]:
    """Return the steps that are done and their total, by the newest lines behind byte `start` of a log."""
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    if registered := REGISTERED.findall(text):
        return int(registered[-1]) + 1, total
    if done := DONE.findall(text):
        return int(done[-1][0]), int(done[-1][1])
    return 0, total


def last_words(log: Path, start: int) -> str:
    """Return the last message of a log behind byte `start`, before a stack trace if there is one.

    Time and source location are cut off.
    """
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith((" ", "***", "PC:", "Traceback"))]
    return (
        re.sub(r"^[EWIF]\d{8} [\d:.]+ \d+ (\S+\] )?", "", lines[-1]).strip() if lines else "no reason given"
    )
