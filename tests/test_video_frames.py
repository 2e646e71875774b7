"""Frames of a video: sharp ones, evenly spread over the camera's motion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from scene.video_frames import choose_frames, extract_frames, frame_count, look_through
from scene_files import write_video
from utils.images import read_image

WIDTH, HEIGHT, TRAVEL = 320, 180, 600


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A video that pans over a wall: slowly at first, then fast, then it stands still.

    Every third frame blurred.
    """
    wall = np.random.default_rng(0).integers(0, 256, (HEIGHT // 6, (WIDTH + TRAVEL) // 6, 3), dtype=np.uint8)
    wall = cv2.resize(wall, (WIDTH + TRAVEL, HEIGHT), interpolation=cv2.INTER_CUBIC)
    places = np.concatenate([np.arange(0, 100, 4), np.arange(100, TRAVEL, 12), np.full(30, TRAVEL - 1)])
    frames = [wall[:, place : place + WIDTH] for place in places]
    frames[::3] = [cv2.GaussianBlur(frame, (0, 0), 3) for frame in frames[::3]]
    return write_video(tmp_path_factory.mktemp("film") / "pan.avi", frames), places


def test_motion_and_sharpness_are_seen(recorded):
    path, places = recorded
    seen = []
    sharpness, motion = look_through(path, seen.append)
    assert seen == list(range(1, len(places) + 1)) and frame_count(path) == len(places)
    blurred = np.arange(len(places)) % 3 == 0
    assert sharpness[blurred].max() < sharpness[~blurred].min()
    np.testing.assert_allclose(motion[1:] * WIDTH, np.diff(places), atol=1.5)


def test_frames_are_sharp_and_evenly_spread(recorded, tmp_path):
    path, places = recorded
    written = extract_frames(path, tmp_path, 12)
    chosen = [int(file.stem.removeprefix("frame_")) for file in written]
    assert len(chosen) == 12 and all(index % 3 for index in chosen)
    steps = np.diff(places[chosen])
    assert steps.min() > 10 and steps.max() < 95, "a twelfth of the way is 50"
    assert read_image(written[0]).shape == (HEIGHT, WIDTH, 3)


def test_more_frames_than_there_are_is_all_of_them(recorded, tmp_path):
    path, places = recorded
    assert len(extract_frames(path, tmp_path, 1000)) == len(places)


def test_a_camera_that_stands_still_gives_frames_by_time():
    sharpness = np.array([1.0, 3, 2, 5, 4, 9])
    assert choose_frames(sharpness, np.zeros(6), 3) == [1, 3, 5]


@pytest.mark.parametrize("content", [b"", b"not a video" * 100])
def test_a_file_that_is_no_video_is_named(tmp_path, content):
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="film.mp4 is not a video|holds no frame"):
        extract_frames(path, tmp_path / "frames", 5)
    with pytest.raises(FileNotFoundError, match="video not found: .*none.mp4"):
        extract_frames(tmp_path / "none.mp4", tmp_path, 5)
