"""Photos out of a video: the sharpest frames, evenly spread over the camera's motion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from utils.images import write_png

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
WIDTH_OF_LOOKING = 320  # pixels: enough to see motion and blur, and fast
TRACKED_CORNERS = 200
FEWEST_TRACKED = 8  # below this the motion is not known, and the picture's width is taken for it

Report = Callable[[int], object]  # told how many frames are done


def extract_frames(video: Path, folder: Path, count: int, report: Report = lambda done: None) -> list[Path]:
    """Write `count` frames (or all, if there are fewer) of `video` as PNGs into `folder`; their paths.

    The camera's path through the video is cut into `count` pieces of equal motion in the picture, and each gives its
    sharpest frame: standing still costs no frames, and blur is left out. ValueError if it is not a video.
    """
    sharpness, motion = look_through(video, report)
    chosen = choose_frames(sharpness, motion, count)
    wanted, written = set(chosen), []
    for index, frame in enumerate(_frames(video)):
        if index in wanted:
            path = folder / f"frame_{index:06d}.png"
            write_png(path, np.ascontiguousarray(frame[..., ::-1]))
            written.append(path)
    return written


def look_through(video: Path, report: Report = lambda done: None) -> tuple[np.ndarray, np.ndarray]:
    """Sharpness (F,) of every frame, and motion (F,) since the one before, in widths of the picture."""
    sharpness, motion, before = [], [], None
    for index, frame in enumerate(_frames(video)):
        height = max(1, round(WIDTH_OF_LOOKING * frame.shape[0] / frame.shape[1]))
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        sharpness.append(cv2.Laplacian(gray, cv2.CV_32F).var())
        small = cv2.resize(gray, (WIDTH_OF_LOOKING, height), interpolation=cv2.INTER_AREA)
        motion.append(0.0 if before is None else image_motion(before, small))
        before = small
        report(index + 1)
    return np.array(sharpness), np.array(motion)


def image_motion(before: np.ndarray, after: np.ndarray) -> float:
    """How far the corners of one small grey picture have moved in the next: median, in widths."""
    corners = cv2.goodFeaturesToTrack(before, TRACKED_CORNERS, 0.01, 5)
    if corners is None:
        return 0.0  # nothing to see: no motion either
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None)
    found = found[:, 0] == 1
    if found.sum() < FEWEST_TRACKED:
        return 1.0
    return float(np.median(np.linalg.norm((moved - corners)[found, 0], axis=1))) / before.shape[1]


def choose_frames(sharpness: np.ndarray, motion: np.ndarray, count: int) -> list[int]:
    """The sharpest frame of each of `count` pieces of equal motion; fewer where a piece has no frame."""
    if count >= len(sharpness):
        return list(range(len(sharpness)))
    way = np.cumsum(motion)
    if way[-1] == 0:  # nothing moves: pieces of equal time
        way = np.arange(len(motion), dtype=float)
    piece = np.minimum((way / way[-1] * count).astype(int), count - 1)
    members = (np.flatnonzero(piece == number) for number in range(count))
    return [int(frames[np.argmax(sharpness[frames])]) for frames in members if len(frames)]


def frame_count(video: Path) -> int:
    """As the file's header has it; 0 if it does not say."""
    return max(0, int(_open(video).get(cv2.CAP_PROP_FRAME_COUNT)))


def _open(video: Path) -> cv2.VideoCapture:
    if not video.is_file():
        raise FileNotFoundError(f"video not found: {video}")
    capture = cv2.VideoCapture(str(video))
    if not capture.isOpened():
        raise ValueError(f"{video} is not a video that OpenCV reads, or is damaged")
    return capture


def _frames(video: Path):
    """Every frame, (H, W, 3) uint8 BGR, turned upright as the video says."""
    capture, seen = _open(video), 0
    while True:
        there, frame = capture.read()
        if not there:
            break
        seen += 1
        yield frame
    capture.release()
    if not seen:
        raise ValueError(f"{video} holds no frame that can be decoded")
