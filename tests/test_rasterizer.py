"""What the rasterizer returns: images, radii, statistics against the reference; its calls; its refusals."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch

import raster_scenes as scenes
import reference
from raster_scenes import CASES, Backend, case

pytestmark = scenes.on_every_backend

FLOAT64, FLOAT32 = torch.float64, torch.float32


@pytest.mark.parametrize("name", CASES)
def test_images_and_statistics_in_float64(backend: Backend, name: str):
    """The float64 kernels compute the reference's numbers."""
    got = scenes.run(backend, case(name).scene, FLOAT64)
    scenes.assert_exact(got.values, case(name).exact.values)
    scenes.assert_exact(got.statistics, case(name).exact.statistics)
    assert_radii(got.radii, case(name).exact.rendering)


@pytest.mark.parametrize("name", CASES)
def test_images_and_statistics_in_float32(backend: Backend, name: str):
    """The float32 kernels lose no more than plain torch in float32 does (twice that at most)."""
    got = scenes.run(backend, case(name).scene)
    exact = case(name).exact
    scenes.assert_within_float32(got.values, exact.values, case(name).slack)
    scenes.assert_within_float32(got.statistics, exact.statistics, case(name).slack)
    assert torch.equal(got.statistics["pixels"], exact.statistics["pixels"])
    assert_radii(got.radii, exact.rendering)


def assert_radii(radii: torch.Tensor, expected: reference.Rendering) -> None:
    """Whether a box that reaches the image but no pixel's centre counts as seen is left open."""
    assert radii.dtype == torch.int32
    touched = expected.touches
    assert torch.equal(radii[touched], expected.radii[touched])
    assert ((radii == expected.radii) | (radii == 0)).all()


@pytest.mark.parametrize("name", ["degree 3", "colors given"])
def test_the_same_without_gradients(backend: Backend, name: str):
    scene = case(name).scene
    images = scenes.run_image(backend, scene)
    trained = scenes.run(backend, scene)
    for key, image in trained.values.items():
        assert torch.equal(images[key].double().cpu(), image), key
        assert not images[key].requires_grad
    assert torch.equal(images["radii"].cpu(), trained.radii)


def test_dc_apart_from_the_rest_is_the_same_picture(backend: Backend):
    scene = case("degree 3").scene
    shs = scene.inputs["shs"]
    apart = scene.with_inputs(dc=shs[:, :1].contiguous(), shs=shs[:, 1:].contiguous())
    together, split = scenes.run_image(backend, scene), scenes.run_image(backend, apart)
    assert torch.equal(together["color"], split["color"])


def test_a_forks_call(backend: Backend):
    """The call of 3DGS and its forks, keyword by keyword: three values, gradients in every input."""
    scene = case("no extras").scene
    inputs = scenes.leaves(scene, FLOAT32, backend.device)
    package = backend.package
    rasterizer = package.GaussianRasterizer(raster_settings=scenes.settings(backend, scene.view))
    rendered, radii, depth = rasterizer(
        means3D=inputs["means3D"],
        means2D=inputs["means2D"],
        shs=inputs["shs"],
        colors_precomp=None,
        opacities=inputs["opacities"],
        scales=inputs["scales"],
        rotations=inputs["rotations"],
        cov3D_precomp=None,
    )
    height, width = scene.view.height, scene.view.width
    assert (rendered.shape, depth.shape, radii.shape) == (
        (3, height, width),
        (1, height, width),
        (len(scene),),
    )
    assert rendered.dtype == depth.dtype == torch.float32 and radii.dtype == torch.int32
    assert not radii.requires_grad
    rendered.sum().backward()
    seen = radii > 0
    assert seen.any() and not seen.all()
    for name, tensor in inputs.items():
        assert tensor.grad.shape == tensor.shape
        assert tensor.grad[seen].any() and not tensor.grad[~seen].any(), name
    assert rasterizer.statistics is None  # not asked for


def test_a_carrier_adds_a_fourth_value(backend: Backend):
    scene = case("carrier only").scene
    images = scenes.run_image(backend, scene)
    assert images["carried"].shape == (1, scene.view.height, scene.view.width)
    assert "carried" not in scenes.run_image(backend, scene.with_inputs(error_carrier=None))


