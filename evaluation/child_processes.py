"""Child processes that end together: our commands, run by another command of ours."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Sequence

from utils.commands import EXIT_INTERRUPTED


class ChildProcesses:
    """The commands at work, so that all of them can be stopped."""

    def __init__(self, threads: int) -> None:
        """threads: of each command, 0: as many as it likes."""
        self._environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        self._children: set[subprocess.Popen] = set()
        self._lock, self.stopping = threading.Lock(), False

    def call(self, script: Path, flags: Sequence[str], log: Path) -> int:
        """Exit code of a Python script, whose command and output are added to `log`."""
        with self._lock, open(log, "ab") as file:
            if self.stopping:
                return EXIT_INTERRUPTED
            file.write(f"$ python {shlex.join([script.name, *flags])}\n".encode())
            file.flush()
            child = subprocess.Popen(
                [sys.executable, str(script), *flags],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # so that Ctrl-C reaches it through `stop` only, and once
            )
            self._children.add(child)
        code = child.wait()
        with self._lock:
            self._children.remove(child)
        return code

    def stop(self) -> None:
        """Interrupt what is at work, which then says in its log where it stands; start nothing more."""
        with self._lock:
            self.stopping = True
            for child in self._children:
                child.send_signal(signal.SIGINT)


def interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, so that children can be stopped."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) == signal.SIG_DFL:
            signal.signal(ending, signal.default_int_handler)
    # A job in the background ignores SIGINT, and so would its children, which `stop` interrupts by it:
    # ignoring is inherited, a handler is not.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)
