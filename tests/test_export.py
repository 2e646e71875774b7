"""Files of other programs: what is written is what is read, to the format's precision."""

from __future__ import annotations

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
from utils.splat_formats import FORMATS, Splats
from utils.splat_loss import cleaned, measure_loss

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


def matched(found: Splats, original: Splats) -> Splats:
    """`found` in the order of `original`: formats sort as they like."""
    distance = np.linalg.norm(found.means[None] - original.means[:, None], axis=2)
    order = distance.argmin(1)
    assert sorted(order) == list(range(len(original)))
    return Splats(**{name: values[order] for name, values in vars(found).items()})


# How far each format may be off: means, log scales, opacity, DC, other SH, quaternion (1 - |cosine|).
PRECISION = {
    "compressed_ply": (0.01, 0.01, 0.005, 0.02, 0.02, 1e-4),
    "spz": (3e-4, 0.04, 0.005, 0.02, 0.04, 1e-4),
    "sog": (1e-3, 0.03, 0.005, 0.03, 0.03, 1e-4),
    "splat": (1e-6, 1e-5, 0.005, 0.01, None, 1e-3),
}


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_what_is_read(tmp_path, name, degree):
    if FORMATS[name].by_gsply:
        pytest.importorskip("gsply")
    original, path = random_splats(degree), tmp_path / f"x{FORMATS[name].suffix}"
    FORMATS[name].write(path, original)
    found = matched(FORMATS[name].read(path), original)
    means, scales, opacity, dc, rest, turn = PRECISION[name]
    np.testing.assert_allclose(found.means, original.means, atol=means)
    np.testing.assert_allclose(found.scales, original.scales, atol=scales)
    shares = (torch.from_numpy(values.opacities).sigmoid() for values in (found, original))
    torch.testing.assert_close(*shares, atol=opacity, rtol=0)
    visible = np.abs(original.sh_dc) < 1.7 if name == "splat" else np.full_like(original.sh_dc, True, bool)
    np.testing.assert_allclose(found.sh_dc[visible], original.sh_dc[visible], atol=dc)
    unit = found.quats / np.linalg.norm(found.quats, axis=1, keepdims=True)
    assert (1 - np.abs((unit * original.quats).sum(1))).max() < turn
    if rest is None:
        assert found.sh_rest.shape == (COUNT, 0, 3)
    else:
        np.testing.assert_allclose(found.sh_rest, original.sh_rest, atol=rest)
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "nothing is left beside it"


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
    original = random_splats(count=10 * count)
    original = Splats(**{name: values[:count] for name, values in vars(original).items()})
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
    means = random_splats(count=2000).means
    along = means[sog.morton_order(means)]
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
    names = {"ply", "gaussians", "views", "sog", "splat", "shift", "changes"}
    assert report["views"] == 2 and set(report) == names and report["changes"] == []
    for name, suffix in (("sog", ".sog"), ("splat", ".splat")):
        path = folder / f"export/ours_12/point_cloud{suffix}"
        assert report[name]["bytes"] == path.stat().st_size
        assert abs(report[name]["PSNR"] - report["ply"]["PSNR"]) < 1
        assert f"of the PLY, PSNR {report[name]['PSNR']:.2f} dB" in process.stdout
        assert report[name]["lost"] in process.stdout and report[name]["loss"]["count"] == report["gaussians"]


def test_a_ply_by_others_is_exported_without_a_scene(run_here, trained, tmp_path):
    ply = trained[0] / "point_cloud/iteration_12/point_cloud.ply"
    assert (
        run_here("export.py", "--ply", ply, "-m", tmp_path, "--formats", "splat", "--quiet").returncode == 0
    )
    report = json.loads((tmp_path / "export/ours_0/export.json").read_text())
    assert report["splat"]["PSNR"] is None and report["gaussians"] == report["splat"]["bytes"] // 32


def test_what_export_refuses(run_here, trained, tmp_path, monkeypatch):
    assert fails(run_here("export.py", "-m", tmp_path), "no trained model here")
    assert fails(run_here("export.py", "-m", trained[0], "--formats", "obj"), "invalid choice: 'obj'")
    monkeypatch.setattr(splat_formats.importlib.util, "find_spec", lambda name: None)
    assert fails(
        run_here("export.py", "-m", trained[0], "--formats", "spz"), "need gsply, which is not installed"
    )


# Nothing is guessed, spoilt or lost without a word


def written_and_read(tmp_path, name, splats):
    kind, path = FORMATS[name], tmp_path / f"x{FORMATS[name].suffix}"
    if kind.by_gsply:
        pytest.importorskip("gsply")
    given = kind.arrange(splats)
    kind.write(path, given)
    return given, kind.read(path)


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_and_opacities_that_look_linear(tmp_path, name):
    """A scan in millimeters: all log sizes are 3; logits of 0.4 are opacities of 60 %."""
    splats = random_splats()
    splats.scales[:], splats.opacities[:] = np.log(20), np.log(0.6 / 0.4)
    _, found = written_and_read(tmp_path, name, splats)
    np.testing.assert_allclose(np.exp(found.scales), 20, rtol=0.04)
    np.testing.assert_allclose(splat_formats.sigmoid(found.opacities), 0.6, atol=0.003)


