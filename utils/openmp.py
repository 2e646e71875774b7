"""Imported by the commands before torch, which starts OpenMP.

Waiting threads sleep instead of spinning: on a machine that has other work to do, spinning costs several
times the work.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
