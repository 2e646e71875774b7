"""The memory that is available to a program."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_GROUP_USES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def available_memory() -> float:
    """Return the bytes that this program may still take.

    It is the least of what the machine has left and what the limit of its control group leaves.
    """
    left = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        left.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    for limit, use in zip(_GROUP_LIMITS, _GROUP_USES):
        # A group without a limit says "max", which is no number.
        with contextlib.suppress(OSError, ValueError):
            left.append(int(Path(limit).read_text()) - int(Path(use).read_text()))
    return max(0.0, float(min(left)))
