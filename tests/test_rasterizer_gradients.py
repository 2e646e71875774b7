"""Every gradient of the rasterizer: against the reference with random cotangents, by finite differences."""

from __future__ import annotations

import pytest
import torch

import raster_scenes as scenes
import reference
from raster_scenes import CASES, Backend, case

pytestmark = scenes.on_every_backend

FLOAT64, FLOAT32 = torch.float64, torch.float32


@pytest.mark.parametrize("name", CASES)
def test_gradients_in_float64(backend: Backend, name: str):
    got = scenes.run(backend, case(name).scene, FLOAT64)
    scenes.assert_exact(got.gradients, case(name).exact.gradients)


@pytest.mark.parametrize("name", CASES)
def test_gradients_in_float32(backend: Backend, name: str):
    got = scenes.run(backend, case(name).scene)
    scenes.assert_within_float32(got.gradients, case(name).exact.gradients, case(name).slack)


def test_every_input_is_compared(backend: Backend):
    """Together the cases hold every differentiable argument, each with a gradient that is not zero."""
    seen = set()
    for name in CASES:
        seen |= {argument for argument, gradient in case(name).exact.gradients.items() if gradient.any()}
    assert seen == {
        "means3D", "means2D", "opacities", "shs", "dc", "colors_precomp", "scales", "rotations",
        "cov3D_precomp", "importance", "error_carrier",
    }  # fmt: skip


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("antialiasing", [False, True])
def test_gradcheck(backend: Backend, degree: int, antialiasing: bool):
    """Finite differences of the float64 kernels themselves, away from every cutoff."""
    scene = scenes.smooth_scene(degree, count=2, sh_degree=degree, antialiasing=antialiasing)
    inputs = scenes.leaves(scene, FLOAT64, backend.device)
    means2d = inputs.pop("means2D").detach()  # its value is not used, so it has no finite difference
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view, FLOAT64))

    def images(*tensors):
        color, _, invdepth, carried = rasterizer(means2D=means2d, **dict(zip(inputs, tensors)))
        return color, invdepth, carried

    assert torch.autograd.gradcheck(images, tuple(inputs.values()))


@pytest.mark.parametrize("given", [("color", "dc"), ("covariance", True)])
def test_gradcheck_of_the_other_inputs(backend: Backend, given):
    scene = scenes.smooth_scene(9, count=2, sh_degree=1)
    if given[0] == "color":
        scene = scene.with_inputs(dc=scene.inputs["shs"][:, :1], shs=scene.inputs["shs"][:, 1:])
    else:
        packed = scenes.packed_covariance(scene.inputs["scales"], scene.inputs["rotations"])
        scene = scene.with_inputs(
            scales=None,
            rotations=None,
            cov3D_precomp=packed,
            shs=None,
            colors_precomp=torch.rand(len(scene), 3).double(),
        )
    inputs = scenes.leaves(scene, FLOAT64, backend.device)
    means2d = inputs.pop("means2D").detach()
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view, FLOAT64))
    assert torch.autograd.gradcheck(
        lambda *tensors: rasterizer(means2D=means2d, **dict(zip(inputs, tensors)))[0], tuple(inputs.values())
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_screen_gradient_is_in_ndc_units(backend: Backend, axis: int):
    """An off-centre projection shifts every mean in NDC, nothing else: gradients sum to the loss's slope."""
    scene = scenes.smooth_scene(6)
    gradient = scenes.run(backend, scene, FLOAT64).gradients["means2D"]
    step = 1e-5

    def loss(shift):
        matrix = scene.view.projmatrix.clone()
        matrix[:, axis] += shift * matrix[:, 3]  # clip += shift * w
        images = scenes.run_image(backend, scene.with_view(projmatrix=matrix), FLOAT64)
        weights = scenes.cotangents(scene.view.height, scene.view.width)
        return sum((images[name].cpu() * weights[name]).sum() for name in weights).item()

    slope = (loss(step) - loss(-step)) / (2 * step)
    assert gradient[:, axis].sum().item() == pytest.approx(slope, rel=1e-7)
    assert not gradient[:, 2].any()


@pytest.mark.parametrize("output", ["color", "invdepth", "carried"])
@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32])
def test_a_loss_on_one_image_only(backend: Backend, output: str, dtype):
    """The other images get no gradient at all (None), as when a fork ignores the depth."""
    scene = case("degree 3").scene
    inputs = scenes.leaves(scene, dtype, backend.device)
    rasterizer = backend.package.GaussianRasterizer(
        scenes.settings(backend, scene.view, dtype, statistics=True)
    )
    color, _, invdepth, carried = rasterizer(**inputs)
    images = {"color": color, "invdepth": invdepth, "carried": carried}
    got = scenes.backpropagate(scene, {output: images[output]}, inputs)

    exact = scenes.leaves(scene, FLOAT64)
    out = reference.render(scene.view, **exact)
    wanted = scenes.backpropagate(scene, {output: getattr(out, output)}, exact)
    compare = scenes.assert_exact if dtype is FLOAT64 else scenes.assert_within_float32
    compare(got, wanted)
    energy = rasterizer.statistics.removal_energy.double().cpu()
    assert (
        energy - out.statistics.removal_energy
    ).abs().max() < 1e-4 * energy.max()  # needs no gradient of the color


