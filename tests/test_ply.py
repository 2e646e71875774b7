from __future__ import annotations

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from utils.ply import read_point_cloud, write_point_cloud


def make_cloud(count: int = 7) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, 3)), generator.integers(0, 256, (count, 3), dtype=np.uint8)


def write_table(path, columns, values, text=False):
    table = np.array([tuple(row) for row in values], dtype=columns)
    PlyData([PlyElement.describe(table, "vertex")], text=text).write(str(path))


@pytest.mark.parametrize("count", [0, 7])
def test_round_trip(tmp_path, count):
    xyz, rgb = make_cloud(count)
    write_point_cloud(tmp_path / "a.ply", xyz, rgb)
    read_xyz, read_rgb = read_point_cloud(tmp_path / "a.ply")
    assert np.array_equal(read_xyz, xyz.astype(np.float32)) and read_xyz.dtype == np.float64
    assert np.array_equal(read_rgb, rgb) and read_rgb.dtype == np.uint8


def test_written_columns_are_the_ones_3dgs_reads(tmp_path):
    write_point_cloud(tmp_path / "a.ply", *make_cloud())
    vertex = PlyData.read(tmp_path / "a.ply")["vertex"]
    types = [(item.name, item.val_dtype) for item in vertex.properties]
    assert types == [(n, "f4") for n in ("x", "y", "z", "nx", "ny", "nz")] + [
        (n, "u1") for n in ("red", "green", "blue")
    ]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("kind, factor", [("u1", 1), ("u2", 257), ("f4", 1 / 255), ("f8", 1 / 255)])
def test_color_types(tmp_path, text, kind, factor):
    xyz, rgb = make_cloud()
    stored = rgb[:, ::-1] * float(factor)
    if kind == "u2":  # whatever is nearest to 257 times a color is that color
        stored = np.clip(stored + np.random.default_rng(1).integers(-128, 129, stored.shape), 0, 65535)
    columns = [
        ("blue", kind),
        ("green", kind),
        ("red", kind),
        ("extra", "i4"),
        ("x", "f8"),
        ("y", "f8"),
        ("z", "f8"),
    ]
    write_table(
        tmp_path / "a.ply",
        columns,
        np.hstack([stored, np.ones((7, 1)), xyz]),
        text,
    )
    read_xyz, read_rgb = read_point_cloud(tmp_path / "a.ply")
    np.testing.assert_allclose(read_xyz, xyz)
    assert np.array_equal(read_rgb, rgb)


def test_float_colors_beyond_1_are_refused(tmp_path):
    columns = [(name, "f4") for name in ("x", "y", "z", "red", "green", "blue")]
    write_table(tmp_path / "a.ply", columns, [(0, 0, 0, 0, 128, 255)])
    with pytest.raises(ValueError, match=r"a.ply: colors must be .* got float32 between 0.0 and 255.0"):
        read_point_cloud(tmp_path / "a.ply")


def test_no_colors_of_a_wrong_type_are_refused_too(tmp_path):
    columns = [(name, "i4") for name in ("x", "y", "z", "red", "green", "blue")]
    write_table(tmp_path / "a.ply", columns, [])
    with pytest.raises(ValueError, match=r"a.ply: colors must be .* got int32$"):
        read_point_cloud(tmp_path / "a.ply")


def test_missing_colors_are_refused(tmp_path):
    write_table(tmp_path / "a.ply", [(name, "f4") for name in ("x", "y", "z", "f_dc_0")], [(0, 0, 0, 0)])
    with pytest.raises(
        ValueError, match=r"lacks the vertex properties red green blue; .* found are x y z f_dc_0"
    ):
        read_point_cloud(tmp_path / "a.ply")


def test_missing_vertices_are_refused(tmp_path):
    faces = PlyElement.describe(np.zeros(1, dtype=[("a", "i4")]), "face")
    PlyData([faces]).write(str(tmp_path / "a.ply"))
    with pytest.raises(ValueError, match=r"has no element 'vertex', only \['face'\]"):
        read_point_cloud(tmp_path / "a.ply")


def test_list_property_as_position_is_refused(tmp_path):
    header = "ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar float x\n"
    header += "".join(f"property float {n}\n" for n in ("y", "z")) + "".join(
        f"property uchar {n}\n" for n in ("red", "green", "blue")
    )
    (tmp_path / "a.ply").write_text(header + "end_header\n2 0 0 0 0 1 2 3\n")
    with pytest.raises(ValueError, match="the vertex properties x are lists, expected numbers"):
        read_point_cloud(tmp_path / "a.ply")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="point cloud not found: .*a.ply"):
        read_point_cloud(tmp_path / "a.ply")


@pytest.mark.parametrize("text", [False, True])
def test_cut_off_anywhere_is_one_sentence(tmp_path, text):
    columns = [(name, "f4") for name in ("x", "y", "z")] + [(name, "u1") for name in ("red", "green", "blue")]
    write_table(tmp_path / "whole.ply", columns, np.ones((3, 6)), text)
    content = (tmp_path / "whole.ply").read_bytes()
    for size in range(0, len(content) - 1):
        (tmp_path / "a.ply").write_bytes(content[:size])
        with pytest.raises(ValueError, match="a.ply is damaged or not a PLY file"):
            read_point_cloud(tmp_path / "a.ply")


@pytest.mark.parametrize("count", [10**12, 10**18, 10**30])
@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
def test_absurd_count_is_refused(tmp_path, count, encoding):
    names = ["float x", "float y", "float z", "uchar red", "uchar green", "uchar blue"]
    header = f"ply\nformat {encoding} 1.0\nelement vertex {count}\n" + "".join(
        f"property {n}\n" for n in names
    )
    (tmp_path / "a.ply").write_text(header + "end_header\n0 0 0 0 0 0\n")
    with pytest.raises(ValueError, match="is damaged or not a PLY file"):
        read_point_cloud(tmp_path / "a.ply")


def test_writing_mismatched_arrays_is_refused(tmp_path):
    xyz, rgb = make_cloud()
    with pytest.raises(ValueError, match=r"expected positions \(P, 3\) and uint8 colors"):
        write_point_cloud(tmp_path / "a.ply", xyz, rgb[:-1])
    assert not (tmp_path / "a.ply").exists()
