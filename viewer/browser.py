"""A page in the browser, by viser: a person moves a camera and sets controls, somebody else makes the pictures.

Pictures are made in `serve`, by the caller's thread, so that nothing runs beside training: viser's threads
only note what was asked for. While a camera moves its pictures are as small as it takes to be quick.
"""

from __future__ import annotations

import importlib.util
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scene.camera import camera_to_world
from utils.rotations import quats_to_matrices

SECONDS_STILL = 0.25  # without moving, and a picture of full size is due
SECONDS_MOVING = 0.08  # what a picture may take while the camera moves
SECONDS_LIVE = 1.0  # between pictures of a model that changes, where nobody moves
SMALLEST_SIDE = 64  # pixels
FRUSTUM_SIZE = 0.04  # over the spread of the cameras
JPEG_QUALITY = 90


@dataclass(frozen=True)
class ViewRequest:
    """What one browser should show."""

    width: int  # pixels
    height: int
    fov_x: float  # radians
    fov_y: float
    world_to_camera: np.ndarray  # (4, 4), x right, y down, z forward
    mode: str  # one of the modes that the page was given
    prune_by: str  # one of its scores
    prune_share: float  # in [0, 1): of the Gaussians, lowest scores first
    mark_pruned: bool  # show them in a colour of their own instead of leaving them out
    iteration: int  # one of its iterations, -1: none was given
    view: str  # name of one of its cameras, "": none


@dataclass(frozen=True)
class RenderedView:
    """A picture and what there is to say about it."""

    image: np.ndarray  # (H, W, 3) uint8
    notes: list[str]


@dataclass(frozen=True)
class BrowserSplats:
    """Gaussians for the browser to draw by itself."""

    centers: np.ndarray  # (N, 3)
    covariances: np.ndarray  # (N, 3, 3)
    rgbs: np.ndarray  # (N, 3) in [0, 1]
    opacities: np.ndarray  # (N, 1)


@dataclass
class _Watcher:
    """One browser."""

    moved: float = 0.0  # when, by time.monotonic
    asked: bool = True  # whether it waits for a picture
    sharp: bool = False  # whether the last one was of full size
    rendered: float = 0.0  # when
    splats: bool = False  # whether it draws by itself
    pixels_per_second: float = 1e6  # of the pictures so far


Show = Callable[[ViewRequest], RenderedView]


def require_viser() -> None:
    """ValueError, before anything is loaded, where viser is not installed."""
    if importlib.util.find_spec("viser") is None:
        raise ValueError("the page in the browser needs viser, which is not installed: pip install viser")


