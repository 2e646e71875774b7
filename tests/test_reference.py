"""The reference renderer against numbers worked out by hand, finite differences and gsplat's torch twin."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import raster_scenes as scenes
import reference
from benchmarks import gsplat_twin
from raster_scenes import make_view

FLOAT64 = torch.float64


def tensor(*values) -> Tensor:
    return torch.tensor(values, dtype=FLOAT64)


def dots(view, pixels, depths, opacities, colors, sigma=1.0, **options):
    """Round Gaussians of one size in pixels (before dilation), given by precomputed covariance."""
    depth = tensor(*depths)
    focal = view.width / (2 * view.tanfovx)
    variance = (sigma * depth / focal) ** 2
    zero = torch.zeros_like(variance)
    return {
        "means3D": scenes.world_points(view, tensor(*pixels), depth),
        "opacities": tensor(*opacities)[:, None],
        "colors_precomp": tensor(*colors),
        "cov3D_precomp": torch.stack([variance, zero, zero, variance, zero, variance], dim=1),
        **options,
    }


RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


def test_one_gaussian_by_hand():
    """On the axis the footprint is round: variance sigma^2 + 0.3 px^2 around the centre of pixel (4, 3)."""
    view = make_view(9, 7)
    out = reference.render(view, **dots(view, [(4.5, 3.5)], [2.0], [0.6], [RED], sigma=1.5))
    variance = 1.5**2 + 0.3
    for x, y in [(4, 3), (5, 3), (4, 5), (2, 4)]:
        alpha = 0.6 * math.exp(-((x - 4) ** 2 + (y - 3) ** 2) / (2 * variance))
        wanted = alpha * tensor(*RED) + (1 - alpha) * view.background
        torch.testing.assert_close(out.color[:, y, x], wanted, rtol=1e-6, atol=0)
        assert out.invdepth[0, y, x].item() == pytest.approx(alpha / 2.0, rel=1e-6)
        assert out.transmittance[0, y, x].item() == pytest.approx(1 - alpha, rel=1e-6)
    assert out.radii.tolist() == [math.ceil(3 * math.sqrt(variance))]


def test_pixel_centres_lie_at_one_half():
    view = make_view(8, 8)
    out = reference.render(view, **dots(view, [(3.0, 4.0)], [1.0], [0.5], [RED], sigma=0.5))
    around = out.transmittance[0, 3:5, 2:4]
    assert (around == around[0, 0]).all() or around.std() < 1e-9


def test_principal_point_moves_the_picture_by_whole_pixels():
    centered, moved = make_view(16, 12), make_view(16, 12, principal=(3.0, -2.0))
    inputs = dots(centered, [(7.2, 6.1), (6.0, 8.5)], [2.0, 3.0], [0.6, 0.7], [RED, GREEN])
    plain = reference.render(centered, **inputs).color
    shifted = reference.render(moved, **inputs).color
    torch.testing.assert_close(shifted[:, :10, 3:], plain[:, 2:, :13], rtol=0, atol=1e-6)


def test_order_carrier_statistics_and_removal_energy_by_hand():
    """Two Gaussians over one pixel, given back to front."""
    view = make_view(1, 1, background=tensor(0.0, 0.0, 1.0), energy_weights=tensor(0.5)[None])
    inputs = dots(
        view, [(0.5, 0.5)] * 2, [3.0, 2.0], [0.5, 0.8], [GREEN, RED], importance=tensor(1.0, 0.5)[:, None]
    )
    out = reference.render(view, **inputs, error_carrier=tensor(5.0, 7.0)[:, None])
    front, back = 0.8 * 0.5, 0.6 * 0.5
    left = 1 - front - back
    torch.testing.assert_close(out.color[:, 0, 0], tensor(front, back, left), rtol=0, atol=1e-7)
    assert out.carried.item() == pytest.approx(7 * front + 5 * back, abs=1e-6)
    assert out.invdepth.item() == pytest.approx(front / 2 + back / 3, abs=1e-7)
    torch.testing.assert_close(out.statistics.weight_sum, tensor(back, front), rtol=0, atol=1e-7)
    torch.testing.assert_close(out.statistics.weight_max, tensor(back, front), rtol=0, atol=1e-7)
    assert out.statistics.pixels.tolist() == [1, 1]
    # (0.4, 0.3, 0.3) becomes (0.4, 0, 0.6) without the back one and (0, 0.5, 0.5) without the front one
    wanted = 0.5 * tensor(0.3**2 + 0.3**2, 0.4**2 + 0.2**2 + 0.2**2)
    torch.testing.assert_close(out.statistics.removal_energy, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("opacity, importance, weight", [
    (0.0039, 1.0, 0.0),  # below 1/255
    (0.00393, 1.0, 0.00393),
    (0.5, 0.001, 0.0005),  # the skip test is before modulation
    (0.5, 0.0, 0.0),
    (1.0, 1.0, 0.99),
])  # fmt: skip
def test_alpha_by_hand(opacity, importance, weight):
    view = make_view(1, 1)
    inputs = dots(view, [(0.5, 0.5)], [2.0], [opacity], [RED], importance=tensor(importance)[:, None])
    out = reference.render(view, **inputs)
    assert out.statistics.weight_sum.item() == pytest.approx(weight, rel=1e-9)
    assert out.statistics.pixels.item() == (opacity > 1 / 255)


def test_the_gaussian_that_would_end_the_pixel_is_not_blended():
    view = make_view(1, 1)
    inputs = dots(view, [(0.5, 0.5)] * 5, [1, 2, 3, 4, 5], [0.9, 0.95, 0.97, 0.5, 0.1], [RED] * 5)
    out = reference.render(view, **inputs)  # T: 0.1, 0.005, 0.00015, then 0.000075 and, behind it, 0.000135
    assert out.statistics.pixels.tolist() == [1, 1, 1, 0, 0]
    assert out.transmittance.item() == pytest.approx(0.1 * 0.05 * 0.03, rel=1e-6)


@pytest.mark.parametrize("sigma, factor", [(0.8, 0.64 / 0.94), (0.01, math.sqrt(0.000025))])
def test_antialiasing_by_hand(sigma, factor):
    """For a round footprint sqrt(det / det') = sigma^2 / (sigma^2 + 0.3); never below sqrt(0.000025)."""
    view = make_view(1, 1, antialiasing=True)
    out = reference.render(view, **dots(view, [(0.5, 0.5)], [2.0], [0.9], [RED], sigma=sigma))
    assert out.statistics.weight_sum.item() == pytest.approx(0.9 * factor, rel=1e-5)


def test_what_is_not_in_front_of_the_near_plane_is_culled():
    view = make_view(8, 8)
    inputs = dots(view, [(4.0, 4.0)] * 3, [0.1999, 0.2001, -1.0], [0.5] * 3, [RED] * 3)
    out = reference.render(view, **inputs)
    assert (out.radii > 0).tolist() == [False, True, False]
    assert (out.statistics.pixels > 0).tolist() == [False, True, False]


def test_radius_is_zero_where_the_footprint_misses_the_image():
    """sigma' is about 1.4 px there: the ellipse at 1/255 reaches 4.3 px (opacity 0.5) or 1.9 px (0.01)."""
    view = make_view(20, 20)
    pixels, opacities = [(-3.0, 10.0), (-5.0, 10.0), (-3.0, 10.0), (10.0, 23.0)], [0.5, 0.5, 0.01, 0.5]
    out = reference.render(view, **dots(view, pixels, [2.0] * 4, opacities, [RED] * 4))
    assert (out.radii > 0).tolist() == [True, False, False, True]


def test_spherical_harmonics_are_orthonormal():
    """Gauss-Legendre in z and even steps in azimuth integrate products of degree 6 exactly."""
    count = 16
    steps = torch.arange(1, count, dtype=FLOAT64)
    jacobi = torch.diag(steps / (4 * steps**2 - 1).sqrt(), 1)
    z, vectors = torch.linalg.eigh(jacobi + jacobi.T)
    azimuth = 2 * math.pi * torch.arange(count, dtype=FLOAT64) / count
    weight = (2 * vectors[0] ** 2)[:, None] * (2 * math.pi / count)
    ring = (1 - z**2).sqrt()[:, None]
    directions = torch.stack(
        [ring * azimuth.cos(), ring * azimuth.sin(), z[:, None].expand(count, count)], dim=2
    )
    basis = reference.sh_basis(3, directions.reshape(-1, 3))
    gram = basis.T @ (basis * weight.expand(count, count).reshape(-1, 1))
    torch.testing.assert_close(gram, torch.eye(16, dtype=FLOAT64), rtol=0, atol=1e-12)


def test_spherical_harmonics_have_the_fields_signs_and_order():
    direction = tensor(0.36, 0.48, 0.8)[None]
    x, y, z = 0.36, 0.48, 0.8
    wanted = [
        0.28209479177387814, -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x,
        1.0925484305920792 * x * y, -1.0925484305920792 * y * z,
        0.31539156525252005 * (2 * z * z - x * x - y * y),
        -1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y),
    ]  # fmt: skip
    torch.testing.assert_close(reference.sh_basis(3, direction)[0, :9], tensor(*wanted), rtol=1e-12, atol=0)
    signs = reference.sh_basis(3, direction)[0, 9:].sign().tolist()  # y3 xyz y1 z x1 z(xx-yy) x3
    assert signs == [
        1.0 if s > 0 else -1.0 for s in (-(3 * x * x - y * y), 1, -1, 1, -1, x - y, 3 * y * y - x * x)
    ]


