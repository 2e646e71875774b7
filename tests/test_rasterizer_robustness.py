"""Hostile values do no harm: finite images and gradients, and nothing else in the picture changes."""

from __future__ import annotations

import math
import os

import pytest
import torch

import raster_scenes as scenes
import reference
from raster_scenes import Backend, Scene

pytestmark = scenes.on_every_backend

FLOAT64, FLOAT32 = torch.float64, torch.float32
NAN, INF = math.nan, math.inf


def healthy_scene(**options) -> Scene:
    return scenes.random_scene(61, count=40, width=50, height=35, **options)


def with_guest(scene: Scene, **changes) -> Scene:
    """The scene and one more Gaussian in the middle of the view, near, some of its values replaced.

    A change is a number for the whole row or a list for its entries.
    """
    view = scene.view
    middle = torch.tensor([[view.width / 2, view.height / 2]], dtype=FLOAT64)
    guest = {name: tensor[:1].clone() for name, tensor in scene.inputs.items()}
    guest["means3D"] = scenes.world_points(view, middle, torch.tensor([1.2], dtype=FLOAT64))
    guest["opacities"][:] = 0.7
    for name, size in (("scales", 0.1), ("cov3D_precomp", 0.01), ("importance", 0.9)):
        if name in guest:
            guest[name][:] = size
    for name, value in changes.items():
        row = guest[name].view(-1)
        row[:] = (
            torch.as_tensor(value, dtype=FLOAT64).expand(row.shape) if not isinstance(value, dict) else row
        )
        if isinstance(value, dict):
            for index, number in value.items():
                row[index] = number
    return Scene(view, {name: torch.cat([tensor, guest[name]]) for name, tensor in scene.inputs.items()})


def assert_finite(result: scenes.Result) -> None:
    for name, tensor in scenes.everything(result).items():
        assert torch.isfinite(tensor).all(), name


def assert_as_if_absent(result: scenes.Result, without: scenes.Result) -> None:
    """The last Gaussian has no pixel, gradient or statistic, and every bit of the others is as it was."""
    assert result.radii[-1] == 0 and torch.equal(result.radii[:-1], without.radii)
    for name, image in without.values.items():
        assert torch.equal(result.values[name], image), name
    for part in ("gradients", "statistics"):
        for name, tensor in getattr(result, part).items():
            assert torch.equal(tensor[:-1], getattr(without, part)[name]), name
            assert not tensor[-1].any(), name


def test_the_guest_is_seen_when_it_is_healthy(backend: Backend):
    scene = with_guest(healthy_scene())
    result = scenes.run(backend, scene)
    assert result.radii[-1] > 0 and result.statistics["weight_sum"][-1] > 1
    assert all(gradient[-1].any() for gradient in result.gradients.values())


NOT_DRAWN = {
    "mean nan": {"means3D": {0: NAN}},
    "mean all nan": {"means3D": NAN},
    "mean inf": {"means3D": {1: INF}},
    "mean -inf": {"means3D": {2: -INF}},
    "scale nan": {"scales": {1: NAN}},
    "scale inf": {"scales": {2: INF}},
    "scales inf": {"scales": INF},
    "quaternion nan": {"rotations": {3: NAN}},
    "quaternion inf": {"rotations": {0: INF}},
    "opacity nan": {"opacities": NAN},
    "opacity 0": {"opacities": 0.0},
    "opacity negative": {"opacities": -0.5},
    "opacity -inf": {"opacities": -INF},
    "opacity below 1/255": {"opacities": 0.0039},
    "importance nan": {"importance": NAN},
    "carrier nan": {"error_carrier": NAN},
    "carrier inf": {"error_carrier": INF},
    "sh nan": {"shs": {0: NAN}},
    "sh inf": {"shs": {5: INF}},
}


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("changes", NOT_DRAWN.values(), ids=NOT_DRAWN)
def test_what_is_no_number_or_no_opacity_is_not_drawn(backend: Backend, changes, dtype):
    scene = healthy_scene(antialiasing=True)
    result = scenes.run(backend, with_guest(scene, **changes), dtype)
    assert_finite(result)
    assert_as_if_absent(result, scenes.run(backend, scene, dtype))


