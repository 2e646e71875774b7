"""Settings that torch reads when it starts: the commands import this module before it.

Threads that wait sleep instead of spinning: on a machine that has other work to do, spinning costs several
times the work. Large tensors lie in huge pages where the system has them, and what is freed is kept for the
next iteration (utils/heap.py).

Importing torch takes seconds. A Ctrl-C in them ends a command at once, without a traceback: nothing has
begun that could be reported. `utils.commands.run_command` takes over from there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping

from utils.heap import keep_freed_memory


def gpu_of_process(environment: Mapping[str, str]) -> str | None:
    """Return which GPU a process that torchrun has started is to see, None: as many as there are.

    Each of a machine's processes takes its own, of those that CUDA_VISIBLE_DEVICES leaves.
    """
    if int(environment.get("LOCAL_WORLD_SIZE", 1)) == 1:
        return None
    number, given = int(environment["LOCAL_RANK"]), environment.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return str(number)
    devices = given.split(",")
    return devices[number] if number < len(devices) else ""


if (_gpu := gpu_of_process(os.environ)) is not None:
    os.environ["CUDA_VISIBLE_DEVICES"] = _gpu
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
keep_freed_memory()

_program = os.path.dirname(os.path.abspath(getattr(sys.modules["__main__"], "__file__", "")))
if (
    _program == os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # a command, not a test runner
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored, as in the background
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
