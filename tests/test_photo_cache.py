"""Photos that do not fit into memory: read again when they are needed, with the same result."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from scene_files import Model, write_photo, write_text
from commands import FLAGS, fails
from tiny_scene import HEIGHT, VIEWS, WIDTH, write_tiny_scene

import train
from scene import Camera, load_scene
from scene.photo_cache import Cameras, PhotoCache, pixel_bytes

PHOTO = 3 * WIDTH * HEIGHT  # bytes


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_tiny_scene(tmp_path_factory.mktemp("scene"))


def camera(number, side=10):
    image = torch.full((side, side, 3), number, dtype=torch.uint8)
    return Camera(f"{number}.png", side, side, 9.0, 9.0, 5.0, 5.0, np.eye(4), image)


def counting():
    read = []
    return read, lambda number: read.append(number) or camera(number)


def test_a_shelf_holds_what_it_has_room_for_and_gives_up_what_is_longest_unused():
    read, reader = counting()
    cache = PhotoCache(reader, room=2 * 300)
    assert [cache.get(number).image_name for number in (0, 1, 0, 2, 0, 1)] == [
        "0.png", "1.png", "0.png", "2.png", "0.png", "1.png"
    ]  # fmt: skip
    assert read == [0, 1, 2, 1]  # 1 was the longest unused when 2 came


def test_one_photo_is_held_whatever_its_size():
    read, reader = counting()
    cache = PhotoCache(reader, room=0)
    assert cache.get(3) is cache.get(3) and read == [3]


def test_what_is_expected_is_read_once():
    read, reader = counting()
    cache = PhotoCache(reader, room=1e9)
    cache.expect([4, 5])
    cache.expect([5, 4])
    assert (
        cache.get(5).image_name == "5.png" and cache.get(4).image_name == "4.png" and sorted(read) == [4, 5]
    )


def test_what_cannot_be_read_ahead_is_said_when_it_is_asked_for():
    def broken(number):
        raise OSError("gone")

    cache = PhotoCache(broken, room=1e9)
    cache.expect([0])
    with pytest.raises(OSError, match="gone"):
        cache.get(0)


def test_cameras_are_a_sequence():
    cameras = Cameras([camera(number) for number in range(4)])
    assert [entry.image_name for entry in cameras[1:3]] == ["1.png", "2.png"] and len(cameras + cameras) == 8
    assert cameras[-1].image_name == "3.png" and [entry.image_name for entry in cameras][0] == "0.png"
    assert not Cameras([]) and pixel_bytes(cameras[0]) == 300


def test_photos_without_room_are_the_same_photos(scene, capsys):
    near, far = load_scene(scene, eval=True), load_scene(scene, eval=True, max_memory_gb=1e-6)
    said = capsys.readouterr().out
    assert f"{VIEWS} photos take 0.0 GB" in said and "--max_memory_gb" in said
    assert (
        all(without_images.image is None for without_images in far.train.without_images)
        and near.extent == far.extent
    )
    for one, other in zip(near.train + near.test, far.train + far.test, strict=True):
        assert one.image_name == other.image_name and torch.equal(one.image, other.image)
    assert near.median_pixels == far.median_pixels == WIDTH * HEIGHT


def test_smaller_views_are_made_once_and_are_the_same_where_photos_are_read_again(scene, monkeypatch):
    monkeypatch.setattr("scene.smaller.SMALLEST_SIDE", 4)
    near, far = (load_scene(scene, max_memory_gb=room, quiet=True).train for room in (0, 1e-6))
    for divisor in (4, 2):
        small = near.at_divisor(0, divisor)
        assert small.divisor == divisor and near.at_divisor(0, divisor) is small
        assert torch.equal(small.image, far.at_divisor(0, divisor).image)
    assert near.at_divisor(0, 1) is near[0] and near.at_divisor(0, 2) is not small, "the others are let go"


def test_two_fifths_of_the_memory_are_for_photos(scene):
    for share, kept in ((1.01, True), (0.99, False)):
        cameras = load_scene(
            scene, max_memory_gb=share * VIEWS * PHOTO / 0.4e9, quiet=True
        ).train.without_images
        assert all((without_images.image is not None) == kept for without_images in cameras)


def test_training_comes_to_the_same_bytes(run_here, scene, tmp_path):
    for name, more in (("near", ()), ("far", ("--max_memory_gb", "1e-6"))):
        process = run_here("train.py", "-s", scene, "-m", tmp_path / name, "--eval", *FLAGS, *more)
        assert process.returncode == 0, process.stderr
    plys = [next((tmp_path / name).rglob("iteration_12/*.ply")).read_bytes() for name in ("near", "far")]
    assert plys[0] == plys[1]
    assert run_here("render.py", "-m", tmp_path / "far", "--quiet").returncode == 0
    assert len(list((tmp_path / "far").rglob("renders/*.png"))) == VIEWS


def test_a_damaged_photo_is_found_before_training_though_it_is_not_kept(run_here, tmp_path):
    scene = write_tiny_scene(tmp_path / "scene")
    path = scene / "images" / "view_7.png"
    path.write_bytes(path.read_bytes()[:-300])
    process = run_here("train.py", "-s", scene, "-m", tmp_path / "run", "--max_memory_gb", "1e-6")
    assert fails(process, "view_7.png") and not (tmp_path / "run").exists()


@pytest.mark.long
def test_two_thousand_photos_of_four_megapixels_train_within_3_gib(tmp_path):
    width, height, views, kinds = 2464, 1632, 2000, 5
    noise = np.random.default_rng(0)
    model = Model(cameras={1: ("PINHOLE", width, height, (2000.0, 2000.0, width / 2, height / 2))}, images=[])
    for kind in range(kinds):
        smooth = noise.integers(0, 256, (17, 25, 3), dtype=np.uint8).repeat(96, 0).repeat(99, 1)
        write_photo(tmp_path / f"{kind}.jpg", np.ascontiguousarray(smooth[:height, :width]))
    (tmp_path / "scene" / "images").mkdir(parents=True)
    for index in range(views):
        angle = math.pi * index / views
        quaternion = (math.cos(angle / 2), 0.0, math.sin(angle / 2), 0.0)
        model.images.append((f"{index:04d}.jpg", 1, quaternion, (0.0, 0.0, 4.0)))
        os.link(tmp_path / f"{index % kinds}.jpg", tmp_path / "scene" / "images" / f"{index:04d}.jpg")
    model.points = [(*noise.normal(size=3).tolist(), 200, 100, 50) for _ in range(2000)]
    write_text(tmp_path / "scene" / "sparse" / "0", model)
    flags = ("-r", "1", "--iterations", "30", "--max_memory_gb", "3", "--quiet", "--disable_viewer")
    command = [sys.executable, train.__file__, "-s", tmp_path / "scene", "-m", tmp_path / "run", *flags]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run(command, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert before <= peak < 3 * 2**20  # KiB
