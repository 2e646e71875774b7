"""The two halves of a render: together what the whole is, each with the right gradient, splats as rows."""

from __future__ import annotations

import pytest
import torch

import raster_scenes as scenes
from raster_scenes import CASES, Backend, Scene, case

pytestmark = scenes.on_every_backend

FLOAT64, FLOAT32 = torch.float64, torch.float32
DIFFERENTIABLE = (0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15)  # columns of splats


def run_halves(backend: Backend, scene: Scene, dtype=FLOAT32, between=lambda splats: splats) -> scenes.Result:
    """As `scenes.run`; `between` changes the splats on their way."""
    inputs = scenes.leaves(scene, dtype, backend.device)
    rasterizer = backend.package.GaussianRasterizer(
        scenes.settings(backend, scene.view, dtype, statistics=True)
    )
    splats = rasterizer.project(**inputs)
    color, invdepth, *carried = rasterizer.blend(between(splats), with_carrier="error_carrier" in inputs)
    values = {"color": color, "invdepth": invdepth, **dict(zip(["carried"], carried))}
    gradients = scenes.backpropagate(scene, values, inputs)
    return scenes.Result(
        values={name: image.detach().double().cpu() for name, image in values.items()},
        radii=splats.radii.cpu(),
        gradients=gradients,
        statistics={name: value.double().cpu() for name, value in vars(rasterizer.statistics).items()},
    )


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("name", CASES)
def test_the_halves_have_the_bits_of_the_whole(backend: Backend, name: str, dtype):
    whole, halves = (run(backend, case(name).scene, dtype) for run in (scenes.run, run_halves))
    assert_same_bits(scenes.everything(whole), scenes.everything(halves))
    assert torch.equal(whole.radii, halves.radii)


def test_splats_of_two_calls_together(backend: Backend):
    """Half of the Gaussians each, one after the other: as ranks do that share them."""
    scene = scenes.random_scene(31, count=250, width=150, height=70, margin=None)
    whole, parts = scenes.run(backend, scene), []
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view, statistics=True))
    for part in torch.arange(len(scene)).split(120):
        inputs = scenes.leaves(scene.rows(part), FLOAT32, backend.device)
        parts.append((inputs, rasterizer.project(**inputs)))
    splats = backend.package.Splats(*map(torch.cat, zip(*(splats for _, splats in parts))))
    color, invdepth, carried = rasterizer.blend(splats, with_carrier=True)
    values = {"color": color, "invdepth": invdepth, "carried": carried}
    weights = scenes.cotangents(scene.view.height, scene.view.width)
    sum((weights[name].to(image) * image).sum() for name, image in values.items()).backward()
    for name, image in values.items():
        assert torch.equal(image.double().cpu(), whole.values[name]), name
    for name, gradient in whole.gradients.items():
        got = torch.cat([inputs[name].grad for inputs, _ in parts]).double().cpu()
        scenes.assert_exact({name: got}, {name: gradient}, tolerance=1e-5)


def test_unseen_splats_may_be_left_out(backend: Backend):
    scene = scenes.random_scene(31, count=250, width=150, height=70, margin=None)

    def seen_alone(splats):
        seen = splats.radii.nonzero()[:, 0]
        assert 0 < len(seen) < len(splats.radii)
        return backend.package.Splats(*(values[seen] for values in splats))

    whole, less = scenes.run(backend, scene), run_halves(backend, scene, between=seen_alone)
    assert_same_bits(whole.values | whole.gradients, less.values | less.gradients)
    seen = whole.radii > 0
    assert_same_bits({name: value[seen] for name, value in whole.statistics.items()}, less.statistics)


def test_unseen_splats_are_zeros(backend: Backend):
    scene = scenes.random_scene(31, count=250, width=150, height=70, margin=None)
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view))
    splats = rasterizer.project(**scenes.leaves(scene, FLOAT32, backend.device))
    assert splats.rows.shape == (len(scene), len(backend.package.SPLAT_COLUMNS))
    assert splats.rows.isfinite().all()
    assert not splats.rows[splats.radii == 0].any() and splats.rows[splats.radii > 0][:, 2].all()


def test_gradients_of_splats_by_finite_differences(backend: Backend):
    scene = scenes.smooth_scene(5, count=3)
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view, FLOAT64))
    splats = rasterizer.project(**scenes.leaves(scene, FLOAT64, backend.device))
    given, columns = splats.rows.detach(), torch.tensor(DIFFERENTIABLE, device=backend.device)

    def images(numbers):
        rows = given.index_copy(1, columns, numbers)
        return rasterizer.blend(splats._replace(rows=rows), with_carrier=True)

    assert torch.autograd.gradcheck(images, given[:, columns].clone().requires_grad_())


def test_gradients_of_projection_by_finite_differences(backend: Backend):
    scene = scenes.smooth_scene(6, count=3, sh_degree=2, antialiasing=True)
    inputs = scenes.leaves(scene, FLOAT64, backend.device)
    means2d = inputs.pop("means2D").detach()
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view, FLOAT64))

    def rows(*tensors):
        splats = rasterizer.project(means2D=means2d, **dict(zip(inputs, tensors)))
        return splats.rows[:, DIFFERENTIABLE]

    assert torch.autograd.gradcheck(rows, tuple(inputs.values()))


def test_no_splats_leave_the_background(backend: Backend):
    scene = scenes.smooth_scene(5, count=3)
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view))
    splats = rasterizer.project(**scenes.leaves(scene.rows(torch.arange(0)), FLOAT32, backend.device))
    color, _ = rasterizer.blend(splats)
    background = rasterizer.raster_settings.bg[:, None, None].expand_as(color)
    assert torch.equal(color, background)


def test_what_the_halves_refuse(backend: Backend):
    scene = scenes.smooth_scene(5, count=3)
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view))
    inputs = scenes.leaves(scene, FLOAT32, backend.device)
    splats = rasterizer.project(**inputs)
    with pytest.raises(TypeError, match="project: expected the arguments of forward, got means"):
        rasterizer.project(means=inputs["means3D"])
    with pytest.raises(ValueError, match="expected either shs .* or colors_precomp, got neither"):
        rasterizer.project(**inputs | {"shs": None})
    with pytest.raises(ValueError, match=r"splats.rows: expected .* of shape \(N, 16\)"):
        rasterizer.blend(splats._replace(rows=splats.rows[:, :5]))
    with pytest.raises(ValueError, match=r"splats.depths"):
        rasterizer.blend(splats._replace(depths=splats.depths[:2]))
    with pytest.raises(ValueError, match=r"splats.radii"):
        rasterizer.blend(splats._replace(radii=splats.radii.float()))
    stepping = backend.package.StepInBackward(None, inputs)
    with pytest.raises(ValueError, match="project: expected a rasterizer without stepping"):
        backend.package.GaussianRasterizer(rasterizer.raster_settings, stepping).project(**inputs)
