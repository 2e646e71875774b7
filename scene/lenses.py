"""Lenses: project the rays of a camera to pixels, and undistort photos to those of a pinhole camera.

The formulas are those of COLMAP's camera models (https://colmap.github.io/cameras.html). These include
OpenCV's models, which nerfstudio and instant-ngp use.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

import cv2
import numpy as np

Coefficients = dict[str, float]  # of the distortion, by name
# Largest angle to the optical axis that is kept. A wider pinhole image is mostly stretched border.
WIDEST_HALF_ANGLE = math.radians(75)
BISECTIONS = 40


@dataclass(frozen=True)
class Pinhole:
    """Intrinsics in pixels of a width x height image, with pixel centers at +0.5."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def at_size(self, width: int, height: int) -> Pinhole:
        """Return the intrinsics of the same image scaled to width x height.

        Raise ValueError if it is another image: no single scale explains both sides within rounding.
        """
        require_same_image((self.width, self.height), (width, height))
        return self.stretched(width, height)

    def stretched(self, width: int, height: int) -> Pinhole:
        """Return the intrinsics after resizing to width x height, each axis by its own factor."""
        x, y = width / self.width, height / self.height
        return Pinhole(width, height, self.fx * x, self.fy * y, self.cx * x, self.cy * y)

    def undistort(self, image: np.ndarray) -> np.ndarray:
        """Return the image as it is: a pinhole has no distortion."""
        return image

    @property
    def undistorted(self) -> Pinhole:
        """Return the pinhole camera of undistorted images, which is this one."""
        return self


@dataclass(frozen=True)
class FieldOfView:
    """A lens with a centered principal point, given by its angles of view in radians.

    Pixels are square where `angle_y` is None.
    """

    angle_x: float
    angle_y: float | None = None

    def at_size(self, width: int, height: int) -> Pinhole:
        """Return the intrinsics of a width x height image."""
        fx = width / (2 * math.tan(self.angle_x / 2))
        fy = fx if self.angle_y is None else height / (2 * math.tan(self.angle_y / 2))
        return Pinhole(width, height, fx, fy, width / 2, height / 2)


