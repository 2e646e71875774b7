"""What must hold for any scene: determinism, invariances, and the method's equations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import raster_scenes as scenes
import reference
from raster_scenes import Backend, Scene, case

pytestmark = scenes.on_every_backend

FLOAT64, FLOAT32 = torch.float64, torch.float32


@pytest.fixture
def threads():
    """Sets the number of threads; puts back what was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def large_scene() -> Scene:
    """Several tiles in each direction, lists of very different length."""
    return scenes.random_scene(31, count=250, width=150, height=70, margin=None)


def assert_same_bits(first: scenes.Result, second: scenes.Result) -> None:
    one, two = scenes.everything(first), scenes.everything(second)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    assert torch.equal(first.radii, second.radii)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_the_same_bits_on_every_run_and_for_every_number_of_threads(backend: Backend, dtype, threads):
    scene = large_scene()
    threads(1)
    first = scenes.run(backend, scene, dtype)
    for count in (1, 2, 3, 7, 1):
        threads(count)
        assert_same_bits(scenes.run(backend, scene, dtype), first)


@pytest.mark.parametrize("name", ["degree 3", "covariances given"])
def test_the_order_of_the_gaussians_does_not_matter(backend: Backend, name: str):
    """Depths are distinct, so the images are the same to the bit; gradients up to rounding."""
    scene = case(name).scene
    shuffle = torch.randperm(len(scene), generator=torch.Generator().manual_seed(2))
    first, second = scenes.run(backend, scene), scenes.run(backend, scene.rows(shuffle))
    for key, image in first.values.items():
        assert torch.equal(image, second.values[key]), key
    assert torch.equal(first.radii[shuffle], second.radii)
    first, second = scenes.run(backend, scene, FLOAT64), scenes.run(backend, scene.rows(shuffle), FLOAT64)
    for part in ("gradients", "statistics"):
        expected = {key: tensor[shuffle] for key, tensor in getattr(first, part).items()}
        scenes.assert_exact(getattr(second, part), expected, tolerance=1e-12)


@pytest.mark.parametrize("name", ["degree 3", "degree 3 apart", "covariances given"])
def test_the_place_of_a_gaussian_in_memory_does_not_matter(backend: Backend, name: str):
    """Unseen ones before the others move them through all lanes, and through the rest that fills no pack."""
    scene = case(name).scene
    first = scenes.run(backend, scene)
    unseen = int((first.radii == 0).nonzero()[0])
    for before in range(1, 18):
        index = torch.tensor([unseen] * before + list(range(len(scene))))
        moved = scenes.run(backend, scene.rows(index))
        assert torch.equal(moved.radii[before:], first.radii)
        for key, image in first.values.items():
            assert torch.equal(image, moved.values[key]), (key, before)
        for key, gradient in moved.gradients.items():
            assert not gradient[:before].any(), (key, before)
            one = {key: gradient[before:]}
            scenes.assert_exact(one, {key: first.gradients[key]}, tolerance=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5, 15, 16, 17])
@pytest.mark.parametrize("degree, bases", [(0, 16), (1, 9), (2, 25), (3, 25)])
def test_few_gaussians_and_coefficients_beyond_the_degree(
    backend: Backend, count: int, degree: int, bases: int
):
    scene = scenes.random_scene(count, count=20, degree=degree, bases=bases)
    scene = scene.rows(torch.arange(count))
    exact, got = scenes.run_reference(scene), scenes.run(backend, scene)
    scenes.assert_within_float32(scenes.everything(got), scenes.everything(exact), slack=4)
    assert not got.gradients["shs"][:, (degree + 1) ** 2 :].any()


def test_gaussians_at_one_depth_are_blended_in_input_order(backend: Backend):
    view = scenes.make_view(1, 1)
    points = scenes.world_points(
        view, torch.full((3, 2), 0.5, dtype=FLOAT64), torch.full((3,), 2.0, dtype=FLOAT64)
    )
    scene = Scene(view, {
        "means3D": points,
        "opacities": torch.full((3, 1), 0.5, dtype=FLOAT64),
        "colors_precomp": torch.eye(3, dtype=FLOAT64),
        "cov3D_precomp": torch.tensor([[1.0, 0, 0, 1, 0, 1]], dtype=FLOAT64).expand(3, 6),
    })  # fmt: skip
    color = scenes.run_image(backend, scene.with_view(background=torch.zeros(3, dtype=FLOAT64)))["color"][
        :, 0, 0
    ]
    torch.testing.assert_close(color.cpu(), torch.tensor([0.5, 0.25, 0.125]))


