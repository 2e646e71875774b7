"""Files of other programs: what is written is what is read, to the format's precision."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from commands import fails

import export
from gaussian_model import GaussianModel
from utils import sog, splat_formats
from utils.rotations import quats_to_matrices
from utils.sh import sh_to_rgb
from utils.splat_check import fit_to_format, write_checked
from utils.splat_formats import FORMATS, Splats, along_curve

COUNT = 500


def random_splats(degree=3, count=COUNT):
    random = np.random.default_rng(0)
    quats = random.normal(size=(count, 4))
    parameters = {
        "means": random.uniform(-4, 4, (count, 3)),
        "scales": random.uniform(-6, -1, (count, 3)),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "opacities": random.uniform(-4, 4, count),
        "sh_dc": random.uniform(-1.5, 1.5, (count, 3)),
        "sh_rest": np.repeat(random.uniform(-0.4, 0.4, (count // 10, (degree + 1) ** 2 - 1, 3)), 10, 0),
    }
    return Splats(**{name: values.astype(np.float32) for name, values in parameters.items()})


def needs_gsply(name):
    if FORMATS[name].by_gsply:
        pytest.importorskip("gsply")


def changed(splats: Splats, **values) -> Splats:
    return dataclasses.replace(splats, **{name: np.float32(value) for name, value in values.items()})


def written(path, name, splats):
    """What a file of sound Gaussians holds, and its loss; the file is checked on the way."""
    needs_gsply(name)
    return write_checked(name, path / f"x{FORMATS[name].suffix}", splats, fit_to_format(name, splats)[0])


def matched(found: Splats, original: Splats) -> Splats:
    """`found` in the order of `original`: formats sort as they like."""
    distance = np.linalg.norm(found.means[None] - original.means[:, None], axis=2)
    order = distance.argmin(1)
    assert sorted(order) == list(range(len(original)))
    return found.rows(order)


# How far each format may be off: means, log scales, opacity, DC, other SH, quaternion (1 - |cosine|).
PRECISION = {
    "compressed_ply": (0.01, 0.01, 0.005, 0.02, 0.02, 1e-4),
    "spz": (3e-4, 0.04, 0.005, 0.02, 0.04, 1e-4),
    "sog": (1e-3, 0.05, 0.005, 0.03, 0.03, 1e-4),
    "splat": (1e-6, 1e-5, 0.005, 0.01, None, 1e-3),
}


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_what_is_read(tmp_path, name, degree):
    needs_gsply(name)
    original, path = random_splats(degree), tmp_path / f"x{FORMATS[name].suffix}"
    write_checked(name, path, original, fit_to_format(name, original)[0])
    found = matched(FORMATS[name].read(path), original)
    means, scales, opacity, dc, rest, turn = PRECISION[name]
    np.testing.assert_allclose(found.means, original.means, atol=means)
    np.testing.assert_allclose(found.scales, original.scales, atol=scales)
    np.testing.assert_allclose(found.shares(), original.shares(), atol=opacity)
    visible = np.abs(original.sh_dc) < 1.7 if name == "splat" else np.full_like(original.sh_dc, True, bool)
    np.testing.assert_allclose(found.sh_dc[visible], original.sh_dc[visible], atol=dc)
    unit = found.quats / np.linalg.norm(found.quats, axis=1, keepdims=True)
    assert (1 - np.abs((unit * original.quats).sum(1))).max() < turn
    if rest is None:
        assert found.sh_rest.shape == (COUNT, 0, 3)
    else:
        np.testing.assert_allclose(found.sh_rest, original.sh_rest, atol=rest)
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "nothing is left beside it"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "values",
    [{"scales": np.log(20)}, {"opacities": np.log(0.6 / 0.4)}, {"scales": 0.5, "opacities": 0.1}],
    ids=["sizes of 20", "opacities of 60 %", "both look linear"],
)
def test_logarithms_that_look_like_sizes_stay_logarithms(tmp_path, name, values):
    original = random_splats(1)
    original = changed(
        original, **{part: np.full_like(getattr(original, part), v) for part, v in values.items()}
    )
    found, loss = written(tmp_path, name, original)
    assert loss.scale[0] < 0.1 and loss.opacity[0] < 0.005
    for part, value in values.items():
        np.testing.assert_allclose(getattr(found, part), value, atol=0.04)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("seed", range(3))
def test_no_error_is_above_the_stated_precision(tmp_path, name, seed):
    """Of numbers with long tails, at the ends of the ranges and beyond; `write_checked` compares."""
    random = np.random.default_rng(seed)
    plain = random_splats(3, 2000)
    splats = changed(
        plain,
        means=plain.means * random.lognormal(0, 0.4, (2000, 1)),
        scales=np.minimum(random.normal(-4, 3, (2000, 3)), 3),
        quats=random.normal(size=(2000, 4)) ** 3 * 10.0 ** random.integers(-8, 8, (2000, 1)),
        opacities=random.normal(0, 8, 2000),
        sh_dc=random.standard_t(3, (2000, 3)),
        sh_rest=random.standard_t(2, (2000, 15, 3)) / 10,
    )
    written(tmp_path, name, splats)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("count", [1, 2, 255, 257])
def test_few_gaussians_and_all_alike(tmp_path, name, count, degree):
    few = random_splats(degree).rows(np.arange(count))
    alike = few.rows(np.zeros(count, int))
    for splats in (few, alike):
        found, loss = written(tmp_path, name, splats)
        assert len(found) == count and np.isfinite(loss.position).all() and loss.position[0] < 0.01


def test_sizes_and_colors_in_the_tails_are_not_averaged_away():
    """Four numbers far from 100,000 others, of which each code would stand for hundreds."""
    values = np.random.default_rng(0).normal(size=100_000)
    values[:4] = [-30, 25, 26, 40]
    codes, book = sog.quantize(values)
    off = np.abs(np.array(book)[codes] - values)
    assert off.max() <= sog.largest_code_error(values) < 0.6
    assert np.sqrt((off**2).mean()) < 0.03


def test_a_far_gaussian_does_not_spoil_the_curve():
    splats = random_splats(count=2000)
    means = splats.means
    alone = np.linalg.norm(np.diff(means[along_curve(splats)], axis=0), axis=1).mean()
    means[0] = 1e5
    order = along_curve(splats)
    order = order[order != 0]
    assert np.linalg.norm(np.diff(means[order], axis=0), axis=1).mean() < 1.2 * alone


# What a format cannot hold


def test_what_is_outside_a_range_is_clamped_and_counted(tmp_path):
    splats = random_splats(1)
    splats.scales[0, 0], splats.sh_dc[1, 2], splats.sh_rest[2, 0, 0] = 6.5, 5, -7
    expected = {
        "compressed_ply": ["SH coefficients of view-dependent color from -3.98 to 3.98, the model has -7"],
        "spz": ["colors from -0.44 to 1.44", "SH coefficients", "lengths of axes from 4.54e-05 to 379"],
        "sog": [],
        "splat": ["colors from 0 to 1", "no SH above degree 0, the model has 1"],
    }
    for name, parts in expected.items():
        fitted, notes = fit_to_format(name, splats)
        assert len(notes) == len(parts), notes
        for note, part in zip(notes, parts):
            assert note.startswith(f"{name} holds {part}"), note
    assert splats.scales[0, 0] == 6.5, "the model itself is as it was"
    _, loss = written(tmp_path, "splat", splats)
    assert loss.color[0] == pytest.approx(0.5 + 5 * 0.2821 - 1, abs=1e-3) and loss.sh[0] == 7


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (
            "spz",
            {"scales": 7.0},
            "spz cannot hold this model. spz holds lengths of axes from 4.54e-05 to 379",
        ),
        ("spz", {"scales": -12.0}, "lengths of axes"),
        ("spz", {"means": 1e7}, "spz holds positions from -4.19e[+]06 to 4.19e[+]06"),
        ("spz", {"far": 1e6}, "holds positions as far as 1e[+]06 in steps so coarse that"),
        ("sog", {"means": 5e5, "far": 0}, "sog holds positions as far as 5e[+]05 in steps so coarse that"),
        ("compressed_ply", {"far": 1e6}, "compressed_ply cannot hold this model"),
    ],
)
def test_a_model_that_a_format_cannot_hold_is_refused(name, change, reason):
    splats = random_splats(0)
    for part in change.keys() & vars(splats).keys():
        getattr(splats, part)[:] += change[part] - getattr(splats, part).mean()
    splats.means[0] = change.get("far", splats.means[0])
    with pytest.raises(ValueError, match=reason):
        fit_to_format(name, splats)
    fit_to_format("splat", splats)


def test_spz_takes_steps_that_suit_the_scene(tmp_path):
    """Tiny scenes get finer ones than usual, wide ones coarser."""
    for factor in (1e-3, 1.0, 1e3, 1e5):
        plain = random_splats(0)
        bulk = changed(
            plain, means=plain.means * factor, scales=np.clip(plain.scales + np.log(factor), -9, 5)
        )
        _, loss = written(tmp_path, "spz", bulk)
        assert loss.position[0] < np.median(bulk.sizes()) / 8
    assert splat_formats.spz_fractional_bits(plain) == splat_formats.SPZ_USUAL_BITS


def test_a_flat_axis_is_no_reason_to_refuse(tmp_path):
    splats = random_splats(0)
    splats.scales[:, 2] = -20
    for name in FORMATS:
        _, loss = written(tmp_path, name, splats)
        assert loss.scale[0] < 0.1


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_holds_something_else_is_not_kept(tmp_path, monkeypatch, name):
    needs_gsply(name)
    splats, path = random_splats(1), tmp_path / f"x{FORMATS[name].suffix}"
    write_checked(name, path, splats, fit_to_format(name, splats)[0])
    before, read = path.read_bytes(), FORMATS[name].read
    for spoil, reason in (
        (lambda found: changed(found, scales=found.scales - 1), "scales off by up to 1"),
        (lambda found: changed(found, means=found.means * np.nan), "means off by up to nan"),
        (lambda found: changed(found, quats=found.quats[:, [1, 0, 2, 3]]), "quats off by up to"),
        (lambda found: found.rows(np.arange(COUNT - 1)), "499 of 500 Gaussians"),
        (lambda found: found.rows(np.arange(COUNT)[::-1]), "means off by"),
    ):
        broken = dataclasses.replace(FORMATS[name], read=lambda file, spoil=spoil: spoil(read(file)))
        monkeypatch.setitem(FORMATS, name, broken)
        with pytest.raises(ValueError, match=rf"x\..* was not written: it would .*{reason}"):
            write_checked(name, path, splats, fit_to_format(name, splats)[0])
        assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_half_turn_shows_the_same_from_the_turned_side():
    """Colors of directions, turned alike, stay."""
    original, directions = random_splats(), torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(0))
    other = splat_formats.turned(original)
    colors = []
    for found, seen in ((original, directions), (other, directions * torch.tensor([1.0, -1, -1]))):
        sh = torch.from_numpy(np.concatenate([found.sh_dc[:, None], found.sh_rest], 1))
        colors.append(sh_to_rgb(3, sh, torch.nn.functional.normalize(seen, dim=1)))
    torch.testing.assert_close(*colors)
    matrices = (quats_to_matrices(torch.from_numpy(found.quats)) for found in (original, other))
    turn = torch.diag(torch.tensor([1.0, -1, -1]))
    one, two = matrices
    torch.testing.assert_close(turn @ one @ turn, two)


@pytest.mark.parametrize("count", [1, 2, 257])
def test_a_few_gaussians_and_the_same_bytes_every_time(tmp_path, count):
    original = random_splats(count=10 * count).rows(np.arange(count))
    for name in ("sog", "splat"):
        path = tmp_path / f"x{FORMATS[name].suffix}"
        FORMATS[name].write(path, original)
        first = path.read_bytes()
        assert len(FORMATS[name].read(path)) == count
        FORMATS[name].write(path, original)
        assert path.read_bytes() == first


def test_a_sog_is_a_zip_of_what_its_specification_names(tmp_path):
    splat_formats.write_sog(tmp_path / "x.sog", random_splats())
    with zipfile.ZipFile(tmp_path / "x.sog") as archive:
        meta = json.loads(archive.read("meta.json"))
        names = set(archive.namelist()) - {"meta.json"}
        assert archive.read("sh0.webp")[8:16] == b"WEBPVP8L", "lossless"
    assert (meta["version"], meta["count"], meta["shN"]["bands"]) == (2, COUNT, 3)
    assert names == {
        name for part in meta.values() if isinstance(part, dict) for name in part.get("files", [])
    }
    assert all(len(meta[part]["codebook"]) == 256 for part in ("scales", "sh0", "shN"))


def test_the_largest_component_of_a_quaternion_is_left_out():
    quats = np.array([[0.1, -0.9, 0.3, 0.2], [-0.8, 0.1, 0.2, 0.5]])
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    packed = sog.pack_quats(quats)
    assert packed[:, 3].tolist() == [253, 252]
    np.testing.assert_allclose(sog.unpack_quats(packed), -quats, atol=0.004)  # the same rotations


def test_neighbours_on_the_curve_are_neighbours_in_space():
    splats = random_splats(count=2000)
    means, along = splats.means, splats.means[along_curve(splats)]
    assert (
        np.linalg.norm(np.diff(along, axis=0), axis=1).mean()
        < 0.25 * np.linalg.norm(np.diff(means, axis=0), axis=1).mean()
    )


@pytest.mark.parametrize("name", ["sog", "splat"])
def test_a_damaged_file_is_named(tmp_path, name):
    path = tmp_path / f"x{FORMATS[name].suffix}"
    FORMATS[name].write(path, random_splats())
    for content in (b"", path.read_bytes()[:-5]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=path.name):
            FORMATS[name].read(path)


@pytest.mark.parametrize("name", FORMATS)
def test_an_independent_reader_sees_the_same(tmp_path, name):
    """PlayCanvas' splat-transform: SPLAT_TRANSFORM is the path of its bin/cli.mjs, run by node."""
    tool = os.environ.get("SPLAT_TRANSFORM")
    if not tool:
        pytest.skip("SPLAT_TRANSFORM is not set (npm install @playcanvas/splat-transform)")
    if FORMATS[name].by_gsply:
        pytest.importorskip("gsply")
    path, out = tmp_path / f"x{FORMATS[name].suffix}", tmp_path / "out.ply"
    FORMATS[name].write(path, random_splats())
    subprocess.run(["node", tool, str(path), str(out)], check=True, capture_output=True, timeout=120)
    theirs = export.to_splats(GaussianModel.load_ply(out, torch.device("cpu")))
    ours = FORMATS[name].read(path)
    theirs = matched(theirs, ours)
    for part in ("means", "scales", "opacities", "sh_dc"):
        np.testing.assert_allclose(getattr(theirs, part), getattr(ours, part), atol=2e-2, err_msg=part)
    cosines = (theirs.quats * ours.quats).sum(1) / np.prod(
        [np.linalg.norm(q.quats, axis=1) for q in (theirs, ours)], 0
    )
    assert np.abs(cosines).min() > 0.999
    if ours.sh_rest.shape[1]:
        np.testing.assert_allclose(theirs.sh_rest, ours.sh_rest, atol=2e-2)


