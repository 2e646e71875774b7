from __future__ import annotations

import struct
import time

import numpy as np
import pytest

from scene import colmap, colmap_binary, colmap_text
from scene.colmap_records import CAMERA_MODELS
from scene_files import SIZE, Model, write_binary, write_colmap_scene, write_text
from utils.ply import write_point_cloud

ENCODINGS = pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])


def rewrite(source, model: Model, text: bool) -> None:
    """Replace the model of a scene, keeping its photos."""
    (write_text if text else write_binary)(source / "sparse/0", model)


def replace_bytes(path, position: int, new: bytes) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:position] + new + content[position + len(new) :])


@ENCODINGS
def test_views_and_points_are_those_written(tmp_path, text):
    model = Model()
    views, points = colmap.read_scene(write_colmap_scene(tmp_path, model, text), "images")
    assert [view.image_name for view in views] == [f"view_{i}.png" for i in range(4)]
    assert views[2].image_path == tmp_path / "images/view_2.png"
    lens = views[0].lens
    assert (lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy) == (*SIZE, 20.0, 21.0, 11.0, 8.5)
    table = np.array(model.points)
    assert np.array_equal(points.xyz, table[:, :3]) and points.xyz.dtype == np.float64
    assert np.array_equal(points.rgb, table[:, 3:]) and points.rgb.dtype == np.uint8