def test_covariance_is_that_of_the_projected_axes():
    """J by torch's autograd of the pinhole mapping, inside and beyond the clamp."""
    view = make_view(40, 30)
    focal = view.width / (2 * view.tanfovx)
    shape = torch.randn(3, 3, dtype=FLOAT64, generator=torch.Generator().manual_seed(1))
    shape = shape @ shape.T * 0.01
    for point, clamped in [
        ((0.3, -0.2, 2.0), (0.3, -0.2, 2.0)),
        ((9.0, 0.1, 2.0), (1.3 * view.tanfovx * 2, 0.1, 2.0)),
    ]:
        jacobian = torch.autograd.functional.jacobian(lambda p: focal * p[:2] / p[2], tensor(*clamped))
        splats = reference.project(
            view, tensor(*point)[None], shape[None], tensor(0.5), torch.zeros(1, 2, dtype=FLOAT64)
        )
        wanted = jacobian @ shape @ jacobian.T + 0.3 * torch.eye(2, dtype=FLOAT64)
        torch.testing.assert_close(splats.covariance[0], wanted, rtol=1e-6, atol=0)


def test_quaternion_turns_as_it_should():
    """90 degrees about z, given at twice unit length: x becomes y."""
    turn = reference.rotation_matrix(
        tensor(2 * math.cos(math.pi / 4), 0, 0, 2 * math.sin(math.pi / 4))[None]
    )[0]
    torch.testing.assert_close(turn @ tensor(1, 0, 0), tensor(0, 1, 0), rtol=0, atol=1e-12)