def test_two_views_in_one_graph(backend: Backend):
    """Each backward pass belongs to its own forward pass."""
    scene, other = case("degree 3").scene, case("degree 3, antialiasing").scene
    other = scenes.Scene(other.view, scene.inputs)
    both = scenes.leaves(scene, FLOAT32, backend.device)
    losses, single = [], []
    for view in (scene.view, other.view):
        alone = scenes.leaves(scene, FLOAT32, backend.device)
        for inputs in (both, alone):
            color = backend.package.GaussianRasterizer(scenes.settings(backend, view))(**inputs)[0]
            loss = (color * scenes.cotangents(view.height, view.width)["color"].to(color)).sum()
            if inputs is both:
                losses.append(loss)
            else:
                loss.backward()
                single.append(
                    {name: tensor.grad for name, tensor in alone.items() if tensor.grad is not None}
                )
    (losses[0] + losses[1]).backward()
    for name in single[0]:
        total = single[0][name] + single[1][name]
        torch.testing.assert_close(
            both[name].grad, total, rtol=1e-6, atol=1e-6 * total.abs().max().item(), msg=name
        )


@pytest.mark.parametrize(
    "wanted", ["means3D", "means2D", "opacities", "shs", "scales", "rotations", "importance", "error_carrier"]
)
def test_a_gradient_asked_for_alone_has_the_same_bits(backend: Backend, wanted: str):
    scene = case("degree 3").scene
    everything = scenes.run(backend, scene).gradients[wanted]
    inputs = {name: tensor.detach() for name, tensor in scenes.leaves(scene, FLOAT32, backend.device).items()}
    inputs[wanted].requires_grad_()
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view))
    color, _, invdepth, carried = rasterizer(**inputs)
    images = {"color": color, "invdepth": invdepth, "carried": carried}
    images = {name: image for name, image in images.items() if image.requires_grad}
    alone = scenes.backpropagate(scene, images, {wanted: inputs[wanted]})
    assert torch.equal(alone[wanted], everything)


def test_saved_inputs_are_guarded(backend: Backend):
    """An input changed in place between forward and backward is an error, not a wrong gradient."""
    scene = case("no extras").scene
    inputs = scenes.leaves(scene, FLOAT32, backend.device)
    color = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view))(**inputs)[0]
    with torch.no_grad():
        inputs["opacities"].mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        color.sum().backward()


@pytest.mark.parametrize("importance", [1e-3, 1e-6, 1e-30, 0.0])
def test_a_muted_gaussian_still_gets_its_importance_gradient(backend: Backend, importance: float):
    """The skip test is before modulation: dL/ds_k stays what it is, however small s_k has become."""
    scene = case("importance only").scene
    values = torch.full_like(scene.inputs["importance"], importance)
    scene = scene.with_inputs(importance=values)
    got = scenes.run(backend, scene)
    exact = scenes.run_reference(scene)
    assert torch.isfinite(got.gradients["importance"]).all()
    assert (exact.gradients["importance"] != 0).sum() > 30
    wanted = {"importance": exact.gradients["importance"]}
    scenes.assert_within_float32({"importance": got.gradients["importance"]}, wanted)
    assert torch.equal(got.statistics["pixels"], exact.statistics["pixels"])


def test_unseen_gaussians_have_zero_gradients(backend: Backend):
    for name in ("degree 3", "covariances given", "degree 3 apart"):
        got = scenes.run(backend, case(name).scene)
        unseen = got.radii == 0
        assert unseen.sum() >= 2
        for argument, gradient in got.gradients.items():
            assert not gradient[unseen].any(), argument
        for statistic in got.statistics.values():
            assert not statistic[unseen].any()