# export.py


def test_the_command_says_what_each_format_costs(run_here, trained):
    folder = trained[0]
    leftover = folder / "export/ours_12/.point_cloud.spz.0123abcd.part.spz"  # of one that was killed
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    process = run_here("export.py", "-m", folder, "--formats", "sog", "splat")
    assert process.returncode == 0, process.stderr
    assert not leftover.exists()
    report = json.loads((folder / "export/ours_12/export.json").read_text())
    assert report["views"] == 2 and set(report) == {"ply", "gaussians", "views", "shift", "sog", "splat"}
    assert report["ply"]["notes"] == [] and report["sog"]["notes"] == []
    assert process.stdout.count("largest error (of 99 %): position ") == 2
    for name, suffix in (("sog", ".sog"), ("splat", ".splat")):
        path = folder / f"export/ours_12/point_cloud{suffix}"
        assert report[name]["bytes"] == path.stat().st_size
        assert abs(report[name]["PSNR"] - report["ply"]["PSNR"]) < 1
        assert f"of the PLY, PSNR {report[name]['PSNR']:.2f} dB" in process.stdout


def test_a_ply_by_others_is_exported_without_a_scene(run_here, trained, tmp_path):
    ply = trained[0] / "point_cloud/iteration_12/point_cloud.ply"
    assert (
        run_here("export.py", "--ply", ply, "-m", tmp_path, "--formats", "splat", "--quiet").returncode == 0
    )
    report = json.loads((tmp_path / "export/ours_0/export.json").read_text())
    assert report["splat"]["PSNR"] is None and report["gaussians"] == report["splat"]["bytes"] // 32
    assert report["splat"]["loss"]["position"] == [0, 0] and 0 < report["splat"]["loss"]["rotation"][0] < 1.4