@pytest.mark.parametrize("options, changes", [
    ({"color": "precomp"}, {"colors_precomp": {1: NAN}}),
    ({"color": "precomp"}, {"colors_precomp": {0: INF}}),
    ({"color": "dc"}, {"dc": {2: NAN}}),
    ({"covariance": True}, {"cov3D_precomp": {4: NAN}}),
    ({"covariance": True}, {"cov3D_precomp": {0: INF}}),
    ({"covariance": True}, {"cov3D_precomp": NAN}),
])  # fmt: skip
def test_the_other_inputs_are_no_numbers(backend: Backend, options, changes):
    scene = healthy_scene(**options)
    result = scenes.run(backend, with_guest(scene, **changes))
    assert_finite(result)
    assert_as_if_absent(result, scenes.run(backend, scene))


DEPTHS = {
    "far behind": -1e6,
    "behind": -0.5,
    "at the camera": 0.0,
    "nearly at it": 1e-8,
    "at the near plane": 0.1999,
}


@pytest.mark.parametrize("depth", DEPTHS.values(), ids=DEPTHS)
def test_at_or_behind_the_camera(backend: Backend, depth: float):
    scene = healthy_scene()
    middle = torch.tensor([[25.0, 17.5]], dtype=FLOAT64)
    point = scenes.world_points(scene.view, middle, torch.tensor([depth], dtype=FLOAT64))[0]
    if depth == 0:
        point = scene.view.campos
    for size in (0.1, 1e3):
        result = scenes.run(backend, with_guest(scene, means3D=point, scales=size))
        assert_finite(result)
        assert_as_if_absent(result, scenes.run(backend, scene))


EXTREME = {
    "scale 1e-30": {"scales": 1e-30},
    "scale 1e10": {"scales": 1e10},
    "scale 1e30": {"scales": 1e30},
    "one scale 1e18": {"scales": {0: 1e18}},
    "disk": {"scales": {2: 0.0}},
    "needle": {"scales": [0.0, 5.0, 0.0]},
    "long needle": {"scales": [1e-6, 1e6, 1e-6]},
    "negative scale": {"scales": {1: -0.2}},
    "zero quaternion": {"rotations": 0.0},
    "tiny quaternion": {"rotations": 1e-30},
    "huge quaternion": {"rotations": 1e30},
    "denormal quaternion": {"rotations": [1e-44, 0.0, 0.0, 1e-44]},
    "opacity inf": {"opacities": INF},
    "opacity 1e30": {"opacities": 1e30},
    "importance inf": {"importance": INF},
    "importance negative": {"importance": -1.0},
    "sh 1e30": {"shs": 1e30},
    "sh -1e30": {"shs": -1e30},
    "mean 1e30": {"means3D": [1e30, -1e30, 1e30]},
    "mean 1e18": {"means3D": [1e18, 1e18, 1e18]},
}


@pytest.mark.parametrize("antialiasing", [False, True])
@pytest.mark.parametrize("changes", EXTREME.values(), ids=EXTREME)
def test_extreme_values_stay_finite(backend: Backend, changes, antialiasing: bool):
    """Images always; gradients too, unless the number itself leaves float32 (colors of 1e30)."""
    scene = with_guest(healthy_scene(antialiasing=antialiasing), **changes)
    result = scenes.run(backend, scene)
    for name, image in result.values.items():
        assert torch.isfinite(image).all(), name
    if "shs" not in changes:
        assert_finite(result)


@pytest.mark.parametrize("entries", [
    [0, 0, 0, 0, 0, 0],
    [-1, 0, 0, -1, 0, -1],  # no covariance: negative
    [0.01, 5, 5, 0.01, 5, 0.01],  # no covariance: indefinite
    [1e30, 0, 0, 1e30, 0, 1e30],
    [1e30, 1e30, 1e30, 1e30, 1e30, 1e30],
])  # fmt: skip
@pytest.mark.parametrize("antialiasing", [False, True])
def test_extreme_covariances_stay_finite(backend: Backend, entries, antialiasing: bool):
    scene = healthy_scene(covariance=True, antialiasing=antialiasing)
    assert_finite(scenes.run(backend, with_guest(scene, cov3D_precomp=[float(e) for e in entries])))


VALID = {
    "zero scale": {"scales": 0.0},
    "opacity 1": {"opacities": 1.0},
    "importance 0": {"importance": 0.0},
    "huge": {"scales": 50.0},
}


