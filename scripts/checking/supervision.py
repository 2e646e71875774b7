"""Run commands with a limit; nothing that they start outlives it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from training.interrupts import Interrupts

PROJECT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 3  # limit of a step over the time it is expected to take
SECONDS_TO_END = 5.0  # after the kill; a process that waits for a driver may not end at all
LARGEST_LOG = 1 << 20  # bytes that are read of a log's end


@dataclass
class Step:
    """Commands that run at once, and what came of them.

    The outcome is "passed", what went wrong, or "skipped: ..." and "not run: ..." with the reason.
    """

    name: str
    part: str
    commands: list[list[str]]
    expected: float  # seconds it takes where all is well
    needs: tuple[str, ...] = ()  # steps that must have passed
    unless: str = ""  # the step whose success makes this one needless
    environment: dict[str, str] = field(default_factory=dict)
    outcome: str = "not run"
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"

    @property
    def failed(self) -> bool:
        return not self.passed and not self.outcome.startswith("skipped")

    def log(self, folder: Path) -> Path:
        return folder / f"{self.name.replace(' ', '_')}.log"


def obstacle(step: Step, outcomes: Mapping[str, str], seconds_left: float) -> str:
    """Return why a step cannot run, as its outcome; empty where it can."""
    if step.unless and outcomes.get(step.unless) == "passed":
        return f"skipped: {step.unless} passed"
    for name in step.needs:
        if outcomes.get(name) != "passed":
            return f"skipped: needs {name}"
    for program in sorted({command[0] for command in step.commands}):
        if not shutil.which(program):
            return f"skipped: {program} not found"
    if seconds_left < step.expected:
        return f"not run: {seconds_left:.0f} s were left, it takes about {step.expected:.0f}"
    return ""


def run(
    step: Step, folder: Path, environment: Mapping[str, str], seconds_left: float, interrupts: Interrupts
) -> None:
    """Run a step's commands; set its outcome and seconds. What they print goes to a log in `folder`."""
    limit = min(PATIENCE * step.expected, seconds_left)
    start = time.monotonic()
    processes: list[subprocess.Popen] = []
    step.outcome = "interrupted"
    try:
        with open(step.log(folder), "wb") as log:
            for command in step.commands:
                with interrupts.held():  # until it is known what has to be ended
                    processes.append(begin(command, log, {**environment, **step.environment}))
        step.outcome = outcome_of(processes, start + limit) or f"stopped after {limit:.0f} s"
    except OSError as problem:
        step.outcome = f"could not be started: {problem}"
    finally:
        with interrupts.held():
            for process in processes:
                end(process)
            step.seconds = time.monotonic() - start


def begin(command: list[str], log: object, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start a command in a session, and so a process group, of its own."""
    return subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def outcome_of(processes: list[subprocess.Popen], deadline: float) -> str:
    """Wait for all of them; return "passed" or the first bad exit code. Empty at the deadline."""
    try:
        codes = [process.wait(max(0.0, deadline - time.monotonic())) for process in processes]
    except subprocess.TimeoutExpired:
        return ""
    bad = next(filter(None, codes), 0)
    if bad < 0:
        return f"ended by {signal.Signals(-bad).name}"
    return f"exit code {bad}" if bad else "passed"


def end(process: subprocess.Popen) -> None:
    """Kill a process and all that it started in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_END)


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last lines of a log that hold something; none without the log."""
    if not log.is_file():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LARGEST_LOG))
        text = file.read().decode("utf-8", errors="replace")
    return [line for line in text.replace("\r", "\n").splitlines() if line.strip()][-count:]
