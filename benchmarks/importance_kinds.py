"""What importance is computed from, on the scene of tests/test_thin_structure.py: what each kind keeps.

    python benchmarks/importance_kinds.py

Trains every kind with three seeds, pruned by importance alone, and prints a table. About a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import utils.before_torch  # noqa: F401  before torch
import torch
from test_thin_structure import trained
from thin_scene import is_floater, is_thread, make_thin_scene

from utils.importance import INPUTS


def main() -> None:
    torch.set_num_threads(1)
    print("| importance | seed | Gaussians of threads | of floaters | of all | error at the threads |")
    print("|---|---|---|---|---|---|")
    for kind in INPUTS:
        for seed in range(3):
            scene = make_thin_scene(seed)
            flags = {"variant": "tag_gradprune_decomp", "prune_by": "importance", "importance": kind}
            kept = trained(scene, seed, **flags).model.exported("sampled")
            counts = int(is_thread(kept).sum()), int(is_floater(kept).sum()), len(kept)
            row = [f"`{kind}`", seed, *counts, f"{scene.error_at_threads(kept):.4f}"]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
