"""Lenses: COLMAP's camera models, and photos as a pinhole camera would have taken them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from scene.colmap_records import CAMERA_MODELS
from scene.lenses import MODELS, DistortedLens, FieldOfView, PhotoSized, Pinhole, make_lens

WIDTH, HEIGHT = 640, 480
RAY = (0.31, -0.22)  # x/z, y/z
TYPICAL = {
    "f": 500.0,
    "fx": 500.0,
    "fy": 510.0,
    "cx": 330.0,
    "cy": 235.0,
    "omega": 0.7,
    "alpha": 0.6,
    "beta": 1.1,
}
# Where pycolmap 4.2.1's `Camera.img_from_cam` puts that ray, with `parameters(model)`.
PROJECTED = {
    "SIMPLE_PINHOLE": (485.0, 125.0),
    "PINHOLE": (485.0, 122.8),
    "SIMPLE_RADIAL": (484.68003571428574, 125.22707142857142),
    "RADIAL": (484.7308940375, 125.190978425),
    "OPENCV": (480.6629074785714, 126.26212324085714),
    "FULL_OPENCV": (481.12046480234795, 125.93091077809763),
    "SIMPLE_FISHEYE": (478.12136246043195, 129.88161373775796),
    "FISHEYE": (478.12136246043195, 127.77924601251313),
    "SIMPLE_RADIAL_FISHEYE": (477.8421341135334, 130.07977579039567),
    "RADIAL_FISHEYE": (477.88266555388793, 130.0510115424021),
    "OPENCV_FISHEYE": (478.3897202077462, 127.58498963026369),
    "THIN_PRISM_FISHEYE": (475.76148985640566, 129.21146944057682),
    "RAD_TAN_THIN_PRISM_FISHEYE": (485.2911759359473, 124.88135813589787),
    "FOV": (487.68726896901956, 120.85476401081296),
    "SIMPLE_DIVISION": (484.6813499315754, 125.2261387582368),
    "DIVISION": (485.35356825061615, 122.54406220826367),
    "EUCM": (478.19386473593613, 127.72676372018041),
}


def parameters(model: str) -> tuple[float, ...]:
    """Typical ones, and distortions that are all different."""
    names = MODELS[model][1].split()
    return tuple(
        TYPICAL.get(name, 0.01 * (-1) ** place * (1 + place / 7)) for place, name in enumerate(names)
    )


@pytest.mark.parametrize("model", MODELS)
def test_rays_meet_the_photo_where_colmap_says(model):
    lens = DistortedLens(model, WIDTH, HEIGHT, parameters(model))
    assert lens.project(np.array(RAY)) == pytest.approx(PROJECTED[model], abs=1e-9)


def test_models_agree_with_pycolmap_everywhere():
    pycolmap = pytest.importorskip("pycolmap")
    rays = np.random.default_rng(0).uniform(-0.6, 0.6, (100, 2))
    for model in MODELS:
        camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=parameters(model))
        expected = [camera.img_from_cam(np.append(ray, 1)) for ray in rays]
        found = DistortedLens(model, WIDTH, HEIGHT, parameters(model)).project(rays)
        np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=model)


def test_every_model_of_colmap_but_the_panorama_has_a_straight_picture():
    counts = {name: len(names.split()) for name, (_, names) in MODELS.items()}
    assert counts | {"EQUIRECTANGULAR": 2} == dict(CAMERA_MODELS.values())


# Straightening


def photo_of_a_wall(lens: DistortedLens) -> np.ndarray:
    """A photo through `lens` of a wall with a smooth pattern, computed ray by ray."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    target, step = np.stack([x, y], -1), 1e-5
    rays = (target - [lens.undistorted.cx, lens.undistorted.cy]) / 500
    for _ in range(20):  # Newton's method: the ray that each pixel of the photo sees
        at = lens.project(rays)
        slopes = [(lens.project(rays + np.eye(2)[axis] * step) - at) / step for axis in (0, 1)]
        rays = rays + np.linalg.solve(np.stack(slopes, -1), (target - at)[..., None])[..., 0]
    assert np.abs(lens.project(rays) - target).max() < 1e-6
    return pattern(rays).round().astype(np.uint8)


def pattern(rays: np.ndarray) -> np.ndarray:
    """(..., 3) colors between 0 and 255 in direction `rays`."""
    x, y = rays[..., 0], rays[..., 1]
    return np.stack(
        [127 + 120 * np.sin(9 * x), 127 + 120 * np.sin(7 * y + x), 127 + 120 * np.cos(8 * x * y)], -1
    )


@pytest.mark.parametrize(
    "model", ["SIMPLE_RADIAL", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE", "THIN_PRISM_FISHEYE", "FOV", "EUCM"]
)
def test_a_straightened_photo_is_that_of_the_pinhole_camera(model):
    lens = DistortedLens(model, WIDTH, HEIGHT, parameters(model))
    undistorted = lens.undistort(photo_of_a_wall(lens))
    camera = lens.undistorted
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    expected = pattern(np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy], -1))
    assert np.abs(undistorted - expected).max() < 3, "interpolation and 8 bits cost so much"