UNSOUND = {
    "NaN position": ("means", np.nan, "left out"),
    "infinite position": ("means", np.inf, "left out"),
    "NaN opacity": ("opacities", np.nan, "left out"),
    "infinite size": ("scales", np.inf, "left out"),
    "NaN color": ("sh_dc", np.nan, "left out"),
    "NaN harmonics": ("sh_rest", np.nan, "left out"),
    "infinite rotation": ("quats", np.inf, "left out"),
    "opaque": ("opacities", np.inf, "made opaque or transparent"),
    "transparent": ("opacities", -np.inf, "made opaque or transparent"),
    "flat": ("scales", -np.inf, "flat, with axes made exp(-30) thick"),
    "no rotation": ("quats", 0.0, "turned nowhere"),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", UNSOUND)
def test_one_unsound_gaussian_spoils_no_other(tmp_path, name, kind):
    part, value, said = UNSOUND[kind]
    splats = random_splats()
    getattr(splats, part)[17] = value
    clean, changes = cleaned(splats)
    assert len(changes) == 1 and changes[0].startswith("1 Gaussians " + said)
    assert len(clean) == COUNT - (said == "left out")
    given, found = written_and_read(tmp_path, name, clean)
    loss, usual = (
        measure_loss(*pair, FORMATS[name].precision)
        for pair in ((given, found), written_and_read(tmp_path, name, random_splats()))
    )
    assert loss.is_held and loss.beyond <= usual.beyond + 1
    for error in ("position", "opacity", "color", "rotation"):
        assert getattr(loss, error) <= 1.5 * getattr(usual, error) + 1e-6, error


def test_a_model_of_which_nothing_is_sound_is_refused():
    splats = random_splats()
    splats.means[:, 1] = np.nan
    with pytest.raises(ValueError, match="none of the 500 Gaussians is finite"):
        cleaned(splats)
    assert cleaned(random_splats())[1] == []


def test_the_loss_is_what_was_changed():
    given = random_splats()
    found = given.only(slice(None))
    found.means = given.means + np.float32([0, 0, 0.01])
    found.opacities = given.opacities + np.float32(0.02)
    found.quats = -given.quats
    loss = measure_loss(given, found, FORMATS["spz"].precision)
    assert (loss.position, loss.rotation) == (pytest.approx(0.01, rel=1e-3), pytest.approx(0, abs=0.1))
    assert loss.size == 0 and 0.004 < loss.opacity < 0.0051 and loss.largest == "position"
    assert loss.beyond == COUNT and not loss.is_held and "500 beyond the format (position)" in str(loss)
    with pytest.raises(ValueError, match="500 Gaussians were written, 499 are in the file"):
        measure_loss(given, found.only(slice(1, None)), FORMATS["spz"].precision)
    found.scales[3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        measure_loss(given, found, FORMATS["spz"].precision)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("name", FORMATS)
def test_a_format_holds_a_model_in_any_unit_or_says_no(tmp_path, name, unit):
    """SPZ's sizes end at exp(-10) and exp(6), SOG's positions at steps of a logarithm."""
    splats = random_splats()
    splats.means, splats.scales = splats.means * np.float32(unit), splats.scales + np.float32(np.log(unit))
    loss = measure_loss(*written_and_read(tmp_path, name, splats), FORMATS[name].precision)
    assert loss.is_held or (name == "spz" and unit != 1 and loss.largest == "size")
    assert loss.position < 2e-3 * 4 * unit


def test_the_command_leaves_no_file_that_is_wrong(run_here, tmp_path):
    pytest.importorskip("gsply")
    splats = random_splats()
    splats.means, splats.scales = splats.means * np.float32(1e-3), splats.scales - np.float32(np.log(1e3))
    splats.opacities[3], splats.means[4] = np.inf, np.nan
    model = export.to_model(splats, np.array([1e6, 0.5, 0.0]))
    model.save_ply(tmp_path / "small.ply")
    command = ("export.py", "--ply", tmp_path / "small.ply", "-m", tmp_path)
    process = run_here(*command)
    assert process.returncode == 0, process.stderr
    for sentence in (
        "1 Gaussians left out, their numbers are not finite\n",
        "1 Gaussians made opaque or transparent, their opacity was infinite\n",
        "positions are relative to 1000000.0 0.5 0.0 in the scene's coordinates\n",
        "spz cannot hold this model: ",
    ):
        assert sentence in process.stdout
    output = tmp_path / "export/ours_0"
    assert {path.name for path in output.iterdir()} == {
        "export.json", "point_cloud.compressed.ply", "point_cloud.sog", "point_cloud.splat",
    }  # fmt: skip
    report = json.loads((output / "export.json").read_text())
    assert report["gaussians"] == COUNT - 1 and report["shift"] == [1e6, 0.5, 0.0] and "spz" not in report
    assert fails(run_here(*command, "--formats", "spz", "--quiet"), "spz cannot hold this model: ")