def moved(scene: Scene, rotation: torch.Tensor, quaternion: torch.Tensor, shift: torch.Tensor) -> Scene:
    """World and camera under p -> R p + t."""
    back = torch.eye(4, dtype=FLOAT64)
    back[:3, :3], back[3, :3] = rotation, -shift @ rotation  # row vectors, new world to old world
    view = replace(
        scene.view,
        viewmatrix=back @ scene.view.viewmatrix,
        projmatrix=back @ scene.view.projmatrix,
        campos=rotation @ scene.view.campos + shift,
    )
    a, b = quaternion, scene.inputs["rotations"]
    product = torch.cat(
        [
            a[:1] * b[:, :1] - (a[1:] * b[:, 1:]).sum(1, keepdim=True),
            a[:1] * b[:, 1:] + b[:, :1] * a[1:] + torch.linalg.cross(a[1:].expand(len(b), 3), b[:, 1:]),
        ],
        dim=1,
    )
    return replace(
        scene.with_inputs(means3D=scene.inputs["means3D"] @ rotation.T + shift, rotations=product), view=view
    )


@pytest.mark.parametrize("antialiasing", [False, True])
def test_moving_world_and_camera_together_changes_nothing(backend: Backend, antialiasing: bool):
    """Images, screen gradients and statistics stay; gradients of the means turn with the world."""
    scene = scenes.random_scene(41, degree=0, antialiasing=antialiasing)
    quaternion = torch.nn.functional.normalize(torch.tensor([0.3, -0.8, 0.4, 0.5], dtype=FLOAT64), dim=0)
    rotation = reference.rotation_matrix(quaternion[None])[0]
    shift = torch.tensor([3.0, -1.0, 2.0], dtype=FLOAT64)
    before = scenes.run(backend, scene, FLOAT64)
    after = scenes.run(backend, moved(scene, rotation, quaternion, shift), FLOAT64)
    scenes.assert_exact(after.values, before.values)
    scenes.assert_exact(after.statistics, before.statistics)
    assert torch.equal(after.radii, before.radii)
    before.gradients["means3D"] = before.gradients["means3D"] @ rotation.T
    before.gradients.pop("rotations"), after.gradients.pop("rotations")
    scenes.assert_exact(after.gradients, before.gradients)


def test_the_length_of_a_quaternion_has_no_effect(backend: Backend):
    scene = case("degree 3").scene
    before = scenes.run(backend, scene, FLOAT64)
    after = scenes.run(backend, scene.with_inputs(rotations=scene.inputs["rotations"] * 7.5), FLOAT64)
    scenes.assert_exact(after.values, before.values)
    gradient = before.gradients["rotations"]
    along = (gradient * scene.inputs["rotations"]).sum(1)
    assert along.abs().max() < 1e-12 * gradient.abs().max()
    scenes.assert_exact({"rotations": after.gradients["rotations"] * 7.5}, {"rotations": gradient})


@pytest.mark.parametrize("dtype, tolerance", [(FLOAT32, 1e-5), (FLOAT64, 1e-12)])
def test_weights_and_what_is_left_sum_to_one(backend: Backend, dtype, tolerance):
    """All colors 1: black background shows the sum of weights, and with a white one everything is 1."""
    scene = case("colors given").scene
    white = scene.with_inputs(colors_precomp=torch.ones(len(scene), 3, dtype=FLOAT64))
    ones, zeros = torch.ones(3, dtype=FLOAT64), torch.zeros(3, dtype=FLOAT64)
    weights = scenes.run_image(backend, white.with_view(background=zeros), dtype)["color"]
    whole = scenes.run_image(backend, white.with_view(background=ones), dtype)["color"]
    black = scene.with_inputs(colors_precomp=torch.zeros(len(scene), 3, dtype=FLOAT64))
    left = scenes.run_image(backend, black.with_view(background=ones), dtype)["color"]
    assert (whole - 1).abs().max() <= tolerance and (weights + left - 1).abs().max() <= tolerance
    assert weights.min() >= 0 and left.min() >= 0.99e-4 and weights.max() > 0.9
    sums = scenes.run(backend, scene, dtype).statistics["weight_sum"]
    assert sums.sum().item() == pytest.approx(weights[0].double().sum().item(), rel=tolerance)


