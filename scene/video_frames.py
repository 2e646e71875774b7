"""Extract photos from a video: its sharpest frames, evenly spread over the motion of the camera."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from utils.images import write_png

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
# Pixels. Motion is measured in frames of this width, which is enough and fast.
MOTION_WIDTH = 320
TRACKED_CORNERS = 200
# With fewer tracked corners the motion is unknown, and the width of the frame is taken for it.
FEWEST_TRACKED = 8

Report = Callable[[int], object]  # called with the number of frames that are done


def extract_frames(video: Path, folder: Path, count: int, report: Report = lambda done: None) -> list[Path]:
    """Write `count` frames of `video` as PNGs into `folder`, all if there are fewer. Return their paths.

    The video is cut into `count` pieces of equal motion in the image. Each piece gives its sharpest frame. A
    camera that stands still thus takes no extra frames, and blurred frames are avoided. Raise
    FileNotFoundError if there is no file, ValueError if it is not a video.
    """
    sharpness, motion = look_through(video, report)
    wanted, written = set(choose_frames(sharpness, motion, count)), []
    for index, frame in enumerate(_frames(video)):
        if index in wanted:
            path = folder / f"frame_{index:06d}.png"
            write_png(path, np.ascontiguousarray(frame[..., ::-1]))
            written.append(path)
    return written


def look_through(video: Path, report: Report = lambda done: None) -> tuple[np.ndarray, np.ndarray]:
    """Return sharpness (F,) and motion (F,) of every frame.

    Motion is that since the frame before, as a share of the width of the frame.
    """
    sharpness, motion, before = [], [], None
    for index, frame in enumerate(_frames(video)):
        height = max(1, round(MOTION_WIDTH * frame.shape[0] / frame.shape[1]))
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        sharpness.append(cv2.Laplacian(gray, cv2.CV_32F).var())
        small = cv2.resize(gray, (MOTION_WIDTH, height), interpolation=cv2.INTER_AREA)
        motion.append(0.0 if before is None else image_motion(before, small))
        before = small
        report(index + 1)
    return np.array(sharpness), np.array(motion)


def image_motion(before: np.ndarray, after: np.ndarray) -> float:
    """Return the median motion of corners between two small gray images, as a share of their width."""
    corners = cv2.goodFeaturesToTrack(before, TRACKED_CORNERS, 0.01, 5)
    if corners is None:
        return 0.0  # a blank image shows no motion
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None)
    found = found[:, 0] == 1
    if found.sum() < FEWEST_TRACKED:
        return 1.0
    return float(np.median(np.linalg.norm((moved - corners)[found, 0], axis=1))) / before.shape[1]


def choose_frames(sharpness: np.ndarray, motion: np.ndarray, count: int) -> list[int]:
    """Return the sharpest frame of each of `count` pieces of equal motion.

    A piece may hold no frame, so the result may be shorter.
    """
    if count >= len(sharpness):
        return list(range(len(sharpness)))
    path = np.cumsum(motion)
    # Where nothing moves, the pieces have equal time.
    if path[-1] == 0:
        path = np.arange(len(motion), dtype=float)
    piece = np.minimum((path / path[-1] * count).astype(int), count - 1)
    members = (np.flatnonzero(piece == number) for number in range(count))
    return [int(frames[np.argmax(sharpness[frames])]) for frames in members if len(frames)]


def frame_count(video: Path) -> int:
    """Return the number of frames by the header of the file, 0 if it does not say."""
    return max(0, int(_open(video).get(cv2.CAP_PROP_FRAME_COUNT)))


def _open(video: Path) -> cv2.VideoCapture:
    """Open a video. Raise FileNotFoundError or ValueError if that fails."""
    if not video.is_file():
        raise FileNotFoundError(f"video not found: {video}")
    capture = cv2.VideoCapture(str(video))
    if not capture.isOpened():
        raise ValueError(f"{video} is not a video that OpenCV reads, or is damaged")
    return capture


def _frames(video: Path):
    """Yield every frame as (H, W, 3) uint8 BGR, turned upright as the video says.

    Raise FileNotFoundError or ValueError if there is none.
    """
    capture, seen = _open(video), 0
    while True:
        succeeded, frame = capture.read()
        if not succeeded:
            break
        seen += 1
        yield frame
    capture.release()
    if not seen:
        raise ValueError(f"{video} holds no frame that can be decoded")
