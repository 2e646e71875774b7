"""Held-out quality over training time, of several checkouts and variants in turn.

    python benchmarks/time_to_quality.py -s $SCENES/fox -r 2 --checkouts before=../before now=. \
        --variants 3dgs tag_gradprune_decomp --iterations 7000 --output output/time

A checkout is a folder with the project at some commit, installed there (`git worktree add ../before COMMIT &&
make -C ../before install`). Each trains from nothing, one run after the other, with `--eval`, and saves its
Gaussians at some iterations. They are rendered and measured afterwards, all by this checkout, so that no
measuring is in the time; saving is. OUTPUT gets the runs, curves.csv and curves.png. Printed are the ends of
the curves, and the time until each reaches the final PSNR of the first.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from utils import run_folder
from utils.files import read_json, write_atomically, write_text
from utils.history import FILE_NAME
from utils.progress import Progress

MEASURES = {"PSNR": "dB", "SSIM": "", "LPIPS": ""}


@dataclass(frozen=True)
class Point:
    """The quality of a run at an iteration."""

    checkout: str
    variant: str
    seed: int
    iteration: int
    seconds: float  # of training
    gaussians: int
    PSNR: float | None
    SSIM: float | None
    LPIPS: float | None  # None: not measured

    @property
    def curve(self) -> str:
        """Return the name of the run that the point is of."""
        return f"{self.checkout} {self.variant} seed {self.seed}"


def arguments() -> argparse.Namespace:
    """Return the flags of the command line; those after -- are for train.py."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("-s", "--source_path", type=Path, required=True, metavar="SCENE")
    add("-r", "--resolution", type=int, default=-1, help="as for train.py")
    add("--checkouts", nargs="+", default=["now=."], metavar="NAME=FOLDER", help="of the project, installed")
    add("--variants", nargs="+", default=["3dgs"])
    add("--seeds", nargs="+", type=int, default=[0])
    add("--iterations", type=int, default=7000)
    add("--points", type=int, default=12, help="of each curve")
    add("--threads", type=int, default=1)
    add("--output", type=Path, required=True, metavar="FOLDER")
    add("--lpips_weights", metavar="FILE", help="measure LPIPS too, with these weights")
    add("flags", nargs="*", help="after --: further flags of train.py")
    return parser.parse_args()


def python_of(checkout: Path) -> str:
    """Return the interpreter with which a checkout was installed."""
    own = checkout / ".venv/bin/python"
    return str(own) if own.is_file() and checkout != PROJECT else sys.executable


