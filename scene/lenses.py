"""Lenses: how a camera's rays become pixels, and photos as a pinhole camera would have taken them.

The formulas are those of COLMAP's camera models (https://colmap.github.io/cameras.html), which include
OpenCV's; nerfstudio and instant-ngp use the latter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

import cv2
import numpy as np

Coefficients = dict[str, float]  # by name; what a model does not have is 0
# Nothing behind 75 degrees from the axis is kept: beyond, a pinhole picture is mostly stretched border.
WIDEST_HALF_ANGLE = math.radians(75)
BISECTIONS = 40


@dataclass(frozen=True)
class Pinhole:
    """Intrinsics in pixels of a width x height image, pixel centres at +0.5."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def at_size(self, width: int, height: int) -> Pinhole:
        """The intrinsics of the same picture scaled to width x height.

        ValueError if that is another picture: if no one scale explains both sides within a pixel's rounding.
        """
        require_same_image((self.width, self.height), (width, height))
        return self.stretched(width, height)

    def stretched(self, width: int, height: int) -> Pinhole:
        """The intrinsics after resizing to width x height, each axis by its own factor."""
        x, y = width / self.width, height / self.height
        return Pinhole(width, height, self.fx * x, self.fy * y, self.cx * x, self.cy * y)

    def undistort(self, image: np.ndarray) -> np.ndarray:
        return image

    @property
    def undistorted(self) -> Pinhole:
        return self


@dataclass(frozen=True)
class FieldOfView:
    """A centred principal point, known by its angles of view in radians; without the second, square pixels."""

    angle_x: float
    angle_y: float | None = None

    def at_size(self, width: int, height: int) -> Pinhole:
        fx = width / (2 * math.tan(self.angle_x / 2))
        fy = fx if self.angle_y is None else height / (2 * math.tan(self.angle_y / 2))
        return Pinhole(width, height, fx, fy, width / 2, height / 2)


@dataclass(frozen=True)
class DistortedLens:
    """A lens with distortion, by the name and parameters of a COLMAP camera model (a key of MODELS)."""

    model: str
    width: int  # pixels
    height: int
    parameters: tuple[float, ...]  # in the model's own order

    def at_size(self, width: int, height: int) -> DistortedLens:
        """The lens of the same picture scaled to width x height; ValueError as for a Pinhole."""
        require_same_image((self.width, self.height), (width, height))
        x, y = width / self.width, height / self.height
        factors = {"f": x, "fx": x, "cx": x, "fy": y, "cy": y}
        names = MODELS[self.model][1].split()
        scaled = (value * factors.get(name, 1) for name, value in zip(names, self.parameters))
        return DistortedLens(self.model, width, height, tuple(scaled))

    @property
    def undistorted(self) -> Pinhole:
        """The pinhole camera of `straighten`."""
        return _undistorted(self)

    def undistort(
        self,
        image: np.ndarray,  # (height, width) or (height, width, C) uint8
    ) -> np.ndarray:
        """The picture as `straight` sees it: of the same size, without pixels that the photo lacks."""
        return cv2.remap(image, *_sources(self), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def project(self, rays: np.ndarray) -> np.ndarray:  # (..., 2) x/z and y/z -> (..., 2) pixels
        """Where rays meet the photo; NaN where the model has no answer."""
        bend, names = MODELS[self.model]
        values = dict(zip(names.split(), self.parameters))
        focal = values.pop("f", None)
        fx, fy = (values.pop("fx", focal), values.pop("fy", focal))
        center = np.array([values.pop("cx"), values.pop("cy")])
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            x, y = bend(rays[..., 0], rays[..., 1], values)
        return np.stack([x * fx, y * fy], -1) + center


@dataclass(frozen=True)
class PhotoSized:
    """Intrinsics in pixels of a photo whose size nobody wrote down: that of the photo itself."""

    model: str
    focal: tuple[float, float] | FieldOfView
    center: tuple[float, float] | None  # None: the middle
    bends: tuple[float, ...]  # the model's other parameters

    def at_size(self, width: int, height: int) -> Pinhole | DistortedLens:
        center = self.center or (width / 2, height / 2)
        focal = self.focal
        if isinstance(focal, FieldOfView):
            pinhole = focal.at_size(width, height)
            focal = (pinhole.fx, pinhole.fy)
        return make_lens(self.model, width, height, (*focal, *center, *self.bends))


Lens = Union[Pinhole, FieldOfView, DistortedLens, PhotoSized]


def make_lens(model: str, width: int, height: int, parameters: tuple[float, ...]) -> Pinhole | DistortedLens:
    """The lens of a COLMAP camera; a pinhole where all distortion is 0. ValueError: `has` or `needs` ..."""
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
            "another aspect ratio, so not the picture that was calibrated"
        )


# The models: (x/z, y/z) -> the same on a sensor at distance 1


