"""Views at a fraction of their size: pixels, masks, depths, and what a Gaussian looks like in them."""

import numpy as np
import pytest
import torch
from gaussian_model import GaussianModel
from scene.camera import Camera
from scene.smaller import SMALLEST_SIDE, smaller
from utils.rendering import render

BLACK = torch.zeros(3)


def make_camera(width=130, height=99, **changes):
    pose = np.eye(4)
    pose[:3, 3] = (0.1, -0.2, 4)
    values = {"fx": 120.0, "fy": 125.0, "cx": 61.0, "cy": 52.5, "world_to_camera": pose} | changes
    return Camera("a.png", width, height, **values)


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def means_of_squares(image, divisor):  # (C, H, W)
    channels, height, width = image.shape
    rows, columns = height // divisor, width // divisor
    whole = image[:, : rows * divisor, : columns * divisor]
    return whole.reshape(channels, rows, divisor, columns, divisor).mean((2, 4))


@pytest.mark.parametrize("divisor", [2, 3])
def test_a_pixel_is_the_mean_of_its_square_and_lies_where_that_lay(divisor):
    camera = make_camera(image=noise(99, 130, 3))
    small = smaller(camera, divisor)
    assert (small.width, small.height, small.divisor) == (130 // divisor, 99 // divisor, divisor)
    expected = means_of_squares(camera.ground_truth(BLACK, "cpu"), divisor)
    assert (small.ground_truth(BLACK, "cpu") - expected).abs().max() <= 0.501 / 255
    assert np.allclose((small.fx, small.fy, small.cx, small.cy), np.array((120, 125, 61, 52.5)) / divisor)
    assert small.image.dtype == torch.uint8 and small.image_name == camera.image_name


def test_colors_count_as_far_as_they_are_opaque():
    image = noise(64, 64, 4)
    image[..., 3] = torch.where(image[..., 3] < 100, 0, image[..., 3])
    camera = make_camera(64, 64, image=image)
    for background in (BLACK, torch.ones(3)):
        small = smaller(camera, 2).ground_truth(background, "cpu")
        expected = means_of_squares(camera.ground_truth(background, "cpu"), 2)
        assert (small - expected).abs().max() < 1.5 / 255  # color and alpha are both rounded
    image[:2, :2, 3] = 0
    assert (smaller(camera, 2).ground_truth(BLACK, "cpu")[:, 0, 0] == 0).all(), "nothing there is opaque"


def test_a_pixel_counts_if_all_of_its_square_do_and_known_depths_alone_are_averaged():
    mask = torch.ones(64, 96, dtype=torch.bool)
    mask[4, 7] = False
    invdepth = torch.zeros(1, 64, 96)
    invdepth[0, 0, :3] = torch.tensor([1.0, 3.0, 5.0])
    small = smaller(make_camera(96, 64, mask=mask, invdepth=invdepth), 2)
    assert small.mask.shape == (32, 48) and (~small.mask).nonzero().tolist() == [[2, 3]]
    assert small.invdepth.shape == (1, 32, 48) and small.invdepth[0, 0, :3].tolist() == [2.0, 5.0, 0.0]


def test_no_side_becomes_too_small_to_teach_anything():
    for side, divisor in ((2 * SMALLEST_SIDE - 1, 1), (2 * SMALLEST_SIDE, 2), (4 * SMALLEST_SIDE, 4)):
        small = smaller(make_camera(side, 1000), 4)
        assert small.width == side // divisor >= SMALLEST_SIDE and small.divisor == divisor
    camera = make_camera(20, 1000)
    assert smaller(camera, 4) is camera and smaller(camera, 1) is camera


@pytest.mark.parametrize("divisor", [2, 4])
def test_a_gaussian_looks_as_its_full_image_does_when_that_is_averaged(divisor):
    """The blur on the screen is that of the full image's pixels and of their mean, whatever the size."""
    model = GaussianModel.from_points(np.zeros((1, 3)), np.full((1, 3), 255, np.uint8), 0, 0.5, "cpu")
    camera = make_camera(128, 128, fx=120.0, fy=120.0, cx=62.3, cy=65.1)
    sigma = divisor  # px of the full image
    model.raw["scales"].fill_(float(np.log(sigma * 4 / 120)))
    full, small = (render(view, model, BLACK).image for view in (camera, smaller(camera, divisor)))
    expected = means_of_squares(full, divisor)

    def variance(image):
        x = torch.arange(image.shape[2]) + 0.5
        weights = image[0].sum(0)
        mean = (weights * x).sum() / weights.sum()
        return ((weights * (x - mean) ** 2).sum() / weights.sum()).item()

    wide = variance(expected)
    assert variance(small) == pytest.approx(wide, rel=0.02)
    naive = wide - camera.dilation / divisor**2 - (1 - 1 / divisor**2) / 12 + 0.3
    assert not variance(small) == pytest.approx(naive, rel=0.05), "0.3 square pixels whatever their size"