def test_gradient_of_the_screen_mean_by_hand():
    """dC/d(mean in NDC) = o G d/variance (c - background) * size / 2."""
    view = make_view(10, 8)
    inputs = dots(view, [(5.0, 4.0)], [2.0], [0.6], [RED])  # on the axis: round
    means2d = torch.zeros(1, 3, dtype=FLOAT64, requires_grad=True)
    reference.render(view, **inputs, means2D=means2d).color[0, 6, 6].backward()
    dx, dy, variance = 1.5, 2.5, 1.3
    slope = 0.6 * math.exp(-(dx * dx + dy * dy) / (2 * variance)) * (1 - view.background[0].item()) / variance
    wanted = tensor(slope * dx * view.width / 2, slope * dy * view.height / 2, 0.0)
    torch.testing.assert_close(means2d.grad[0], wanted, rtol=1e-6, atol=0)


def test_statistics_are_the_explicit_sums():
    scene = scenes.random_scene(11)
    out = reference.render(scene.view, **scene.inputs)
    torch.testing.assert_close(out.statistics.weight_sum, out.weights.sum(1))
    torch.testing.assert_close(
        out.weights.sum(0) + out.transmittance.reshape(-1), torch.ones_like(out.weights[0])
    )
    blended = torch.zeros_like(out.weights, dtype=torch.bool)
    blended[out.cutoffs.order] = out.cutoffs.blended
    assert torch.equal(blended, out.weights > 0)
    assert torch.equal(out.statistics.pixels.long(), blended.sum(1))


def test_removal_energy_is_what_removing_changes():
    scene = scenes.smooth_scene(5, count=4)
    out = reference.render(scene.view, **scene.inputs)
    for k in range(len(scene)):
        without = scene.rows(torch.arange(len(scene)) != k)
        change = out.color - reference.render(without.view, **without.inputs).color
        wanted = (change.square() * scene.view.energy_weights).sum().item()
        assert out.statistics.removal_energy[k].item() == pytest.approx(wanted, rel=1e-9)