@ENCODINGS
def test_pose_follows_the_quaternion(tmp_path, text):
    """A quarter turn about y, given with length 2: x goes to -z and z goes to x."""
    half = 2 * 0.5**0.5
    model = Model(images=[("a.png", 1, (half, 0.0, half, 0.0), (1.0, 2.0, 3.0))])
    (view,), _ = colmap.read_scene(write_colmap_scene(tmp_path, model, text), "images")
    expected = [[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(view.world_to_camera, expected, atol=1e-12)


def test_binary_and_text_agree_exactly(tmp_path):
    model = Model(
        cameras={1: ("SIMPLE_PINHOLE", *SIZE, (1 / 3, 11.1, 8.7)), 7: ("PINHOLE", 8, 9, (1.1, 2.2, 3.3, 4.4))}
    )
    write_binary(tmp_path, model)
    write_text(tmp_path, model)
    assert colmap_binary.read_cameras(tmp_path / "cameras.bin") == colmap_text.read_cameras(
        tmp_path / "cameras.txt"
    )
    assert colmap_binary.read_images(tmp_path / "images.bin") == colmap_text.read_images(
        tmp_path / "images.txt"
    )
    binary, text = (
        colmap_binary.read_points(tmp_path / "points3D.bin"),
        colmap_text.read_points(tmp_path / "points3D.txt"),
    )
    assert np.array_equal(binary.xyz, text.xyz) and np.array_equal(binary.rgb, text.rgb)


def test_simple_pinhole_has_one_focal_length(tmp_path):
    model = Model(cameras={1: ("SIMPLE_PINHOLE", *SIZE, (20.0, 11.0, 8.5))})
    views, _ = colmap.read_scene(write_colmap_scene(tmp_path, model), "images")
    assert (views[0].lens.fx, views[0].lens.fy, views[0].lens.cx, views[0].lens.cy) == (20.0, 20.0, 11.0, 8.5)


@ENCODINGS
def test_images_in_subfolders_and_with_spaces(tmp_path, text):
    names = ["left cam/b c.png", "left cam/a.png", "right/ä.png"]
    model = Model(
        images=[(name, 1, (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, float(i))) for i, name in enumerate(names)]
    )
    views, _ = colmap.read_scene(write_colmap_scene(tmp_path, model, text), "images")
    assert [view.image_name for view in views] == sorted(names)
    assert all(view.image_path == tmp_path / "images" / view.image_name for view in views)


def test_model_directly_in_sparse(tmp_path):
    write_colmap_scene(tmp_path)
    for file in (tmp_path / "sparse/0").iterdir():
        file.rename(tmp_path / "sparse" / file.name)
    (tmp_path / "sparse/0").rmdir()
    assert colmap.find_model(tmp_path) == tmp_path / "sparse"
    assert len(colmap.read_scene(tmp_path, "images")[0]) == 4


def test_a_larger_part_of_the_model_is_told(tmp_path, capsys):
    source, whole = write_colmap_scene(tmp_path), Model()
    write_binary(source / "sparse/1", whole)
    rewrite(source, Model(images=whole.images[:1]), text=True)
    rewrite(source, Model(images=whole.images[:1]), text=False)
    assert len(colmap.read_scene(source, "images", quiet=False)[0]) == 1
    said = f"{source}/images holds 4 photos, {source}/sparse/0 has cameras for 1 of them, but "
    part = f"{source}/sparse/1 for 4: put that model into {source}/sparse/0 to train on it.\n"
    assert capsys.readouterr().out == said + part
    (source / "sparse/1/images.bin").write_bytes(b"damaged")
    colmap.read_scene(source, "images", quiet=False)
    assert capsys.readouterr().out == said.removesuffix(", but ") + ".\n"
    rewrite(source, whole, text=False)
    (source / "images/._view_0.png").touch()  # as USB sticks have it
    colmap.read_scene(source, "images", quiet=False)
    assert capsys.readouterr().out == ""


@ENCODINGS
def test_points_of_a_ply_beside_the_model(tmp_path, text):
    """3DGS writes points3D.ply when it first reads a scene, and reads it later; VGGT writes points.ply."""
    source = write_colmap_scene(tmp_path, text=text)
    model, own = source / "sparse/0", source / f"sparse/0/points3D.{'txt' if text else 'bin'}"
    write_point_cloud(model / "points3D.ply", np.ones((5, 3)), np.arange(15, dtype=np.uint8).reshape(5, 3))
    write_point_cloud(model / "points.ply", np.ones((7, 3)), np.zeros((7, 3), np.uint8))
    assert len(colmap.read_scene(source, "images")[1]) == 5
    (model / "points3D.ply").unlink()
    assert len(colmap.read_scene(source, "images")[1]) == 3
    own.unlink()
    assert len(colmap.read_scene(source, "images")[1]) == 7
    (model / "points.ply").unlink()
    assert colmap.read_scene(source, "images")[1] is None


def test_binary_is_preferred_and_text_serves_where_binary_is_incomplete(tmp_path):
    write_colmap_scene(tmp_path)
    rewrite(tmp_path, Model(points=[(9.0, 9.0, 9.0, 9, 9, 9)]), text=True)
    assert len(colmap.read_scene(tmp_path, "images")[1]) == 3
    (tmp_path / "sparse/0/cameras.bin").unlink()
    assert len(colmap.read_scene(tmp_path, "images")[1]) == 1


def test_a_hundred_thousand_points_take_no_time(tmp_path):
    count = 100_000
    generator = np.random.default_rng(0)
    xyz, tracks = generator.normal(size=(count, 3)), generator.integers(2, 9, count)
    chunks = [
        struct.pack("<Q3d3BdQ", i, *xyz[i], i % 256, 7, i % 13, 0.5, tracks[i]) + bytes(8 * tracks[i])
        for i in range(count)
    ]
    (tmp_path / "points3D.bin").write_bytes(struct.pack("<Q", count) + b"".join(chunks))
    start = time.process_time()
    points = colmap_binary.read_points(tmp_path / "points3D.bin")
    assert time.process_time() - start < 2  # measured: 0.2 s; the bound leaves room for a slow machine
    assert np.array_equal(points.xyz, xyz)
    assert np.array_equal(points.rgb[:, 0], np.arange(count) % 256) and (points.rgb[:, 1] == 7).all()


# What is refused, and with which sentence


@ENCODINGS
def test_a_camera_without_a_straight_picture_is_refused(tmp_path, text):
    write_colmap_scene(tmp_path, Model(cameras={1: ("EQUIRECTANGULAR", *SIZE, (24.0, 16.0))}), text)
    with pytest.raises(
        ValueError, match="camera 1 has the model EQUIRECTANGULAR; expected one of SIMPLE_PIN"
    ):
        colmap.read_scene(tmp_path, "images")


def test_unused_camera_does_no_harm(tmp_path):
    model = Model()
    model.cameras[2] = ("EQUIRECTANGULAR", *SIZE, (24.0, 16.0))
    assert len(colmap.read_scene(write_colmap_scene(tmp_path, model), "images")[0]) == 4


def test_unknown_model_is_refused(tmp_path):
    write_colmap_scene(tmp_path, Model(cameras={1: (99, *SIZE, (1.0,))}))
    with pytest.raises(ValueError, match="cameras.bin: camera 1 has the unknown camera model number 99"):
        colmap.read_scene(tmp_path, "images")
    rewrite(tmp_path, Model(cameras={1: ("MAGIC", *SIZE, (1.0,))}), text=True)
    with pytest.raises(ValueError, match="cameras.txt, line 2: camera 1 has the unknown camera model MAGIC"):
        colmap_text.read_cameras(tmp_path / "sparse/0/cameras.txt")


@ENCODINGS
@pytest.mark.parametrize(
    "camera",
    [
        ("PINHOLE", *SIZE, (0.0, 20.0, 12.0, 8.0)),
        ("PINHOLE", *SIZE, (20.0, -20.0, 12.0, 8.0)),
        ("PINHOLE", *SIZE, (20.0, 20.0, float("nan"), 8.0)),
        ("SIMPLE_PINHOLE", *SIZE, (float("inf"), 12.0, 8.0)),
        ("SIMPLE_PINHOLE", 0, 16, (20.0, 12.0, 8.0)),
    ],
)
def test_impossible_intrinsics_are_refused(tmp_path, text, camera):
    write_colmap_scene(tmp_path, Model(cameras={1: camera}), text)
    with pytest.raises(
        ValueError, match="camera 1 needs a positive size and focal length and finite parameters; got"
    ):
        colmap.read_scene(tmp_path, "images")


@ENCODINGS
@pytest.mark.parametrize(
    "quaternion, translation, message",
    [
        ((0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0), "image 'bad.png': its rotation quaternion is zero"),
        (
            (float("nan"), 0.0, 0.0, 1.0),
            (0.0, 0.0, 1.0),
            "image 'bad.png': its pose holds a number that is not finite",
        ),
        (
            (1.0, 0.0, 0.0, 0.0),
            (0.0, float("inf"), 1.0),
            "image 'bad.png': its pose holds a number that is not finite",
        ),
    ],
)
def test_broken_poses_are_refused(tmp_path, text, quaternion, translation, message):
    model = Model()
    model.images.append(("bad.png", 1, quaternion, translation))
    write_colmap_scene(tmp_path, model, text)
    with pytest.raises(ValueError, match=message):
        colmap.read_scene(tmp_path, "images")


@ENCODINGS
def test_broken_points_are_refused(tmp_path, text):
    model = Model()
    model.points[1] = (0.0, float("nan"), 0.0, 1, 2, 3)
    write_colmap_scene(tmp_path, model, text)
    with pytest.raises(
        ValueError, match=r"points3D.*: 1 of 3 points are not finite; the first is point 1 at \[0.0, nan"
    ):
        colmap.read_scene(tmp_path, "images")


@ENCODINGS
def test_no_points_no_images_no_camera(tmp_path, text):
    write_colmap_scene(tmp_path, Model(points=[]), text)
    assert colmap.read_scene(tmp_path, "images")[1] is None
    rewrite(tmp_path, Model(images=[]), text)
    with pytest.raises(ValueError, match="images.* holds no images"):
        colmap.read_scene(tmp_path, "images")
    rewrite(tmp_path, Model(cameras={5: ("SIMPLE_PINHOLE", *SIZE, (20.0, 12.0, 8.0))}), text)
    with pytest.raises(ValueError, match="image 'view_0.png' uses camera 1, which is not in the model"):
        colmap.read_scene(tmp_path, "images")


def test_two_images_of_one_name_are_refused(tmp_path):
    model = Model()
    model.images.append(model.images[0])
    with pytest.raises(ValueError, match="images.bin names the image view_3.png 2 times"):
        colmap.read_scene(write_colmap_scene(tmp_path, model), "images")


def test_two_cameras_of_one_id_are_refused(tmp_path):
    write_colmap_scene(tmp_path, text=True)
    path = tmp_path / "sparse/0/cameras.txt"
    path.write_text(path.read_text() * 2)
    with pytest.raises(ValueError, match="cameras.txt holds camera 1 twice"):
        colmap.read_scene(tmp_path, "images")


def test_missing_images_are_named_and_counted(tmp_path):
    write_colmap_scene(tmp_path)
    (tmp_path / "images/view_1.png").unlink()
    (tmp_path / "images/view_3.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"image not found: .*view_1.png \(2 of 4 images named in .*images.bin"
    ):
        colmap.read_scene(tmp_path, "images")


def test_missing_image_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image folder not found: .*images_4 \(-i names it"):
        colmap.read_scene(write_colmap_scene(tmp_path), "images_4")


def test_incomplete_model_says_what_is_there(tmp_path):
    write_colmap_scene(tmp_path)
    (tmp_path / "sparse/0/images.bin").unlink()
    with pytest.raises(FileNotFoundError, match="needs cameras and images.*has cameras.bin, points3D.bin"):
        colmap.read_scene(tmp_path, "images")


def test_points_are_not_needed_and_may_be_of_the_other_encoding(tmp_path):
    write_colmap_scene(tmp_path)
    (tmp_path / "sparse/0/points3D.bin").unlink()
    assert colmap.read_scene(tmp_path, "images")[1] is None
    write_text(tmp_path / "text", Model())
    (tmp_path / "text/points3D.txt").rename(tmp_path / "sparse/0/points3D.txt")
    assert len(colmap.read_scene(tmp_path, "images")[1]) == 3


@pytest.mark.parametrize(
    "part, read, what",
    [
        ("cameras", colmap_binary.read_cameras, "cameras"),
        ("images", colmap_binary.read_images, "images"),
        ("points3D", colmap_binary.read_points, "points"),
    ],
)
class TestDamagedBinary:
    def test_cut_off_anywhere_is_one_sentence(self, tmp_path, part, read, what):
        write_binary(tmp_path, Model())
        path = tmp_path / f"{part}.bin"
        content = path.read_bytes()
        for size in range(0, len(content), 3):
            path.write_bytes(content[:size])
            with pytest.raises(
                ValueError,
                match=rf"{part}.bin (ends too early: .*(needs|without an end)|says that it holds \d+ {what})",
            ):
                read(path)

    @pytest.mark.parametrize("count", [10**6, 2**40, 2**64 - 1])
    def test_absurd_count_is_refused_before_anything_is_allocated(self, tmp_path, part, read, what, count):
        write_binary(tmp_path, Model())
        replace_bytes(tmp_path / f"{part}.bin", 0, struct.pack("<Q", count))
        with pytest.raises(
            ValueError, match=f"{part}.bin says that it holds {count} {what}, more than fit in its"
        ):
            read(tmp_path / f"{part}.bin")

    def test_bytes_behind_the_end_are_refused(self, tmp_path, part, read, what):
        write_binary(tmp_path, Model())
        path = tmp_path / f"{part}.bin"
        path.write_bytes(path.read_bytes() + b"xyz")
        with pytest.raises(ValueError, match=f"{part}.bin has 3 bytes behind its last record"):
            read(path)

    def test_random_damage_never_raises_anything_else(self, tmp_path, part, read, what):
        write_binary(tmp_path, Model())
        path = tmp_path / f"{part}.bin"
        content = path.read_bytes()
        generator = np.random.default_rng(0)
        for position in range(0, len(content), 3):
            path.write_bytes(content)
            replace_bytes(path, position, generator.bytes(1))
            try:
                read(path)
            except ValueError as error:
                assert f"{part}.bin" in str(error)


@pytest.mark.parametrize("track", [1000, 2**61, 2**64 - 1])
def test_absurd_track_is_refused(tmp_path, track):
    write_binary(tmp_path, Model())
    replace_bytes(tmp_path / "points3D.bin", 8 + 43, struct.pack("<Q", track))
    with pytest.raises(
        ValueError, match=f"points3D.bin ends too early: point 0 needs {8 * track} bytes at 59"
    ):
        colmap_binary.read_points(tmp_path / "points3D.bin")


@pytest.mark.parametrize(
    "read, line, message",
    [
        (
            colmap_text.read_cameras,
            "1 PINHOLE 24",
            "expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS..., got '1 PINHOLE 24'",
        ),
        (colmap_text.read_cameras, "1 PINHOLE 24 16 1 2", "camera model PINHOLE has 4 parameters, got 2"),
        (colmap_text.read_cameras, "1 PINHOLE 24 x 1 2 3 4", "invalid literal for int.*'x'"),
        (
            colmap_text.read_images,
            "1 1 0 0 0 0 0 0 1",
            "expected IMAGE_ID QW .* NAME, got '1 1 0 0 0 0 0 0 1'",
        ),
        (colmap_text.read_images, "1 1 0 0 zero 0 0 0 1 a.png", "could not convert string to float: 'zero'"),
        (
            colmap_text.read_points,
            "1 0 0 0 1 2",
            "expected POINT3D_ID X Y Z R G B ERROR TRACK..., got '1 0 0 0 1 2'",
        ),
        (colmap_text.read_points, "1 0 0 0 1 256 3 0.5", r"colors must lie in 0..255, got 1 256 3"),
        (colmap_text.read_points, "1 0 0 0 1 nan 3 0.5", r"colors must lie in 0..255, got 1 nan 3"),
    ],
)
def test_damaged_text_names_the_line(tmp_path, read, line, message):
    path = tmp_path / "file.txt"
    path.write_text(f"# comment\n\n{line}\n")
    with pytest.raises(ValueError, match=f"file.txt, line 3: {message}"):
        read(path)


def test_text_without_lines_of_2d_points_is_not_half_read(tmp_path):
    path = tmp_path / "images.txt"
    path.write_text("1 1 0 0 0 0 0 0 1 a.png\n2 1 0 0 0 0 0 0 1 b.png\n")
    with pytest.raises(ValueError, match="images.txt, line 2: expected the 2D points of the image before it"):
        colmap_text.read_images(path)


def test_last_line_of_2d_points_may_be_missing(tmp_path):
    path = tmp_path / "images.txt"
    path.write_text("1 1 0 0 0 0 0 0 1 a.png\n\n2 1 0 0 0 0 0 0 1 b.png")
    assert [image.name for image in colmap_text.read_images(path)] == ["a.png", "b.png"]


# Against COLMAP itself


def pycolmap_reconstruction(pycolmap):
    """Two cameras, five images, points with tracks, built through COLMAP's own classes."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 2, 1, 3
    options.num_points3D = 50
    options.camera_model_id = pycolmap.CameraModelId.PINHOLE
    return pycolmap.synthesize_dataset(options)


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_files_written_by_pycolmap(tmp_path, text):
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap_reconstruction(pycolmap)
    (model.write_text if text else model.write_binary)(str(tmp_path))
    compare_with_pycolmap(model, tmp_path, ".txt" if text else ".bin")


@pytest.mark.parametrize("name", ["fox", "plant", "monstree"])
def test_real_models_as_pycolmap_reads_them(scenes_dir, name):
    pycolmap = pytest.importorskip("pycolmap")
    folder = scenes_dir / name / "sparse/0"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    compare_with_pycolmap(pycolmap.Reconstruction(str(folder)), folder, ".bin")


def test_camera_models_are_those_of_pycolmap():
    pycolmap = pytest.importorskip("pycolmap")
    theirs = {}
    for name, number in pycolmap.CameraModelId.__members__.items():
        if int(number) >= 0:
            theirs[int(number)] = (
                name,
                len(pycolmap.Camera.create_from_model_name(1, name, 1.0, 10, 10).params),
            )
    assert {number: CAMERA_MODELS[number] for number in CAMERA_MODELS if number in theirs} == theirs


def compare_with_pycolmap(model, folder, suffix) -> None:
    reader = colmap_text if suffix == ".txt" else colmap_binary
    cameras = reader.read_cameras(folder / f"cameras{suffix}")
    assert {i: (c.model.name, c.width, c.height) for i, c in model.cameras.items()} == {
        i: (c.model, c.width, c.height) for i, c in cameras.items()
    }
    for camera_id, camera in model.cameras.items():
        np.testing.assert_allclose(cameras[camera_id].params, camera.params, rtol=1e-14)
    images = {image.name: image for image in reader.read_images(folder / f"images{suffix}")}
    assert images.keys() == {image.name for image in model.images.values()}
    for image in model.images.values():
        assert images[image.name].camera_id == image.camera_id
        pose = colmap._pose(images[image.name], folder)
        np.testing.assert_allclose(pose[:3], image.cam_from_world().matrix(), atol=1e-9)
    points = reader.read_points(folder / f"points3D{suffix}")
    theirs = np.array([(*point.xyz, *point.color) for point in model.points3D.values()])
    assert np.array_equal(sorted_rows(np.hstack([points.xyz, points.rgb])), sorted_rows(theirs))


def sorted_rows(table: np.ndarray) -> np.ndarray:
    """COLMAP keeps points in no particular order, and some share a position."""
    return table[np.lexsort(table.T)]