def test_settings_have_the_fields_of_every_fork(backend: Backend):
    """By position too; what is ours comes last and has a default."""
    fields = backend.package.GaussianRasterizationSettings._fields
    assert fields[:13] == (
        "image_height", "image_width", "tanfovx", "tanfovy", "bg", "scale_modifier", "viewmatrix",
        "projmatrix", "sh_degree", "campos", "prefiltered", "debug", "antialiasing",
    )  # fmt: skip
    defaults = backend.package.GaussianRasterizationSettings._field_defaults
    assert set(fields[13:]) <= set(defaults) and defaults["antialiasing"] is False


@pytest.mark.parametrize("near", [0.2, 1e-4, 30.0])
def test_what_is_nearer_than_the_near_plane_is_not_seen(backend: Backend, near: float):
    rotation = scenes.random_rotation(torch.Generator().manual_seed(4))
    view = scenes.make_view(rotation=rotation, position=(1.0, 2.0, 3.0), near=near)
    depth = near * torch.tensor([-15.0, 0.0, 0.95, 1.05, 25.0], dtype=FLOAT64)
    points = scenes.world_points(view, torch.full((5, 2), 20.0, dtype=FLOAT64), depth)
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, view, FLOAT64))
    visible = rasterizer.markVisible(points.to(backend.device))
    assert visible.dtype == torch.bool and visible.tolist() == [False, False, False, True, True]
    shapes = {"scales": 0.01 * near * torch.ones(5, 3), "rotations": torch.eye(4)[:1].expand(5, 4)}
    inputs = {"means3D": points, "means2D": torch.zeros(5, 3), "opacities": torch.ones(5, 1)} | shapes
    inputs = {name: values.double().contiguous().to(backend.device) for name, values in inputs.items()}
    _, radii, _ = rasterizer(**inputs, colors_precomp=torch.ones(5, 3).double().to(backend.device))
    assert (radii > 0).tolist() == visible.tolist()


@pytest.mark.parametrize("near", [0.0, -1.0, float("nan")])
def test_a_near_plane_is_a_distance_above_zero(backend: Backend, near: float):
    scene = case("degree 3").scene
    settings = scenes.settings(backend, scene.view)._replace(near=near)
    with pytest.raises(ValueError, match="near: expected a"):
        backend.package.GaussianRasterizer(settings)(**scenes.leaves(scene, FLOAT32, backend.device))


def test_weights_of_removal_energies_are_one_for_every_pixel(backend: Backend):
    scene = case("degree 3").scene
    height, width = scene.view.height, scene.view.width

    def energies(weights):
        view = replace(scene.view, energy_weights=weights)
        return scenes.run(backend, replace(scene, view=view)).statistics["removal_energy"]

    assert torch.equal(energies(None), energies(torch.ones(height, width)))
    assert torch.equal(energies(torch.full((height, width), 0.5)), energies(None) / 2)
    with pytest.raises(ValueError, match=rf"energy_weights: expected .*{height}.*{width}"):
        energies(torch.ones(height, width + 1))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_black_learns(backend: Backend, dtype: torch.dtype):
    """Below the clamp at 0 there is no gradient; at it there is, whatever rounding makes of the sum."""
    scene = case("degree 3").scene
    inputs = scenes.leaves(scene, dtype, backend.device)
    count = len(inputs["means3D"])
    basis = 0.28209479177387814  # of degree 0
    colors = torch.tensor([[0.0, 1e-4, -1e-4]], dtype=dtype).expand(count, 3)
    dc = ((colors - 0.5) / basis)[:, None].to(backend.device).requires_grad_()
    view = dataclasses.replace(scene.view, sh_degree=0)
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, view, dtype))
    color, *_ = rasterizer(**{k: v for k, v in inputs.items() if k not in ("shs", "error_carrier")}, dc=dc)
    color.sum().backward()
    seen = dc.grad[:, 0].abs().sum(0)
    assert (color >= 0).all() and seen[0] > 0 and seen[1] > 0 and seen[2] == 0


def test_contiguity_does_not_matter(backend: Backend):
    scene = case("degree 3").scene
    inputs = {name: tensor.detach() for name, tensor in scenes.leaves(scene, FLOAT32, backend.device).items()}
    strided = {name: torch.stack([tensor, tensor + 1], dim=-1)[..., 0] for name, tensor in inputs.items()}
    assert not strided["means3D"].is_contiguous()
    rasterizer = backend.package.GaussianRasterizer(scenes.settings(backend, scene.view))
    assert torch.equal(rasterizer(**inputs)[0], rasterizer(**strided)[0])