def test_random_scenes_meet_every_cutoff():
    """What the comparisons with the kernels rely on: each branch is taken somewhere."""
    for options in (
        {},
        {"importance": False},
        {"antialiasing": True},
        {"color": "precomp", "covariance": True},
    ):
        scene = scenes.random_scene(3, **options)
        out = reference.render(scene.view, **scene.inputs)
        camera = reference.to_camera(scene.view, scene.inputs["means3D"])
        slope = camera[:, :2] / camera[:, 2:] / tensor(scene.view.tanfovx, scene.view.tanfovy)
        outside = out.touches[:, None] & (slope.abs() > 1.3)
        solid = scene.rows((scene.inputs["opacities"] * scene.inputs.get("importance", 1.0))[:, 0] > 0.99)
        assert (camera[:, 2] <= 0).any() and ((camera[:, 2] > 0) & (camera[:, 2] <= 0.2)).any()
        assert outside[:, 0].any() and outside[:, 1].any()
        assert (out.transmittance < 1.5e-4).sum() > 3
        assert (reference.render(solid.view, **solid.inputs).statistics.weight_max == 0.99).any()
        assert ((camera[:, 2] > 0.2) & (out.radii == 0)).sum() >= 2
        if "shs" in scene.inputs:
            raw = reference.sh_color(3, scene.inputs["shs"], scene.inputs["means3D"] - scene.view.campos)
            assert (raw[out.touches] < 0).any(1).sum() > 3


def test_the_bound_of_the_compensation_is_met():
    scene = scenes.random_scene(3, antialiasing=True)
    covariance = reference.covariance_3d(scene.inputs["scales"], scene.inputs["rotations"])
    out = reference.render(scene.view, **scene.inputs)
    tiny = covariance.diagonal(dim1=1, dim2=2).sum(1) < 1e-5
    assert (tiny & out.touches).any()


@pytest.mark.parametrize("antialiasing", [False, True])
@pytest.mark.parametrize("color, covariance", [("dc", False), ("precomp", True)])
def test_gradients_by_finite_differences_with_frozen_cutoffs(antialiasing, color, covariance):
    """All branches of a random scene; the decisions are kept while its inputs move."""
    scene = scenes.random_scene(
        7,
        count=3,
        width=13,
        height=11,
        degree=2,
        color=color,
        covariance=covariance,
        antialiasing=antialiasing,
    )
    cutoffs = reference.render(scene.view, **scene.inputs).cutoffs
    inputs = scenes.leaves(scene, FLOAT64)
    names = list(inputs)

    def images(*tensors):
        out = reference.render(scene.view, **dict(zip(names, tensors)), cutoffs=cutoffs)
        weights = scenes.cotangents(scene.view.height, scene.view.width)
        return sum((weights[name] * getattr(out, name)).sum() for name in ("color", "invdepth", "carried"))

    scales = {"scales": 1e-7, "cov3D_precomp": 1e-8}
    exact = torch.autograd.grad(images(*inputs.values()), list(inputs.values()))
    generator = torch.Generator().manual_seed(1)
    for index, name in enumerate(names):
        direction = (
            torch.randn(inputs[name].shape, generator=generator, dtype=FLOAT64) * inputs[name].detach().abs()
        )
        step = scales.get(name, 1e-7) * (direction if name != "means2D" else torch.ones_like(direction))
        values = []
        for sign in (1, -1):
            moved = [
                t.detach() + sign * step if i == index else t.detach() for i, t in enumerate(inputs.values())
            ]
            values.append(images(*moved).item())
        wanted = (exact[index] * step).sum().item()
        assert (values[0] - values[1]) / 2 == pytest.approx(wanted, rel=1e-5, abs=1e-12), name


def test_gradcheck_away_from_the_cutoffs():
    scene = scenes.smooth_scene(2, count=3, sh_degree=1, antialiasing=True)
    inputs = scenes.leaves(scene, FLOAT64)

    def images(*tensors):
        out = reference.render(scene.view, **dict(zip(inputs, tensors)))
        return out.color, out.invdepth, out.carried

    assert torch.autograd.gradcheck(images, tuple(inputs.values()))


