"""The kinds of importance network on the scene of tests/test_thin_structure.py: what each one keeps.

    python benchmarks/importance_kinds.py

Trains every kind with three seeds, pruned by importance alone, and prints a table. About a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]

import utils.before_torch  # noqa: F401  before torch
import torch
from test_thin_structure import ITERATIONS, trained
from thin_scene import is_floater, is_thread, make_thin_scene

from gaussian_model import INPUTS

# Nothing grows or is thinned out: importance alone decides what goes, and does so to the end.
FLAGS = {
    "prune_by": "importance",
    "densify_until_iter": 1,
    "prune_keep": 1.0,
    "prune_until_iter": ITERATIONS + 1,
}


def main() -> None:
    torch.set_num_threads(1)
    print("| importance | seed | Gaussians of threads | of floaters | of all | error at the threads |")
    print("|---|---|---|---|---|---|")
    for kind in INPUTS:
        for seed in range(3):
            scene = make_thin_scene(seed)
            kept = trained(scene, seed, importance=kind, **FLAGS)
            counts = int(is_thread(kept).sum()), int(is_floater(kept).sum()), len(kept)
            row = [f"`{kind}`", seed, *counts, f"{scene.error_at_threads(kept):.4f}"]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
