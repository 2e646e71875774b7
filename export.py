"""Write a trained model in the formats of other programs, and measure each: python export.py -m OUTPUT"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import torch
from diff_gaussian_rasterization import best_device

from arguments import make_settings
from arguments.flags import Parser
from gaussian_model import GaussianModel
from scene import Camera, load_scene
from utils import run_folder
from utils.commands import printer, run_command
from utils.files import refuse_foreign, refuse_inputs, remove_leftovers, write_json
from utils.losses import psnr
from utils.ply import format_shift
from utils.progress import each
from utils.rendering import background_color, render_beside_photos
from utils.selection import evenly_spaced
from utils.splat_check import Loss, fit_to_format, write_checked
from utils.splat_formats import FORMATS, Splats, require_gsply

VIEWS_MEASURED = 12

EXAMPLES = """\
  python export.py -m output/mine                        all formats, with size and PSNR of each
  python export.py -m output/mine --formats sog spz
  python export.py --ply theirs.ply -m output/theirs     a PLY of any 3DGS program

Files are written into OUTPUT/export/ours_N/, the measurements into export.json there. Every file is read
back and compared with the model; one that does not hold it to the precision of its format (docs/formats.md)
is not kept. A format that cannot hold the model at all is an error if you named it, else it is skipped. PSNR
is measured on held-out views, or on training views if none were held out. Without the scene it is not
measured.
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
    add("--skip_measuring", action="store_true", help="do not measure PSNR")
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


def views_to_measure(folder: Path, quiet: bool) -> tuple[list[Camera], dict[str, bool], np.ndarray]:
    """Return a few evenly spaced views, the rendering flags of the run, and the shift (3,) of its scene.

    The views are held-out ones if there are any.
    """
    settings = make_settings(
        {"quiet": quiet, "model_path": str(folder)}, run_folder.recorded_settings(folder)
    )
    scene = load_scene(**settings.of_scene())
    cameras = scene.test or scene.train
    flags = vars(settings.pipeline) | {"white": settings.model.white_background}
    chosen = [cameras[index] for index in evenly_spaced(len(cameras), VIEWS_MEASURED)]
    return chosen, flags, scene.shift


@torch.no_grad()
def mean_psnr(
    model: GaussianModel, cameras: list[Camera], flags: dict[str, Any], title: str, quiet: bool
) -> float:
    """Return the mean PSNR in dB of the rendered views."""
    background = background_color(flags["white"], model.device)
    pipeline = {name: value for name, value in flags.items() if name != "white"}
    pairs = render_beside_photos(each(cameras, title, quiet), model, background, **pipeline)
    return sum(psnr(*pair).item() for pair in pairs) / len(cameras)


def path_of(output: Path, name: str) -> Path:
    """Return the path of the file in the named format."""
    return output / f"point_cloud{FORMATS[name].suffix}"


def check_outputs(output: Path, formats: Sequence[str], ply: Path) -> None:
    """Raise ValueError if an export would replace the PLY that it reads, or a file of another kind."""
    refuse_inputs([path_of(output, name) for name in formats], [ply])
    for name in formats:
        refuse_foreign(path_of(output, name), FORMATS[name].content)
    refuse_foreign(output / "export.json", rb'\{\s*"ply": \{\s*"bytes":')


def load_to_export(ply: Path, say: Callable[[str], object]) -> tuple[GaussianModel, list[str]]:
    """Return the model of a PLY, and sentences on Gaussians that were not finite. ValueError without any."""
    changes: list[str] = []
    model = GaussianModel.load_ply(ply, best_device(), changes.append)
    if model.shift.any():
        changes.append(f"{ply}: positions are relative to {format_shift(model.shift)} in the scene's files")
    for change in changes:
        say(change)
    if not len(model):
        raise ValueError(f"{ply} holds no Gaussians to export")
    return model, changes


