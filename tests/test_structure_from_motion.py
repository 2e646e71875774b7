"""convert.py: photos become a posed scene that train.py reads."""

from __future__ import annotations

import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD

import convert
from scene import load_scene, structure_from_motion
from scene.camera import camera_to_world
from scene.structure_from_motion import Outcome, are_numbered, choose_matching, doubts, find_photos
from scene.structure_from_motion import last_words, progress_in
from scene.written_files import WrittenFiles
from scene_files import quantized_photo, write_photo

LINE = "I20261126 17:15:05.714590 140515865511616 feature_extraction.cc:270] "


def outcome(**changes):
    usual = {"photos": 20, "registered": 20, "points": 5000, "error": 0.5, "models": [20]}
    return Outcome(**usual | {"matching": "exhaustive", "left_out": []} | changes)


# What is decided and said


def test_photos_are_found_in_subfolders_too(tmp_path):
    for name in ("b/2.JPG", "a.png", "b/1.jpg"):
        write_photo(tmp_path / name.lower(), quantized_photo(0))
    (tmp_path / "b/2.jpg").rename(tmp_path / "b/2.JPG")
    (tmp_path / "notes.txt").touch()
    assert find_photos(tmp_path) == ["a.png", "b/1.jpg", "b/2.JPG"]


def test_too_few_photos_or_no_folder(tmp_path):
    write_photo(tmp_path / "input/a.png", quantized_photo(0))
    with pytest.raises(ValueError, match="input holds 1 photos .*; at least 3 are needed"):
        find_photos(tmp_path / "input")
    with pytest.raises(FileNotFoundError, match="photos are expected in .*nowhere"):
        find_photos(tmp_path / "nowhere")


def write_located(path, located):
    exif = Image.Exif()
    if located:
        exif.get_ifd(IFD.GPSInfo).update(
            {GPS.GPSLatitude: (1.0, 2.0, 3.0), GPS.GPSLongitude: (4.0, 5.0, 6.0)}
        )
    Image.new("RGB", (8, 8)).save(path, exif=exif)


def test_matching_is_chosen_by_the_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(structure_from_motion, "MOST_EXHAUSTIVE", 2)
    names = [f"IMG_{number}.jpg" for number in (7, 8, 10)]
    for name in names:
        write_located(tmp_path / name, located=True)
    assert choose_matching(tmp_path, names[:2], False) == "exhaustive"
    assert choose_matching(tmp_path, names[:2], True) == "sequential", "frames of a video"
    assert choose_matching(tmp_path, names, False) == "spatial"
    write_located(tmp_path / names[0], located=False)
    assert choose_matching(tmp_path, names, False) == "sequential"
    shutil.copy(tmp_path / names[0], tmp_path / "other.jpg")
    assert choose_matching(tmp_path, [*names, "other.jpg"], False) == "exhaustive"
    assert are_numbered(["a/x_1.jpg", "a/x_20.jpg"]) and not are_numbered(["a/1.jpg", "b/2.jpg"])


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"models": [12, 8], "registered": 12, "left_out": ["x"] * 8},
            r"fell into 2 parts \(12, 8 photos\); the first is used",
        ),
        ({"registered": 12, "left_out": ["x"] * 8}, "8 of 20 photos have no place in the scene"),
        ({"points": 500}, "only 500 points"),
        ({"error": 2.345}, "off by 2.35 pixels on average"),
    ],
)
def test_doubtful_scenes_are_said_to_be(changes, warning):
    assert doubts(outcome()) == []
    assert any(re.search(warning, text) for text in doubts(outcome(**changes)))


def test_progress_is_read_from_the_log(tmp_path):
    log = tmp_path / "colmap.log"
    log.write_text(f"{LINE}Processed file [23/23]\n")
    start = log.stat().st_size
    assert progress_in(log, 0, 5) == (23, 23) and progress_in(log, start, 5) == (0, 5)
    with open(log, "a") as file:
        file.write(f"{LINE}Processing block [1/3, 2/3]\n{LINE}Registering image #20 (num_reg_frames=4)\n")
    assert progress_in(log, start, 9) == (5, 9)


