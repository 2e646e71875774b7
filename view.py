"""Look at a trained model in the browser: python view.py -m OUTPUT"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diff_gaussian_rasterization import best_device

from arguments import Settings, make_settings
from arguments.flags import Parser
from gaussian_model import GaussianModel
from scene import Cameras, load_scene
from scene.camera import NEAR, cameras_of_entries, scene_extent
from scene.world import MEDIAN_DEPTH
from utils import run_folder
from utils.checkpoints import load_checkpoint
from utils.commands import printer, run_command
from utils.files import read_json
from viewer.browser import WebViewer, ViewRequest, require_viser
from viewer.inspect import (
    MODES,
    SCORES,
    InspectedModel,
    browser_splats,
    answer_request,
    bulk_of,
    place_cameras,
    inspect_model,
)
from viewer.inspect import inspect_with_tags

EXAMPLES = """\
  python view.py -m output/mine              then open the address that it prints
  python view.py -m output/mine --iteration 7000
  python view.py --ply theirs.ply            a PLY of any 3DGS program
  python train.py -s scene --viewer          the same page, of a run in training

Errors of Gaussians and of views need the scene's photos; ages and importances need a checkpoint of the
iteration. To look from another machine: ssh -L 8080:127.0.0.1:8080 HOST, or --ip 0.0.0.0 on a network that
you trust.
"""


def view_parser() -> Parser:
    parser = Parser(
        prog="view.py",
        usage="view.py -m OUTPUT [flags]",
        description="Show a trained model and scores of its Gaussians on a page in the browser.",
        examples=EXAMPLES,
    )
    add = parser.add_argument
    add("-m", "--model_path", type=Path, metavar="OUTPUT", help="folder of the run")
    add(
        "--iteration", type=int, default=-1, metavar="N", help="saved iteration to start with, -1: the newest"
    )
    add("--ply", type=Path, metavar="FILE", help="a file instead of a run")
    add("--ip", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    add("--port", type=int, default=8080, help="and its port, or the next free one (default: %(default)s)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads, 0: as many as there are cores")
    add("--quiet", action="store_true", help="print nothing but errors")
    return parser


class Source:
    """The run or PLY file to look at. Iterations and photos of a run are read on request."""

    def __init__(self, folder: Path | None, ply: Path | None, settings: Settings) -> None:
        self.folder, self.ply, self.settings = folder, ply, settings
        self.iterations = [] if ply else run_folder.saved_iterations(folder)
        entries = folder / "cameras.json" if folder else None
        self.cameras = cameras_of_entries(read_json(entries, list), entries) if entries else []
        self.inspected = functools.lru_cache(maxsize=2)(self._inspect)
        self.photos = functools.cache(self._photos)

    def _inspect(self, iteration: int) -> InspectedModel:
        """Load the model at a saved iteration: from its checkpoint, which holds more, if there is one."""
        checkpoint = run_folder.checkpoint_path(self.folder, iteration) if self.iterations else None
        if checkpoint is None or not checkpoint.is_file():
            path = self.ply or run_folder.point_cloud_path(self.folder, iteration)
            model = GaussianModel.load_ply(path, best_device(), printer(self.settings.run.quiet))
            inspected = inspect_model(model, self.settings, self.photos)
            inspected.near = self.near(model)
            return inspected
        tensors, record = load_checkpoint(checkpoint)
        optimization, importance = self.settings.optimization, self.settings.importance
        extent = scene_extent(self.cameras[run_folder.read_config(self.folder)["views"]["test"] :])
        model = GaussianModel.from_state(tensors, optimization, importance, extent, best_device())
        model.sh_degree, model.active_sh_degree = self.settings.model.sh_degree, record["active_sh_degree"]
        inspected = inspect_with_tags(model, record["iteration"], self.settings, self.photos)
        inspected.near = self.near(model)
        return inspected

    def near(self, model: GaussianModel) -> float:
        """Return the near plane of free cameras: that of the run's cameras, else one by the model's size."""
        return self.cameras[0].near if self.cameras else NEAR * bulk_of(model)[1] / MEDIAN_DEPTH

    def _photos(self) -> Cameras:
        """Load the views with their photos, training views first; none if no scene is recorded."""
        if not self.settings.model.source_path:
            return Cameras([])
        scene = load_scene(**self.settings.of_scene())
        return scene.train + scene.test

    def place_cameras(self, page: WebViewer, model: GaussianModel) -> None:
        """Add the run's cameras to the page and set its initial camera.

        Without cameras, the initial camera is placed in front of the bulk of the Gaussians.
        """
        if self.cameras:
            place_cameras(page, self.cameras)
            return
        target, distance = bulk_of(model)
        page.start_at(target - [0, 0, distance], target, np.array([0.0, -1.0, 0.0]), 0.9)


def watch(source: Source, page: WebViewer, iteration: int) -> None:
    """Serve the page until Ctrl-C."""

    def inspected(request: ViewRequest) -> InspectedModel:
        return source.inspected(request.iteration if source.iterations else iteration)

    while True:
        title = f"**{source.ply or source.folder}**"
        page.serve(
            lambda request: answer_request(inspected(request), request),
            lambda request: browser_splats(inspected(request), request),
            title,
        )
        page.wait()


def main(argv: Sequence[str] | None = None) -> None:
    options = view_parser().parse_args(argv)
    if bool(options.model_path) == bool(options.ply):
        raise ValueError("which model? give either a run's folder with -m or a file with --ply")
    require_viser()
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = options.model_path
    recorded = run_folder.recorded_settings(folder) if folder else {}
    source = Source(folder, options.ply, make_settings({"quiet": options.quiet}, recorded))
    iteration = run_folder.choose_iteration(folder, options.iteration) if folder else 0
    first = source.inspected(iteration)
    page = WebViewer(
        options.ip, options.port, modes=MODES, scores=SCORES, iterations=source.iterations, first=iteration
    )
    source.place_cameras(page, first.model)
    if not options.quiet:
        print(f"{len(first.model):,} Gaussians at {page.address}; Ctrl-C ends it", flush=True)
    try:
        watch(source, page, iteration)
    except KeyboardInterrupt:
        page.close()


if __name__ == "__main__":
    run_command(main)
