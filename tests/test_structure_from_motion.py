"""convert.py: photos become a posed scene that train.py reads."""

from __future__ import annotations

import json
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
from scene.outcome import Outcome, doubts
from scene.stage_process import last_words, progress_in
from scene.photo_list import find_photos, names_for_colmap, show_to_colmap
from scene.structure_from_motion import are_numbered, choose_matching
from scene_files import quantized_photo, write_photo
from utils.images import read_image

LINE = "I20261126 17:15:05.714590 140515865511616 feature_extraction.cc:270] "


def outcome(**changes):
    usual = {"photos": 20, "registered": 20, "points": 5000, "error": 0.5, "models": [20]}
    return Outcome(**usual | {"matching": "exhaustive", "left_out": []} | changes)


# What is decided and said


def test_photos_are_found_in_subfolders_too(tmp_path):
    for name in ("b/2.JPG", "a.png", "b/1.jpg"):
        write_photo(tmp_path / name.lower(), quantized_photo(0))
    (tmp_path / "b/2.jpg").rename(tmp_path / "b/2.JPG")
    assert find_photos(tmp_path).names == ["a.png", "b/1.jpg", "b/2.JPG"]
    assert find_photos(tmp_path).about_others() == ""


def test_what_is_not_read_is_told_by_kind(tmp_path):
    """Hidden files, such as those of macOS on a USB stick, are not worth a word."""
    for name in ("a.png", "b/1.jpg", "b/2.jpg", "c.webp"):
        write_photo(tmp_path / name, quantized_photo(0))
    for name in ("1.HEIC", "b/2.heic", "1.JPG_original", "2.bak", "raw.DNG", "README"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("._a.png", ".DS_Store", "Thumbs.db", ".hidden/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_photos(tmp_path)
    assert found.names == ["a.png", "b/1.jpg", "b/2.jpg", "c.webp"]
    assert found.about_others().startswith(f"Not read in {tmp_path}: 2 .heic, ")
    for kind in ("1 .jpg_original", "1 .bak", "1 .dng", "1 README", "(convert them to JPEG, or ", "(develop"):
        assert kind in found.about_others()


def test_names_for_colmap_are_unique(tmp_path):
    names = ["a.png", "a.webp", "a.webp.png", "a.avif"]
    for name in names:
        (tmp_path / name).write_bytes(b"\x89PNG" if name.endswith("png") else b"RIFF")
    seen = names_for_colmap(tmp_path, names)
    assert list(seen.values()) == ["a.png", "a.webp_.png", "a.webp.png", "a.avif.png"]


def test_links_that_lead_to_no_file_are_told(tmp_path):
    for index in range(3):
        write_photo(tmp_path / f"input/{index}.png", quantized_photo(index))
    (tmp_path / "input/left").symlink_to(tmp_path)
    (tmp_path / "input/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "input/walk.mp4").touch()
    found = find_photos(tmp_path / "input")
    assert found.names == ["0.png", "1.png", "2.png"]
    for kind in ("1 link gone.png", "1 link left", "1 .mp4", "(a video is given by --video)"):
        assert kind in found.about_others()


def test_photos_of_phones_alone(tmp_path):
    for index in range(8):
        (tmp_path / f"IMG_{index}.HEIC").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"holds 0 photos .* are needed. Not read in .*: 8 .heic \(convert them"
    ):
        find_photos(tmp_path)


def test_what_colmap_cannot_read_is_shown_to_it_as_png(tmp_path):
    folder, names = tmp_path / "input", ("a.jpg", "b.png", "c.tif", "d.bmp", "l/a.webp", "b.webp")
    for index, name in enumerate(names):
        write_photo(folder / name, quantized_photo(index))
    (folder / "wrong.jpg").write_bytes((folder / "b.webp").read_bytes())  # as it is found on the web
    exact = cv2.imencode(".webp", quantized_photo(4)[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])[1]
    (folder / "l/a.webp").write_bytes(exact.tobytes())
    shown = names_for_colmap(folder, [*names, "wrong.jpg"])
    assert shown == {name: name for name in names[:4]} | {
        "l/a.webp": "l/a.png", "b.webp": "b.webp.png", "wrong.jpg": "wrong.png",
    }  # fmt: skip
    place = show_to_colmap(folder, shown, tmp_path / "shown")
    assert place == tmp_path / "shown" and (place / "a.jpg").resolve() == folder / "a.jpg"
    assert np.array_equal(read_image(place / "l/a.png"), quantized_photo(4))
    assert np.array_equal(read_image(place / "wrong.png"), read_image(folder / "b.webp"))
    shutil.rmtree(place)
    assert (folder / "a.jpg").is_file()
    assert show_to_colmap(folder, {name: name for name in names[:4]}, tmp_path / "shown") == folder


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
        (
            {"registered": 12, "left_out": list("abcdefgh")},
            "8 of 20 photos .* the scene: a, b, c, d, e, ...$",
        ),
        ({"registered": 19, "left_out": ["l/x.png"]}, "1 of 20 photos have no place in the scene: l/x.png$"),
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
    """Rotation (3, 3) and translation (3,), world to camera, of a camera that looks into the corner."""
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
    """A scene of nine photos of a corner; the first is masked at its top, by a mask and by its alpha.

    The last is a WebP, which COLMAP does not read, and there are files beside that are no photos.
    """
    pytest.importorskip("pycolmap")
    folder = tmp_path_factory.mktemp("photos")
    for index in range(PHOTOS - 1):
        write_photo(folder / f"input/{index}.png", photo_of_a_corner(index))
    write_photo(folder / f"input/{PHOTOS - 1}.webp", photo_of_a_corner(PHOTOS - 1))
    for name in ("0.png_original", "._0.png", "1.png.bak"):
        shutil.copy(folder / "input/1.png", folder / "input" / name)
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:40] = 0
    write_photo(folder / "input_masks/0_mask.png", mask)
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, :50] = 0
    cut_out = np.where(alpha[..., None] > 0, photo_of_a_corner(0), np.uint8([255, 0, 255]))
    write_photo(folder / "input/0.png", np.dstack([cut_out, alpha]))
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
    assert not first.mask[:30].any() and first.mask[60:, 70:].all(), "the mask went the way of its photo"
    assert not first.mask[:, :35].any(), "so did its alpha"
    assert second.mask is None
    names = sorted(path.name for path in (converted / "images").iterdir())
    assert names == [f"{index}.png" for index in range(PHOTOS)]
    assert sorted(path.name for path in (converted / "input").iterdir()) == sorted(
        ["0.png_original", "._0.png", "1.png.bak", "8.webp", *names[:-1]]
    )


def test_the_same_command_finds_nothing_left_to_do(converted):
    def times():
        files = (path for path in converted.rglob("*") if path.is_file() and path.name != "convert.json")
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    convert.main(["-s", str(converted), "--features", "1500", "--single_camera", "--no_gpu", "--quiet"])
    assert times() == before


def test_models_that_were_deleted_are_made_again(converted):
    shutil.rmtree(converted / "distorted/sparse")
    convert.main(["-s", str(converted), "--features", "1500", "--single_camera", "--no_gpu", "--quiet"])
    assert (converted / "distorted/sparse/0/images.bin").is_file()
    assert len(load_scene(converted, quiet=True).train) == PHOTOS
    assert len(list((converted / "images_2").iterdir())) == PHOTOS


def test_photos_without_a_common_view_are_refused(tmp_path):
    pytest.importorskip("pycolmap")
    for index in range(3):
        write_photo(tmp_path / f"input/{index}.png", quantized_photo(index, 64, 48))
    with pytest.raises(ValueError, match="failed: .*no two photos see enough|failed: .+colmap.log"):
        convert.main(["-s", str(tmp_path), "--quiet", "--no_gpu"])
