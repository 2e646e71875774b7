"""Measure a run's renders against the ground-truth images: python metrics.py -m OUTPUT [OUTPUT ...]"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import torch
from diff_gaussian_rasterization import best_device
from fused_ssim import fused_ssim_map
from torch import Tensor

from arguments.flags import Parser
from evaluation.lpips import LPIPS, SMALLEST_SIDE, fetch_vgg16, read_vgg16
from utils.commands import run_command
from utils.files import refuse_foreign, write_json
from utils.images import HALF, read_image
from utils.losses import masked_mean, psnr
from utils.progress import each
from utils.ranks import ALONE, PATIENCE_AT_THE_END, Ranks
from utils.run_folder import METRICS, SPLITS, numbered_images
from utils.selection import evenly_spaced

RESULTS, PER_VIEW = "results.json", "per_view.json"
# Both files begin like this, also those of other 3DGS programs.
MEASURED = rb'\{\s*(\}|"[^"]*": \{\s*"(SSIM|PSNR|LPIPS)":)'

# Written into results.json, so that the meaning of the numbers is recorded with them.
CONVENTIONS = {
    "images": "8-bit PNG / 255; a number is the mean over the views",
    "masks": "where the ground truth is transparent, pixels are masked: SSIM and PSNR are means over the "
    "others; LPIPS sees the ground truth in both images there",
    "SSIM": "mean of the map over pixels and channels; Gaussian window 11 x 11, sigma 1.5; zeros outside",
    "PSNR": "decibels, from the mean over pixels and channels of one view; null where infinite (no error)",
    "LPIPS": "v0.1, VGG16, images fed in [0, 1] as for published 3DGS numbers, not in its own [-1, 1]",
}


@dataclass(frozen=True)
class Pair:
    """The paths of a render and the ground-truth image that it is measured against."""

    render: Path
    gt_image: Path


Pairs = dict[str, list[Pair]]  # by split
Values = dict[str, dict[str, "float | None"]]  # by metric and image name; None: infinite or not measured


# Finding images


def find_methods(folder: Path) -> dict[str, Pairs]:
    """Find the pairs of every method rendered in `folder`: {"ours_7000": {"test": [...], "train": [...]}}.

    The methods are sorted: ours_7000 comes before ours_30000. Raise OSError if there are none, and ValueError
    if an image has no counterpart.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"-m {folder}: there is no such folder")
    names = {path.parent.name for split in SPLITS for path in (folder / split).glob("*/renders")}
    methods = {name: {split: find_pairs(folder / split / name) for split in SPLITS} for name in names}
    methods = {name: pairs for name, pairs in methods.items() if any(pairs.values())}
    if not methods:
        raise FileNotFoundError(
            f"{folder}: no images in test/ or train/; first run `python render.py -m {folder}`"
        )
    return dict(sorted(methods.items(), key=lambda item: (len(item[0]), item[0])))


def find_pairs(folder: Path) -> list[Pair]:
    """Find the images of the same name in `renders` and `gt`, sorted by name.

    Raise ValueError if one has no counterpart or a counterpart of another size.
    """
    renders, gt_images = (
        {path.name for path in numbered_images(folder / kind)} for kind in ("renders", "gt")
    )
    if renders != gt_images:
        name = min(renders ^ gt_images)
        found, missing = ("renders", "gt") if name in renders else ("gt", "renders")
        raise ValueError(f"{folder}: {found}/{name} has no counterpart in {missing}/; run render.py again")
    pairs = [Pair(folder / "renders" / name, folder / "gt" / name) for name in sorted(renders)]
    for pair in pairs:
        sizes = png_size(pair.render), png_size(pair.gt_image)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{pair.render} is {sizes[0]} pixels, but {pair.gt_image} is {sizes[1]}; run render.py again"
            )
    return pairs


def png_size(path: Path) -> str:
    """Return the size of a PNG as `640 x 480`. Raise ValueError if the file is no PNG.

    Only the first bytes are read, so that all images can be checked before any is measured.
    """
    with open(path, "rb") as file:
        start = file.read(24)
    if len(start) < 24 or not start.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"{path} is damaged or not a PNG file")
    return f"{int.from_bytes(start[16:20], 'big')} x {int.from_bytes(start[20:24], 'big')}"


# Measuring


@dataclass(frozen=True)
class Measurer:
    """The process that measures: the only one, or one of those that torchrun has started."""

    device: torch.device
    ranks: Ranks = ALONE
    quiet: bool = False


