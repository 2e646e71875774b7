"""Settings that torch reads when it starts: the commands import this module before it.

Threads that wait sleep instead of spinning: on a machine that has other work to do, spinning costs several
times the work. Large tensors lie in huge pages where the system has them: new ones every iteration would
otherwise cost a page fault every 4 KiB, a sixth of an iteration at 200,000 Gaussians. What is freed of them
goes back to the system at once: on glibc's heap, tensors of a few megabytes that grow with every
densification left holes that no later one fitted into, 0.5 GB in 40 iterations at 1.1 million Gaussians. The
heap of smaller ones keeps what is free at its end for the next iteration.

Importing torch takes seconds. A Ctrl-C in them ends a command at once, without a traceback: nothing has
begun that could be reported. `utils.commands.run_command` takes over from there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
LARGE = 2 << 20  # bytes

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE)
    ctypes.CDLL(None).mallopt(TRIM_THRESHOLD, 16 * LARGE)

_program = os.path.dirname(os.path.abspath(getattr(sys.modules["__main__"], "__file__", "")))
if (
    _program == os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # a command, not a test runner
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored, as in the background
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
