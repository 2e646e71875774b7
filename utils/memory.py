"""The memory that a program takes, and what is left to it."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

_GROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_GROUP_USES = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def available_memory() -> float:
    """Return the bytes that this program may still take.

    It is the least of what the machine has left and what the limits of its control group and of its address
    space leave.
    """
    left = [float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        left.append(limit - taken_memory()[0])
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        left.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    for limit, use in zip(_GROUP_LIMITS, _GROUP_USES):
        # A group without a limit says "max", which is no number.
        with contextlib.suppress(OSError, ValueError):
            left.append(int(Path(limit).read_text()) - int(Path(use).read_text()))
    return max(0.0, float(min(left)))


def taken_memory() -> tuple[int, int]:
    """Return the bytes of this program's address space, and how many of them are in memory; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError):
        pages = Path("/proc/self/statm").read_text().split()
        return tuple(int(number) * os.sysconf("SC_PAGE_SIZE") for number in pages[:2])
    return 0, 0


def share_of_memory() -> float:
    """Return the bytes that this process may still take, where those of its run divide what is available."""
    return available_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", 1))