def test_the_last_words_of_a_stage_that_failed(tmp_path):
    log = tmp_path / "colmap.log"
    log.write_text(f"{LINE}database is locked\n*** Aborted at 1795713290\nPC: @ 0x7f\n    @ 0x7f abort\n")
    assert last_words(log, 0) == "database is locked"


# What is refused


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "-s/--source_path"),
        (["-s", "x", "--camera", "FANCY"], "--camera: expected one of SIMPLE_PINHOLE, .*got 'FANCY'"),
        (["-s", "x", "--frames", "2"], "--frames: expected at least 3, got 2"),
        (["-s", "x", "--matching", "all"], "invalid choice: 'all'"),
    ],
)
def test_flags_that_make_no_sense(flags, message):
    with pytest.raises(ValueError, match=message):
        convert.parse(flags)


def test_3dgs_own_flags_are_known():
    options = convert.parse("-s x --no_gpu --camera OPENCV --resize --colmap_executable colmap".split())
    assert options.no_gpu and options.camera == "OPENCV"


def test_without_pycolmap_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(convert.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs pycolmap, which is not installed: pip install pycolmap"):
        convert.main(["-s", "x"])


# The whole way


WIDTH, HEIGHT, FOCAL, PHOTOS = 400, 300, 380.0, 9


def camera_pose(index):
    """Rotation (3, 3) and translation (3,), world to camera, of a camera that looks into the corner at the origin."""
    angle = np.radians(25 + 5 * index)
    center = np.array([3.2 * np.cos(angle), 3.2 * np.sin(angle), 1.2 + 0.15 * (index % 3)])
    forward = np.array([0.3, 0.3, 0.5]) - center
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0, 0, 1))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return rotation, -rotation @ center


