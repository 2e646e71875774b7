"""Viewers of a run in training: 3DGS's network viewer (SIBR), and a page in the browser."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import numpy as np
import torch

import subfunction as policy
from training.interrupts import Interrupts
from training.run import Training, choose_background
from training.together import render_at_first
from utils.images import to_bytes
from utils.progress import Progress
from viewer.browser import BrowserSplats, RenderedView, ViewRequest, WebViewer
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

Request = SibrRequest | ViewRequest


@dataclass
class Viewers:
    """The viewers of a run: 3DGS's network viewer, and with --viewer a page in the browser.

    Of several ranks the first has them; the others follow it.
    """

    network: RemoteViewer | None = None
    page: WebViewer | None = None
    follows: bool = False  # whether this rank renders with the first one, which has viewers

    @torch.no_grad()
    def show(self, run: Training, interrupts: Interrupts) -> None:
        """Answer the viewers' requests between two steps.

        While they pause training, nothing else runs.
        """
        answers = Answers(run, interrupts)
        if self.follows:
            answers.follow()
            return
        last = run.iteration == run.settings.optimization.iterations
        if self.network is not None:
            self.network.serve(answers.image, run.settings.model.source_path, last, answers.wait)
        if self.page is not None and self.page.is_watched:
            status = f"iteration {run.iteration:,}, {answers.count():,} Gaussians"
            self.page.serve(answers.view, answers.splats, status, answers.wait)
        if self.network is not None or self.page is not None:
            answers.finish()

    def close(self) -> None:
        for viewer in (self.network, self.page):
            if viewer is not None:
                viewer.close()


class Answers:
    """What the viewers are shown of a run between two steps.

    Ranks that share the Gaussians answer together: the first tells the others of every request.
    """

    def __init__(self, run: Training, interrupts: Interrupts) -> None:
        self._run, self._ranks, self._interrupts = run, run.ranks, interrupts
        self._inspected = functools.cache(lambda: inspect_in_training(run))

    def image(self, request: SibrRequest) -> bytes:
        self._tell("image", request)
        return render_for(self._run, request)

    def view(self, request: ViewRequest) -> RenderedView:
        self._tell("view", request)
        return answer_request(self._inspected(), request)

    def splats(self, request: ViewRequest) -> BrowserSplats:
        self._tell("splats", request)
        return browser_splats(self._inspected(), request)

    def count(self, _: None = None) -> int:
        self._tell("count")
        return len(self._run.whole)

    def wait(self, _: None = None) -> None:
        """Tell the others to wait on, or end together with them if a signal has arrived at any."""
        self._tell("wait")
        with self._interrupts.held(self._ranks):
            pass

    def finish(self) -> None:
        """Tell the others that training goes on."""
        self._ranks.message()

    def follow(self) -> None:
        """Answer together with the first rank, until it says that training goes on."""
        answers = {"image": self.image, "view": self.view, "splats": self.splats}
        answers |= {"count": self.count, "wait": self.wait}
        while content := self._ranks.message():
            kind, request = unpacked(content)
            answers[kind](request)

    def _tell(self, kind: str, request: Request | None = None) -> None:
        if self._ranks.count > 1 and self._ranks.is_first:
            self._ranks.message(packed(kind, request))


def packed(kind: str, request: Request | None) -> bytes:
    """Return a request as the bytes of a message to other ranks."""
    values = None if request is None else vars(request)
    return json.dumps([kind, values], default=lambda values: values.tolist()).encode()


def unpacked(content: bytes) -> tuple[str, Request | None]:
    """Return kind and request of a message."""
    kind, values = json.loads(content)
    if values is None:
        return kind, None
    values["world_to_camera"] = np.array(values["world_to_camera"])
    return kind, (SibrRequest if kind == "image" else ViewRequest)(**values)


def open_viewers(run: Training, progress: Progress) -> Viewers:
    """Open the viewers that the settings ask for, at the first rank."""
    settings, viewers = run.settings.run, Viewers()
    if run.ranks.is_first and not settings.disable_viewer:
        viewers.network = open_network_viewer(run, progress)
    if run.ranks.is_first and settings.viewer:
        viewers.page = open_page(run, progress)
    are_open = viewers.network is not None or viewers.page is not None
    # Another program may have the network viewer's address, which the first rank alone finds out.
    viewers.follows = run.ranks.any(are_open, run.model.device) and not run.ranks.is_first
    return viewers


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
    inspected.ranks, inspected.draw = run.ranks, functools.partial(render_at_first, run.ranks)
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
    return to_bytes(render_at_first(run.ranks, camera, model, background, **flags).image).tobytes()


def near_plane(run: Training) -> float:
    """Return the near plane of the scene's views in world units."""
    return run.scene.train.without_images[0].near
