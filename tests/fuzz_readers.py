"""Feed readers with mutated files, guided by coverage: python tests/fuzz_readers.py [libFuzzer flags]

The first byte of an input chooses the reader, the rest is its file. A reader may answer ValueError or
OSError; everything else, too much memory and too much time are findings. Seeds are good files, and those in
tests/corpus, where a finding's input is kept once it is mended. Needs atheris.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE / "helpers")]

with atheris.instrument_imports(
    include=["scene", "utils.ply", "utils.splat_formats", "utils.sog", "viewer.sibr", "utils.run_folder",
             "utils.checkpoints", "utils.exposures", "plyfile", "gaussian_model"]
):  # fmt: skip
    import gaussian_model
    from scene import camera, colmap_binary, colmap_text, transforms
    from utils import checkpoints, files, ply, run_folder, splat_formats
    from viewer import sibr

LARGEST, SECONDS, MEGABYTES = 16_384, 10, 2500  # of an input, for it, for all
ALLOWED = (ValueError, OSError)


def of_file(read, suffix=""):
    """A target that finds its input in a file; in memory, if the system has such a place."""
    place = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    path = Path(place) / f"input{suffix}"

    def target(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return target


def request(data: bytes) -> None:
    position = 0

    def receive(size):
        nonlocal position
        if size > len(data) - position:
            raise ConnectionError("gone")
        position += size
        return data[position - size : position]

    sibr.read_request(receive)


def cfg_args(data: bytes) -> None:
    folder = Path(tempfile.gettempdir())
    path = folder / "cfg_args"
    path.write_bytes(data)
    run_folder.read_cfg_args(folder)


def transforms_file(data: bytes) -> None:
    folder = Path(tempfile.gettempdir()) / "fuzzed_scene"
    folder.mkdir(exist_ok=True)
    (folder / "transforms.json").write_bytes(data)
    transforms.read_one_file(folder, quiet=True)


READERS = {
    "cameras_bin": of_file(colmap_binary.read_cameras),
    "images_bin": of_file(colmap_binary.read_images),
    "points_bin": of_file(colmap_binary.read_points),
    "cameras_txt": of_file(colmap_text.read_cameras),
    "images_txt": of_file(colmap_text.read_images),
    "points_txt": of_file(colmap_text.read_points),
    "transforms": transforms_file,
    "points_ply": of_file(ply.read_point_cloud),
    "gaussians_ply": of_file(lambda path: gaussian_model.GaussianModel.load_ply(path, "cpu")),
    "checkpoint": of_file(checkpoints.load_checkpoint),
    "splat": of_file(splat_formats.read_splat),
    "sog": of_file(splat_formats.read_sog),
    "cfg_args": cfg_args,
    "cameras_json": of_file(lambda path: camera.cameras_of_entries(files.read_json(path, list), path)),
    "request": request,
}


def write_seeds(folder: Path) -> None:
    """One good input for every reader, into folder/seeds."""
    import json
    import struct

    import numpy as np
    import torch
    from scene_files import Model, blender_pose, write_binary, write_text

    write_binary(folder / "binary", Model())
    write_text(folder / "text", Model())
    places = np.random.default_rng(0).normal(size=(5, 3))
    model = gaussian_model.GaussianModel.from_points(
        places, np.full((5, 3), 90, np.uint8), 1, 0.3, torch.device("cpu")
    )
    model.save_ply(folder / "model.ply")
    record = {"iteration": 1, "active_sh_degree": 0, "training_views": 1, "seconds": 0, "settings": {}}
    record |= {"measures": {}, "history": {}}
    checkpoints.save_checkpoint(folder / "checkpoint", {"a": torch.zeros(3)}, record)
    frames = [{"file_path": f"{index}.png", "transform_matrix": blender_pose(index)} for index in range(3)]
    lens = {"fl_x": 20.0, "w": 24, "h": 16, "camera_model": "OPENCV", "k1": 0.1}
    asked = json.dumps(
        {"resolution_x": 8, "resolution_y": 8, "fov_x": 1, "fov_y": 1, "view_matrix": [1.0, 0] * 8}
    )
    entry = {"img_name": "a", "width": 4, "height": 4, "position": [0, 0, 0], "fx": 1, "fy": 1}
    entry["rotation"] = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    ply.write_point_cloud(folder / "points.ply", places, np.full((5, 3), 90, np.uint8))
    held = splats_of(model)
    for name in ("splat", "sog"):
        splat_formats.FORMATS[name].write(folder / f"model.{name}", held)
    inputs = {
        "cameras_bin": folder / "binary/cameras.bin", "images_bin": folder / "binary/images.bin",
        "points_bin": folder / "binary/points3D.bin", "cameras_txt": folder / "text/cameras.txt",
        "images_txt": folder / "text/images.txt", "points_txt": folder / "text/points3D.txt",
        "points_ply": folder / "points.ply", "gaussians_ply": folder / "model.ply",
        "checkpoint": folder / "checkpoint", "splat": folder / "model.splat", "sog": folder / "model.sog",
        "transforms": json.dumps(lens | {"frames": frames}), "cfg_args": "Namespace(a=1, b='c', d=(1, 2.5))",
        "cameras_json": json.dumps([entry]), "request": struct.pack("<I", len(asked)) + asked.encode(),
    }  # fmt: skip
    (folder / "seeds").mkdir()
    for place, name in enumerate(READERS):
        content = inputs[name].read_bytes() if isinstance(inputs[name], Path) else inputs[name]
        content = content.encode() if isinstance(content, str) else content
        (folder / "seeds" / name).write_bytes(bytes([place]) + content)


def splats_of(model):
    raw = {name: values.numpy() for name, values in model.raw.items()}
    return splat_formats.Splats(**raw | {"opacities": raw["opacities"][:, 0], "sh_dc": raw["sh_dc"][:, 0]})


def main() -> None:
    readers = list(READERS.values())

    def one(data: bytes) -> None:
        if not data:
            return
        with contextlib.suppress(*ALLOWED):
            readers[data[0] % len(readers)](data[1:])

    with tempfile.TemporaryDirectory() as place:
        write_seeds(Path(place))
        found = Path(place) / "found"
        found.mkdir()
        bounds = [f"-max_len={LARGEST}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", "-verbosity=0"]
        folders = [found, Path(place) / "seeds", *filter(Path.is_dir, [HERE / "corpus"])]
        atheris.Setup([sys.argv[0], *bounds, *sys.argv[1:], *map(str, folders)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