@pytest.mark.parametrize("changes", VALID.values(), ids=VALID)
def test_extreme_but_valid_values_are_drawn_as_the_equations_say(backend: Backend, changes):
    scene = scenes.away_from_cutoffs(with_guest(healthy_scene(), **changes), 1e-6)
    exact = scenes.run_reference(scene)
    name, value = next(iter(changes.items()))
    assert (scene.inputs[name] == value).all(1).any()
    got = scenes.run(backend, scene, FLOAT64)
    for part in ("values", "gradients", "statistics"):
        scenes.assert_exact(getattr(got, part), getattr(exact, part))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (17, 16), (15, 33), (16, 16)])
def test_nothing_to_draw(backend: Backend, size):
    scene = healthy_scene()
    view = scenes.make_view(*size)
    empty = Scene(view, {name: tensor[:0] for name, tensor in scene.inputs.items()})
    result = scenes.run(backend, empty)
    image = result.values["color"]
    assert torch.equal(image, view.background[:, None, None].expand(3, size[1], size[0]))
    assert not result.values["invdepth"].any() and not result.values["carried"].any()
    for name, gradient in result.gradients.items():
        assert gradient.shape == (0, *scenes.leaves(scene, FLOAT32)[name].shape[1:])


def test_everything_culled(backend: Backend):
    scene = healthy_scene()
    behind = scene.with_inputs(means3D=2 * scene.view.campos - scene.inputs["means3D"])
    behind = behind.rows(reference.to_camera(scene.view, behind.inputs["means3D"])[:, 2] < 0)
    assert len(behind) > 30
    result = scenes.run(backend, behind)
    assert not result.radii.any()
    assert not any(gradient.any() for gradient in result.gradients.values())


def test_all_gaussians_hostile_at_once(backend: Backend):
    """Every hostile row in one scene, shuffled among the healthy ones."""
    scene = healthy_scene()
    for changes in [*NOT_DRAWN.values(), *EXTREME.values()]:
        if "shs" not in changes:
            scene = with_guest(scene, **changes)
    scene = scene.rows(torch.randperm(len(scene), generator=torch.Generator().manual_seed(3)))
    assert_finite(scenes.run(backend, scene))


def test_more_pairs_than_memory_holds_are_refused(backend: Backend):
    """More than 2^31 pairs, counted in 64 bit, twice what the machine could hold: a sentence, no crash."""
    if backend.name != "cpu" or not hasattr(os, "sysconf"):
        pytest.skip("counts on the memory of this machine")
    view = scenes.make_view(4096, 4096)
    bytes_per_pair, tiles = 100, 256 * 256
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    count = int(max(1.1 * 2**31, 2 * memory / bytes_per_pair) / tiles)
    middle = torch.full((1, 2), 2048.0, dtype=FLOAT64)
    point = scenes.world_points(view, middle, torch.tensor([2.0], dtype=FLOAT64))

    def repeated(*row):
        return torch.tensor([row], dtype=FLOAT64).expand(count, len(row))

    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, view, FLOAT64, statistics=True))
    with pytest.raises(MemoryError, match="pairs.*GiB"):
        rasterizer(
            means3D=point.expand(count, 3),
            means2D=torch.zeros(1, 3, dtype=FLOAT64).expand(count, 3),
            opacities=repeated(0.9).clone().requires_grad_(),
            colors_precomp=repeated(1.0, 1.0, 1.0),
            cov3D_precomp=repeated(1e4, 0.0, 0.0, 1e4, 0.0, 1e4),
        )


def test_debug_names_what_is_not_finite(backend: Backend):
    scene = with_guest(healthy_scene(), scales=NAN)
    inputs = scenes.leaves(scene, FLOAT32, backend.device)
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view, debug=True))
    row = len(inputs["scales"]) - 1
    with pytest.raises(
        ValueError, match=f"scales: expected finite values, got 1 bad rows, the first is row {row}"
    ):
        rasterizer(**inputs)


def test_debug_names_a_gradient_that_is_not_finite(backend: Backend):
    scene = healthy_scene()
    inputs = scenes.leaves(scene, FLOAT32, backend.device)
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view, debug=True))
    color, *_ = rasterizer(**inputs)
    with pytest.raises(ValueError, match="gradient of .*: expected finite values"):
        color.backward(torch.full_like(color, NAN))
