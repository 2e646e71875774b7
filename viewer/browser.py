"""The viewer's page in the browser, built on viser: users move a camera and set controls, callers render.

Images are rendered in `serve`, in the caller's thread, so that nothing runs beside training. viser's threads
only record requests. While a camera moves, its images are small enough to be rendered quickly.
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

SECONDS_STILL = 0.25  # without camera motion, after which an image of full size is due
SECONDS_MOVING = 0.08  # time to render an image while the camera moves
SECONDS_LIVE = 1.0  # between images of a model in training, if the camera is still
SMALLEST_SIDE = 64  # pixels
FRUSTUM_SIZE = 0.04  # relative to the spread of the cameras
JPEG_QUALITY = 90


@dataclass(frozen=True)
class ViewRequest:
    """The camera, mode and pruning that one browser asks for."""

    width: int  # pixels
    height: int
    fov_x: float  # radians
    fov_y: float
    world_to_camera: np.ndarray  # (4, 4), x right, y down, z forward
    mode: str  # one of the page's modes
    prune_by: str  # one of the page's scores
    prune_share: float  # share of the Gaussians to prune, in [0, 1), lowest scores first
    mark_pruned: bool  # show pruned Gaussians in a color of their own instead of hiding them
    iteration: int  # one of the page's iterations; -1 if it has none
    view: str  # name of one of the page's cameras, "" for none


@dataclass(frozen=True)
class RenderedView:
    """The image that answers a view request, and notes to show beside it."""

    image: np.ndarray  # (H, W, 3) uint8
    notes: list[str]


@dataclass(frozen=True)
class BrowserSplats:
    """The Gaussians that a browser renders itself."""

    centers: np.ndarray  # (N, 3)
    covariances: np.ndarray  # (N, 3, 3)
    rgbs: np.ndarray  # (N, 3) in [0, 1]
    opacities: np.ndarray  # (N, 1)


@dataclass
class _Watcher:
    """The state of one browser."""

    moved: float = 0.0  # time of the last camera motion, by time.monotonic
    asked: bool = True  # whether it waits for an image
    sharp: bool = False  # whether its last image had full size
    rendered: float = 0.0  # time of the last image, by time.monotonic
    splats: bool = False  # whether it renders the Gaussians itself
    pixels_per_second: float = 1e6  # rendering speed of the last image


Show = Callable[[ViewRequest], RenderedView]


def require_viser() -> None:
    """Raise ValueError if viser is not installed; to be called before anything is loaded."""
    if importlib.util.find_spec("viser") is None:
        raise ValueError("the page in the browser needs viser, which is not installed: pip install viser")


class WebViewer:
    """The page and its server. `serve` answers pending requests; without a browser it takes no time."""

    def __init__(
        self,
        host: str,
        port: int,  # the next free one if it is taken
        *,
        modes: Sequence[str],
        scores: Sequence[str],
        iterations: Sequence[int] = (),  # offered for selection, ascending
        first: int = -1,  # the iteration selected at first, -1 for the last
        trains: bool = False,  # whether the model is in training, which can be paused
    ) -> None:
        """Start the server.

        Raise ValueError without viser, and OSError if the server cannot listen at the address.
        """
        require_viser()
        # At an invalid address viser would search for a free port forever; this raises instead.
        socket.create_server((host, 0)).close()
        import rich
        import viser

        rich.get_console().quiet = True  # silences viser; callers print what users need
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
        """Add cameras (with image_name, width, height, FoVy) as frusta, and set the initial camera.

        poses: (C, 4, 4) camera to world; target: (3,) the point they look at; up: (3,).
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
        """Set the initial camera of new browsers. position, target, up: (3,); fov_y: radians."""
        initial = self._server.initial_camera
        initial.position, initial.look_at, initial.up, initial.fov = position, target, up, fov_y

    def _toggle_frusta(self) -> None:
        for frustum in self._frusta:
            frustum.visible = self._controls.frusta.value

    def _go_to(self, name: str) -> None:
        """Move every browser's camera to the pose of a photo."""
        import viser.transforms

        camera, pose = next(pair for pair in self._cameras if pair[0].image_name == name)
        for client in self._server.get_clients().values():
            with client.atomic():
                client.camera.wxyz = viser.transforms.SO3.from_matrix(pose[:3, :3]).wxyz
                client.camera.position = pose[:3, 3]
                client.camera.fov = camera.FoVy

    # Events, in viser's threads

    def _welcome(self, client: Any) -> None:
        watcher = self._watchers[client.client_id] = _Watcher()

        @client.camera.on_update
        def _(_: Any) -> None:
            watcher.moved = time.monotonic()
            if not watcher.splats:  # else the browser renders itself
                watcher.asked = True
            self._changed.set()

        self._changed.set()

    def _outdate(self) -> None:
        for watcher in list(self._watchers.values()):
            watcher.asked = True
        self._changed.set()

    # Images, in the caller's thread

    @property
    def is_watched(self) -> bool:
        return bool(self._watchers)

    def serve(
        self,
        show: Show,
        splats: Callable[[ViewRequest], BrowserSplats],
        status: str,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Send every browser the image that is due.

        While training is paused, keep serving until the pause ends or all browsers have left, and call
        `meanwhile` every second or more often.
        """
        while True:
            self._controls.say(status)
            for identity, client in self._server.get_clients().items():
                watcher = self._watchers.get(identity)
                if watcher is not None and self._is_due(watcher):
                    self._answer(client, watcher, show, splats)
            if not (self._controls.is_paused and self._watchers):
                return
            meanwhile()
            self.wait()

    def wait(self) -> None:
        """Wait for a request, or until an image of full size is due."""
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
        except AssertionError:  # viser has no camera of this browser yet; an update will come
            watcher.asked = False
            return
        if min(width, height) < 1:
            return
        moving = time.monotonic() - watcher.moved < SECONDS_STILL and watcher.rendered > 0
        watcher.asked = False
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
    """Return the longer side of an image with so many pixels; aspect: width / height."""
    return max(SMALLEST_SIDE, (pixels * max(aspect, 1 / aspect)) ** 0.5)


class _Controls:
    """The controls on the page beside the image."""

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
        with gui.add_folder("Pruning preview"):
            self._prune_by = gui.add_dropdown("lowest", scores)
            self._prune_share = gui.add_slider("share, %", 0.0, 99.5, 0.5, 0.0)
            self._mark = gui.add_checkbox("mark instead of leaving out", False)
        with gui.add_folder("Views", visible=False) as self._views:
            self.frusta = gui.add_checkbox("show cameras", False)
            self._view = gui.add_dropdown("go to", ("",))
        with gui.add_folder("Image"):
            self._side = gui.add_slider("longer side, pixels", 200, 2000, 100, 800)
            self._in_browser = gui.add_checkbox("let the browser draw", False)

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a control that affects the image changes."""
        for control in (self._pause, self._iteration, self._mode, self._prune_by, self._prune_share,
                        self._mark, self._view, self._side, self._in_browser):  # fmt: skip
            control.on_update(lambda _: changed())

    def offer_views(self, names: Sequence[str], go_to: Callable[[str], None]) -> None:
        """Show the list of views; `go_to` is called with the name of the selected one."""
        self._views.visible, self._view.options = True, tuple(names)
        self._view.on_update(lambda _: go_to(self._view.value))

    def choose_view(self, name: str) -> None:
        self._view.value = name

    def request(self, camera: Any, width: int, height: int) -> ViewRequest:
        """Return the view request of the controls and a browser's camera, for an image of width x height."""
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
        """Show the status line."""
        if self._status.content != status:
            self._status.content = status

    def note(self, notes: list[str]) -> None:
        """Show the notes on the current image."""
        text = "\n\n".join(notes)
        if self._notes.content != text:
            self._notes.content = text


def _pose(wxyz: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return world to camera (4, 4); wxyz (4,), position (3,): a browser's camera in the world."""
    pose = np.eye(4)
    pose[:3, :3] = quats_to_matrices(torch.from_numpy(wxyz)[None])[0].numpy()
    pose[:3, 3] = position
    return camera_to_world(pose)
