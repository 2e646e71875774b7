"""One training iteration: milliseconds of its halves and kernels, nanoseconds per pair, the machine's peak.

    python benchmarks/train_step.py -s $SCENES/fox -r 2 --threads 1

Times the iteration that train.py runs on the scene's initial Gaussians, or on --gaussians drawn of its points
and moved a little, at full SH degree, and quotes medians.
Where gsplat is installed, its plain-torch twin renders and differentiates the same Gaussians from the same
camera in the same run. The kernels' times are the CPU's.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils.before_torch  # noqa: F401  before torch
import torch
from diff_gaussian_rasterization import cpu_info, take_profile

import train
from arguments import make_settings
from benchmarks import STEADY, gsplat_twin
from benchmarks.workload import draw_points
from gaussian_model import GaussianModel
from scene import load_scene
from training.run import Training, start
from utils.rendering import render
from utils.run_folder import peak_memory

WARM_UP = 8


class Stopwatch:
    """The clock that collects the milliseconds of named stages over many iterations."""

    def __init__(self) -> None:
        self.stages: dict[str, list[float]] = {}
        self.lap_started = time.perf_counter()

    def start(self) -> None:
        self.lap_started = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages.setdefault(stage, []).append(1e3 * (now - self.lap_started))
        self.lap_started = now


def wait_for(run: Training) -> None:
    """Return when the device has done all that was queued."""
    run.model.means[0, 0].item()


def iteration(run: Training, watch: Stopwatch) -> None:
    """Run an iteration as train.py does, with a clock between its halves."""
    run.iteration += 1
    watch.start()
    view = train.forward_backward(run, run.iteration, may_step=True)
    wait_for(run)
    watch.lap("forward_backward")
    train.update(run, run.iteration, view)
    wait_for(run)
    watch.lap("update")


def peak_gflops() -> float:
    """Return the speed of a float32 matrix product with the threads in use, in GFLOP/s."""
    n = 1024
    a, b = torch.rand(n, n), torch.rand(n, n)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds) / 1e9


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-s", "--source_path", default="data/demo", help="scene (default: the bundled one)")
    parser.add_argument("-r", "--resolution", type=int, default=-1, help="as for train.py")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--gaussians", type=int, default=0, help="drawn of the scene's points")
    parser.add_argument("--variant", default="3dgs", help="as for train.py")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    flags = {"source_path": args.source_path, "resolution": args.resolution, "variant": args.variant}
    settings = make_settings(STEADY | flags | {"quiet": True})
    scene = load_scene(**settings.of_scene())
    if args.gaussians:
        scene = replace(scene, points=draw_points(args.gaussians, scene.points, scene.extent))
    run = start(settings, scene, Path())
    run.model.sort_by_place()  # as every densification does
    for _ in range(WARM_UP):
        iteration(run, Stopwatch())
    take_profile()
    watch, before = Stopwatch(), resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(args.iterations):
        iteration(run, watch)
    used = resource.getrusage(resource.RUSAGE_SELF)
    report(args, run.scene.train[0], run.model, watch)
    faults = (used.ru_minflt - before.ru_minflt) / args.iterations
    print(f"  {faults:.0f} page faults an iteration, peak memory {peak_memory() / 1e6:.0f} MB")
    if gsplat_twin.is_installed():
        compare_with_twin(run.model, run.scene.train[0], watch)
    iterations = list(map(sum, zip(*watch.stages.values())))
    median, mean = statistics.median(iterations), statistics.fmean(iterations)
    print(f"total: {median:.1f} ms in the median, {mean:.1f} ms on average")


def compare_with_twin(model: GaussianModel, camera, watch: Stopwatch) -> None:
    """Compare time and image. Where rounding decides about a pair at alpha 1/255, a pixel differs by 1e-3."""
    background = torch.zeros(3)
    twin, ours = (
        gsplat_twin.milliseconds(model, camera, background),
        statistics.median(watch.stages["forward_backward"]),
    )
    print(f"gsplat's torch twin, without loss: {twin:.0f} ms, {twin / ours:.0f} times ours with loss")
    with torch.no_grad():
        difference = (
            gsplat_twin.render_model(model, camera, background) - render(camera, model, background).image
        )
    print(f"  largest difference of the two images: {difference.abs().max():.1e}")


def report(args: argparse.Namespace, camera, model: GaussianModel, watch: Stopwatch) -> None:
    print(f"{camera.width}x{camera.height} pixels, {len(model):,} Gaussians on {model.device}, {cpu_info()}")
    for stage, times in watch.stages.items():
        low, _, high = statistics.quantiles(times, n=4, method="inclusive")
        print(f"  {stage:20} {statistics.median(times):7.2f} ms   quartiles {low:.2f} to {high:.2f}")
    kernels, pairs = take_profile()
    if kernels:  # on a GPU nothing is profiled here; see gpu_step.py
        report_kernels(kernels, pairs // args.iterations, args.iterations)
    print(f"  matrix product on {args.threads} thread(s): {peak_gflops():.0f} GFLOP/s")


def report_kernels(kernels: dict[str, float], pairs: int, iterations: int) -> None:
    blending = 0.0
    for stage, seconds in sorted(kernels.items()):
        mean = 1e3 * seconds / iterations
        blending += mean if stage.startswith("blend") else 0
        print(f"    kernel {stage:18} {mean:7.2f} ms on average")
    each = 1e6 * blending / pairs
    print(f"  {pairs:,} tile-Gaussian pairs, blended forward and backward in {each:.0f} ns each")


if __name__ == "__main__":
    main()
