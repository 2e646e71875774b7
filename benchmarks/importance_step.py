"""What importance costs: milliseconds of its values for all Gaussians, and of a step of the network.

    python benchmarks/importance_step.py --gaussians 10000 100000 1000000

On one thread, of random Gaussians. In training both come once in ten iterations (--importance_interval).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils.before_torch  # noqa: F401  before torch
import torch

from arguments import make_settings
from benchmarks.workload import random_model, random_view
from gaussian_model import GaussianModel
from utils.commands import run_command


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def make_model(count: int) -> GaussianModel:
    """Return Gaussians before one camera, whose importance is being learnt."""
    model = random_model(count, random_view(1237, 822, torch.device("cpu")).cameras[0], torch.device("cpu"))
    settings = make_settings({"variant": "tag_gradprune_decomp"})
    model.start_training(settings.optimization)
    generator = torch.Generator().manual_seed(0)
    model.start_importance(settings.importance, torch.zeros(3), 10.0, generator)
    return model


def measure(model: GaussianModel, runs: int) -> tuple[float, float]:
    """Return the medians for the values, and for the step."""
    values, steps = [], []
    for _ in range(runs):
        values.append(milliseconds(model.hold_importance))
        model.hold_importance().grad = torch.ones(len(model), 1)
        steps.append(milliseconds(model.learn_importance))
    return median(values), median(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gaussians", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for count in args.gaussians:
        values, step = measure(make_model(count), args.runs)
        print(f"{count:,} Gaussians: values {values:.2f} ms, step of the network {step:.2f} ms", flush=True)


if __name__ == "__main__":
    run_command(main)