def call(log: Path, *command: object) -> None:
    """Run a command, its output into a log. Raise ValueError, naming the log, if it fails."""
    with open(log, "ab") as file:
        code = subprocess.run([*map(str, command)], stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        raise ValueError(f"{Path(str(command[1])).name} failed with exit status {code}: see {log}")


def saved_iterations(total: int, points: int) -> list[int]:
    """Return iterations at which a run's history knows its time, denser at the beginning, and the last."""
    steps = total * (np.arange(1, points + 1) / points) ** 1.5
    return sorted({max(Progress.INTERVAL, round(at / Progress.INTERVAL) * Progress.INTERVAL) for at in steps})


def train(checkout: Path, folder: Path, variant: str, seed: int, args: argparse.Namespace) -> None:
    """Train a run from nothing, unless an earlier command did."""
    if folder.is_dir() and run_folder.read_config(folder).get("finished"):
        return
    folder.mkdir(parents=True, exist_ok=True)
    call(
        folder / "log.txt",
        *(python_of(checkout), checkout / "train.py", "-s", args.source_path, "-m", folder, "--eval"),
        *("-r", args.resolution, "--variant", variant, "--seed", seed, "--iterations", args.iterations),
        *("--threads", args.threads, "--disable_viewer", "--quiet", "--overwrite", "--checkpoint_every", 0),
        *("--test_iterations", args.iterations, "--save_iterations"),
        *saved_iterations(args.iterations, args.points),
        *args.flags,
    )


def measure(folder: Path, lpips_weights: str | None) -> None:
    """Render and measure the held-out views at every saved iteration, by this checkout."""
    log, lpips = (
        folder / "log.txt",
        ("--lpips_weights", lpips_weights) if lpips_weights else ("--skip_lpips",),
    )
    for iteration in run_folder.saved_iterations(folder):
        render = ("render.py", "-m", folder, "--skip_train", "--iteration", iteration, "--quiet")
        call(log, sys.executable, PROJECT / render[0], *render[1:])
    call(log, sys.executable, PROJECT / "metrics.py", "-m", folder, "--train_views", 0, "--quiet", *lpips)


def points_of(folder: Path, checkout: str, variant: str, seed: int) -> list[Point]:
    """Return the curve of a measured run."""
    progress = {entry[0]: entry for entry in read_json(folder / FILE_NAME)["progress"]}
    results = read_json(folder / "results.json")
    points = []
    for iteration in run_folder.saved_iterations(folder):
        _, _, _, gaussians, seconds = progress[iteration]
        measured = [results[f"ours_{iteration}"][name] for name in MEASURES]
        points.append(Point(checkout, variant, seed, iteration, seconds, gaussians, *measured))
    return points


def seconds_to(points: list[Point], psnr: float) -> float | None:
    """Return when a curve first reaches a PSNR, between its points linearly; None if it does not."""
    for before, after in zip(points, points[1:]):
        if before.PSNR < psnr <= after.PSNR:
            share = (psnr - before.PSNR) / (after.PSNR - before.PSNR)
            return before.seconds + share * (after.seconds - before.seconds)
    return points[0].seconds if points[0].PSNR >= psnr else None


def report(curves: list[list[Point]]) -> str:
    """Return the table of the ends of the curves, and the time to the first one's final PSNR."""
    goal = curves[0][-1].PSNR
    lines = [
        f"| | s | Gaussians | PSNR | SSIM | LPIPS | s to {goal:.2f} dB |",
        "|---|---|---|---|---|---|---|",
    ]
    for points in curves:
        end, until = points[-1], seconds_to(points, goal)
        lpips = "" if end.LPIPS is None else f"{end.LPIPS:.4f}"
        numbers = f"{end.seconds:.0f} | {end.gaussians:,} | {end.PSNR:.2f} | {end.SSIM:.4f} | {lpips}"
        lines.append(f"| {end.curve} | {numbers} | {'' if until is None else f'{until:.0f}'} |")
    return "\n".join(lines)


def write_csv(path: Path, curves: list[list[Point]]) -> None:
    """Write all points, a line each, atomically."""
    rows = [",".join(field.name for field in fields(Point))]
    rows += [
        ",".join("" if value is None else str(value) for value in asdict(p).values())
        for c in curves
        for p in c
    ]
    write_text(path, "\n".join(rows) + "\n")


def draw(path: Path, curves: list[list[Point]]) -> None:
    """Draw each measure over time."""
    from matplotlib.figure import Figure

    names = [name for name in MEASURES if getattr(curves[0][-1], name) is not None]
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names):
        for points in curves:
            values = [getattr(point, name) for point in points]
            axes.plot([point.seconds for point in points], values, marker=".", label=points[0].curve)
        axes.set(xlabel="training, s", ylabel=" ".join((name, MEASURES[name])).strip())
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))


def main() -> None:
    """Train, measure, and report every checkout, variant and seed."""
    args = arguments()
    checkouts = dict(pair.partition("=")[::2] for pair in args.checkouts)
    for name, folder in checkouts.items():
        if not (Path(folder) / "train.py").is_file():
            raise ValueError(f"--checkouts {name}={folder}: expected a folder with the project's train.py")
    curves = []
    for seed in args.seeds:
        for variant in args.variants:
            for name, checkout in checkouts.items():
                folder = args.output / name / variant / f"seed_{seed}"
                train(Path(checkout).resolve(), folder, variant, seed, args)
                measure(folder, args.lpips_weights)
                curves.append(points_of(folder, name, variant, seed))
                write_csv(args.output / "curves.csv", curves)
    draw(args.output / "curves.png", curves)
    print(report(curves))


if __name__ == "__main__":
    main()