def photo_of_a_corner(index):
    """Three walls of two units' side that meet in the origin, each with a texture of its own."""
    rotation, translation = camera_pose(index)
    intrinsics = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
    photo, texels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8), 512
    for wall, (along, across) in enumerate(((0, 1), (1, 2), (0, 2))):
        random = np.random.default_rng(wall)
        texture = np.zeros((texels, texels, 3))
        for cells in (8, 32, 128):  # detail of all sizes
            noise = random.uniform(0, 85, (cells, cells, 3)).astype(np.float32)
            texture += cv2.resize(noise, (texels, texels), interpolation=cv2.INTER_CUBIC)
        sides = np.eye(3)[[along, across]].T * (2 / texels)  # texel -> world
        homography = intrinsics @ np.column_stack([rotation @ sides, translation])
        warped = cv2.warpPerspective(texture.clip(0, 255).astype(np.uint8), homography, (WIDTH, HEIGHT))
        covers = cv2.warpPerspective(np.ones((texels, texels), np.uint8), homography, (WIDTH, HEIGHT))
        photo[covers > 0] = warped[covers > 0]
    return photo


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A scene of nine photos of a corner; the first is masked at its top."""
    pytest.importorskip("pycolmap")
    folder = tmp_path_factory.mktemp("photos")
    for index in range(PHOTOS):
        write_photo(folder / f"input/{index}.png", photo_of_a_corner(index))
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:40] = 0
    write_photo(folder / "input_masks/0.png.png", mask)
    convert.main(["-s", str(folder), "--features", "1500", "--single_camera", "--no_gpu", "--quiet"])
    return folder


def test_the_cameras_are_where_they_were(converted):
    """Up to a similarity, which no photo tells."""
    found = load_scene(converted, quiet=True)
    assert len(found.train) == PHOTOS and len(found.points) > 500
    centers = np.stack([camera_to_world(camera.world_to_camera)[:3, 3] for camera in found.train])
    expected = np.stack(
        [-rotation.T @ translation for rotation, translation in map(camera_pose, range(PHOTOS))]
    )
    centered, target = centers - centers.mean(0), expected - expected.mean(0)
    u, sizes, vt = np.linalg.svd(centered.T @ target)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (sizes * sign.diagonal()).sum() / (centered**2).sum()
    error = np.linalg.norm(scale * centered @ u @ sign @ vt - target, axis=1)
    assert error.max() < 0.02 * np.linalg.norm(target, axis=1).max()
    assert found.train[0].fx / found.train[0].width == pytest.approx(FOCAL / WIDTH, rel=0.05)


def test_what_is_reported_and_written(converted):
    report = json.loads((converted / "convert.json").read_text())
    assert (report["photos"], report["registered"], report["matching"]) == (PHOTOS, PHOTOS, "exhaustive")
    assert report["error"] < 1 and report["left_out"] == []
    full = cv2.imread(str(converted / "images/0.png")).shape
    for scale in (2, 4, 8):
        assert len(list((converted / f"images_{scale}").iterdir())) == PHOTOS
        smaller = cv2.imread(str(converted / f"images_{scale}/0.png"))
        assert smaller.shape[:2] == tuple(round(side / scale) for side in full[:2])
    first, second, *_ = load_scene(converted, quiet=True).train
    assert not first.mask[:30].any() and first.mask[60:].all(), "the mask went the way of its photo"
    assert second.mask is None


def test_the_same_command_finds_nothing_left_to_do(converted):
    def times():
        files = (path for path in converted.rglob("*") if path.is_file() and path.name != "convert.json")
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    convert.main(["-s", str(converted), "--features", "1500", "--single_camera", "--no_gpu", "--quiet"])
    assert times() == before


def test_photos_without_a_common_view_are_refused(tmp_path):
    pytest.importorskip("pycolmap")
    for index in range(3):
        write_photo(tmp_path / f"input/{index}.png", quantized_photo(index, 64, 48))
    with pytest.raises(ValueError, match="failed: .*no two photos see enough|failed: .+colmap.log"):
        convert.main(["-s", str(tmp_path), "--quiet", "--no_gpu"])


# What it did not write is not its to replace

FLAGS = ("--features", "1500", "--single_camera", "--no_gpu", "--quiet")


def photos_in(folder, count=3):
    for index in range(count):
        write_photo(folder / f"{index}.png", quantized_photo(index, 64, 48))


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def convert_refuses(folder, message, *flags):
    """convert.py ends before any work, and everything in the folder is as it was."""
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
        convert.main(["-s", str(folder), *FLAGS, *flags])
    assert contents(folder) == before


@pytest.mark.parametrize(
    "foreign",
    [
        "images/a.png",
        "images/sub/a.jpg",
        "masks/a.png",
        "sparse/0/images.bin",
        "images_2/a.png",
        "images_8/notes.txt",
    ],
)
def test_files_that_convert_did_not_write_are_not_replaced(tmp_path, foreign):
    pytest.importorskip("pycolmap")
    photos_in(tmp_path / "input")
    (tmp_path / foreign).parent.mkdir(parents=True)
    (tmp_path / foreign).write_bytes(b"mine")
    convert_refuses(
        tmp_path, f"{foreign} was not written by convert.py, which would replace it .*move it away"
    )


def test_photos_that_are_read_through_a_link_are_not_replaced(tmp_path):
    pytest.importorskip("pycolmap")
    photos_in(tmp_path / "whole/images")
    (tmp_path / "whole/input").symlink_to("images")
    convert_refuses(tmp_path / "whole", "input/0.png is a link into a folder that convert.py replaces")
    photos_in(tmp_path / "one/images")
    (tmp_path / "one/input").mkdir()
    for index in range(3):
        (tmp_path / f"one/input/{index}.png").symlink_to(tmp_path / f"one/images/{index}.png")
    convert_refuses(tmp_path / "one", "input/0.png is a link into a folder that convert.py replaces")
    photos_in(tmp_path / "back/input")
    (tmp_path / "back/images").symlink_to("input")
    convert_refuses(tmp_path / "back", "images was not written by convert.py")
    photos_in(tmp_path / "masks/input")
    (tmp_path / "masks/images_4").mkdir()
    (tmp_path / "masks/input_masks").symlink_to("images_4")
    convert_refuses(tmp_path / "masks", "input_masks is a link into a folder that convert.py replaces")


@pytest.mark.parametrize("work", ["database.db", "sparse/0/cameras.bin"])
def test_the_work_of_another_colmap_is_left_alone(tmp_path, work):
    pytest.importorskip("pycolmap")
    photos_in(tmp_path / "input")
    (tmp_path / "distorted" / work).parent.mkdir(parents=True)
    (tmp_path / "distorted" / work).write_bytes(b"theirs")
    convert_refuses(tmp_path, "distorted holds the work of another program; move it away")


def test_a_conversion_that_was_changed_by_hand_is_not_replaced(converted, tmp_path):
    folder = tmp_path / "scene"
    shutil.copytree(converted, folder)
    write_photo(folder / "images/0.png", quantized_photo(7))  # retouched
    (folder / "input/8.png").unlink()
    convert_refuses(folder, "images/0.png was not written by convert.py, .*1 such files")


def test_when_photos_change_the_whole_scene_does(converted, tmp_path):
    folder = tmp_path / "scene"
    shutil.copytree(converted, folder)
    for clutter in ("images/.DS_Store", "images_2/Thumbs.db"):
        (folder / clutter).write_bytes(b"not ours")
    (folder / "input/8.png").unlink()
    (folder / "input_masks/0.png.png").unlink()
    convert.main(["-s", str(folder), *FLAGS])
    found = load_scene(folder, quiet=True)
    names = sorted(camera.image_name for camera in found.train)
    assert names == [f"{index}.png" for index in range(PHOTOS - 1)]
    assert all(camera.mask is None for camera in found.train) and not (folder / "masks").exists()
    for place in ("images", "images_2", "images_4", "images_8"):
        assert sorted(path.name for path in (folder / place).glob("[0-9]*")) == names
    assert (
        (folder / "images/.DS_Store").read_bytes()
        == (folder / "images_2/Thumbs.db").read_bytes()
        == b"not ours"
    )
    assert json.loads((folder / "convert.json").read_text())["photos"] == PHOTOS - 1
    assert not (folder / "distorted/part").exists()


def test_all_stages_behind_one_that_is_repeated_are_repeated(tmp_path):
    photos_in(tmp_path / "input")
    photos = find_photos(tmp_path / "input")

    def pending(**choices):
        asked = structure_from_motion.what_is_asked(
            tmp_path, photos, structure_from_motion.Choices(**choices), "exhaustive"
        )
        return asked, [stage.name for stage in structure_from_motion.pending_stages(tmp_path, asked)]

    asked, every = pending()
    assert every == ["features", "matches", "cameras", "photos", "smaller"]
    (tmp_path / "distorted").mkdir()
    record = {"asked": asked, "stages": every}
    (tmp_path / "distorted/stages.json").write_text(json.dumps(record))
    written = WrittenFiles(tmp_path)
    for place in ("distorted/sparse", "images", "sparse/0", "images_2", "images_4", "images_8"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new/file").write_text(place)
        written.put(tmp_path / "new", place)
        (tmp_path / "new").rmdir()
    assert pending()[1] == [] and pending(gpu=False)[1] == []
    assert pending(camera="PINHOLE")[1] == pending(features=99)[1] == every
    (tmp_path / "images_4/file").unlink()
    assert pending()[1] == ["smaller"]
    (tmp_path / "sparse/0/file").unlink()
    assert pending()[1] == ["photos", "smaller"]
    write_photo(tmp_path / "input/1.png", quantized_photo(9, 64, 48))  # another photo of the same name
    assert pending()[1] == every


def test_hidden_files_are_no_photos(tmp_path):
    photos_in(tmp_path)
    (tmp_path / "._0.png").write_bytes(b"resource fork")
    assert find_photos(tmp_path) == ["0.png", "1.png", "2.png"]


def test_a_stage_that_was_killed_is_done_again(tmp_path):
    """Whatever was half-written then is known to be convert.py's."""
    photos_in(tmp_path / "input")
    photos_in(tmp_path / "distorted/part/images")
    (tmp_path / "distorted/colmap.log").touch()
    every = structure_from_motion.stages(3, "exhaustive")
    structure_from_motion.require_own_files(tmp_path, find_photos(tmp_path / "input"), every)


