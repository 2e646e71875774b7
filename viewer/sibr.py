"""The server for 3DGS's network viewer (SIBR's remote Gaussian viewer): it sends images over TCP on request.

A request is a length (4 bytes, little-endian) and so many bytes of JSON: resolution_x, resolution_y (0, 0: no
image), fov_x, fov_y (radians), view_matrix (16 numbers of a matrix for row vectors, in OpenGL's axes), train,
keep_alive, scaling_modifier, and some fields that are ignored. The answer is the image's RGB bytes, if it was
requested, then a length and the name of the scene's folder.
"""

from __future__ import annotations

import json
import math
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.ranks import LostRank

LARGEST_REQUEST = 2**16  # bytes; real requests have less than a thousand
LARGEST_SIDE = 4096  # pixels
SECONDS_TO_WAIT = 5.0  # for the rest of a request, or until the viewer has received an answer
LENGTH = struct.Struct("<I")
# From OpenGL's camera axes (y up, z backward) to y down, z forward.
_TURN_Y_Z = np.array([[1.0], [-1.0], [-1.0], [1.0]])


@dataclass(frozen=True)
class SibrRequest:
    """The camera that the viewer asks for, and whether training continues meanwhile."""

    width: int  # pixels, 0 for no image
    height: int
    fov_x: float  # radians
    fov_y: float
    world_to_camera: np.ndarray  # (4, 4) for column vectors; x right, y down, z forward
    scaling: float  # factor on the scales of all Gaussians
    train: bool  # False pauses training
    keep_alive: bool  # True keeps the process alive after the last iteration


Show = Callable[[SibrRequest], bytes]  # (height, width, 3) uint8 RGB


class RemoteViewer:
    """The server at an address. `serve` is called between iterations; without a request it takes no time."""

    def __init__(self, host: str, port: int, say: Callable[[str], object] = print) -> None:
        """Listen at `host` and `port`, 0 for any free port. Raise OSError if that is impossible."""
        self._say = say
        self._server = socket.create_server((host, port))
        self._server.setblocking(False)
        self._viewer: socket.socket | None = None

    @property
    def address(self) -> tuple[str, int]:
        return self._server.getsockname()[:2]

    def serve(
        self, show: Show, source: str, last: bool, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        """Answer the request that has arrived, if there is one.

        Keep answering while the viewer pauses training, or after the `last` iteration keeps it alive. Call
        `meanwhile` before each further request.
        """
        if self._viewer is None and not self._welcome():
            return
        paused = False
        while paused or self._has_asked(0.0):
            try:
                request = read_request(self._receive)
                image = show(request) if request.width else b""
                name = source.encode("ascii", "replace")
                self._viewer.settimeout(SECONDS_TO_WAIT)
                self._viewer.sendall(image + LENGTH.pack(len(name)) + name)
                paused = not request.train or (last and request.keep_alive)
            except LostRank:  # an OSError that is not the viewer's
                raise
            except (OSError, ValueError) as problem:
                self._say(f"The viewer is gone: {problem or type(problem).__name__}")
                self._leave()
                return
            if not paused:
                return
            meanwhile()

    def close(self) -> None:
        self._leave()
        self._server.close()

    def _welcome(self) -> bool:
        try:
            self._viewer, (host, port, *_) = self._server.accept()
        except BlockingIOError:
            return False
        self._say(f"A viewer at {host}:{port} is watching")
        return True

    def _has_asked(self, seconds: float) -> bool:
        return bool(select.select([self._viewer], [], [], seconds)[0])

    def _receive(self, size: int) -> bytes:
        """Receive exactly `size` bytes.

        Raise ConnectionError if the viewer disconnects, and TimeoutError if it takes too long.
        """
        parts, missing, deadline = [], size, time.monotonic() + SECONDS_TO_WAIT
        while missing:
            self._viewer.settimeout(max(1e-3, deadline - time.monotonic()))
            part = self._viewer.recv(missing)
            if not part:
                raise ConnectionError("it closed the connection")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _leave(self) -> None:
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None


def read_request(receive: Callable[[int], bytes]) -> SibrRequest:
    """Read the next request. Raise ValueError if it is malformed, too large or out of range."""
    (size,) = LENGTH.unpack(receive(LENGTH.size))
    if size > LARGEST_REQUEST:
        raise ValueError(f"a request of {size} bytes, expected at most {LARGEST_REQUEST}")
    try:
        values = json.loads(receive(size))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as problem:
        raise ValueError(f"a request that is not JSON ({problem})") from None
    if not isinstance(values, dict):
        raise ValueError("a request that is not a JSON object")
    width, height = (_number(values, f"resolution_{axis}", 0, LARGEST_SIDE) for axis in "xy")
    if not width or not height:
        width = height = 0
    fov_x, fov_y = (_number(values, f"fov_{axis}", 1e-3, math.pi - 1e-3) if width else 1.0 for axis in "xy")
    return SibrRequest(
        int(width),
        int(height),
        fov_x,
        fov_y,
        _pose(values.get("view_matrix")) if width else np.eye(4),
        _number(values, "scaling_modifier", 0, 100, 1.0),
        bool(values.get("train", True)),
        bool(values.get("keep_alive", False)),
    )


def _number(values: dict[str, Any], name: str, low: float, high: float, default: float = 0.0) -> float:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"a request with {name} {value!r}, expected a number from {low} to {high}")
    return float(value)


def _pose(numbers: object) -> np.ndarray:
    """Return world to camera (4, 4) of a request's view matrix, which is for row vectors in OpenGL's axes.

    Raise ValueError if it is not a rotation and a translation.
    """
    try:
        matrix = np.array(numbers, np.float64).reshape(4, 4)
    except (TypeError, ValueError, OverflowError):
        matrix = np.full((4, 4), np.nan)
    matrix = matrix.T * _TURN_Y_Z
    rotation = matrix[:3, :3]
    if not np.isfinite(matrix).all() or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-2:
        raise ValueError("a request whose view_matrix is not a rotation and a translation")
    return matrix
