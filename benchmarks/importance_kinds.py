"""The kinds of importance network on the scene of tests/test_thin_structure.py: what each one keeps.

    python benchmarks/importance_kinds.py [--seeds 3] [--iterations 2000]

Trains every kind with each seed, pruned by importance alone, and prints a table. About a minute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]

import utils.before_torch  # noqa: F401  before torch
import torch
from thin_scene import ITERATIONS, is_floater, is_thread, make_thin_scene, trained

from gaussian_model import INPUTS

# Nothing grows or is thinned out: importance alone decides what goes, and does so to the end.
FLAGS = {
    "prune_by": "importance",
    "densify_until_iter": 1,
    "prune_keep": 1.0,
    "prune_until_iter": ITERATIONS + 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="of each run, at most the default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| importance | seed | Gaussians of threads | of floaters | of all | error at the threads |")
    print("|---|---|---|---|---|---|")
    for kind in INPUTS:
        for seed in range(args.seeds):
            scene = make_thin_scene(seed)
            kept = trained(scene, seed, until=args.iterations, importance=kind, **FLAGS)
            counts = int(is_thread(kept).sum()), int(is_floater(kept).sum()), len(kept)
            row = [f"`{kind}`", seed, *counts, f"{scene.error_at_threads(kept):.4f}"]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
