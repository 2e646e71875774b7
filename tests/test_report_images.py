"""Renders, photos and error maps on the page of report.py."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest
from report_folder import COLOR, add_images, error_of, made, write_finished_run

from evaluation.report import images


@pytest.fixture
def run(tmp_path):
    return write_finished_run(tmp_path)


def decode(uri):
    return cv2.imdecode(np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)[
        ..., ::-1
    ]


def test_pictures_errors_and_captions(run):
    page = made(run)
    images = page.all("img")
    assert len(images) == 3 * (4 + 3)  # fewer of the training views
    order = [a["alt"] for a in images if a["alt"].startswith("render")]
    held_out = [f"render of {view:05d} (photo_{view}.jpg)" for view in (2, 0, 1, 3)]  # by PSNR, worst first
    training = [f"render of {view:05d} (photo_{view + 4}.jpg)" for view in (0, 4, 7)]
    assert order == held_out + training
    render, photo, error = (decode(a["src"]) for a in images[:3])  # of held-out view 2
    for picture, off in ((render, error_of("test", 2)), (photo, 0)):
        assert np.abs(picture.reshape(-1, 3).mean(0) - (np.array(COLOR) - off)).max() < 3
    level = round(error_of("test", 2) / 255 / 0.2 * 255)  # 41 / 255 is the largest error: 0.2 is full scale
    expected = cv2.applyColorMap(np.full((1, 1), level, np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
    assert np.abs(error.reshape(-1, 3).mean(0) - expected).max() < 6
    assert "0.2 or more. Error: difference" in page.text
    assert "00002 (photo_2.jpg) PSNR 22.00 dB · error 0.0588" in page.text


def test_only_training_views(run):
    for path in run.glob("test/ours_1000/*/*.png"):
        path.unlink()
    page = made(run)
    assert "There are no images of these views" in page.text
    assert len(page.all("img")) == 3 * 6


def test_views_are_evenly_spaced_by_psnr():
    numbers = {view: -float(view) for view in range(11)}
    assert images.choose_views(list(range(11)), numbers, 6) == [10, 8, 6, 4, 2, 0]
    assert images.choose_views(list(range(11)), {0: 1.0}, 6) == [0, 2, 4, 6, 8, 10]
    assert images.choose_views([3], {}, 6) == [3]
    assert images.choose_views([], {}, 6) == []


def test_the_newest_rendered_iteration_unless_another_is_asked_for(run):
    add_images(run, 400, counts=(1, 0))
    assert len(made(run).all("img")) == 21
    assert len(made(run, "--iteration", "400").all("img")) == 3


def test_large_pictures_shrink_and_small_ones_stay(run):
    assert (made(run).all("img")[0]["width"], made(run).all("img")[0]["height"]) == ("40", "30")
    add_images(run, 2000, counts=(1, 0), size=(1200, 900))
    assert (made(run).all("img")[0]["width"], made(run).all("img")[0]["height"]) == ("375", "500")
