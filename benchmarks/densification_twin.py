"""The number of Gaussians that `3dgs` grows, beside gsplat's DefaultStrategy (1.5.3, Apache-2.0).

    python benchmarks/densification_twin.py -s SCENE [-r 2] [--eval] [--until 2900] [--threads 0]

Two runs from the same points with the same seed, loss and learning rates. In the second one gsplat decides
and carries out what is cloned, split and pruned. It ends before the first opacity reset, which gsplat 1.5.3
never does. Prints both counts side by side.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.before_torch  # noqa: F401  before torch
import torch

import subfunction as policy
import train
from arguments import make_settings
from gaussian_model import ADAM_EPSILON, PARAMETERS
from scene import load_scene
from training.run import Training, TrainingView, start

try:
    from gsplat import DefaultStrategy
except ImportError:
    DefaultStrategy = None

REPORT_EVERY = 100


class GsplatDensification:
    """The stand-in for `train.update` in which gsplat decides."""

    def __init__(self, run: Training) -> None:
        model, settings = run.model, run.settings.optimization
        self.optimizers = {
            row.name: torch.optim.Adam(
                [model.raw[row.name]], lr=row.learning_rate(settings), eps=ADAM_EPSILON
            )
            for row in PARAMETERS
        }
        self.strategy = DefaultStrategy()
        self.state = self.strategy.initialize_state(run.scene.extent)

    @torch.no_grad()
    def step(self, run: Training, iteration: int, view: TrainingView) -> None:
        rate = policy.position_learning_rate(iteration, run.scene.extent, run.settings.optimization)
        self.optimizers["means"].param_groups[0]["lr"] = rate
        info = {
            "width": 2,  # gsplat turns pixels into NDC units, ours are that already
            "height": 2,
            "n_cameras": 1,
            "gaussian_ids": None,
            "radii": view.radii[None, :, None].expand(-1, -1, 2),
            "means2d": SimpleNamespace(grad=view.screen_gradients[None, :, :2]),
        }
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.strategy.step_post_backward(run.model.raw, self.optimizers, self.state, iteration, info)


def counts(settings: Any, scene: Any, until: int, twin: bool) -> list[int]:
    """Return the number of Gaussians every REPORT_EVERY iterations."""
    run = start(settings, scene, Path())
    gsplat = GsplatDensification(run) if twin else None
    found = []
    for iteration in range(1, until + 1):
        view = train.forward_backward(run, iteration, may_step=True)
        if gsplat:
            gsplat.step(run, iteration, view)
        else:
            train.update(run, iteration, view)
        if iteration % REPORT_EVERY == 0:
            found.append(len(run.model))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-s", "--source_path", required=True)
    parser.add_argument("-r", "--resolution", type=int, default=-1)
    parser.add_argument("--eval", action="store_true")
    parser.add_argument("--until", type=int, default=2900)
    parser.add_argument("--threads", type=int, default=0)
    arguments = vars(parser.parse_args())
    if DefaultStrategy is None:
        raise ValueError("this compares with gsplat, which is not installed: pip install gsplat")
    until, threads = arguments.pop("until"), arguments.pop("threads")
    if threads:
        torch.set_num_threads(threads)
    settings = make_settings(arguments)
    scene = load_scene(**settings.of_scene())
    ours, theirs = (counts(settings, scene, until, twin) for twin in (False, True))
    print("iteration  3dgs here  gsplat's strategy  ratio")
    for index, (mine, other) in enumerate(zip(ours, theirs), 1):
        print(f"{index * REPORT_EVERY:9d} {mine:10,d} {other:18,d} {mine / other:6.3f}")


if __name__ == "__main__":
    main()
