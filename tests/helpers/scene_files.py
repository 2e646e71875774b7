"""Small scenes on disk for tests: COLMAP models (binary and text) and Blender transforms, with photos."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

MODEL_NUMBERS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "OPENCV": 4, "EQUIRECTANGULAR": 17}
SIZE = (24, 16)  # width, height of the photos


@dataclass
class Model:
    """A COLMAP model as plain values; the defaults are four views that look at three points."""

    # camera id -> (model, width, height, parameters)
    cameras: dict = field(default_factory=lambda: {1: ("PINHOLE", *SIZE, (20.0, 21.0, 11.0, 8.5))})
    # (name, camera id, quaternion wxyz, translation)
    images: list = field(
        default_factory=lambda: [
            (f"view_{i}.png", 1, (0.8, 0.1 * i, -0.2, 0.3), (0.5 * i, -1.0, 4.0 + 0.25 * i))
            for i in (3, 0, 2, 1)
        ]
    )
    # (x, y, z, red, green, blue)
    points: list = field(
        default_factory=lambda: [
            (0.5, -1.25, 2.0, 255, 0, 3),
            (1e-3, 7.0, -4.5, 0, 17, 254),
            (0.0, 0.0, 9.0, 1, 2, 3),
        ]
    )


def quantized_photo(seed: int, width: int = SIZE[0], height: int = SIZE[1], channels: int = 3) -> np.ndarray:
    """(H, W, channels) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def write_photo(path: Path, image: np.ndarray) -> None:
    """Write RGB, RGBA or grey pixels, by OpenCV alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    stored = (
        cv2.cvtColor(image, order[image.shape[2]]) if image.ndim == 3 and image.shape[2] in order else image
    )
    assert cv2.imwrite(str(path), stored)


def write_video(path: Path, frames: list[np.ndarray]) -> Path:
    """Write (H, W, 3) frames of one size as Motion JPEG; returns the path."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def write_binary(folder: Path, model: Model) -> None:
    """cameras.bin, images.bin and points3D.bin; image i has i 2D points, point i a track of i + 1."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras = [struct.pack("<Q", len(model.cameras))]
    for camera_id, (name, width, height, params) in model.cameras.items():
        cameras.append(struct.pack("<iiQQ", camera_id, MODEL_NUMBERS.get(name, name), width, height))
        cameras.append(struct.pack(f"<{len(params)}d", *params))
    images = [struct.pack("<Q", len(model.images))]
    for index, (name, camera_id, quaternion, translation) in enumerate(model.images):
        images.append(struct.pack("<i7di", index + 1, *quaternion, *translation, camera_id))
        images.append(
            name.encode() + b"\0" + struct.pack("<Q", index) + struct.pack("<ddq", 1.5, 2.5, -1) * index
        )
    points = [struct.pack("<Q", len(model.points))]
    for index, (x, y, z, r, g, b) in enumerate(model.points):
        points.append(struct.pack("<Q3d3Bd", index + 1, x, y, z, r, g, b, 0.5))
        points.append(struct.pack("<Q", index + 1) + struct.pack("<ii", 1, index) * (index + 1))
    for part, chunks in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{part}.bin").write_bytes(b"".join(chunks))


def write_text(folder: Path, model: Model) -> None:
    """The same as text, with comments and an empty line of 2D points for the first image."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras = ["# Camera list"]
    for camera_id, (name, width, height, params) in model.cameras.items():
        cameras.append(f"{camera_id} {name} {width} {height} " + " ".join(map(repr, params)))
    images = ["# Image list", ""]
    for index, (name, camera_id, quaternion, translation) in enumerate(model.images):
        pose = " ".join(map(repr, (*quaternion, *translation)))
        images += [f"{index + 1} {pose} {camera_id} {name}", " ".join(["1.5 2.5 -1"] * index)]
    points = ["# 3D point list"]
    for index, (x, y, z, r, g, b) in enumerate(model.points):
        points.append(f"{index + 1} {x!r} {y!r} {z!r} {r} {g} {b} 0.5" + f" 1 {index}" * (index + 1))
    for part, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{part}.txt").write_text("\n".join(lines) + "\n")


def write_colmap_scene(source: Path, model: Model | None = None, text: bool = False) -> Path:
    """A scene folder with sparse/0 and a photo of SIZE for every image; gives `source`."""
    model = model or Model()
    (write_text if text else write_binary)(source / "sparse/0", model)
    for index, (name, *_) in enumerate(model.images):
        write_photo(source / "images" / name, quantized_photo(index))
    return source


def blender_pose(index: int) -> list[list[float]]:
    """A camera-to-world matrix in Blender's convention: rotated about z, then moved."""
    angle = 0.3 * index
    c, s = float(np.cos(angle)), float(np.sin(angle))
    return [[c, -s, 0.0, 1.0 + index], [s, c, 0.0, -2.0], [0.0, 0.0, 1.0, 4.0], [0.0, 0.0, 0.0, 1.0]]


def write_blender_scene(source: Path, train: int = 3, test: int = 2, angle: float = 0.7) -> Path:
    """transforms_train.json and transforms_test.json with RGBA photos of SIZE; gives `source`."""
    for split, count in (("train", train), ("test", test)):
        frames = [
            {"file_path": f"./{split}/r_{i}", "rotation": 0.1, "transform_matrix": blender_pose(i)}
            for i in range(count)
        ]
        for i in range(count):
            write_photo(source / split / f"r_{i}.png", quantized_photo(i, channels=4))
        (source / f"transforms_{split}.json").write_text(
            json.dumps({"camera_angle_x": angle, "frames": frames})
        )
    return source