# Files on record


def test_only_what_is_on_record_and_unchanged_is_replaced(tmp_path):
    for name, text in (("new/a", "1"), ("new/b/c", "2"), ("place/mine", "3")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    WrittenFiles(tmp_path).put(tmp_path / "new", "place")
    written = WrittenFiles(tmp_path)  # as a later command reads it
    assert written.foreign(["place", "nowhere"]) == [tmp_path / "place/mine"] and written.is_whole("place")
    (tmp_path / "place/a").write_text("changed")
    assert written.foreign(["place"]) == [tmp_path / "place/a", tmp_path / "place/mine"]
    written.discard("place")
    assert sorted(path.name for path in (tmp_path / "place").iterdir()) == ["a", "mine"]
    assert not written.is_whole("place")


def test_a_move_that_is_interrupted_leaves_nothing_foreign(tmp_path, monkeypatch):
    for name in ("new/a", "new/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    moved, replace = [], os.replace

    def once(source, target):
        if str(target).endswith("b") and "place" in str(target):
            raise KeyboardInterrupt
        replace(source, target)
        moved.append(target)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(KeyboardInterrupt):
        WrittenFiles(tmp_path).put(tmp_path / "new", "place")
    assert WrittenFiles(tmp_path).foreign(["place"]) == [] and (tmp_path / "place/a").exists()


# Videos


@pytest.fixture
def filmed(tmp_path, monkeypatch):
    """A folder, a video, and `take`, which takes frames of one; what is a video does not matter here."""

    def extract(video, folder, count, report):
        paths = [folder / f"frame_{index:06d}.png" for index in range(count)]
        for path in paths:
            write_photo(path, quantized_photo(0, 8, 8))
        return paths

    monkeypatch.setattr("scene.video_frames.frame_count", lambda video: 99)
    monkeypatch.setattr("scene.video_frames.extract_frames", extract)
    video = tmp_path / "a.mp4"
    video.write_bytes(b"film")

    def take(video, count=3):
        convert.take_frames(tmp_path / "scene", video, count, quiet=True)
        return sorted(path.name for path in (tmp_path / "scene/input").iterdir())

    return tmp_path / "scene", video, take


def test_frames_are_taken_once(filmed):
    folder, video, take = filmed
    (folder / "input").mkdir(parents=True)
    (folder / "input/.DS_Store").touch()
    frames = take(video)
    assert frames == [".DS_Store", "frame_000000.png", "frame_000001.png", "frame_000002.png"]
    (folder / "input/frame_000000.png").write_bytes(b"retouched")
    assert take(video) == frames and (folder / "input/frame_000000.png").read_bytes() == b"retouched"


def test_another_video_or_number_of_frames_is_refused_while_the_first_ones_are_there(filmed):
    folder, video, take = filmed
    take(video)
    with pytest.raises(
        ValueError, match=r"a.mp4 --frames 5: .*input holds 3 frames of .*a.mp4 already; move"
    ):
        take(video, 5)
    other = video.with_name("b.mp4")
    other.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"b.mp4 .*holds 3 frames of .*a.mp4 already"):
        take(other)
    video.write_bytes(b"cut anew")
    with pytest.raises(ValueError, match="holds 3 frames of"):
        take(video)


def test_a_video_beside_photos_is_refused(filmed):
    folder, video, take = filmed
    photos_in(folder / "input")
    with pytest.raises(ValueError, match="input holds photos already"):
        take(video)


def test_a_video_that_is_not_there_is_an_error_even_if_its_frames_are(tmp_path):
    photos_in(tmp_path / "input")
    with pytest.raises(FileNotFoundError, match="video not found: .*none.mp4"):
        convert.take_frames(tmp_path, tmp_path / "none.mp4", 3, quiet=True)