def test_clamped_alpha_has_no_gradient():
    view = make_view(1, 1)
    inputs = dots(view, [(0.4, 0.7)], [2.0], [0.9999], [RED], sigma=5.0, importance=tensor(0.9999)[:, None])
    inputs = {name: value.requires_grad_() for name, value in inputs.items()}
    reference.render(view, **inputs).color.sum().backward()
    for name in ("means3D", "opacities", "importance", "cov3D_precomp"):
        assert not inputs[name].grad.any(), name
    assert inputs["colors_precomp"].grad.any()


def test_cutoffs_stay_frozen():
    view = make_view(1, 1)
    inputs = dots(view, [(0.5, 0.5)], [2.0], [0.003], [RED])
    cutoffs = reference.render(view, **dots(view, [(0.5, 0.5)], [2.0], [0.5], [RED])).cutoffs
    assert reference.render(view, **inputs).statistics.weight_sum.item() == 0
    kept = reference.render(view, **inputs, cutoffs=cutoffs)
    assert kept.statistics.weight_sum.item() == pytest.approx(0.003)
    dropped = replace(cutoffs, blended=torch.zeros_like(cutoffs.blended))
    assert not reference.render(view, **inputs, cutoffs=dropped).statistics.pixels.any()


def test_nothing_to_render():
    view = make_view(5, 4)
    out = reference.render(view, torch.zeros(0, 3, dtype=FLOAT64), torch.zeros(0, 1, dtype=FLOAT64),
                           colors_precomp=torch.zeros(0, 3, dtype=FLOAT64),
                           cov3D_precomp=torch.zeros(0, 6, dtype=FLOAT64))  # fmt: skip
    torch.testing.assert_close(out.color, view.background[:, None, None].expand(3, 4, 5))
    assert len(out.radii) == 0 and not out.invdepth.any()


def gsplat_color(view, inputs) -> Tensor:
    """(3, H, W) by gsplat's torch twin."""
    focal = view.width / (2 * view.tanfovx)
    return gsplat_twin.render(
        view.viewmatrix.T,
        tensor((focal, 0, view.width / 2), (0, focal, view.height / 2), (0, 0, 1)),
        (view.width, view.height),
        view.background,
        view.sh_degree,
        means=inputs["means3D"],
        quats=inputs["rotations"],
        scales=inputs["scales"],
        opacities=inputs["opacities"],
        sh=inputs["shs"],
        antialiasing=view.antialiasing,
    )


@pytest.mark.skipif(not gsplat_twin.is_installed(), reason="gsplat and nerfacc are not installed")
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("antialiasing", [False, True])
def test_against_gsplats_torch_twin(antialiasing, degree):
    scene = scenes.random_scene(
        20 + degree,
        degree=degree,
        antialiasing=antialiasing,
        importance=False,
        carrier=False,
        principal=(0.0, 0.0),
    )
    # gsplat clamps alpha at 0.999 and has no lower bound for the compensation: leave out what meets either
    covariance = reference.covariance_3d(scene.inputs["scales"], scene.inputs["rotations"])
    scene = scene.rows(
        (scene.inputs["opacities"][:, 0] <= 0.98) & (covariance.diagonal(dim1=1, dim2=2).sum(1) > 1e-5)
    )
    # gsplat derives projection and camera centre from the field of view and the pose: not rounded to float32
    projection = torch.diag(tensor(1 / scene.view.tanfovx, 1 / scene.view.tanfovy, 1, 0))
    projection[2, 3] = 1
    pose = scene.view.viewmatrix
    scene = scene.with_view(projmatrix=pose @ projection, campos=torch.linalg.inv(pose)[3, :3])
    scene = scenes.away_from_cutoffs(scene, 1e-6)

    ours, theirs = scenes.leaves(scene, FLOAT64), scenes.leaves(scene, FLOAT64)
    color = reference.render(scene.view, **ours).color
    twin = gsplat_color(scene.view, theirs)
    torch.testing.assert_close(color, twin, rtol=0, atol=1e-12)
    weight = scenes.cotangents(scene.view.height, scene.view.width)["color"]
    (color * weight).sum().backward()
    (twin * weight).sum().backward()
    for name in ("means3D", "opacities", "scales", "rotations", "shs"):
        scale = theirs[name].grad.abs().max().item()
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=0, atol=1e-11 * scale, msg=name)
