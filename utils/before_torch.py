"""Imported by the commands before torch, which reads these settings when it starts.

Threads that wait sleep instead of spinning: on a machine that has other work to do, spinning costs several
times the work. Large tensors lie in huge pages where the system has them: new ones every iteration would
otherwise cost a page fault every 4 KiB, a sixth of an iteration at 200,000 Gaussians.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
