"""Every CUDA kernel against the CPU's, in half a minute on a GPU: python scripts/gpu_smoke.py

Renders, differentiates and optimises random Gaussians on both devices. Everything that comes out is compared
by the norm of the difference over the norm, and with a second run on the GPU by its bits. Needs only torch
and the packages in submodules/. Prints one line a case; exit code 1 if anything is off. With GS_SYNCHRONIZE=1
in the environment every launch is waited for, and an error names its kernel.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from diff_gaussian_rasterization import FEATURES, LATENTS, UNITS, ImportanceNetwork, evaluate_importance
from diff_gaussian_rasterization import GaussianAdam, SparseGaussianAdam, StepInBackward, best_device
from diff_gaussian_rasterization import GaussianRasterizationSettings, GaussianRasterizer
from fused_ssim import fused_l1_ssim, fused_ssim, fused_ssim_map
from simple_knn._C import distCUDA2
from torch import Tensor

from utils.files import write_json

RENDERED = 1e-3  # largest relative error; one alpha that rounds across 1/255 may cost 1e-4
STEPPED = 1e-5  # of Adam and SSIM
EXACT = 1e-9  # of anything in float64
TAN_FOV = 0.6  # of half the width
NEAR, FAR = 2.0, 10.0  # depths, world units
ADAM_COLUMNS = (3, 4, 1, 45)
ADAM_STEPS = 5
STEPPED_AT_ONCE = ("means3D", "scales", "rotations", "dc", "shs", "opacities")


class Case(NamedTuple):
    """errors: gives the largest relative error of each thing compared, on a device."""

    name: str
    errors: Callable[[torch.device], dict[str, float]]
    limit: float


class Size(NamedTuple):
    """Random Gaussians in front of a camera."""

    gaussians: int
    width: int
    height: int
    pixels: float  # median standard deviation
    spread: float = 0.5  # of its logarithm; above 1 float32 loses digits of needles' gradients


class Pass(NamedTuple):
    """The template parameters and branches of the kernels that a render uses."""

    depth: bool = False  # gradient of the inverse depth
    carrier: bool = False
    statistics: bool = False
    importance: bool = False
    antialiasing: bool = False
    degree: int = 3
    differentiates: bool = True
    dtype: torch.dtype = torch.float32


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """Return |got - wanted| / |wanted|, infinite for NaN or another shape."""
    got, wanted = got.detach().cpu().double(), wanted.detach().cpu().double()
    if got.shape != wanted.shape or not torch.isfinite(got).all():
        return math.inf
    return float((got - wanted).norm() / wanted.norm().clamp_min(1e-12))


def compared(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    return {name: relative_error(got[name], wanted[name]) for name in wanted}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, float]:
    """Return an infinite error for everything that two equal calls gave with different bits."""
    return {f"{name}, bits": 0.0 if torch.equal(first[name], second[name]) else math.inf for name in first}


# The rasterizer


def random_gaussians(size: Size, uses: Pass) -> dict[str, Tensor]:
    """Return the rasterizer's inputs on the CPU, by its names for them; some lie outside the image."""
    generator, count = torch.Generator().manual_seed(size.gaussians), size.gaussians

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    depth = uniform(NEAR, FAR, 1)
    slopes = uniform(-1.1, 1.1, 2) * torch.tensor([TAN_FOV, TAN_FOV * size.height / size.width])
    pixel = 2 * TAN_FOV / size.width * depth
    tensors = {
        "means3D": torch.cat([slopes * depth, depth], 1),
        "means2D": torch.zeros(count, 3),
        "scales": size.pixels * pixel * (size.spread * normal(3)).exp(),
        "rotations": normal(4),
        "opacities": torch.sigmoid(2 * normal(1)),
        "dc": uniform(-0.3, 0.7, 1, 3),
        "shs": 0.2 * normal((uses.degree + 1) ** 2 - 1, 3),
    }
    if uses.carrier:
        tensors["error_carrier"] = torch.zeros(count, 1)
    if uses.importance:
        tensors["importance"] = uniform(0.3, 1.0, 1)
    return {name: tensor.to(uses.dtype) for name, tensor in tensors.items()}


