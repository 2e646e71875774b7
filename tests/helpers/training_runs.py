"""Training runs on small scenes, without files, and what the float64 reference says of them."""

from __future__ import annotations

import reference
import torch

import train
from arguments import make_settings
from training.run import start


def new_run(scene, tmp_path, **flags):
    return start(make_settings({"variant": "3dgs", "densify_from_iter": 0} | flags), scene, tmp_path)


def learn(run, iterations):
    for iteration in range(run.iteration + 1, run.iteration + iterations + 1):
        train.update(run, iteration, train.forward_backward(run, iteration, may_step=True))
        run.iteration = iteration


def explicit_errors(run, camera, error, importance=None):
    """sum_u E(u) w_k(u) from the float64 reference."""
    return reference_rendering(run, camera, importance).weights @ error.double().flatten()


def reference_rendering(run, camera, importance=None):
    """The view in float64, on black."""
    model, matrices = run.model, camera.matrices(run.model.device)
    view = reference.ReferenceCamera(
        camera.width,
        camera.height,
        camera.width / (2 * camera.fx),
        camera.height / (2 * camera.fy),
        matrices.world_view_transform.double(),
        matrices.full_proj_transform.double(),
        matrices.camera_center.double(),
        torch.zeros(3, dtype=torch.float64),
        model.active_sh_degree,
        near=camera.near,
        dilation=camera.dilation,
    )
    return reference.render(
        view,
        model.means.detach().double(),
        model.opacities.detach().double(),
        dc=model.sh_dc.detach().double(),
        shs=model.sh_rest.detach().double(),
        scales=model.scales.detach().double(),
        rotations=model.raw["quats"].detach().double(),
        importance=importance,
    )