@pytest.mark.parametrize("k1", [-0.2, -0.02, 0.02, 0.2])
def test_the_straight_picture_is_the_widest_without_a_missing_pixel(k1):
    """Barrel distortion (k1 < 0) lets it zoom out, pincushion makes it zoom in."""
    lens = DistortedLens("SIMPLE_RADIAL", WIDTH, HEIGHT, (500.0, 330.0, 235.0, k1))
    camera = lens.undistorted
    corners = np.array([[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT]], float)
    places = lens.project((corners - [camera.cx, camera.cy]) / [camera.fx, camera.fy])
    margins = np.concatenate([places, [WIDTH, HEIGHT] - places])
    assert margins.min() > -1e-6, "all of it is in the photo"
    assert (camera.fx < 500) == (k1 < 0) and (camera.cx, camera.cy) == (330, 235)
    sides = lens.project((np.array([[0, 235.0], [330, 0]]) - [330, 235]) / [camera.fx, camera.fy])
    touches = min(margins.min(), sides[0, 0], sides[1, 1])
    assert touches < 0.01, "and it could not be wider"


def test_a_fisheye_of_180_degrees_keeps_a_sensible_part():
    lens = DistortedLens("SIMPLE_FISHEYE", 400, 400, (400 / np.pi, 200.0, 200.0))
    assert 20 < lens.undistorted.fx < 400 / np.pi
    assert lens.undistort(np.full((400, 400, 3), 9, np.uint8)).min() == 9


def test_a_distortion_that_folds_the_picture_is_refused():
    lens = DistortedLens("SIMPLE_RADIAL", WIDTH, HEIGHT, (500.0, 320.0, 240.0, -1e6))
    with pytest.raises(ValueError, match=r"a SIMPLE_RADIAL camera with \[500.0, .*\] has no undistorted"):
        _ = lens.undistorted


def test_masks_and_alpha_are_straightened_alike():
    lens = DistortedLens("SIMPLE_RADIAL", 64, 48, (50.0, 32.0, 24.0, -0.2))
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
    undistorted = lens.undistort(image)
    assert undistorted.shape == image.shape
    assert np.array_equal(lens.undistort(image[..., 3]), undistorted[..., 3])


# Sizes


def test_a_lens_of_the_halved_photo_is_the_same_lens():
    lens = DistortedLens("OPENCV", WIDTH, HEIGHT, parameters("OPENCV"))
    half = lens.at_size(WIDTH // 2, HEIGHT // 2)
    ray = np.array(RAY)
    np.testing.assert_allclose(half.project(ray), lens.project(ray) / 2)
    assert half.undistorted.fx == pytest.approx(lens.undistorted.fx / 2, rel=1e-6)
    with pytest.raises(ValueError, match="another aspect ratio"):
        lens.at_size(WIDTH, HEIGHT // 2)


def test_without_distortion_it_is_a_pinhole():
    lens = make_lens("OPENCV", WIDTH, HEIGHT, (500.0, 510.0, 330.0, 235.0, 0.0, 0.0, 0.0, 0.0))
    assert lens == Pinhole(WIDTH, HEIGHT, 500.0, 510.0, 330.0, 235.0)
    assert isinstance(make_lens("SIMPLE_FISHEYE", WIDTH, HEIGHT, (500.0, 330.0, 235.0)), DistortedLens)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert lens.undistort(image) is image


def test_intrinsics_without_a_size_take_the_photos():
    assert PhotoSized("PINHOLE", (50.0, 51.0), None, ()).at_size(64, 48) == Pinhole(
        64, 48, 50.0, 51.0, 32, 24
    )
    assert FieldOfView(2 * np.arctan(0.5)).at_size(64, 48).fx == pytest.approx(64)


def test_straightening_is_what_opencv_does():
    lens = DistortedLens("OPENCV", WIDTH, HEIGHT, parameters("OPENCV"))
    names = MODELS["OPENCV"][1].split()
    values = dict(zip(names, lens.parameters))
    matrix = np.array([[500, 0, 330 - 0.5], [0, 510, 235 - 0.5], [0, 0, 1.0]])
    new = np.array([[lens.undistorted.fx, 0, 329.5], [0, lens.undistorted.fy, 234.5], [0, 0, 1.0]])
    bends = np.array([values[name] for name in ("k1", "k2", "p1", "p2")])
    maps = cv2.initUndistortRectifyMap(matrix, bends, None, new, (WIDTH, HEIGHT), cv2.CV_32FC1)
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(image, (9, 9), 3)
    expected = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(lens.undistort(image).astype(int) - expected).max() <= 2
