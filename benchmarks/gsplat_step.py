"""gsplat's whole training step (1.5.3, Apache-2.0, optional), on copies of a run's Gaussians.

As gsplat's own trainer does it: an optimizer for each tensor, and its strategy's statistics. Loss and photos
are ours, on both sides.
"""

from __future__ import annotations

import torch
from torch import Tensor

import subfunction as policy
import train
from gaussian_model import ADAM_EPSILON, PARAMETERS
from scene import Camera
from training.run import Training

STEP = 5001  # at which statistics are collected, but nothing grows
NAMES = {"sh_dc": "sh0", "sh_rest": "shN"}  # gsplat's for our tensors, where they differ


class GsplatStep:
    """A step of gsplat's at every call. With `packed`, its rasterization keeps only what is visible.

    Raises ImportError without gsplat.
    """

    def __init__(self, run: Training, packed: bool) -> None:
        from gsplat import rasterization
        from gsplat.strategy import DefaultStrategy

        self.run, self.packed, self.rasterization = run, packed, rasterization
        raw = {name: values.detach().clone() for name, values in run.model.raw.items()}
        raw["opacities"] = raw["opacities"][:, 0]
        self.params = {NAMES.get(name, name): torch.nn.Parameter(values) for name, values in raw.items()}
        self.optimizers = {
            name: torch.optim.Adam([self.params[name]], lr=rate, eps=ADAM_EPSILON, fused=True)
            for name, rate in self._rates().items()
        }
        self.strategy = DefaultStrategy()
        self.state = self.strategy.initialize_state(run.scene.extent)
        self.matrices: dict[str, tuple[Tensor, Tensor]] = {}  # pose and lens by the camera's name

    def _rates(self) -> dict[str, float]:
        settings = self.run.settings.optimization
        return {NAMES.get(row.name, row.name): row.learning_rate(settings) for row in PARAMETERS}

    def __call__(self) -> None:
        camera, settings = train.next_camera(self.run), self.run.settings
        image, info = self.render(camera)
        self.strategy.step_pre_backward(self.params, self.optimizers, self.state, STEP, info)
        gt_image = camera.ground_truth(torch.zeros(3), self.run.model.device)
        policy.training_loss(image, gt_image, settings.optimization.lambda_dssim)[0].backward()
        with torch.no_grad():
            self.strategy.step_post_backward(
                self.params, self.optimizers, self.state, STEP, info, packed=self.packed
            )
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def render(self, camera: Camera) -> tuple[Tensor, dict]:
        """Return the image (3, H, W) and what the strategy wants to know of it."""
        params = self.params
        pose, lens = self._matrices_of(camera)
        image, _, info = self.rasterization(
            params["means"],
            params["quats"],
            params["scales"].exp(),
            params["opacities"].sigmoid(),
            torch.cat([params["sh0"], params["shN"]], 1),
            pose,
            lens,
            camera.width,
            camera.height,
            sh_degree=self.run.settings.model.sh_degree,
            packed=self.packed,
        )
        return image[0].permute(2, 0, 1).contiguous(), info

    def _matrices_of(self, camera: Camera) -> tuple[Tensor, Tensor]:
        if camera.image_name not in self.matrices:
            rows = [[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]
            pair = (torch.tensor(camera.world_to_camera), torch.tensor(rows))
            pose, lens = (matrix[None].float().to(self.run.model.device) for matrix in pair)
            self.matrices[camera.image_name] = pose, lens
        return self.matrices[camera.image_name]
