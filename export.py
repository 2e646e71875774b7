"""Write a trained model in the formats of other programs, and measure each: python export.py -m OUTPUT"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from diff_gaussian_rasterization import best_device

from arguments import make_settings
from arguments.flags import Parser
from gaussian_model import GaussianModel
from scene import Camera, load_scene
from utils import run_folder
from utils.commands import run_command
from utils.files import refuse_foreign, refuse_inputs, remove_leftovers, write_json
from utils.losses import psnr
from utils.ply import NO_SHIFT, format_shift
from utils.progress import each
from utils.rendering import background_color, render_beside_photos
from utils.selection import evenly_spaced
from utils.splat_formats import FORMATS, Splats, require_gsply
from utils.splat_loss import cleaned, measure_loss

VIEWS_MEASURED = 12

EXAMPLES = """\
  python export.py -m output/mine                        all formats, with size and PSNR of each
  python export.py -m output/mine --formats sog spz
  python export.py --ply theirs.ply -m output/theirs     a PLY of any 3DGS program

Files are written into OUTPUT/export/ours_N/, the measurements into export.json there. Every file is read back
and compared with the model: printed are the errors that 99 % of the Gaussians are within. PSNR is measured on
held-out views, or on training views if none were held out. Without the scene it is not measured.
"""


def export_parser() -> Parser:
    """Return the parser of export.py."""
    parser = Parser(
        prog="export.py",
        usage="export.py -m OUTPUT [flags]",
        description=f"Write a trained model as {', '.join(FORMATS)}. Read each back and measure the loss.",
        examples=EXAMPLES,
    )
    add = parser.add_argument
    add("-m", "--model_path", type=Path, required=True, metavar="OUTPUT", help="folder of the run")
    add("--iteration", type=int, default=-1, metavar="N", help="saved iteration; -1: the newest")
    add("--ply", type=Path, metavar="FILE", help="export this file instead of one of the run")
    about = f"formats to write, of {', '.join(FORMATS)} (default: all)"
    add("--formats", nargs="+", choices=FORMATS, metavar="FORMAT", help=about)
    add("--skip_measuring", action="store_true", help="write the files but do not measure them")
    add("--quiet", action="store_true", help="print nothing but errors")
    return parser


def to_splats(model: GaussianModel) -> Splats:
    """Return the parameters of a model as NumPy arrays."""
    raw = {name: values.detach().cpu().numpy() for name, values in model.raw.items()}
    return Splats(**raw | {"opacities": raw["opacities"][:, 0], "sh_dc": raw["sh_dc"][:, 0]})


def to_model(splats: Splats, shift: np.ndarray) -> GaussianModel:
    """Return a model with these parameters and shift (3,) on the best device."""
    raw = vars(splats) | {"opacities": splats.opacities[:, None], "sh_dc": splats.sh_dc[:, None]}
    device = best_device()
    model = GaussianModel(
        {name: torch.tensor(values, dtype=torch.float32, device=device) for name, values in raw.items()}
    )
    model.shift = shift
    return model


@dataclass
class Measurement:
    """The views on which models are measured: none without a scene."""

    cameras: list[Camera]
    flags: dict[str, bool]  # of rendering
    shift: np.ndarray  # (3,) of the scene
    quiet: bool

    @torch.no_grad()
    def psnr(self, model: GaussianModel, name: str) -> float | None:
        """Return the mean PSNR in dB of the views, None without views."""
        if not self.cameras:
            return None
        model = model.relative_to(self.shift)
        background = background_color(self.flags["white"], model.device)
        pipeline = {flag: value for flag, value in self.flags.items() if flag != "white"}
        cameras = each(self.cameras, f"Measuring {name}", self.quiet)
        pairs = render_beside_photos(cameras, model, background, **pipeline)
        return sum(psnr(*pair).item() for pair in pairs) / len(self.cameras)


def views_to_measure(folder: Path, quiet: bool) -> Measurement:
    """Return a few evenly spaced views of the run's scene, held-out ones if there are any."""
    settings = make_settings(
        {"quiet": quiet, "model_path": str(folder)}, run_folder.recorded_settings(folder)
    )
    scene = load_scene(**settings.of_scene())
    cameras = scene.test or scene.train
    flags = vars(settings.pipeline) | {"white": settings.model.white_background}
    chosen = [cameras[index] for index in evenly_spaced(len(cameras), VIEWS_MEASURED)]
    return Measurement(chosen, flags, scene.shift, quiet)


