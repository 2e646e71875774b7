"""utils/losses.py against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from utils.losses import l1, psnr


def test_l1_is_the_mean_absolute_difference():
    image = torch.zeros(3, 2, 2)
    gt_image = torch.zeros(3, 2, 2)
    gt_image[0, 0, 0], image[2, 1, 1] = 0.6, 0.3
    assert l1(image, gt_image).item() == pytest.approx(0.9 / 12)


def test_psnr_of_a_known_error():
    gt_image = torch.full((3, 4, 5), 0.5)
    assert psnr(gt_image + 0.1, gt_image).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(gt_image - 0.01, gt_image).item() == pytest.approx(40.0, abs=1e-4)


def test_psnr_takes_the_error_over_all_channels_of_a_picture():
    gt_image = torch.zeros(3, 4, 5)
    image = gt_image.clone()
    image[1] = 0.3  # MSE 0.09 / 3; a mean of per-channel values would be infinite
    assert psnr(image, gt_image).item() == pytest.approx(-10 * math.log10(0.03), abs=1e-4)


def test_psnr_of_a_batch_is_one_value_per_picture():
    gt_image = torch.zeros(2, 3, 4, 5)
    image = torch.stack([torch.full((3, 4, 5), 0.1), torch.full((3, 4, 5), 0.01)])
    assert psnr(image, gt_image).tolist() == pytest.approx([20.0, 40.0], abs=1e-4)


def test_psnr_of_equal_pictures_is_infinite():
    assert psnr(torch.ones(3, 2, 2), torch.ones(3, 2, 2)).item() == math.inf


@pytest.mark.parametrize("measure", [l1, psnr])
def test_gradients_flow(measure):
    image = torch.full((3, 4, 4), 0.25, requires_grad=True)
    measure(image, torch.zeros(3, 4, 4)).backward()
    assert image.grad.isfinite().all() and (image.grad != 0).all()