def fit_to_formats(
    splats: Splats, named: Sequence[str] | None, say: Callable[[str], object]
) -> tuple[dict[str, Splats], dict[str, dict[str, Any]]]:
    """Return the model as each format holds it, and the beginning of each format's report.

    Raise ValueError for a format of `named` that cannot hold it. Without `named`, such a format is skipped;
    ValueError if all are.
    """
    fitted, reports = {}, {}
    for name in named or FORMATS:
        try:
            fitted[name], notes = fit_to_format(name, splats)
            reports[name] = {"notes": notes}
        except ValueError as problem:
            if named:
                raise
            notes, reports[name] = [f"not written: {problem}"], {"not_written": str(problem)}
        for note in notes:
            say(note)
    if not fitted:
        raise ValueError(". ".join(report["not_written"] for report in reports.values()))
    return fitted, reports


def write_formats(
    output: Path,
    splats: Splats,
    fitted: dict[str, Splats],
    report: dict[str, Any],
    measure: Callable[[Splats, str], float | None],
    say: Callable[[str], object],
) -> None:
    """Write and measure the fitted models, and export.json with `report`, which is completed.

    Raise ValueError in the end if a file would not have held what was given; it is not kept.
    """
    problems = []
    for name in fitted:
        path = path_of(output, name)
        try:
            found, loss = write_checked(name, path, splats, fitted[name])
        except ValueError as problem:
            report[name]["not_written"] = str(problem)
            problems.append(str(problem))
            continue
        after = measure(found, name)
        report[name] |= {"bytes": path.stat().st_size, "PSNR": after, "loss": vars(loss)}
        say(line(name, path, report))
    write_json(output / "export.json", report)
    if problems:
        raise ValueError("; ".join(problems))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command. Raise ValueError or OSError, with one clear sentence, for bad input."""
    options = export_parser().parse_args(argv)
    formats, say = options.formats or list(FORMATS), printer(options.quiet)
    if any(FORMATS[name].by_gsply for name in formats):
        require_gsply()
    folder, iteration = options.model_path, 0
    if options.ply is None:
        iteration = run_folder.choose_iteration(folder, options.iteration)
    ply = options.ply or run_folder.point_cloud_path(folder, iteration)
    output = folder / "export" / f"ours_{iteration}"
    check_outputs(output, formats, ply)
    model, changes = load_to_export(ply, say)
    splats = to_splats(model)
    fitted, reports = fit_to_formats(splats, options.formats, say)
    remove_leftovers(output)
    cameras, flags, shift = [], {}, model.shift
    if not options.skip_measuring and (folder / "cfg_args").is_file():
        cameras, flags, shift = views_to_measure(folder, options.quiet)

    def measure(model: GaussianModel, name: str) -> float | None:
        if not cameras:
            return None
        return mean_psnr(model.relative_to(shift), cameras, flags, f"Measuring {name}", options.quiet)

    ply_report = {"bytes": ply.stat().st_size, "PSNR": measure(model, "PLY"), "notes": changes}
    report = {"ply": ply_report, "gaussians": len(model), "views": len(cameras)}
    report |= {"shift": model.shift.tolist()} | reports
    write_formats(
        output, splats, fitted, report, lambda found, name: measure(to_model(found, model.shift), name), say
    )


def line(name: str, path: Path, report: dict[str, Any]) -> str:
    """Return the lines to print: `spz   1.23 MB, 11.1% of the PLY, PSNR 27.31 dB (-0.12): PATH`, errors."""
    size, whole, after = report[name]["bytes"], report["ply"]["bytes"], report[name]["PSNR"]
    text = f"{name:14} {size / 1e6:8.2f} MB, {size / whole:5.1%} of the PLY"
    if after is not None:
        text += f", PSNR {after:.2f} dB ({after - report['ply']['PSNR']:+.2f})"
    return f"{text}: {path}\n{'':14} {Loss(**report[name]['loss'])}"


if __name__ == "__main__":
    run_command(main)