def load(path: Path, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Load an image (1, 3, H, W) in [0, 1] and its mask (H, W) of pixels to measure, None for all."""
    pixels = torch.from_numpy(read_image(path)).to(device)
    mask = pixels[..., 3] >= HALF if pixels.shape[2] == 4 else None
    return pixels[..., :3].permute(2, 0, 1)[None].contiguous() / 255, mask


def measure(pairs: list[Pair], title: str, lpips: LPIPS | None, measurer: Measurer) -> Values:
    """Measure every metric of every pair; without `lpips`, LPIPS is None.

    Pairs of which no pixel counts are left out and printed, unless the measurer is quiet. Several ranks
    measure every so many of the pairs each.
    """
    ranks, quiet = measurer.ranks, measurer.quiet
    rows = torch.zeros(
        len(pairs), 1 + len(METRICS), dtype=torch.float64
    )  # whether it counts, and its measures
    for index in each(range(ranks.rank, len(pairs), ranks.count), title, quiet):
        if (measured := measure_pair(pairs[index], lpips, measurer.device)) is not None:
            rows[index] = torch.tensor([1.0, *measured])
    values: Values = {metric: {} for metric in METRICS}
    for pair, (counts, *measured) in zip(pairs, ranks.sum(rows).tolist()):
        if not counts and not quiet:
            print(f"  left out, for no pixel of it counts: {pair.gt_image}")
        for metric, value in zip(METRICS, measured) if counts else ():
            values[metric][pair.render.name] = finite(value)
    return values


def measure_pair(pair: Pair, lpips: LPIPS | None, device: torch.device) -> tuple[float, float, float] | None:
    """Return the values of METRICS, NaN where one is not measured; None if no pixel counts."""
    (image, _), (gt_image, mask) = load(pair.render, device), load(pair.gt_image, device)
    if mask is not None and not mask.any():
        return None
    if mask is not None:
        image = torch.where(mask, image, gt_image)
    ssim, decibels = masked_mean(fused_ssim_map(image, gt_image), mask), psnr(image, gt_image, mask)
    return ssim.item(), decibels.item(), lpips(image, gt_image).item() if lpips else math.nan


def finite(value: float) -> float | None:
    """Return `value`, or None if it is infinite or NaN, which JSON does not have."""
    return value if math.isfinite(value) else None


def average(values: Values) -> dict[str, float | None]:
    """Return the mean of each metric over the views in which it is finite; None if there are none."""
    means = {}
    for metric, by_view in values.items():
        numbers = [value for value in by_view.values() if value is not None]
        means[metric] = math.fsum(numbers) / len(numbers) if numbers else None
    return means


def count_views(values: Values) -> int:
    """Return how many views were measured."""
    return len(values["PSNR"])


def too_small(methods: dict[str, Pairs]) -> str | None:
    """Return the reason why these images are too small for LPIPS, None if they are not."""
    for pairs in methods.values():
        for pair in (pair for split in SPLITS for pair in pairs[split]):
            if min(map(int, png_size(pair.render).split(" x "))) < SMALLEST_SIDE:
                return f"images of less than {SMALLEST_SIDE} pixels, such as {pair.render}"
    return None


def prepare_together(options: argparse.Namespace, measurer: Measurer) -> tuple[LPIPS | None, str | None]:
    """Return LPIPS at every rank; None at all, and at the first the reason, if one of them does not have it.

    The first rank is first, so that the others find what it downloads.
    """
    ranks, found = measurer.ranks, (None, None)
    if ranks.is_first:
        found = prepare_lpips(options, measurer.device)
    if not ranks.message(b"" if found[0] is None else b"it has it"):
        return found
    if not ranks.is_first:
        found = prepare_lpips(options, measurer.device)
    if ranks.any(found[0] is None, torch.device("cpu")):
        return None, "one of the processes does not have VGG16's weights"
    return found


def prepare_lpips(options: argparse.Namespace, device: torch.device) -> tuple[LPIPS | None, str | None]:
    """Return LPIPS, or None and the reason why it is not measured.

    Raise OSError or ValueError if the file of --lpips_weights cannot be read. Without that flag, missing
    weights are a reason instead of an error, so that the other metrics are still measured.
    """
    if options.skip_lpips:
        return None, "left out by --skip_lpips"
    if options.lpips_weights:
        return LPIPS(read_vgg16(options.lpips_weights), device), None
    try:
        return LPIPS(read_vgg16(fetch_vgg16(options.quiet)), device), None
    except (OSError, ValueError) as problem:
        return None, str(problem)


# Output


def evaluate(
    folder: Path, methods: dict[str, Pairs], lpips: LPIPS | None, missing: str | None, measurer: Measurer
) -> None:
    """Measure a run's renders; write results.json and per_view.json into its folder.

    Numbers of held-out views stand where other 3DGS tools look for them, those of training views in "train".
    """
    results: dict[str, Any] = {}
    per_view: dict[str, Any] = {}
    for method, pairs in methods.items():
        if not measurer.quiet:
            print(f"{folder} {method}")
        values = {}
        for split in SPLITS:
            values[split] = measure(pairs[split], f"Measuring {split} views", lpips, measurer)
            if not measurer.quiet:
                print(summary(split, values[split]))
        per_view[method] = {**values["test"], "train": values["train"]}
        results[method] = {
            **average(values["test"]),
            "train": average(values["train"]),
            "views": {split: count_views(values[split]) for split in SPLITS},
            "conventions": CONVENTIONS,
            "lpips_missing": missing,
        }
    if measurer.ranks.is_first:
        write_json(folder / PER_VIEW, per_view)
        write_json(folder / RESULTS, results)


def summary(split: str, values: Values) -> str:
    """Return one line, such as `  test    10 views   SSIM 0.9123   PSNR 28.12   LPIPS 0.1034`.

    It says in how many views PSNR is infinite, which are left out of its mean.
    """
    views, means = count_views(values), average(values)
    if not views:
        hint = " (views are held out by --eval in training)" if split == "test" else ""
        return f"  {split:5}  no images{hint}"
    digits = {"SSIM": 4, "PSNR": 2, "LPIPS": 4}
    shown = {name: "none" if value is None else f"{value:.{digits[name]}f}" for name, value in means.items()}
    text = f"  {split:5} {views:4} views   " + "   ".join(f"{name} {value}" for name, value in shown.items())
    equal = sum(value is None for value in values["PSNR"].values())
    return text + (f"   (PSNR without {equal} views that are equal to their photos)" if equal else "")


EXAMPLES = """\
  python metrics.py -m output/garden
  python metrics.py -m output/garden output/fox --lpips_weights vgg16-397923af.pth
  python metrics.py -m output/garden --skip_lpips --train_views 12
  torchrun --standalone --nproc_per_node 4 metrics.py -m output/garden
"""


def metrics_parser() -> Parser:
    parser = Parser(
        prog="metrics.py",
        usage="metrics.py -m OUTPUT [OUTPUT ...] [flags]",
        description="Measure SSIM, PSNR and LPIPS of render.py's images; write results.json, per_view.json.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "-m",
        "--model_paths",
        nargs="+",
        required=True,
        type=Path,
        metavar="OUTPUT",
        help="folders of the runs",
    )
    about = "measure N evenly spaced training views (default: all); held-out views are always all measured"
    parser.add_argument("--train_views", type=int, metavar="N", help=about)
    lpips = parser.add_mutually_exclusive_group()
    lpips.add_argument(
        "--lpips_weights",
        metavar="FILE",
        help="VGG16's weights, as torchvision has them; without: torch hub's cache, or a 528 MB download",
    )
    lpips.add_argument(
        "--skip_lpips", action="store_true", help="leave LPIPS out; it takes seconds a view on a CPU"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    options = metrics_parser().parse_args(argv)
    if options.train_views is not None and options.train_views < 0:
        raise ValueError(f"--train_views: expected at least 0, got {options.train_views}")
    runs = {folder: find_methods(folder) for folder in options.model_paths}
    if options.train_views is not None:
        for pairs in (pairs for methods in runs.values() for pairs in methods.values()):
            indices = evenly_spaced(len(pairs["train"]), options.train_views)
            pairs["train"] = [pairs["train"][index] for index in indices]
    for folder in runs:
        for name in (RESULTS, PER_VIEW):
            refuse_foreign(folder / name, MEASURED)
    ranks = Ranks.connect(best_device(), PATIENCE_AT_THE_END)
    try:
        evaluate_runs(runs, options, Measurer(best_device(), ranks, options.quiet or not ranks.is_first))
    finally:
        ranks.disconnect()


def evaluate_runs(
    runs: dict[Path, dict[str, Pairs]], options: argparse.Namespace, measurer: Measurer
) -> None:
    """Measure every run, with LPIPS where that is possible."""
    lpips, missing = prepare_together(options, measurer)
    if missing and not measurer.quiet:
        print(f"LPIPS is not measured: {missing}")
    for folder, methods in runs.items():
        small = too_small(methods) if lpips else None
        if small and not measurer.quiet:
            print(f"LPIPS is not measured: {small}")
        evaluate(folder, methods, None if small else lpips, small or missing, measurer)


if __name__ == "__main__":
    run_command(main)