class WebViewer:
    """The page. `serve` answers what browsers have asked for since; it takes no time while nobody looks."""

    def __init__(
        self,
        host: str,
        port: int,  # the next free one if it is taken
        *,
        modes: Sequence[str],
        scores: Sequence[str],
        iterations: Sequence[int] = (),  # to choose from, ascending
        first: int = -1,  # the one to start with, -1: the last
        trains: bool = False,  # whether there is training to pause, and the model changes by itself
    ) -> None:
        """ValueError without viser, OSError if the address cannot be listened at."""
        require_viser()
        socket.create_server(
            (host, 0)
        ).close()  # viser would look for a free port at a wrong address for ever
        import rich
        import viser

        rich.get_console().quiet = True  # viser's own lines; callers say what there is to say
        self._server = viser.ViserServer(host, port, verbose=False)
        self._watchers: dict[int, _Watcher] = {}
        self._changed = threading.Event()
        self._live, self._cameras, self._frusta = trains, [], []
        self._controls = _Controls(
            self._server.gui, list(modes), list(scores), list(iterations), first, trains
        )
        self._controls.on_change(self._outdate)
        self._server.on_client_connect(self._welcome)
        self._server.on_client_disconnect(lambda client: self._watchers.pop(client.client_id, None))

    @property
    def address(self) -> str:
        return f"http://{self._server.get_host()}:{self._server.get_port()}"

    def close(self) -> None:
        self._server.stop()

    # The scene

    def show_cameras(
        self, cameras: Sequence[Any], poses: np.ndarray, target: np.ndarray, up: np.ndarray
    ) -> None:
        """Cameras (with image_name, width, height, FoVy) as frusta, and where to look from first.

        poses: (C, 4, 4) camera to world; target: (3,) what they look at; up: (3,).
        """
        import viser.transforms

        self._server.scene.set_up_direction(up)
        spread = max(float(np.linalg.norm(poses[:, :3, 3] - poses[:, :3, 3].mean(0), axis=1).max()), 1e-3)
        for camera, pose in zip(cameras, poses, strict=True):
            frustum = self._server.scene.add_camera_frustum(
                f"/cameras/{camera.image_name}",
                fov=camera.FoVy,
                aspect=camera.width / camera.height,
                scale=FRUSTUM_SIZE * spread,
                thickness=0.02 * FRUSTUM_SIZE * spread,
                color=(255, 160, 40),
                wxyz=viser.transforms.SO3.from_matrix(pose[:3, :3]).wxyz,
                position=pose[:3, 3],
                visible=False,
            )
            frustum.on_click(lambda event, name=camera.image_name: self._controls.choose_view(name))
            self._frusta.append(frustum)
        self._cameras = list(zip(cameras, poses, strict=True))
        self._controls.offer_views([camera.image_name for camera in cameras], self._go_to)
        self._controls.frusta.on_update(lambda _: self._toggle_frusta())
        self.start_at(poses[0][:3, 3], target, up, cameras[0].FoVy)

    def start_at(self, position: np.ndarray, target: np.ndarray, up: np.ndarray, fov_y: float) -> None:
        """Where a browser's camera is when it comes."""
        initial = self._server.initial_camera
        initial.position, initial.look_at, initial.up, initial.fov = position, target, up, fov_y

    def _toggle_frusta(self) -> None:
        for frustum in self._frusta:
            frustum.visible = self._controls.frusta.value

    def _go_to(self, name: str) -> None:
        """Every browser's camera to where a photo was taken."""
        import viser.transforms

        camera, pose = next(pair for pair in self._cameras if pair[0].image_name == name)
        for client in self._server.get_clients().values():
            with client.atomic():
                client.camera.wxyz = viser.transforms.SO3.from_matrix(pose[:3, :3]).wxyz
                client.camera.position = pose[:3, 3]
                client.camera.fov = camera.FoVy

    # Who is looking: called by viser's threads

    def _welcome(self, client: Any) -> None:
        watcher = self._watchers[client.client_id] = _Watcher()

        @client.camera.on_update
        def _(_: Any) -> None:
            watcher.moved = time.monotonic()
            if not watcher.splats:  # else it moves by itself
                watcher.asked = True
            self._changed.set()

        self._changed.set()

    def _outdate(self) -> None:
        for watcher in list(self._watchers.values()):
            watcher.asked = True
        self._changed.set()

    # Pictures: by the caller's thread

    @property
    def is_watched(self) -> bool:
        return bool(self._watchers)

    def serve(self, show: Show, splats: Callable[[ViewRequest], BrowserSplats], status: str) -> None:
        """Send every browser the picture it is due; while training is paused go on with that, until all have left."""
        while True:
            self._controls.say(status)
            for identity, client in self._server.get_clients().items():
                watcher = self._watchers.get(identity)
                if watcher is not None and self._is_due(watcher):
                    self._answer(client, watcher, show, splats)
            if not (self._controls.is_paused and self._watchers):
                return
            self.wait()

    def wait(self) -> None:
        """Until something is asked for, or a picture of full size is due."""
        unfinished = any(not watcher.sharp for watcher in list(self._watchers.values()))
        self._changed.wait(SECONDS_STILL / 2 if unfinished else SECONDS_LIVE)
        self._changed.clear()

    def _is_due(self, watcher: _Watcher) -> bool:
        now = time.monotonic()
        if watcher.asked or (not watcher.sharp and now - watcher.moved > SECONDS_STILL):
            return True
        live = self._live and not self._controls.is_paused
        return live and now - watcher.rendered > SECONDS_LIVE

    def _answer(
        self, client: Any, watcher: _Watcher, show: Show, splats: Callable[[ViewRequest], BrowserSplats]
    ) -> None:
        camera = client.camera
        try:
            width, height = camera.image_width, camera.image_height
        except AssertionError:  # its camera is not known yet; an update will come
            watcher.asked = False
            return
        if min(width, height) < 1:
            return
        moving, watcher.asked = (
            time.monotonic() - watcher.moved < SECONDS_STILL and watcher.rendered > 0,
            False,
        )
        side = self._controls.side
        if moving:
            side = min(side, _quick_side(watcher.pixels_per_second * SECONDS_MOVING, width / height))
        factor = min(1.0, side / max(width, height))
        request = self._controls.request(
            camera, max(1, round(width * factor)), max(1, round(height * factor))
        )
        if self._controls.in_browser:
            self._send_splats(client, watcher, splats(request))
            return
        if watcher.splats:
            self._server.scene.remove_by_name("/gaussians")
            watcher.splats = False
        before = time.monotonic()
        rendered = show(request)
        watcher.rendered, watcher.sharp = time.monotonic(), not moving
        watcher.pixels_per_second = request.width * request.height / max(watcher.rendered - before, 1e-4)
        client.scene.set_background_image(rendered.image, format="jpeg", jpeg_quality=JPEG_QUALITY)
        self._controls.note(rendered.notes)

    def _send_splats(self, client: Any, watcher: _Watcher, splats: BrowserSplats) -> None:
        client.scene.set_background_image(None)
        self._server.scene.add_gaussian_splats("/gaussians", **vars(splats))
        watcher.splats, watcher.sharp, watcher.rendered = True, True, time.monotonic()