@pytest.fixture
def ply_of(tmp_path):
    """The path of a PLY with these numbers."""

    def save(splats):
        export.to_model(splats, np.zeros(3)).save_ply(tmp_path / "theirs.ply")
        return tmp_path / "theirs.ply"

    return save


def test_rows_that_are_not_finite_are_left_out_of_every_file(run_here, ply_of, tmp_path):
    pytest.importorskip("gsply")
    splats = random_splats(1)
    splats.means[3, 0], splats.sh_rest[5, 0, 0] = np.nan, np.inf
    splats.opacities[7], splats.scales[9, 2], splats.quats[11] = np.inf, -np.inf, 0
    process = run_here("export.py", "--ply", ply_of(splats), "-m", tmp_path)
    assert process.returncode == 0, process.stderr
    report = json.loads((tmp_path / "export/ours_0/export.json").read_text())
    assert report["gaussians"] == COUNT - 2 and len(report["ply"]["notes"]) == 4
    assert all(note in process.stdout for note in report["ply"]["notes"])
    for name in FORMATS:
        found = FORMATS[name].read(export.path_of(tmp_path / "export/ours_0", name))
        assert len(found) == COUNT - 2 and all(np.isfinite(values).all() for values in vars(found).values())
        assert report[name]["loss"]["position"][0] < 0.02 and report[name]["loss"]["scale"][0] < 0.2


