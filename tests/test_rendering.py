import math

import numpy as np
import pytest
import torch
from gaussian_model import GaussianModel
from scene.camera import Camera
from utils.rendering import render

CPU = torch.device("cpu")
BACKGROUND = torch.tensor([0.1, 0.2, 0.3])


@pytest.fixture
def model():
    random = np.random.default_rng(0)
    colors = random.integers(0, 256, (40, 3), dtype=np.uint8)
    model = GaussianModel.from_points(random.uniform(-1, 1, (40, 3)), colors, 3, 0.4, CPU)
    generator = torch.Generator().manual_seed(0)
    for name in ("sh_rest", "quats", "scales"):
        model.raw[name] = model.raw[name] + 0.3 * torch.randn(model.raw[name].shape, generator=generator)
    return model


@pytest.fixture
def camera():
    angle = 0.3
    pose = np.eye(4)
    pose[:3, :3] = [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    pose[:3, 3] = [0.1, -0.2, 4]
    return Camera("a.png", 40, 30, fx=45.0, fy=44.0, cx=18.0, cy=16.0, world_to_camera=pose)


def test_shapes_and_background(model, camera):
    with torch.no_grad():
        view = render(camera, model, BACKGROUND)
        model.keep(torch.zeros(40, dtype=torch.bool))
        empty = render(camera, model, BACKGROUND)
    assert view.image.shape == (3, 30, 40) and view.invdepth.shape == (1, 30, 40)
    assert view.radii.shape == (40,) and view.error_image is None
    assert (empty.image == BACKGROUND[:, None, None]).all() and not torch.equal(view.image, empty.image)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_torch_and_rasterizer_agree_on_colors_and_shapes(model, camera, degree):
    model.active_sh_degree = degree
    with torch.no_grad():
        own = render(camera, model, BACKGROUND, scaling_modifier=0.7).image
        for flags in ({"convert_SHs_python": True}, {"compute_cov3D_python": True}):
            assert torch.allclose(
                render(camera, model, BACKGROUND, scaling_modifier=0.7, **flags).image, own, atol=2e-5
            )


def test_flags_and_extra_inputs_reach_the_rasterizer(model, camera):
    with torch.no_grad():
        plain = render(camera, model, BACKGROUND)
        assert not torch.equal(render(camera, model, BACKGROUND, antialiasing=True).image, plain.image)
        half = render(camera, model, BACKGROUND, importance=torch.full((40, 1), 0.5))
        assert not torch.equal(half.image, plain.image)
        ones = render(camera, model, torch.zeros(3), error_carrier=torch.ones(40, 1)).error_image
    assert ones.shape == (1, 30, 40) and 0 < ones.max() <= 1


def test_gradients_arrive_at_raw_parameters_and_screen(model, camera):
    for name in model.raw:
        model.raw[name] = torch.nn.Parameter(model.raw[name])
    view = render(camera, model, BACKGROUND, statistics=True)
    view.image.square().sum().backward()
    assert all(values.grad is not None and values.grad.any() for values in model.raw.values())
    assert view.means2d.grad[:, :2].any() and not view.means2d.grad[view.radii == 0].any()
    assert view.rasterizer.statistics.weight_sum.max() > 0