def path_of(output: Path, name: str) -> Path:
    """Return the path of the file in the named format."""
    return output / f"point_cloud{FORMATS[name].suffix}"


def check_outputs(output: Path, formats: Sequence[str], ply: Path) -> None:
    """Raise ValueError if an export would replace the PLY that it reads, or a file of another kind."""
    refuse_inputs([path_of(output, name) for name in formats], [ply])
    for name in formats:
        refuse_foreign(path_of(output, name), FORMATS[name].content)
    refuse_foreign(output / "export.json", rb'\{\s*"ply": \{\s*"bytes":')


def export(name: str, path: Path, splats: Splats, shift: np.ndarray, views: Measurement) -> dict[str, Any]:
    """Write a file, read it back, and return its size and what was lost.

    Delete it and raise ValueError if the format cannot hold the model.
    """
    kind = FORMATS[name]
    given = kind.arrange(splats)
    kind.write(path, given)
    try:
        found = kind.read(path)
        loss = measure_loss(given, found, kind.precision)
        if not loss.is_held:
            raise ValueError(f"{loss.beyond:,} of {loss.count:,} Gaussians are beyond its range: {loss}")
    except ValueError as problem:
        path.unlink()
        raise ValueError(f"{name} cannot hold this model: {problem}") from None
    return {
        "bytes": path.stat().st_size,
        "PSNR": views.psnr(to_model(found, shift), name),
        "loss": loss.record(),
        "lost": str(loss),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command. Raise ValueError or OSError, with one clear sentence, for bad input."""
    options = export_parser().parse_args(argv)
    formats = options.formats or list(FORMATS)
    if any(FORMATS[name].by_gsply for name in formats):
        require_gsply()
    folder, iteration = options.model_path, 0
    if options.ply is None:
        iteration = run_folder.choose_iteration(folder, options.iteration)
    ply = options.ply or run_folder.point_cloud_path(folder, iteration)
    output = folder / "export" / f"ours_{iteration}"
    check_outputs(output, formats, ply)
    model = GaussianModel.load_ply(ply, best_device())
    splats, changes = cleaned(to_splats(model))
    if model.shift.any():
        changes.append(f"positions are relative to {format_shift(model.shift)} in the scene's coordinates")
    say = (lambda text: None) if options.quiet else print
    for change in changes:
        say(change)
    remove_leftovers(output)
    views = Measurement([], {}, NO_SHIFT, options.quiet)
    if not options.skip_measuring and (folder / "cfg_args").is_file():
        views = views_to_measure(folder, options.quiet)
    report = {
        "ply": {"bytes": ply.stat().st_size, "PSNR": views.psnr(model, "PLY")},
        **{"gaussians": len(splats), "shift": model.shift.tolist(), "changes": changes},
        "views": len(views.cameras),
    }
    refused = export_all(formats, output, splats, model.shift, views, report, say)
    write_json(output / "export.json", report)
    if refused and (options.formats or len(refused) == len(formats)):
        raise ValueError("; ".join(refused))


def export_all(
    formats: Sequence[str],
    output: Path,
    splats: Splats,
    shift: np.ndarray,
    views: Measurement,
    report: dict[str, Any],
    say: Callable[[str], None],
) -> list[str]:
    """Write and compare a file of each format, and add what was lost to `report`.

    Return why files of some formats were not written.
    """
    refused = []
    for name in formats:
        path = path_of(output, name)
        try:
            report[name] = export(name, path, splats, shift, views)
        except ValueError as problem:
            refused.append(f"{problem}; no file is written")
            say(refused[-1])
        else:
            say(line(name, path, report))
    return refused


def line(name: str, path: Path, report: dict[str, Any]) -> str:
    """Return the lines to print: size, PSNR and path, and below what was lost."""
    size, whole, after = report[name]["bytes"], report["ply"]["bytes"], report[name]["PSNR"]
    text = f"{name:14} {size / 1e6:8.2f} MB, {size / whole:5.1%} of the PLY"
    if after is not None:
        text += f", PSNR {after:.2f} dB ({after - report['ply']['PSNR']:+.2f})"
    return f"{text}: {path}\n               {report[name]['lost']}"


if __name__ == "__main__":
    run_command(main)
