"""Models that are not finite: what is left out, what is clamped, and where the viewer starts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from commands import fails
from plyfile import PlyData, PlyElement

from arguments import make_settings
from gaussian_model import GaussianModel
from utils.soundness import LARGEST_LOGIT, SCALE_RANGE, make_sound
from view import Source
from viewer.inspect import bulk_of

CPU = torch.device("cpu")
NAN, INF = math.nan, math.inf


def plain_raw(count=6, degree=1):
    generator = torch.Generator().manual_seed(0)
    shapes = {"means": (3,), "sh_dc": (1, 3), "sh_rest": ((degree + 1) ** 2 - 1, 3), "opacities": (1,)}
    shapes |= {"scales": (3,), "quats": (4,)}
    return {name: torch.randn(count, *shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", ["means", "sh_dc", "sh_rest", "opacities", "scales", "quats"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_rows_that_are_not_finite_are_left_out_or_clamped(name, value):
    raw = plain_raw()
    raw[name].view(6, -1)[2, -1] = value
    before = {key: values.clone() for key, values in raw.items()}
    sound, notes = make_sound(raw)
    clamped = name in ("opacities", "scales") and not math.isnan(value)
    kept = torch.tensor([True, True, clamped, True, True, True])
    assert len(notes) == 1 and "1 of 6 Gaussians" in notes[0]
    for key, values in sound.items():
        assert values.isfinite().all() and len(values) == (6 if clamped else 5)
        others = torch.tensor([row != 2 for row in range(6)])
        assert torch.equal(values[others[kept]], before[key][others]), f"other {key} changed"
        assert torch.equal(raw[key].nan_to_num(7), before[key].nan_to_num(7)), "the input changed"


def test_what_is_clamped_gets_the_nearest_useful_value():
    raw = plain_raw()
    raw["opacities"][:2, 0] = torch.tensor([INF, -INF])
    raw["scales"][:3, 2] = torch.tensor([-INF, INF, -50.0])
    raw["quats"][3:] = torch.tensor([[0.0, 0, 0, 0], [0, 0, 3e-30, 4e-30], [0, 3e30, 0, -4e30]])
    sound, notes = make_sound(raw)
    assert sound["opacities"][:2, 0].tolist() == pytest.approx([LARGEST_LOGIT, -LARGEST_LOGIT])
    assert sound["scales"][:3, 2].tolist() == [SCALE_RANGE[0], SCALE_RANGE[1], SCALE_RANGE[0]]
    expected = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0.6, 0.8], [0, 0.6, 0, -0.8]])
    torch.testing.assert_close(sound["quats"][3:], expected)
    assert [note.split(" have ")[-1].split(" are ")[-1].split(":")[0] for note in notes] == [
        "infinitely opaque", "infinitely transparent", "a flat axis", "an axis without limit",
        "a quaternion of length 0",
    ]  # fmt: skip


def test_a_sound_model_is_the_same_and_nothing_is_said():
    raw = plain_raw()
    sound, notes = make_sound(raw)
    assert notes == [] and all(torch.equal(sound[name], values) for name, values in raw.items())


def test_a_model_without_any_finite_gaussian_is_an_error(tmp_path):
    model = GaussianModel(plain_raw() | {"means": torch.full((6, 3), NAN)})
    model.save_ply(tmp_path / "a.ply")
    with pytest.raises(ValueError, match=r"a\.ply: none of its 6 Gaussians has finite parameters"):
        GaussianModel.load_ply(tmp_path / "a.ply", CPU)


def test_loading_says_what_it_left_out(tmp_path, capsys):
    raw = plain_raw()
    raw["means"][1, 0], raw["opacities"][2] = NAN, INF
    GaussianModel(raw).save_ply(tmp_path / "a.ply")
    said = []
    assert len(GaussianModel.load_ply(tmp_path / "a.ply", CPU, said.append)) == 5
    assert len(said) == 2 and all(line.startswith(f"{tmp_path}/a.ply: 1 of 6 Gaussians") for line in said)
    assert capsys.readouterr().out == ""
    GaussianModel.load_ply(tmp_path / "a.ply", CPU)
    assert capsys.readouterr().out.splitlines() == said


def test_rendering_leaves_out_and_says_so_unless_quiet(run_here, trained, scene, tmp_path):
    source = trained[0] / "point_cloud/iteration_12/point_cloud.ply"
    model = GaussianModel.load_ply(source, CPU)
    model.raw["means"][0, 0] = NAN
    model.save_ply(tmp_path / "a.ply")
    command = ["render.py", "--ply", tmp_path / "a.ply", "--cameras", scene, "-m", tmp_path / "out"]
    process = run_here(*command)
    assert process.returncode == 0 and "Gaussians have NaN" in process.stdout, process.stderr
    assert "NaN" not in run_here(*command, "--quiet").stdout
    model.raw["means"][:] = INF
    model.save_ply(tmp_path / "a.ply")
    assert fails(run_here(*command), "has finite parameters")


# The viewer's initial camera


class Page:
    def start_at(self, position, target, up, fov):
        self.position, self.target = position, target


def start_of(model):
    page = Page()
    Source(None, "a.ply", make_settings({"quiet": True})).place_cameras(page, model)
    return page


def test_the_viewer_looks_at_the_bulk_whatever_lies_far_out():
    raw = plain_raw(count=101)
    without = start_of(GaussianModel(raw))
    raw["means"][:4] = torch.tensor([[1e30, 0, 0], [NAN, 0, 0], [0, INF, 0], [0, 0, -3e38]])
    page = start_of(GaussianModel(raw))
    assert np.isfinite(page.position).all() and np.isfinite(page.target).all()
    assert np.linalg.norm(page.position - without.position) < 0.5
    assert np.linalg.norm(page.target - np.zeros(3)) < 0.5


@pytest.mark.parametrize("size", [-20.0, 0.0, 3.0])
def test_a_lone_gaussian_is_seen_from_outside(size):
    raw = plain_raw(count=1) | {"scales": torch.full((1, 3), size)}
    page = start_of(GaussianModel(raw))
    assert np.linalg.norm(page.position - page.target) > max(2 * math.exp(size), 1e-4)


def test_nothing_to_look_at_is_one_sentence():
    with pytest.raises(ValueError, match="none of 0 Gaussians has a finite position"):
        bulk_of(GaussianModel(plain_raw(count=0)))


# Columns that are not what they should be


def write_columns(path, extra=(), lists=(), kind="<f4"):
    names = ["x", "y", "z", *(f"f_dc_{i}" for i in range(3)), "opacity", *(f"scale_{i}" for i in range(3))]
    names += [*(f"rot_{i}" for i in range(4)), *extra]
    table = np.zeros(2, dtype=[(name, "O" if name in lists else kind) for name in names])
    table["rot_0"] = 1
    for name in lists:
        table[name] = [np.zeros(2, "f4")] * 2
    types = {"val_types": dict.fromkeys(lists, "f4"), "len_types": dict.fromkeys(lists, "u1")}
    return table, lambda: PlyData([PlyElement.describe(table, "vertex", **types)]).write(str(path))


def test_columns_that_would_be_left_out_silently_are_an_error(tmp_path):
    path = tmp_path / "a.ply"
    write_columns(path, extra=[f"f_rest_{i}" for i in range(10)])[1]()
    with pytest.raises(ValueError, match=r"a\.ply: it has 10 columns f_rest_\*, expected 0, 9, 24 or 45"):
        GaussianModel.load_ply(path, CPU)
    write_columns(path, lists=["opacity"])[1]()
    with pytest.raises(ValueError, match=r"a\.ply: the vertex properties opacity are lists"):
        GaussianModel.load_ply(path, CPU)


def test_a_double_that_no_float32_holds_is_left_out_as_infinite(tmp_path):
    table, write = write_columns(tmp_path / "a.ply", kind="<f8")
    table["x"] = 1e300, 1
    write()
    said = []
    assert len(GaussianModel.load_ply(tmp_path / "a.ply", CPU, said.append)) == 1 and len(said) == 1