def test_what_the_build_says_about_itself(backend: Backend):
    package = backend.package
    assert isinstance(package.best_device(), torch.device)
    info = package.cpu_info()
    assert info["isa"] in ("scalar", "avx2", "avx512") and info["threads"] == torch.get_num_threads()


SMALL = dict(width=8, height=8, count=3)


def call(backend: Backend, view_changes=None, **changes):
    """A valid call with some arguments replaced."""
    scene = scenes.random_scene(1, **SMALL, principal=(0.0, 0.0))
    tensors = {
        name: tensor.detach() for name, tensor in scenes.leaves(scene, FLOAT32, backend.device).items()
    }
    given = {**tensors, **{name: make(tensors) if callable(make) else make for name, make in changes.items()}}
    settings = scenes.settings(backend, scene.view)._replace(**(view_changes or {}))
    return backend.package.GaussianRasterizer(settings)(**given)


def test_the_valid_call_is_accepted(backend: Backend):
    assert len(call(backend)) == 4


WRONG_TENSORS = [
    ("means3D", lambda t: t["means3D"][:, :2], r"3.*\(\d+, 2\)"),
    ("means3D", lambda t: t["means3D"].half(), r"float32.*float16"),
    ("opacities", lambda t: t["opacities"][:, 0], r"1.*\(\d+,\)"),
    ("opacities", lambda t: t["opacities"][1:], r"1.*\(\d+, 1\)"),
    ("opacities", lambda t: t["opacities"].double(), r"float32.*float64"),
    ("means2D", lambda t: t["means2D"][:, :2], r"3.*\(\d+, 2\)"),
    ("shs", lambda t: t["shs"][:, :, :2], r"3.*\(\d+, 16, 2\)"),
    ("shs", lambda t: t["shs"][:, :9], r"16.*9"),
    ("scales", lambda t: t["scales"][:, :1], r"3.*\(\d+, 1\)"),
    ("rotations", lambda t: t["rotations"][:, :3], r"4.*\(\d+, 3\)"),
    ("rotations", lambda t: t["rotations"].long(), r"float32.*int64"),
    ("importance", lambda t: t["importance"][:-1], r"1.*\(\d+, 1\)"),
    ("importance", lambda t: t["importance"].to("meta"), r"cpu.*meta|cuda.*meta"),
    ("error_carrier", lambda t: t["error_carrier"].bfloat16(), r"float32.*bfloat16"),
]


@pytest.mark.parametrize("name, make, message", WRONG_TENSORS)
def test_wrong_tensors_are_refused(backend: Backend, name, make, message):
    """The sentence names the argument, what was expected and what came."""
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        call(backend, **{name: make})


@pytest.mark.parametrize("changes, message", [
    ({"shs": None}, "shs.*colors_precomp.*neither"),
    ({"colors_precomp": lambda t: t["means3D"]}, "shs.*colors_precomp.*both"),
    ({"scales": None, "rotations": None}, "scales.*rotations.*cov3D_precomp.*neither"),
    ({"cov3D_precomp": lambda t: t["means3D"].repeat(1, 2)}, "scales.*rotations.*cov3D_precomp.*both"),
    ({"rotations": None}, "scales.*rotations"),
    ({"scales": None}, "scales.*rotations"),
])  # fmt: skip
def test_contradicting_arguments_are_refused(backend: Backend, changes, message):
    with pytest.raises(ValueError, match=message):
        call(backend, **changes)


@pytest.mark.parametrize("name, value, message", [
    ("sh_degree", 4, "3.*4"),
    ("sh_degree", -1, "-1"),
    ("image_width", 0, "0"),
    ("image_height", -3, "-3"),
    ("tanfovx", 0.0, "0.0"),
    ("tanfovy", float("nan"), "nan"),
    ("viewmatrix", torch.eye(3), r"\(3, 3\)"),
    ("projmatrix", torch.eye(4).int(), "int32"),
    ("bg", torch.zeros(4), r"\(4,\)"),
    ("campos", torch.zeros(1, 3), r"\(1, 3\)"),
])  # fmt: skip
def test_wrong_settings_are_refused(backend: Backend, name, value, message):
    named = name.replace("image_width", "image").replace("image_height", "image")
    with pytest.raises(ValueError, match=f"{named}.*{message}"):
        call(backend, {name: value})


def test_what_is_no_tensor_is_refused(backend: Backend):
    with pytest.raises((TypeError, ValueError), match="opacities.*tensor.*list"):
        call(backend, opacities=[[0.5]])
