"""Broken scenes in train.py: one sentence that names file and field, exit code 2; or they load after all.

CASES maps a name to what is done to a good scene and the words that its complaint must hold; no words: it
loads.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scene_files import (
    SIZE,
    Model,
    blender_pose,
    quantized_photo,
    write_binary,
    write_colmap_scene,
    write_photo,
)
from scene_files import write_text
from commands import fails

MODEL, MORE_MEMORY = "sparse/0", 2**30  # bytes of address space that a command may take more than there is
CASES = {}


def case(*words, name=None):
    """Adds a breaker of scenes to CASES, under its own name."""

    def add(function):
        CASES[name or function.__name__] = (function, words)
        return function

    return add


def broken_file(name, change, *words, path):
    """A case that rewrites the bytes of one file."""

    def break_it(scene):
        file = scene / path
        file.write_bytes(change(file.read_bytes()))

    case(*words, name=name)(break_it)


def changed_model(name, change, *words, text=False):
    """A case of a COLMAP model with other values."""

    def break_it(scene):
        model = Model()
        change(model)
        shutil.rmtree(scene / MODEL)
        (write_text if text else write_binary)(scene / MODEL, model)

    case(*words, name=name)(break_it)


def patched(offset, layout, *values):
    def change(data):
        packed = struct.pack(layout, *values)
        return data[:offset] + packed + data[offset + len(packed) :]

    return change


def with_camera(**changes):
    def change(model):
        name, width, height, params = model.cameras[1]
        about = {"name": name, "width": width, "height": height, "params": params} | changes
        model.cameras[1] = tuple(about.values())

    return change


def with_image(name=None, quaternion=None, translation=None, camera=None):
    def change(model):
        old = model.images[1]
        new = (name, camera, quaternion, translation)
        model.images[1] = tuple(b if b is not None else a for a, b in zip(old, new))

    return change


NAN = float("nan")

# COLMAP, binary
for part in ("cameras", "images", "points3D"):
    path = f"{MODEL}/{part}.bin"
    broken_file(f"{part}.bin is empty", lambda data: b"", f"{part}.bin", "ends too early", path=path)
    broken_file(f"{part}.bin is cut", lambda data: data[: len(data) - 9], f"{part}.bin", path=path)
    absurd = patched(0, "<Q", 2**60)
    broken_file(f"{part}.bin has 2^60 records", absurd, f"{part}.bin", str(2**60), path=path)
    broken_file(f"{part}.bin has more bytes", lambda data: data + b"\0\0", f"{part}.bin", path=path)
CAMERAS, IMAGES, POINTS = (f"{MODEL}/{part}.bin" for part in ("cameras", "images", "points3D"))
broken_file(
    "unknown camera model",
    patched(12, "<i", 99),
    "cameras.bin",
    "unknown camera model number 99",
    path=CAMERAS,
)
broken_file(
    "image name without an end", lambda data: data[:80].replace(b"\0" * 1, b"x"), "images.bin", path=IMAGES
)
broken_file(
    "point with an absurd track", patched(8 + 43, "<Q", 2**60), "points3D.bin", "point 0", path=POINTS
)
broken_file("point that is not finite", patched(16, "<d", NAN), "points3D", "not finite", path=POINTS)
changed_model("focal length 0", with_camera(params=(0.0, 21.0, 11.0, 8.5)), "camera 1", "focal length")
changed_model("focal length NaN", with_camera(params=(NAN, 21.0, 11.0, 8.5)), "camera 1")
changed_model("focal length below 0", with_camera(params=(-3.0, 21.0, 11.0, 8.5)), "camera 1", "focal length")
changed_model("picture of width 0", with_camera(width=0), "camera 1")
changed_model("picture of 2^40 pixels of width", with_camera(width=2**40), "view_0.png", str(2**40))
changed_model("principal point NaN", with_camera(params=(20.0, 21.0, NAN, 8.5)), "camera 1")
changed_model("pose NaN", with_image(translation=(NAN, 0.0, 4.0)), "view_0.png", "pose")
changed_model("pose infinite", with_image(translation=(float("inf"), 0.0, 4.0)), "view_0.png", "pose")
changed_model("quaternion 0", with_image(quaternion=(0.0, 0.0, 0.0, 0.0)), "view_0.png", "quaternion")
changed_model("camera that is not there", with_image(camera=7), "view_0.png", "camera 7")
changed_model("two images of one name", with_image(name="view_3.png"), "view_3.png", "2 times")
changed_model("an image name of nothing", with_image(name=""), "an image without a name")
changed_model("no cameras", lambda model: model.cameras.clear(), "camera 1")
changed_model("no images", lambda model: model.images.clear(), "no images")
changed_model("no points", lambda model: model.points.clear())
changed_model("one image", lambda model: model.images.__delitem__(slice(1, None)), "at least two places")
changed_model("image outside the folder", with_image(name="../../elsewhere.png"), "../../elsewhere.png")
changed_model("image of an absolute path", with_image(name="/etc/passwd"), "/etc/passwd")
changed_model("text: no focal length", with_camera(params=()), "cameras.txt", text=True)
changed_model("text: unknown model", with_camera(name="MAGIC"), "cameras.txt", "MAGIC", text=True)


@case()
def good_binary(scene):
    pass


@case()
def good_text(scene):
    shutil.rmtree(scene / MODEL)
    write_text(scene / MODEL, Model())


def text_line(name, part, old, new, *words):
    def break_it(scene):
        good_text(scene)
        file = scene / MODEL / f"{part}.txt"
        content = file.read_bytes()
        assert old in content
        file.write_bytes(content.replace(old, new))

    case(f"{part}.txt", *words, name=name)(break_it)


text_line("text: a word for a number", "cameras", b"20.0", b"wide", "wide")
text_line("text: bytes that are no text", "images", b"view_0.png", b"\xff\xfe\xff", "")
text_line("text: too few columns", "points3D", b"0.5 -1.25 2.0 255 0 3", b"0.5 -1.25", "line")
text_line("text: a color of 999", "points3D", b" 255 0 3", b" 999 0 3", "999")


@case("cameras")
def cameras_are_missing(scene):
    (scene / CAMERAS).unlink()


@case()
def points_are_missing(scene):
    (scene / POINTS).unlink()


@case("no scene in", "transforms.json")
def nothing_is_there(scene):
    shutil.rmtree(scene / "sparse")


# Photos


def photo(name, write, *words):
    """A case in which view_0.png is something else."""

    def break_it(scene):
        path = scene / "images" / "view_0.png"
        path.unlink()
        write(path)

    case(*words, name=name)(break_it)


def encoded(image, suffix=".png", *options):
    return cv2.imencode(suffix, image, *options)[1].tobytes()


GRAY = quantized_photo(5)[..., 0]
photo("photo is missing", lambda path: None, "view_0.png", "not found")
photo("photo is empty", lambda path: path.write_bytes(b""), "view_0.png")
photo("photo is text", lambda path: path.write_text("hello"), "view_0.png")
photo("photo is cut", lambda path: path.write_bytes(encoded(quantized_photo(1))[:-200]), "view_0.png")
photo("photo is a folder", lambda path: path.mkdir(), "view_0.png")
photo("photo is a link to itself", lambda path: path.symlink_to(path), "view_0.png")
photo(
    "photo of another shape",
    lambda path: write_photo(path, quantized_photo(1, 16, 24)),
    "view_0.png",
    "16x24",
)
photo(
    "photo of floats", lambda path: path.write_bytes(encoded(GRAY.astype(np.float32), ".tiff")), "view_0.png"
)
photo("photo of 16 bits", lambda path: path.write_bytes(encoded(GRAY.astype(np.uint16) * 257)))
photo("photo in grey", lambda path: path.write_bytes(encoded(GRAY)))
photo("photo in CMYK", lambda path: Image.fromarray(quantized_photo(1)).convert("CMYK").save(path, "JPEG"))
photo("photo with alpha", lambda path: write_photo(path, quantized_photo(1, channels=4)))
photo("photo with a palette", lambda path: Image.fromarray(quantized_photo(1)).convert("P").save(path))
photo("photo that moves", lambda path: Image.fromarray(quantized_photo(1)).save(path, "GIF", save_all=True))


def rotated_by_exif(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(quantized_photo(1)).save(path, "JPEG", exif=exif)


photo("photo rotated by EXIF", rotated_by_exif)


def bomb(path):
    data = bytearray(encoded(GRAY))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    path.write_bytes(bytes(data))


photo("photo that says it is 60,000 pixels wide", bomb, "view_0.png")


def renamed(name):
    def break_it(scene):
        with_image(name=name)(model := Model())
        write_binary(scene / MODEL, model)
        (scene / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (scene / "images" / "view_0.png").rename(scene / "images" / name)

    return break_it


case(name="photo with spaces in its name")(renamed("my photo of  it.png"))
case(name="photo with letters of all kinds")(renamed("фото/写真 é.png"))
case(name="photo in a folder")(renamed("left/camera 1/0.png"))


@case("view_0.png.png", "9x3")
def mask_of_another_size(scene):
    write_photo(scene / "masks" / "view_0.png.png", np.full((3, 9, 3), 255, np.uint8))


@case("view_0.png.png")
def mask_that_is_none(scene):
    (scene / "masks").mkdir()
    (scene / "masks" / "view_0.png.png").write_bytes(b"none")


# transforms.json


def transforms(name, change, *words):
    def break_it(scene):
        shutil.rmtree(scene / "sparse")
        frames = [
            {"file_path": f"images/view_{index}.png", "transform_matrix": blender_pose(index)}
            for index in range(4)
        ]
        content = {"fl_x": 20.0, "fl_y": 20.0, "w": SIZE[0], "h": SIZE[1], "frames": frames}
        content = change(content) or content
        text = content if isinstance(content, str) else json.dumps(content)
        (scene / "transforms.json").write_text(text)

    case(*words, name=name)(break_it)


def frame(**values):
    return lambda content: content["frames"][0].update(values)


BAD_POSE = [[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]
transforms("JSON: good", lambda content: None)
transforms("JSON: none", lambda content: "{", "transforms.json")
transforms("JSON: a list", lambda content: "[]", "transforms.json")
transforms("JSON: deeply nested", lambda content: "[" * 200_000, "transforms.json")
transforms("JSON: no frames", lambda content: content.pop("frames") and content, "transforms.json", "frames")
transforms("JSON: frames that are none", lambda content: content | {"frames": 7}, "transforms.json", "frames")
transforms("JSON: a frame that is none", lambda content: content | {"frames": [7]}, "transforms.json")
transforms("JSON: a pose with NaN", frame(transform_matrix=[[NAN] * 4] * 4), "view_0", "not finite")
transforms("JSON: a pose that scales", frame(transform_matrix=BAD_POSE), "view_0", "rotation")
transforms("JSON: a pose of another shape", frame(transform_matrix=[[1, 0], [0, 1]]), "transforms.json")
transforms("JSON: a pose of words", frame(transform_matrix="here"), "transforms.json")
transforms("JSON: a path that is a number", frame(file_path=3), "transforms.json", "file_path")
transforms("JSON: a path twice", frame(file_path="images/view_1.png"), "images/view_1.png", "2 times")
transforms("JSON: no focal length", lambda content: content.pop("fl_x") and content, "transforms.json")
transforms("JSON: focal length 0", lambda content: content | {"fl_x": 0}, "transforms.json", "focal length")
transforms(
    "JSON: focal length of words", lambda content: content | {"fl_x": "long"}, "transforms.json", "fl_x"
)
transforms(
    "JSON: focal length infinite", lambda content: json.dumps(content).replace("20.0", "1e999"), "fl_x"
)
transforms(
    "JSON: an unknown camera", lambda content: content | {"camera_model": "MAGIC"}, "transforms.json", "MAGIC"
)

# Points to start from


def points_file(name, content, *words):
    def break_it(scene):
        (scene / "points.ply").write_bytes(content)
        return ("--init_points", scene / "points.ply")

    case(*words, name=f"points: {name}")(break_it)


HEADER = b"ply\nformat binary_little_endian 1.0\nelement vertex %d\n"
XYZ = b"property float x\nproperty float y\nproperty float z\n"
RGB = b"property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
ONE = struct.pack("<fff3B", 0, 0, 1, 1, 2, 3)
points_file("good", HEADER % 2 + XYZ + RGB + ONE + ONE)
points_file("wrong magic", b"plx\n" + XYZ, "points.ply")
points_file("cut", HEADER % 9 + XYZ + RGB + ONE, "points.ply")
points_file("absurd count", HEADER % 10**15 + XYZ + RGB + ONE, "points.ply")
points_file("no colors", HEADER % 1 + XYZ + b"end_header\n" + ONE, "points.ply", "red")
points_file("lists", HEADER % 1 + b"property list uchar float x\n" + XYZ[17:] + RGB + ONE, "points.ply")
points_file("nothing", b"", "points.ply")
points_file("not finite", HEADER % 1 + XYZ + RGB + struct.pack("<fff3B", NAN, 0, 1, 1, 2, 3), "points.ply")
points_file("none", HEADER % 0 + XYZ + RGB, "points.ply")


@case("nowhere.ply")
def points_that_are_not_there(scene):
    return ("--init_points", scene / "nowhere.ply")


@case("depth_params.json")
def depths_without_parameters(scene):
    (scene / "depth").mkdir()
    return ("-d", "depth")


@case("depth_params.json")
def depth_parameters_that_are_none(scene):
    (scene / "depth").mkdir()
    (scene / "depth_params.json").write_text("[1, 2")
    return ("-d", "depth")


@case("-i", "elsewhere")
def photos_in_a_folder_that_is_not_there(scene):
    return ("-i", "elsewhere")


@contextlib.contextmanager
def at_most(more):
    """Lets the process have so much more address space, no matter what earlier tests took.

    Linux tells how much it has.
    """
    statm = Path("/proc/self/statm")
    old = resource.getrlimit(resource.RLIMIT_AS)
    if statm.exists():
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


@pytest.fixture(scope="module")
def good_scene(tmp_path_factory):
    return write_colmap_scene(tmp_path_factory.mktemp("good") / "scene")


@pytest.mark.parametrize("name", CASES)
def test_broken_scenes_get_a_sentence_or_load(run_here, good_scene, tmp_path, name):
    breaker, words = CASES[name]
    scene = tmp_path / "a scene"
    shutil.copytree(good_scene, scene)
    flags = breaker(scene) or ()
    command = (
        "train.py",
        "-s",
        scene,
        "-m",
        tmp_path / "run",
        "--iterations",
        1,
        "--threads",
        1,
        "--disable_viewer",
    )
    with at_most(MORE_MEMORY):
        process = run_here(*command, "--quiet", *flags)
    if not words:
        assert process.returncode == 0, process.stderr
        return
    for word in words:
        assert fails(process, word)
    assert not (tmp_path / "run").exists()


# Trained models by others

MODELS = {}
COLUMNS = [*"xyz", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(9))]
COLUMNS += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]


def model_file(columns=COLUMNS, kind="<f4", count=5, claimed=None, values=None, text=False):
    """Bytes of a PLY of Gaussians of degree 1."""
    encoding = "ascii" if text else {"<": "binary_little_endian", ">": "binary_big_endian"}[kind[0]]
    names = {"f4": "float", "f8": "double"}
    header = ["ply", f"format {encoding} 1.0", f"element vertex {claimed if claimed is not None else count}"]
    header += [f"property {names[kind[1:]]} {name}" for name in columns]
    table = np.random.default_rng(0).normal(size=(count, len(columns))) if values is None else values
    body = "\n".join(" ".join(map(repr, row.tolist())) for row in table).encode() + b"\n"
    return "\n".join([*header, "end_header\n"]).encode() + (body if text else table.astype(kind).tobytes())


GOOD = model_file()
WITH_NAN = np.where(np.arange(5 * len(COLUMNS)).reshape(5, -1) == 60, NAN, 0.1)
MODELS["good"] = GOOD, ()
MODELS["as text"] = model_file(text=True), ()
MODELS["of doubles"] = model_file(kind="<f8"), ()
MODELS["big-endian"] = model_file(kind=">f4"), ()
MODELS["other order"] = model_file(columns=COLUMNS[::-1]), ()
MODELS["more columns"] = model_file(columns=[*COLUMNS, "segment"]), ()
MODELS["no normals"] = model_file(columns=[name for name in COLUMNS if name[0] != "n"]), ()
MODELS["one that is NaN"] = model_file(values=WITH_NAN), ()
MODELS["nobody"] = model_file(count=0), ()
MODELS["cut"] = GOOD[:-40], ("model.ply", "not a PLY file of Gaussians")
MODELS["header alone"] = GOOD[: GOOD.index(b"end_header")], ("model.ply",)
MODELS["absurd count"] = model_file(claimed=10**14), ("model.ply",)
MODELS["negative count"] = model_file(claimed=-1), ("model.ply",)
MODELS["no opacity"] = (
    model_file(columns=[name for name in COLUMNS if name != "opacity"]),
    ("model.ply", "opacity"),
)
MODELS["odd SH"] = model_file(columns=[name for name in COLUMNS if name != "f_rest_8"]), ("model.ply",)
MODELS["lists"] = (
    GOOD.replace(b"property float opacity", b"property list uchar float opacity"),
    ("model.ply",),
)
MODELS["an unknown type"] = GOOD.replace(b"property float opacity", b"property thing opacity"), ("model.ply",)
MODELS["no PLY"] = b"none", ("model.ply", "not a PLY file of Gaussians")
MODELS["nothing"] = b"", ("model.ply",)
# Other kinds of file, told for what they are.
PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
MODELS["an SPZ"] = b"\x1f\x8b\x08\x00", ("model.ply: not a PLY file of Gaussians but a gzip file, as SPZ is",)
MODELS["an open SPZ"] = b"NGSP\x02", ("but an SPZ file",)
MODELS["a SOG"] = b"PK\x03\x04", ("but a ZIP file, as SOG is",)
MODELS["a pickle"] = b"\x80\x02", ("but a Python pickle",)
MODELS["a compressed PLY"] = model_file(columns=PACKED), ("Gaussians, a compressed PLY",)
MODELS["a point cloud"] = model_file(columns=["x", "y", "z", "red", "green", "blue"]), ("--init_points",)
MODELS["surfels"] = model_file(columns=[name for name in COLUMNS if name != "scale_2"]), ("2D Gaussians",)


@pytest.mark.parametrize("name", MODELS)
def test_broken_models_get_a_sentence_or_are_rendered(run_here, good_scene, tmp_path, name):
    content, words = MODELS[name]
    file = tmp_path / "model.ply"
    file.write_bytes(content)
    flags = ("--ply", file, "--cameras", good_scene, "-m", tmp_path / "out", "--quiet", "--threads", 1)
    process = run_here("render.py", *flags)
    if not words:
        assert process.returncode == 0, process.stderr
        assert len(list(tmp_path.rglob("renders/*.png"))) == 4
    for word in words:
        assert fails(process, word)
    assert bool(words) != (tmp_path / "out").exists()


def test_there_are_many_cases():
    assert len(CASES) + len(MODELS) >= 100
