"""The child processes that full_eval.py starts: it runs this project's commands and can stop all of them."""

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
    """The set of running commands, which can be stopped together."""

    def __init__(self, threads: int, processes: int = 1) -> None:
        """Set the number of processes of each command, which torchrun starts if there are several.

        threads: of each process on the CPU; 0 leaves it to the command.
        """
        self._launcher = torchrun(processes) if processes > 1 else []
        self._environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        self._children: set[subprocess.Popen] = set()
        self._lock, self.stopping = threading.Lock(), False

    def call(self, script: Path, flags: Sequence[str], log: Path) -> int:
        """Run a Python script and return its exit code.

        Its command line and its output are appended to `log`. After `stop`, nothing runs and the code is
        EXIT_INTERRUPTED.
        """
        with self._lock, open(log, "ab") as file:
            if self.stopping:
                return EXIT_INTERRUPTED
            file.write(f"$ python {shlex.join([*self._launcher, script.name, *flags])}\n".encode())
            file.flush()
            child = subprocess.Popen(
                [sys.executable, *self._launcher, str(script), *flags],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                # Ctrl-C reaches the child through `stop` only, and once.
                start_new_session=True,
            )
            self._children.add(child)
        code = child.wait()
        with self._lock:
            self._children.remove(child)
        return code

    def stop(self) -> None:
        """Interrupt all running commands and start no more. Each reports in its log how far it got."""
        with self._lock:
            self.stopping = True
            for child in self._children:
                child.send_signal(signal.SIGINT)


def torchrun(processes: int) -> list[str]:
    """Return the flags of Python that start a script in so many processes on this machine."""
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


def interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, so that children can be stopped."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    # A background job ignores SIGINT, and its children inherit that, so that `stop` could not interrupt them.
    # A handler is not inherited.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)