def camera(size: Size, uses: Pass, device: torch.device) -> GaussianRasterizationSettings:
    """Return a camera at the origin that looks along z."""
    tan_y = TAN_FOV * size.height / size.width
    projection = torch.zeros(4, 4)
    projection[0, 0], projection[1, 1] = 1 / TAN_FOV, 1 / tan_y
    projection[2, 2], projection[2, 3], projection[3, 2] = 1.0001, 1, -0.01
    background = torch.tensor([0.1, 0.2, 0.3])
    tensors = (background, torch.eye(4), projection, torch.zeros(3))
    background, view, projection, center = (tensor.to(device, uses.dtype) for tensor in tensors)
    return GaussianRasterizationSettings(
        image_height=size.height,
        image_width=size.width,
        tanfovx=TAN_FOV,
        tanfovy=tan_y,
        bg=background,
        scale_modifier=1.0,
        viewmatrix=view,
        projmatrix=projection,
        sh_degree=uses.degree,
        campos=center,
        antialiasing=uses.antialiasing,
        statistics=uses.statistics,
    )


def render(size: Size, uses: Pass, gaussians: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return the images, and where asked for the gradients and statistics."""
    inputs = {
        name: tensor.to(device, copy=True).requires_grad_(uses.differentiates)
        for name, tensor in gaussians.items()
    }
    rasterizer = GaussianRasterizer(camera(size, uses, device))
    color, radii, invdepth, *carried = rasterizer(**inputs)
    made = {"color": color, "radii": radii, "inverse depth": invdepth}
    if not uses.differentiates:
        return made
    weights = torch.linspace(-1, 1, color.numel(), dtype=uses.dtype).reshape(color.shape).to(device)
    loss = (color * weights).sum()
    for image in carried + ([invdepth] if uses.depth else []):
        loss = loss + (image * weights[:1]).sum()
    loss.backward()
    made |= {f"gradient of {name}": tensor.grad for name, tensor in inputs.items()}
    return made | (vars(rasterizer.statistics) if uses.statistics else {})


def render_errors(
    size: Size, uses: Pass, device: torch.device, repeats: int = 1, on_cpu: bool = True
) -> dict[str, float]:
    """Compare a render with the CPU's and with itself."""
    gaussians = random_gaussians(size, uses)
    got = render(size, uses, gaussians, device)
    errors = compared(got, render(size, uses, gaussians, torch.device("cpu"))) if on_cpu else {}
    for _ in range(repeats):
        errors |= same_bits(got, render(size, uses, gaussians, device))
    return errors


def rendering(name: str, size: Size, uses: Pass = Pass(), limit: float = RENDERED, **checks: Any) -> Case:
    return Case(name, lambda device: render_errors(size, uses, device, **checks), limit)


# The other kernels


def stepped(kind: type[GaussianAdam], rows: int, device: torch.device) -> dict[str, Tensor]:
    """Return tables of `rows` random rows after some steps along random gradients."""
    generator = torch.Generator().manual_seed(rows)
    tables = [torch.randn(rows, columns, generator=generator).to(device) for columns in ADAM_COLUMNS]
    tables = [torch.nn.Parameter(table) for table in tables]
    groups = [{"params": [table], "lr": 0.01 * (place + 1)} for place, table in enumerate(tables)]
    optimizer = kind(groups, lr=0.0, eps=1e-15)
    for _ in range(ADAM_STEPS):
        for table in tables:
            table.grad = torch.randn(table.shape, generator=generator).to(device)
        visible = (torch.rand(rows, generator=generator) < 0.6).to(device)
        optimizer.step(*((visible, rows) if kind is SparseGaussianAdam else ()))
    return {f"{table.shape[1]} columns": table.detach() for table in tables}


def stepped_at_once(
    kind: type[GaussianAdam], size: Size, uses: Pass, device: torch.device
) -> dict[str, Tensor]:
    """Return parameters, moments and a gradient after backward passes that took Adam's step."""
    inputs = {name: tensor.to(device, copy=True) for name, tensor in random_gaussians(size, uses).items()}
    raw = {name: torch.nn.Parameter(inputs.pop(name)) for name in STEPPED_AT_ONCE}
    with torch.no_grad():
        raw["scales"].log_()
        raw["opacities"].logit_()
    optimizer = kind([{"params": [table]} for table in raw.values()], lr=1e-6, eps=1e-15)
    rasterizer = GaussianRasterizer(camera(size, uses, device), StepInBackward(optimizer, raw))
    inputs["means2D"].requires_grad_()
    for _ in range(ADAM_STEPS):
        shown = raw | {"scales": raw["scales"].exp(), "opacities": raw["opacities"].sigmoid()}
        color = rasterizer(**shown, **inputs)[0]
        weights = torch.linspace(-1, 1, color.numel()).reshape(color.shape).to(device)
        inputs["means2D"].grad = None
        (color * weights).sum().backward()
    found = {name: table.detach() for name, table in raw.items()}
    found |= {f"moment of {name}": optimizer.state[table]["exp_avg"] for name, table in raw.items()}
    return found | {"gradient of means2D": inputs["means2D"].grad}


def importance(count: int, device: torch.device) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    shapes = {"weights": (UNITS, FEATURES + LATENTS + 1), "out": (UNITS,), "bias": (1,)}
    shapes |= {"latents": (count, LATENTS)}
    wanted = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    wanted = {name: tensor.to(device).requires_grad_() for name, tensor in wanted.items()}
    rows = [torch.randn(count, *shape, generator=generator) for shape in ((3,), (3,), (1, 3), (15, 3))]
    network = [wanted[name] for name in ("weights", "out", "bias")]
    found = evaluate_importance(
        ImportanceNetwork(*network, torch.ones(3, device=device), 2.0),
        *(values.to(device) for values in rows),
        wanted["latents"],
    )
    (found * torch.linspace(0.2, 1, count, device=device)[:, None]).sum().backward()  # nothing cancels out
    gradients = {f"gradient of {name}": tensor.grad for name, tensor in wanted.items()}
    return {"importance": found.detach()} | gradients


def ssim(shape: tuple[int, ...], dtype: torch.dtype, padding: str, device: torch.device) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(shape, generator=generator, dtype=dtype)
    other = (image + 0.1 * torch.rand(shape, generator=generator, dtype=dtype)).clamp(0, 1)
    image = image.to(device, copy=True).requires_grad_()
    other = other.to(device)
    loss, error = fused_l1_ssim(image, other, 0.2, error_share=0.2)
    mean, of_padding = fused_ssim(image, other, padding), fused_ssim_map(image, other, padding)
    (loss + mean).backward()
    maps = {"error": error, "map with padding": of_padding.detach()}
    return {"loss": loss, "mean": mean, "gradient": image.grad} | maps


def neighbors(count: int, device: torch.device) -> dict[str, Tensor]:
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
    points[: count // 2] *= 0.01  # half of them in a cluster
    return {"mean squared distances": distCUDA2(points.to(device))}


def twice(name: str, compute: Callable[[torch.device], dict[str, Tensor]], limit: float = STEPPED) -> Case:
    """Return the case that compares a computation with the CPU's and with itself."""

    def errors(device: torch.device) -> dict[str, float]:
        got = compute(device)
        return compared(got, compute(torch.device("cpu"))) | same_bits(got, compute(device))

    return Case(name, errors, limit)


# All of them


def variants(size: Size) -> list[Case]:
    """Return the eight kinds of backward pass."""
    cases = []
    for depth, carrier, statistics in itertools.product((False, True), repeat=3):
        uses = Pass(depth, carrier, statistics, importance=carrier)
        chosen = zip(("depth", "carrier", "statistics"), uses[:3])
        name = ", ".join(word for word, used in chosen if used) or "colors alone"
        cases.append(rendering(f"backward: {name}", size, uses))
    return cases


def rasterizer_cases(shrink: int) -> list[Case]:
    everything = Pass(True, True, True, True, antialiasing=True, dtype=torch.float64)
    usual = Size(3000 // shrink, 160, 120, 4)
    needles = Size(40, 400, 300, 40, 1.0) if shrink > 1 else Size(200, 1600, 1200, 160, 1.0)
    return [
        rendering("no Gaussians", Size(0, 33, 17, 2)),
        rendering("one Gaussian, one pixel", Size(1, 1, 1, 2)),
        rendering("float64, everything", Size(200, 50, 35, 3), everything, EXACT),
        *variants(usual),
        rendering("degree 0", usual, Pass(degree=0)),
        rendering("forward alone", usual, Pass(differentiates=False)),
        rendering("forward alone, importance", usual, Pass(differentiates=False, importance=True)),
        rendering("needles, thousands of pairs each", needles),
        rendering("long lists, bits 3 times", Size(60_000 // shrink, 320, 200, 1.5), repeats=2),
    ]


def large_cases() -> list[Case]:
    """Return what takes a GPU: 32-bit tile keys, and scenes of real size."""
    return [
        rendering("65,536 tiles and more", Size(20_000, 4128, 4112, 8), Pass(differentiates=False)),
        rendering("300,000 Gaussians", Size(300_000, 1237, 822, 3)),
        rendering("3,000,000 Gaussians, bits alone", Size(3_000_000, 1237, 822, 1.5), on_cpu=False),
    ]


def cases(small: bool) -> list[Case]:
    shrink = 20 if small else 1
    height, width = (103, 155) if small else (822, 1237)
    return [
        *rasterizer_cases(shrink),
        *([] if small else large_cases()),
        *(
            twice(f"{kind.__name__}, N = {rows}", partial(stepped, kind, rows))
            for kind in (GaussianAdam, SparseGaussianAdam)
            for rows in (1, 100_003 // shrink)
        ),
        *(
            twice(
                f"{kind.__name__} in the backward pass{of}",
                partial(stepped_at_once, kind, size, uses),
                RENDERED,
            )
            for kind in (GaussianAdam, SparseGaussianAdam)
            for size in (Size(30_000 // shrink, 320, 200, 1.5),)
            for of, uses in (("", Pass()), (", statistics", Pass(statistics=True)))
        ),
        *(
            twice(f"importance network, N = {count}", partial(importance, count))
            for count in (1, 200_000 // shrink)
        ),
        *(
            twice(f"SSIM {padding}, {str(dtype)[6:]}", partial(ssim, (1, 3, *size), dtype, padding), limit)
            for dtype, size, limit in (
                (torch.float64, (82, 123), EXACT),
                (torch.float32, (height, width), STEPPED),
            )
            for padding in ("same", "valid")
        ),
        *(
            twice(f"nearest neighbors, N = {count}", partial(neighbors, count))
            for count in (1, 5, 1000, 200_000 // shrink)
        ),
    ]


def run(case: Case, device: torch.device) -> dict[str, Any]:
    """Run a case, print its line, and return what came of it."""
    print(f"{case.name:36}", end=" ", flush=True)
    start, worst, problem = time.perf_counter(), math.inf, ""
    try:
        errors = case.errors(device)
        worst = max(errors.values())
        problem = ", ".join(f"{name} {error:.1e}" for name, error in errors.items() if error > case.limit)
    except (RuntimeError, ValueError, MemoryError) as raised:  # as the packages and torch report faults
        problem = str(raised).partition("\n")[0]
    seconds = time.perf_counter() - start
    print(f"{'FAIL' if problem else 'ok  '} {worst:7.1e} {seconds:6.2f} s  {problem}", flush=True)
    return {"case": case.name, "worst": worst, "limit": case.limit, "seconds": seconds, "problem": problem}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="where to run, instead of the GPU that the packages find")
    parser.add_argument("--small", action="store_true", help="small cases, for sanitizers and emulation")
    parser.add_argument("--cases", default="", metavar="WORDS", help="only those whose name holds this")
    parser.add_argument("--probe", action="store_true", help="only find out whether packages load and run")
    parser.add_argument("--json", type=Path, help="where to write the outcome")
    return parser.parse_args()


def chosen_device(name: str | None) -> torch.device:
    """Return the device; leave the program if there is only the CPU to compare the CPU with."""
    device = torch.device(name) if name else best_device()
    if device.type == "cpu" and not name:
        sys.exit("a GPU is needed that torch and the packages can use, but they only find the CPU")
    return device


def main() -> int:
    args = arguments()
    device = chosen_device(args.device)
    if args.probe:
        distCUDA2(torch.rand(5, 3).to(device)).cpu()
        print(f"packages load and run on {device}")
        return 0
    chosen = [case for case in cases(args.small) if args.cases in case.name]
    if not chosen:
        sys.exit(f"--cases: no case has {args.cases!r} in its name")
    done = []
    for case in chosen:
        done.append(run(case, device))
        if args.json:
            write_json(args.json, {"device": str(device), "cases": done})
    failed = [row["case"] for row in done if row["problem"]]
    print(f"{len(done)} cases on {device}, {len(failed)} off{': ' if failed else ''}{'; '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
