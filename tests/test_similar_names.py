"""A missing file's error names what is there and nearly the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scene import load_scene
from scene_files import Model, blender_pose, write_colmap_scene, write_photo
from scene_files import quantized_photo, write_binary
from utils.ply import write_point_cloud
from utils.similar_names import find_similar, hint


@pytest.mark.parametrize(
    "missing", ["a/IMG_1.jpg", "a/img_1.JPG", "A/img_1.png", "a\\IMG_1.JPG", "A/IMG_1", "a/img_1.jpeg"]
)
def test_what_differs_in_case_suffix_or_slashes_is_found(tmp_path, missing):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/IMG_1.JPG").touch()
    assert hint(tmp_path / missing) == f"; there is {tmp_path}/a/IMG_1.JPG"


def test_nothing_is_made_up(tmp_path):
    (tmp_path / "a.jpg").touch()
    for missing in ("b.jpg", "none/a.jpg", "a.jpg/b.jpg", "a.jp", "a1.jpg"):
        found = find_similar(tmp_path / missing)
        assert found is None or missing == "a.jp"
    assert hint("/no/such/folder/at/all") == ""


@pytest.mark.parametrize("change", [str.upper, lambda name: name.replace(".png", ".jpg")])
def test_a_photo_of_another_case_or_suffix(tmp_path, capsys, change):
    source = write_colmap_scene(tmp_path)
    for photo in (source / "images").iterdir():
        photo.rename(photo.with_name(change(photo.name)))
    named = f"image not found: .*view_0.png .*; there is .*/images/{change('view_0.png')}"
    with pytest.raises(FileNotFoundError, match=named):
        load_scene(source, quiet=True)
    with pytest.raises(FileNotFoundError, match=f"; there is {source}/images"):
        load_scene(source, images="Images", quiet=True)
    with pytest.raises(FileNotFoundError, match=f"scene folder not found: .*; there is {source}"):
        load_scene(source.with_name(source.name.upper()), quiet=True)


def test_a_model_made_on_windows(tmp_path):
    """COLMAP writes the separator of the system it runs on."""
    source = write_colmap_scene(tmp_path)
    model = Model()
    model.images = [(f"left\\{name}", *rest) for name, *rest in model.images]
    write_binary(source / "sparse/0", model)
    for photo in [*(source / "images").iterdir()]:
        (source / "images/left").mkdir(exist_ok=True)
        photo.rename(source / "images/left" / photo.name)
    write_photo(source / "masks/left/view_0.png", quantized_photo(0, channels=1)[..., 0] // 128 * 255)
    train = load_scene(source, quiet=True).train
    assert train[0].image_name == "left/view_0.png" and train[0].mask is not None


def test_frames_and_points_that_are_missing(tmp_path, capsys):
    frames = [
        {"file_path": f"images/{index}.png", "transform_matrix": blender_pose(index)} for index in range(3)
    ]
    content = {"fl_x": 20.0, "frames": frames, "ply_file_path": "sparse_PC.ply"}
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "transforms.json").write_text(json.dumps(content), encoding=encoding)
        for name in ("images/0.png", "images/1.png", "images/2.PNG"):
            write_photo(tmp_path / name, quantized_photo(0))
        (tmp_path / "Sparse_pc.ply").touch()
        assert len(load_scene(tmp_path).train) == 2
        said = capsys.readouterr().out
        assert f"left out: images/2.png; there is {tmp_path}/images/2.PNG\n" in said
        assert f"names are missing: {tmp_path}/sparse_PC.ply; there is {tmp_path}/Sparse_pc.ply\n" in said


def test_names_of_windows_in_a_transforms_json(tmp_path, capsys):
    frames = [
        {
            "file_path": f"images\\{index}.png",
            "mask_path": f"holes\\{index}.png",
            "depth_file_path": f"depth\\{index}.png",
            "transform_matrix": blender_pose(index),
        }
        for index in range(3)
    ]
    for index in range(3):
        write_photo(tmp_path / f"images/{index}.png", quantized_photo(index))
        write_photo(tmp_path / f"holes/{index}.png", quantized_photo(7, channels=1)[..., 0] // 128 * 255)
    write_point_cloud(tmp_path / "points/a.ply", np.eye(3), np.eye(3, dtype=np.uint8))
    content = {"fl_x": 20.0, "frames": frames, "ply_file_path": "points\\a.ply"}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    scene = load_scene(tmp_path)
    assert len(scene.points) == 3 and all(camera.mask is not None for camera in scene.train)
    assert "The depth maps of 3 frames in " in capsys.readouterr().out
    (tmp_path / "holes/1.png").rename(tmp_path / "holes/1.PNG")
    with pytest.raises(FileNotFoundError, match="image not found: .*holes/1.png; there is .*holes/1.PNG"):
        load_scene(tmp_path)