def test_a_format_that_cannot_hold_the_model_is_skipped_or_an_error_if_named(run_here, ply_of, tmp_path):
    pytest.importorskip("gsply")
    splats = random_splats(0)
    ply, output = ply_of(changed(splats, scales=splats.scales * 0.01 + 7)), tmp_path / "export/ours_0"
    command = ["export.py", "--ply", ply, "-m", tmp_path]
    assert fails(run_here(*command, "--formats", "splat", "spz"), "spz cannot hold this model")
    assert not output.exists(), "an error before anything is written"
    process = run_here(*command)
    assert process.returncode == 0 and "not written: spz cannot hold this model" in process.stdout
    report = json.loads((output / "export.json").read_text())
    assert "lengths of axes" in report["spz"]["not_written"] and not export.path_of(output, "spz").exists()
    for name in ("compressed_ply", "sog", "splat"):
        assert export.path_of(output, name).exists() and report[name]["loss"]["scale"][0] < 0.01


def test_a_defect_in_one_file_ends_in_an_error_after_the_others(run_here, ply_of, tmp_path, monkeypatch):
    spoilt = dataclasses.replace(FORMATS["sog"], read=lambda path: random_splats(0))
    monkeypatch.setitem(FORMATS, "sog", spoilt)
    command = ["export.py", "--ply", ply_of(random_splats(1)), "-m", tmp_path, "--formats", "sog", "splat"]
    assert fails(run_here(*command), "point_cloud.sog was not written")
    assert sorted(path.name for path in (tmp_path / "export/ours_0").iterdir()) == [
        "export.json", "point_cloud.splat",
    ]  # fmt: skip