@dataclass(frozen=True)
class DistortedLens:
    """A lens with distortion: the name of a COLMAP camera model (a key of MODELS) and its parameters."""

    model: str
    width: int  # pixels
    height: int  # pixels
    parameters: tuple[float, ...]  # in the order of the model

    def at_size(self, width: int, height: int) -> DistortedLens:
        """Return the lens of the same image scaled to width x height. Raise ValueError as Pinhole does."""
        require_same_image((self.width, self.height), (width, height))
        x, y = width / self.width, height / self.height
        factors = {"f": x, "fx": x, "cx": x, "fy": y, "cy": y}
        names = MODELS[self.model][1].split()
        scaled = (value * factors.get(name, 1) for name, value in zip(names, self.parameters))
        return DistortedLens(self.model, width, height, tuple(scaled))

    @property
    def undistorted(self) -> Pinhole:
        """Return the pinhole camera of the images that `undistort` returns."""
        return _undistorted(self)

    def undistort(
        self,
        image: np.ndarray,  # (height, width) or (height, width, C) uint8
    ) -> np.ndarray:
        """Return the image of the pinhole camera `undistorted`.

        It has the size of the photo. Every pixel of it lies in the photo.
        """
        return cv2.remap(image, *_sources(self), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def project(
        self,
        rays: np.ndarray,  # (..., 2) x/z and y/z
    ) -> np.ndarray:
        """Return the (..., 2) pixels of the rays, NaN where the model is not defined."""
        distort, names = MODELS[self.model]
        values = dict(zip(names.split(), self.parameters))
        focal = values.pop("f", None)
        fx, fy = (values.pop("fx", focal), values.pop("fy", focal))
        center = np.array([values.pop("cx"), values.pop("cy")])
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            x, y = distort(rays[..., 0], rays[..., 1], values)
        return np.stack([x * fx, y * fy], -1) + center


@dataclass(frozen=True)
class PhotoSized:
    """Intrinsics in pixels of a photo whose size is not recorded: the size is that of the file."""

    model: str
    focal: tuple[float, float] | FieldOfView  # (fx, fy), or the angles of view
    center: tuple[float, float] | None  # (cx, cy), None: the middle
    distortion: tuple[float, ...]  # the other parameters of the model

    def at_size(self, width: int, height: int) -> Pinhole | DistortedLens:
        """Return the lens of a width x height photo. Raise ValueError as `make_lens` does."""
        center = self.center or (width / 2, height / 2)
        focal = self.focal
        if isinstance(focal, FieldOfView):
            pinhole = focal.at_size(width, height)
            focal = (pinhole.fx, pinhole.fy)
        return make_lens(self.model, width, height, (*focal, *center, *self.distortion))


Lens = Union[Pinhole, FieldOfView, DistortedLens, PhotoSized]


def make_lens(model: str, width: int, height: int, parameters: tuple[float, ...]) -> Pinhole | DistortedLens:
    """Return the lens of a COLMAP camera, a Pinhole where all distortion is 0.

    Raise ValueError if the model or a parameter cannot be used. Its message begins with the verb "has" or
    "needs", and the caller puts the name of the camera before it.
    """
    if model not in MODELS:
        raise ValueError(f"has the model {model}; expected one of {', '.join(MODELS)}")
    names = MODELS[model][1].split()
    values = dict(zip(names, parameters, strict=True))
    focals = [value for name, value in values.items() if name in ("f", "fx", "fy")]
    if not all(map(math.isfinite, parameters)) or min(*focals, width, height) <= 0:
        raise ValueError(
            "needs a positive size and focal length and finite parameters; "
            f"got {width}x{height} and {list(parameters)}"
        )
    is_distorted = any(value for name, value in values.items() if name not in ("f", "fx", "fy", "cx", "cy"))
    if is_distorted or MODELS[model][0] is not _perspective:
        return DistortedLens(model, width, height, tuple(map(float, parameters)))
    return Pinhole(width, height, focals[0], focals[-1], values["cx"], values["cy"])


def require_same_image(calibrated: tuple[int, int], found: tuple[int, int]) -> None:
    """Raise ValueError unless one scale explains both sides of two (width, height) within rounding."""
    low = max((side - 1) / known for side, known in zip(found, calibrated))
    high = min((side + 1) / known for side, known in zip(found, calibrated))
    if low > high:
        (width, height), (known_width, known_height) = found, calibrated
        raise ValueError(
            f"the image is {width}x{height} pixels, but its camera is {known_width}x{known_height}: "
            "another aspect ratio, so not the image that was calibrated"
        )


# The models: each maps x/z and y/z of a ray to its distorted point on a sensor at distance 1


def _perspective(x: np.ndarray, y: np.ndarray, c: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    """Return the point under Brown's radial and tangential distortion, with OpenCV's rational radial part."""
    c = _with_zeros(c)
    r2 = x * x + y * y
    radial = 1 + r2 * (c["k1"] + r2 * (c["k2"] + r2 * c["k3"]))
    radial = radial / (1 + r2 * (c["k4"] + r2 * (c["k5"] + r2 * c["k6"])))
    return _tangential(x, y, c, x * radial, y * radial)


def _fisheye(x: np.ndarray, y: np.ndarray, c: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    """Return the point of a fisheye lens.

    Its radius is a polynomial of the angle to the axis. Tangential and thin-prism terms use the angle too.
    """
    c = _with_zeros(c)
    x, y = _by_angle(x, y)
    t2 = x * x + y * y
    radial = 1 + t2 * (c["k1"] + t2 * (c["k2"] + t2 * (c["k3"] + t2 * c["k4"])))
    distorted_x, distorted_y = _tangential(x, y, c, x * radial, y * radial)
    return distorted_x + c["sx1"] * t2, distorted_y + c["sy1"] * t2


def _aria(x: np.ndarray, y: np.ndarray, c: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    """Return the point of a Project Aria fisheye lens.

    Six radial terms of the angle come first, then tangential and thin-prism terms of the result.
    """
    x, y = _by_angle(x, y)
    t2 = x * x + y * y
    radial = np.ones_like(t2)
    for power in range(6):
        radial = radial + c[f"k{power}"] * t2 ** (power + 1)
    x, y = x * radial, y * radial
    r2 = x * x + y * y
    moved_x = x + 2 * x * (c["p0"] * x + c["p1"] * y) + c["p0"] * r2 + r2 * (c["s0"] + c["s1"] * r2)
    moved_y = y + 2 * y * (c["p0"] * x + c["p1"] * y) + c["p1"] * r2 + r2 * (c["s2"] + c["s3"] * r2)
    return moved_x, moved_y


def _field_of_view(x: np.ndarray, y: np.ndarray, c: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    """Return the point under the field-of-view model (Devernay and Faugeras 2001).

    The radius on the sensor is proportional to the angle to the axis.
    """
    radius = np.maximum(np.hypot(x, y), 1e-12)
    if c["omega"] == 0:
        return x, y
    factor = np.arctan(radius * 2 * math.tan(c["omega"] / 2)) / (radius * c["omega"])
    return x * factor, y * factor


def _division(x: np.ndarray, y: np.ndarray, c: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    """Return the point under the division model (Fitzgibbon 2001).

    The undistorted point is the distorted one divided by 1 + k r^2, with the radius r of the distorted one.
    """
    r2 = x * x + y * y
    factor = 2 / (1 + np.sqrt(1 - 4 * c["k"] * r2))
    return x * factor, y * factor


def _unified(x: np.ndarray, y: np.ndarray, c: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    """Return the point under the enhanced unified camera model (Khomutenko et al. 2016)."""
    depth = 1 + c["alpha"] * (np.sqrt(c["beta"] * (x * x + y * y) + 1) - 1)
    return x / depth, y / depth


def _by_angle(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the point with the angle to the axis, in radians, as its radius."""
    radius = np.maximum(np.hypot(x, y), 1e-12)
    factor = np.arctan(radius) / radius
    return x * factor, y * factor


def _tangential(
    x: np.ndarray, y: np.ndarray, c: Coefficients, radial_x: np.ndarray, radial_y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (radial_x, radial_y) with the tangential terms of (x, y) added, as in OpenCV."""
    r2 = x * x + y * y
    distorted_x = radial_x + 2 * c["p1"] * x * y + c["p2"] * (r2 + 2 * x * x)
    return distorted_x, radial_y + 2 * c["p2"] * x * y + c["p1"] * (r2 + 2 * y * y)


def _with_zeros(coefficients: Coefficients) -> Coefficients:
    return dict.fromkeys("k1 k2 k3 k4 k5 k6 p1 p2 sx1 sy1".split(), 0.0) | coefficients


_Distort = Callable[[np.ndarray, np.ndarray, Coefficients], tuple[np.ndarray, np.ndarray]]

# All of COLMAP's models whose photos can be undistorted to a pinhole image, with the names of their
# parameters in order.
MODELS: dict[str, tuple[_Distort, str]] = {
    "SIMPLE_PINHOLE": (_perspective, "f cx cy"),
    "PINHOLE": (_perspective, "fx fy cx cy"),
    "SIMPLE_RADIAL": (_perspective, "f cx cy k1"),
    "RADIAL": (_perspective, "f cx cy k1 k2"),
    "OPENCV": (_perspective, "fx fy cx cy k1 k2 p1 p2"),
    "FULL_OPENCV": (_perspective, "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
    "SIMPLE_FISHEYE": (_fisheye, "f cx cy"),
    "FISHEYE": (_fisheye, "fx fy cx cy"),
    "SIMPLE_RADIAL_FISHEYE": (_fisheye, "f cx cy k1"),
    "RADIAL_FISHEYE": (_fisheye, "f cx cy k1 k2"),
    "OPENCV_FISHEYE": (_fisheye, "fx fy cx cy k1 k2 k3 k4"),
    "THIN_PRISM_FISHEYE": (_fisheye, "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1"),
    "RAD_TAN_THIN_PRISM_FISHEYE": (_aria, "fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3"),
    "FOV": (_field_of_view, "fx fy cx cy omega"),
    "SIMPLE_DIVISION": (_division, "f cx cy k"),
    "DIVISION": (_division, "fx fy cx cy k"),
    "EUCM": (_unified, "fx fy cx cy alpha beta"),
}

# Undistortion


@functools.lru_cache(maxsize=64)
def _undistorted(lens: DistortedLens) -> Pinhole:
    """Return the pinhole camera with the widest view in which every pixel was seen by `lens`.

    It keeps the principal point and the ratio of the focal lengths. Its focal length is the smallest at which
    the border, and every line from the center to it, lies in the photo. Raise ValueError if there is none.
    """
    names = MODELS[lens.model][1].split()
    values = dict(zip(names, lens.parameters))
    fx, fy = values.get("fx", values.get("f")), values.get("fy", values.get("f"))
    corners = np.array([[0, 0], [lens.width, 0], [0, lens.height], [lens.width, lens.height]])
    reach = np.hypot(*((corners - [values["cx"], values["cy"]]) / [fx, fy]).T).max()
    low, high = reach / math.tan(WIDEST_HALF_ANGLE), 64.0

    def at(zoom: float) -> Pinhole:
        return Pinhole(lens.width, lens.height, fx * zoom, fy * zoom, values["cx"], values["cy"])

    if not _covers(lens, at(high)):
        raise ValueError(f"a {lens.model} camera with {list(lens.parameters)} has no undistorted image")
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _covers(lens, at(middle)) else (middle, high)
    return at(high)


def _covers(lens: DistortedLens, camera: Pinhole) -> bool:
    """Return whether the photo of `lens` holds the whole image of `camera`.

    This checks the border, and that no line from the center to it folds back on itself in the photo.
    """
    shares = np.linspace(0, 1, 33)
    along_x, along_y = shares * camera.width, shares * camera.height
    zero, full_x, full_y = np.zeros(33), np.full(33, camera.width), np.full(33, camera.height)
    sides = [(along_x, zero), (along_x, full_y), (zero, along_y), (full_x, along_y)]
    border = np.concatenate([np.stack(side, 1) for side in sides])  # (B, 2) pixels
    rays = (border - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    spokes = lens.project(rays[:, None] * shares[:, None])  # (B, 33, 2) from the center to the border
    ends, size = spokes[:, -1], np.array([lens.width, lens.height])
    if not np.isfinite(spokes).all() or (ends < 0).any() or (ends > size).any():
        return False
    outward = np.linalg.norm(spokes - spokes[:, :1], axis=-1)
    return bool((np.diff(outward, axis=1) > 0).all())


@functools.lru_cache(maxsize=8)
def _sources(lens: DistortedLens) -> tuple[np.ndarray, np.ndarray]:
    """Return the position in the photo of each pixel of the undistorted image, as maps for cv2.remap."""
    camera = lens.undistorted
    x = (np.arange(lens.width) + 0.5 - camera.cx) / camera.fx
    y = (np.arange(lens.height) + 0.5 - camera.cy) / camera.fy
    # OpenCV's pixel centers are whole numbers.
    sources = lens.project(np.stack(np.meshgrid(x, y), -1)) - 0.5
    return cv2.convertMaps(sources.astype(np.float32), None, cv2.CV_16SC2)
