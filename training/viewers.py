"""Viewers of a run in training: 3DGS's network viewer (SIBR), and a page in the browser."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

import subfunction as policy
from training.run import Training, choose_background
from utils.images import to_bytes
from utils.progress import Progress
from utils.rendering import render
from viewer.browser import WebViewer
from viewer.inspect import (
    MODES,
    SCORES,
    InspectedModel,
    browser_splats,
    free_camera,
    answer_request,
    place_cameras,
)
from viewer.inspect import inspect_with_tags
from viewer.sibr import RemoteViewer, SibrRequest


@dataclass
class Viewers:
    """The viewers of a run: 3DGS's network viewer, and with --viewer a page in the browser."""

    network: RemoteViewer | None = None
    page: WebViewer | None = None

    @torch.no_grad()
    def show(self, run: Training) -> None:
        """Answer the viewers' requests between two iterations.

        While they pause training, nothing else runs.
        """
        last = run.iteration == run.settings.optimization.iterations
        if self.network is not None:
            self.network.serve(lambda request: render_for(run, request), run.settings.model.source_path, last)
        if self.page is not None and self.page.is_watched:
            inspected = functools.cache(lambda: inspect_in_training(run))
            status = f"iteration {run.iteration:,}, {len(run.model):,} Gaussians"
            self.page.serve(
                lambda request: answer_request(inspected(), request),
                lambda request: browser_splats(inspected(), request),
                status,
            )

    def close(self) -> None:
        for viewer in (self.network, self.page):
            if viewer is not None:
                viewer.close()


def open_viewers(run: Training, progress: Progress) -> Viewers:
    settings = run.settings.run
    network = None if settings.disable_viewer else open_network_viewer(run, progress)
    return Viewers(network, open_page(run, progress) if settings.viewer else None)


def open_network_viewer(run: Training, progress: Progress) -> RemoteViewer | None:
    """Open the network viewer; return None if another program has its address."""
    settings = run.settings.run
    try:
        return RemoteViewer(settings.ip, settings.port, progress.say)
    except OSError as problem:
        progress.say(f"No network viewer at {settings.ip}:{settings.port}: {problem.strerror or problem}")
        return None


def open_page(run: Training, progress: Progress) -> WebViewer:
    settings = run.settings.run
    page = WebViewer(settings.ip, settings.viewer_port, modes=MODES, scores=SCORES, trains=True)
    place_cameras(page, (run.scene.test + run.scene.train).without_images)
    progress.say(f"Training can be watched at {page.address}")
    return page


def inspect_in_training(run: Training) -> InspectedModel:
    """Return the model for inspection, with the statistics collected so far."""
    inspected = inspect_with_tags(
        run.model, run.iteration, run.settings, lambda: run.scene.train + run.scene.test
    )
    inspected.measures, inspected.near = False, near_plane(run)
    following = policy.phase(run.iteration + 1, run.settings)
    if following.collects_errors:
        inspected.known["error"] = policy.reduced_errors(run.model.statistics, run.settings.densification)
    if following.collects_removal_energy:
        inspected.known["removal energy"] = run.model.statistics["contribution"]
    return inspected


def render_for(run: Training, request: SibrRequest) -> bytes:
    """Return the bytes of the image that the network viewer asked for, as the saved file would show it."""
    model = run.baked_model(run.iteration)
    background = choose_background(run)
    flags = vars(run.settings.pipeline) | {"scaling_modifier": request.scaling}
    camera = free_camera(request, near_plane(run))
    return to_bytes(render(camera, model, background, **flags).image).tobytes()


def near_plane(run: Training) -> float:
    """Return the near plane of the scene's views in world units."""
    return run.scene.train.without_images[0].near