def _perspective(x: np.ndarray, y: np.ndarray, c: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    """Brown's radial and tangential distortion with a rational radial part, as in OpenCV."""
    c = _with_zeros(c)
    r2 = x * x + y * y
    radial = 1 + r2 * (c["k1"] + r2 * (c["k2"] + r2 * c["k3"]))
    radial = radial / (1 + r2 * (c["k4"] + r2 * (c["k5"] + r2 * c["k6"])))
    return _tangential(x, y, c, x * radial, y * radial)


def _fisheye(x: np.ndarray, y: np.ndarray, c: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    """The angle in place of its tangent, with a polynomial; tangential and thin-prism terms of that."""
    c = _with_zeros(c)
    x, y = _by_angle(x, y)
    t2 = x * x + y * y
    radial = 1 + t2 * (c["k1"] + t2 * (c["k2"] + t2 * (c["k3"] + t2 * c["k4"])))
    distorted_x, distorted_y = _tangential(x, y, c, x * radial, y * radial)
    return distorted_x + c["sx1"] * t2, distorted_y + c["sy1"] * t2


def _aria(x: np.ndarray, y: np.ndarray, c: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    """Project Aria's: six radial terms of the angle, then tangential and thin-prism terms of the result."""
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
    """Devernay and Faugeras 2001: the radius is the angle that it subtends, over omega."""
    radius = np.maximum(np.hypot(x, y), 1e-12)
    if c["omega"] == 0:
        return x, y
    factor = np.arctan(radius * 2 * math.tan(c["omega"] / 2)) / (radius * c["omega"])
    return x * factor, y * factor


def _division(x: np.ndarray, y: np.ndarray, c: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    """Fitzgibbon 2001: the straight ray is the bent one divided by 1 + k r^2 of the bent one."""
    r2 = x * x + y * y
    factor = 2 / (1 + np.sqrt(1 - 4 * c["k"] * r2))
    return x * factor, y * factor


def _unified(x: np.ndarray, y: np.ndarray, c: Coefficients) -> tuple[np.ndarray, np.ndarray]:
    """The enhanced unified camera model (Khomutenko et al. 2016)."""
    depth = 1 + c["alpha"] * (np.sqrt(c["beta"] * (x * x + y * y) + 1) - 1)
    return x / depth, y / depth


def _by_angle(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    radius = np.maximum(np.hypot(x, y), 1e-12)
    factor = np.arctan(radius) / radius
    return x * factor, y * factor


def _tangential(
    x: np.ndarray, y: np.ndarray, c: Coefficients, radial_x: np.ndarray, radial_y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r2 = x * x + y * y
    distorted_x = radial_x + 2 * c["p1"] * x * y + c["p2"] * (r2 + 2 * x * x)
    return distorted_x, radial_y + 2 * c["p2"] * x * y + c["p1"] * (r2 + 2 * y * y)


def _with_zeros(coefficients: Coefficients) -> Coefficients:
    return dict.fromkeys("k1 k2 k3 k4 k5 k6 p1 p2 sx1 sy1".split(), 0.0) | coefficients


_Bend = Callable[[np.ndarray, np.ndarray, Coefficients], tuple[np.ndarray, np.ndarray]]

# Of COLMAP's models all that have a pinhole picture in them; the names of their parameters in their order.
MODELS: dict[str, tuple[_Bend, str]] = {
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

# Straightening


@functools.lru_cache(maxsize=64)
def _undistorted(lens: DistortedLens) -> Pinhole:
    """The pinhole camera that shows as much as it can without a pixel that `lens` did not see.

    Principal point and ratio of the focal lengths stay; the focal length is the least at which the border,
    and what lies within it along both axes and diagonals, comes from the photo.
    """
    names = MODELS[lens.model][1].split()
    values = dict(zip(names, lens.parameters))
    fx, fy = values.get("fx", values.get("f")), values.get("fy", values.get("f"))
    corners = np.array([[0, 0], [lens.width, 0], [0, lens.height], [lens.width, lens.height]])
    reach = np.hypot(*((corners - [values["cx"], values["cy"]]) / [fx, fy]).T).max()
    low, high = reach / math.tan(WIDEST_HALF_ANGLE), 64.0

    def at(zoom: float) -> Pinhole:
        return Pinhole(lens.width, lens.height, fx * zoom, fy * zoom, values["cx"], values["cy"])

    if not _sees_all_of(lens, at(high)):
        raise ValueError(f"a {lens.model} camera with {list(lens.parameters)} shows no straight picture")
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _sees_all_of(lens, at(middle)) else (middle, high)
    return at(high)


def _sees_all_of(lens: DistortedLens, camera: Pinhole) -> bool:
    """Whether the photo holds the camera's border, and gets there without folding back on itself."""
    shares = np.linspace(0, 1, 33)
    along_x, along_y = shares * camera.width, shares * camera.height
    zero, full_x, full_y = np.zeros(33), np.full(33, camera.width), np.full(33, camera.height)
    sides = [(along_x, zero), (along_x, full_y), (zero, along_y), (full_x, along_y)]
    border = np.concatenate([np.stack(side, 1) for side in sides])  # (B, 2) pixels
    rays = (border - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    spokes = lens.project(rays[:, None] * shares[:, None])  # (B, 33, 2): from the centre out to the border
    ends, size = spokes[:, -1], np.array([lens.width, lens.height])
    if not np.isfinite(spokes).all() or (ends < 0).any() or (ends > size).any():
        return False
    outward = np.linalg.norm(spokes - spokes[:, :1], axis=-1)
    return bool((np.diff(outward, axis=1) > 0).all())


@functools.lru_cache(maxsize=8)
def _sources(lens: DistortedLens) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the straight picture lies in the photo, in OpenCV's form for cv2.remap."""
    camera = lens.undistorted
    x = (np.arange(lens.width) + 0.5 - camera.cx) / camera.fx
    y = (np.arange(lens.height) + 0.5 - camera.cy) / camera.fy
    sources = lens.project(np.stack(np.meshgrid(x, y), -1)) - 0.5  # OpenCV's pixel centres are whole numbers
    return cv2.convertMaps(sources.astype(np.float32), None, cv2.CV_16SC2)