def test_error_per_gaussian_is_the_explicit_sum(backend: Backend):
    """E_k = d/de_k sum_u E(u) A(u) = sum_u E(u) w_k(u), with e = 0 and the loss scaled by a power of two."""
    scene = case("carrier only").scene
    error = torch.rand(
        1, scene.view.height, scene.view.width, generator=torch.Generator().manual_seed(5)
    ).double()
    scene = scene.with_inputs(error_carrier=torch.zeros(len(scene), 1, dtype=FLOAT64))
    weights = reference.render(scene.view, **scene.inputs).weights
    wanted = weights @ error.reshape(-1)
    for dtype, tolerance in ((FLOAT64, 1e-12), (FLOAT32, 2e-6)):
        inputs = scenes.leaves(scene, dtype, backend.device)
        rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view, dtype))
        *_, carried = rasterizer(**inputs)
        assert not carried.any()
        (2.0**-20 * (carried * error.to(carried)).sum()).backward()
        summed = inputs["error_carrier"].grad[:, 0].double().cpu() * 2.0**20
        assert (summed - wanted).abs().max() <= tolerance * wanted.max()


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("name", ["carrier only", "degree 3", "one pixel"])
def test_the_carrier_changes_no_other_bits(backend: Backend, dtype, name):
    """e = 0 as in training: with and without it, images, gradients and statistics are the same."""
    scene = case(name).scene
    zero = scene.with_inputs(error_carrier=torch.zeros(len(scene), 1, dtype=FLOAT64))
    with_carrier = scenes.run(backend, zero, dtype)
    assert with_carrier.gradients.pop("error_carrier").any()
    assert not with_carrier.values.pop("carried").any()
    assert_same_bits(with_carrier, scenes.run(backend, scene.with_inputs(error_carrier=None), dtype))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_importance_one_is_no_importance(backend: Backend, dtype):
    scene = case("importance only").scene
    ones = scene.with_inputs(importance=torch.ones(len(scene), 1, dtype=FLOAT64))
    with_ones = scenes.run(backend, ones, dtype)
    assert with_ones.gradients.pop("importance").any()
    assert_same_bits(with_ones, scenes.run(backend, scene.with_inputs(importance=None), dtype))


def test_importance_folded_into_opacity_is_the_same_picture_where_nothing_is_skipped(backend: Backend):
    scene = scenes.smooth_scene(12)
    product = scene.inputs["opacities"] * scene.inputs["importance"]
    folded = scene.with_inputs(opacities=product, importance=None)
    first, second = (scenes.run_image(backend, s, FLOAT64) for s in (scene, folded))
    torch.testing.assert_close(first["color"], second["color"], rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype, tolerance", [(FLOAT64, 1e-9), (FLOAT32, 1e-4)])
def test_removal_energy_is_what_removing_changes(backend: Backend, dtype, tolerance):
    """Every Gaussian really removed, the background seen through; no pixel comes near its end."""
    scene = scenes.random_scene(51, count=20, width=40, height=30)
    faint = scene.inputs["opacities"].clamp(0.05, 0.4)
    scene = scenes.away_from_cutoffs(scene.with_inputs(opacities=faint), 1e-5)
    assert reference.render(scene.view, **scene.inputs).transmittance.min() > 1e-3
    result = scenes.run(backend, scene, dtype)
    energy = result.statistics["removal_energy"]
    assert (energy > 1e-3).sum() > 15
    for k in range(len(scene)):
        without = (
            scenes.run_image(backend, scene.rows(torch.arange(len(scene)) != k), dtype)["color"]
            .double()
            .cpu()
        )
        change = ((result.values["color"] - without).square() * scene.view.energy_weights).sum()
        assert abs(energy[k] - change) <= tolerance * (energy[k] + 1e-2 * energy.max()), k


def test_statistics_do_not_depend_on_the_gradients(backend: Backend):
    """The removal energy is of the picture, not of a loss: any cotangent gives the same numbers."""
    scene = case("degree 3").scene
    first = scenes.run(backend, scene).statistics
    inputs = scenes.leaves(scene, FLOAT32, backend.device)
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view, statistics=True))
    assert rasterizer.statistics is None
    (rasterizer(**inputs)[0] * 0).sum().backward()
    for name, values in first.items():
        assert torch.equal(getattr(rasterizer.statistics, name).double().cpu(), values), name
    assert rasterizer.statistics.pixels.dtype == torch.int32


def test_a_background_shows_where_nothing_is(backend: Backend):
    scene = case("no extras").scene
    empty = scene.rows(torch.zeros(len(scene), dtype=torch.bool))
    image = scenes.run_image(backend, empty)["color"].cpu()
    assert torch.equal(image, scene.view.background.float()[:, None, None].expand_as(image))
