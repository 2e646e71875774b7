"""Write a trained model in the formats of other programs, and measure each: python export.py -m OUTPUT"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

from pathlib import Path
from typing import Any, Sequence

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
from utils.progress import each
from utils.rendering import background_color, render_beside_photos
from utils.selection import evenly_spaced
from utils.splat_formats import FORMATS, Splats, require_gsply

VIEWS_MEASURED = 12

EXAMPLES = """\
  python export.py -m output/mine                        all formats, with size and PSNR of each
  python export.py -m output/mine --formats sog spz
  python export.py --ply theirs.ply -m output/theirs     a PLY of any 3DGS program

Files are written into OUTPUT/export/ours_N/, the measurements into export.json there. PSNR is measured on
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
    add("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), metavar="FORMAT", help=about)
    add("--skip_measuring", action="store_true", help="write the files but do not measure them")
    add("--quiet", action="store_true", help="print nothing but errors")
    return parser


def to_splats(model: GaussianModel) -> Splats:
    """Return the parameters of a model as NumPy arrays."""
    raw = {name: values.detach().cpu().numpy() for name, values in model.raw.items()}
    return Splats(**raw | {"opacities": raw["opacities"][:, 0], "sh_dc": raw["sh_dc"][:, 0]})


def to_model(splats: Splats) -> GaussianModel:
    """Return a model with these parameters on the best device."""
    raw = vars(splats) | {"opacities": splats.opacities[:, None], "sh_dc": splats.sh_dc[:, None]}
    device = best_device()
    return GaussianModel(
        {name: torch.tensor(values, dtype=torch.float32, device=device) for name, values in raw.items()}
    )


def views_to_measure(folder: Path, quiet: bool) -> tuple[list[Camera], dict[str, bool]]:
    """Return a few evenly spaced views and the rendering flags of the run.

    They are held-out views if there are any.
    """
    settings = make_settings(
        {"quiet": quiet, "model_path": str(folder)}, run_folder.recorded_settings(folder)
    )
    scene = load_scene(**settings.of_scene())
    cameras = scene.test or scene.train
    flags = vars(settings.pipeline) | {"white": settings.model.white_background}
    return [cameras[index] for index in evenly_spaced(len(cameras), VIEWS_MEASURED)], flags


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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command. Raise ValueError or OSError, with one clear sentence, for bad input."""
    options = export_parser().parse_args(argv)
    if any(FORMATS[name].by_gsply for name in options.formats):
        require_gsply()
    folder, iteration = options.model_path, 0
    if options.ply is None:
        iteration = run_folder.choose_iteration(folder, options.iteration)
    ply = options.ply or run_folder.point_cloud_path(folder, iteration)
    output = folder / "export" / f"ours_{iteration}"
    check_outputs(output, options.formats, ply)
    model = GaussianModel.load_ply(ply, best_device())
    splats = to_splats(model)
    remove_leftovers(output)
    cameras, flags = ([], {})
    if not options.skip_measuring and (folder / "cfg_args").is_file():
        cameras, flags = views_to_measure(folder, options.quiet)
    before = mean_psnr(model, cameras, flags, "Measuring PLY", options.quiet) if cameras else None
    report = {
        "ply": {"bytes": ply.stat().st_size, "PSNR": before},
        "gaussians": len(model),
        "views": len(cameras),
    }
    for name in options.formats:
        path = path_of(output, name)
        FORMATS[name].write(path, splats)
        again = to_model(FORMATS[name].read(path))
        again.active_sh_degree = again.sh_degree
        after = mean_psnr(again, cameras, flags, f"Measuring {name}", options.quiet) if cameras else None
        report[name] = {"bytes": path.stat().st_size, "PSNR": after}
        if not options.quiet:
            print(line(name, path, report))
    write_json(output / "export.json", report)


def line(name: str, path: Path, report: dict[str, Any]) -> str:
    """Return the line to print: `spz   1.23 MB, 11.1% of the PLY, PSNR 27.31 dB (-0.12): PATH`."""
    size, whole, after = report[name]["bytes"], report["ply"]["bytes"], report[name]["PSNR"]
    text = f"{name:14} {size / 1e6:8.2f} MB, {size / whole:5.1%} of the PLY"
    if after is not None:
        text += f", PSNR {after:.2f} dB ({after - report['ply']['PSNR']:+.2f})"
    return f"{text}: {path}"


if __name__ == "__main__":
    run_command(main)