def _quick_side(pixels: float, aspect: float) -> float:
    """The longer side of a picture of so many pixels."""
    return max(SMALLEST_SIDE, (pixels * max(aspect, 1 / aspect)) ** 0.5)


class _Controls:
    """What is on the page beside the picture."""

    def __init__(
        self, gui: Any, modes: list[str], scores: list[str], iterations: list[int], first: int, trains: bool
    ) -> None:
        self._iterations, last = iterations, max(0, len(iterations) - 1)
        self._status, self._notes = gui.add_markdown(""), gui.add_markdown("")
        self._pause = gui.add_checkbox("pause training", False, visible=trains)
        self._iteration = gui.add_slider(
            "saved iteration", 0, last, 1, iterations.index(first) if first in iterations else last,
            marks=tuple((index, str(value)) for index, value in enumerate(iterations)), visible=last > 0,
        )  # fmt: skip
        self._mode = gui.add_dropdown("show", modes)
        with gui.add_folder("What pruning would remove"):
            self._prune_by = gui.add_dropdown("lowest", scores)
            self._prune_share = gui.add_slider("share, %", 0.0, 99.5, 0.5, 0.0)
            self._mark = gui.add_checkbox("mark instead of leaving out", False)
        with gui.add_folder("Views", visible=False) as self._views:
            self.frusta = gui.add_checkbox("show cameras", False)
            self._view = gui.add_dropdown("go to", ("",))
        with gui.add_folder("Picture"):
            self._side = gui.add_slider("longer side, pixels", 200, 2000, 100, 800)
            self._in_browser = gui.add_checkbox("let the browser draw", False)

    def on_change(self, changed: Callable[[], None]) -> None:
        for control in (self._pause, self._iteration, self._mode, self._prune_by, self._prune_share,
                        self._mark, self._view, self._side, self._in_browser):  # fmt: skip
            control.on_update(lambda _: changed())

    def offer_views(self, names: Sequence[str], go_to: Callable[[str], None]) -> None:
        self._views.visible, self._view.options = True, tuple(names)
        self._view.on_update(lambda _: go_to(self._view.value))

    def choose_view(self, name: str) -> None:
        self._view.value = name

    def request(self, camera: Any, width: int, height: int) -> ViewRequest:
        """By the controls, for a browser's camera."""
        return ViewRequest(
            width,
            height,
            2 * math.atan(math.tan(camera.fov / 2) * width / height),
            camera.fov,
            _pose(np.asarray(camera.wxyz), np.asarray(camera.position)),
            self._mode.value,
            self._prune_by.value,
            self._prune_share.value / 100,
            self._mark.value,
            self._iterations[int(self._iteration.value)] if self._iterations else -1,
            self._view.value,
        )

    @property
    def is_paused(self) -> bool:
        return self._pause.value

    @property
    def side(self) -> int:
        return self._side.value

    @property
    def in_browser(self) -> bool:
        return self._in_browser.value

    def say(self, status: str) -> None:
        if self._status.content != status:
            self._status.content = status

    def note(self, notes: list[str]) -> None:
        text = "\n\n".join(notes)
        if self._notes.content != text:
            self._notes.content = text


def _pose(wxyz: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return world to camera (4, 4) of a browser's camera: its quaternion (4,) and position (3,) in the world."""
    pose = np.eye(4)
    pose[:3, :3] = quats_to_matrices(torch.from_numpy(wxyz)[None])[0].numpy()
    pose[:3, 3] = position
    return camera_to_world(pose)
