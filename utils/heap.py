"""The C library's heap: it keeps what an iteration frees for the next one, until sizes change.

Without this, large tensors are mapped anew in every iteration, and the system clears each of their pages: a
fifth of an iteration at a million Gaussians. What is kept has the sizes of one number of Gaussians. Larger
tensors would not fit into the holes, so that the memory is given back whenever the number changes.
"""

from __future__ import annotations

import contextlib
import ctypes

from utils.memory import share_of_memory, taken_memory

LITTLE = 0.25  # what is left to this process over what it takes
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's M_TRIM_THRESHOLD and M_MMAP_MAX
_UNLIMITED = 2**31 - 1
_OTHER_LIBRARY = (AttributeError, OSError, TypeError)  # of C, which has no such functions


def keep_freed_memory() -> None:
    """Let the heap hold all memory, and keep what is freed; without effect where it is not glibc's."""
    with contextlib.suppress(*_OTHER_LIBRARY):
        ctypes.CDLL(None).mallopt(_MMAP_MAX, 0)
        ctypes.CDLL(None).mallopt(_TRIM_THRESHOLD, _UNLIMITED)


def give_back_freed_memory() -> None:
    """Return all freed pages to the system."""
    with contextlib.suppress(*_OTHER_LIBRARY):
        ctypes.CDLL(None).malloc_trim(0)


def give_back_if_little_is_left() -> None:
    """Return all freed pages to the system where they may be needed: to take them anew costs time."""
    if share_of_memory() < LITTLE * taken_memory()[1]:
        give_back_freed_memory()
