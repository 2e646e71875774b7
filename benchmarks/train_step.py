"""One training iteration on the CPU: milliseconds per stage, pairs, nanoseconds per pair, the machine's peak.

    python benchmarks/train_step.py -s $SCENES/fox -r 2 --threads 1

Times the iteration that train.py runs (render, loss, backward, Adam) on the scene's initial Gaussians at full
SH degree, over the first views in turn, and quotes medians. Where gsplat is installed, its plain-torch twin
renders and differentiates the same Gaussians from the same camera in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils.before_torch  # noqa: F401  before torch
import torch
from diff_gaussian_rasterization import cpu_info, take_profile

import subfunction as policy
from arguments import OptimizationSettings
from benchmarks import gsplat_twin
from gaussian_model import GaussianModel
from scene import load_scene
from utils.rendering import render

VIEWS = 8
DEVICE = torch.device("cpu")  # whose profile is reported; benchmarks/gpu_step.py is for GPUs


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


def iteration(
    model: GaussianModel, camera, background, settings: OptimizationSettings, watch: Stopwatch
) -> None:
    """Run the body of train.py's loop, with a clock between its lines."""
    watch.start()
    view = render(camera, model, background)
    watch.lap("render")
    gt_image = camera.ground_truth(background, model.device)
    loss, _ = policy.training_loss(view.image, gt_image, settings.lambda_dssim)
    watch.lap("loss")
    loss.backward()
    watch.lap("backward")
    with torch.no_grad():
        policy.accumulate_gradients(model.statistics, view.means2d.grad, view.radii)
        model.step(view.radii > 0)
    watch.lap("statistics and Adam")


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
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    scene = load_scene(args.source_path, resolution=args.resolution, quiet=True)
    settings = OptimizationSettings()
    model = GaussianModel.from_points(scene.points.xyz, scene.points.rgb, 3, settings.initial_opacity, DEVICE)
    model.start_training(settings)
    model.active_sh_degree = 3
    background = torch.zeros(3, device=DEVICE)
    cameras = scene.train[:VIEWS]
    for camera in cameras:  # warm-up
        iteration(model, camera, background, settings, Stopwatch())
    take_profile()
    watch = Stopwatch()
    for i in range(args.iterations):
        iteration(model, cameras[i % len(cameras)], background, settings, watch)
    report(args, cameras[0], model, watch)
    if gsplat_twin.is_installed():
        compare_with_twin(model, cameras[0], background, watch)
    print(f"total: {total(watch):.1f} ms")


def total(watch: Stopwatch) -> float:
    return statistics.median(map(sum, zip(*watch.stages.values())))


def compare_with_twin(model: GaussianModel, camera, background, watch: Stopwatch) -> None:
    """Compare time and image. Where rounding decides about a pair at alpha 1/255, a pixel differs by 1e-3."""
    twin = gsplat_twin.milliseconds(model, camera, background)
    ours = statistics.median(r + b for r, b in zip(watch.stages["render"], watch.stages["backward"]))
    print(f"gsplat's torch twin, render and backward: {twin:.0f} ms, {twin / ours:.0f} times ours")
    with torch.no_grad():
        difference = (
            gsplat_twin.render_model(model, camera, background) - render(camera, model, background).image
        )
    print(f"  largest difference of the two pictures: {difference.abs().max():.1e}")


def report(args: argparse.Namespace, camera, model: GaussianModel, watch: Stopwatch) -> None:
    kernels, pairs = take_profile()
    pairs //= args.iterations
    print(
        f"{camera.width}x{camera.height} pixels, {len(model):,} Gaussians, "
        f"{pairs:,} tile-Gaussian pairs, {cpu_info()}"
    )
    for stage, times in watch.stages.items():
        low, _, high = statistics.quantiles(times, n=4)
        print(f"  {stage:20} {statistics.median(times):7.2f} ms   quartiles {low:.2f} to {high:.2f}")
    blending = 0.0
    for stage, seconds in sorted(kernels.items()):
        mean = 1e3 * seconds / args.iterations
        blending += mean if stage.startswith("blend") else 0
        print(f"    kernel {stage:18} {mean:7.2f} ms on average")
    print(f"  blending, forward and backward: {1e6 * blending / pairs:.0f} ns per tile-Gaussian pair")
    print(f"  matrix product on {args.threads} thread(s): {peak_gflops():.0f} GFLOP/s")


if __name__ == "__main__":
    main()