def test_a_model_without_gaussians_is_not_exported(run_here, ply_of, tmp_path):
    ply = ply_of(random_splats().rows(np.arange(0)))
    assert fails(run_here("export.py", "--ply", ply, "-m", tmp_path), "holds no Gaussians to export")


def test_what_export_refuses(run_here, trained, tmp_path, monkeypatch):
    assert fails(run_here("export.py", "-m", tmp_path), "no trained model here")
    assert fails(run_here("export.py", "-m", trained[0], "--formats", "obj"), "invalid choice: 'obj'")
    monkeypatch.setattr(splat_formats.importlib.util, "find_spec", lambda name: None)
    assert fails(
        run_here("export.py", "-m", trained[0], "--formats", "spz"), "need gsply, which is not installed"
    )


def test_a_shift_is_told(run_here, tmp_path):
    """Other formats have no room for it."""
    export.to_model(random_splats(), np.array([1e6, 0.5, 0.0])).save_ply(tmp_path / "far.ply")
    process = run_here("export.py", "--ply", tmp_path / "far.ply", "-m", tmp_path, "--formats", "splat")
    assert process.returncode == 0, process.stderr
    assert "far.ply: positions are relative to 1000000.0 0.5 0.0 in the scene's files\n" in process.stdout
    report = json.loads((tmp_path / "export/ours_0/export.json").read_text())
    assert report["shift"] == [1e6, 0.5, 0.0] and report["ply"]["notes"][0].endswith("the scene's files")
