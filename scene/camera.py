"""One posed, calibrated photo and the matrices that the rasterizer wants from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.devices import bring_to, keep_on

# The clip planes of 3DGS. They only shape the depth row of the projection: culling is done on camera z.
ZNEAR = 0.01
ZFAR = 100.0


class CameraMatrices(NamedTuple):
    """What a rasterizer needs of a camera, float32, on one device.

    Both matrices are transposed (row vectors: `p_camera = p_world @ world_view_transform`), which is how 3DGS
    and its forks pass `viewmatrix` and `projmatrix`.
    """

    world_view_transform: Tensor  # (4, 4)
    full_proj_transform: Tensor  # (4, 4)
    camera_center: Tensor  # (3,) world


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera: x right, y down, z forward; pixel centres at +0.5, so cx = width / 2 is centred.

    `image_name` is the name in the scene's own files and may hold a subfolder. `world_to_camera` is for
    column vectors. `image` is None for a camera without a photo; its alpha, if any, is straight (not
    premultiplied).
    """

    image_name: str
    width: int  # pixels, as are all of the next five
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    world_to_camera: np.ndarray  # (4, 4) float64
    image: Tensor | None = None  # (H, W, 3) or (H, W, 4) uint8
    mask: Tensor | None = None  # (H, W) bool, False where the photo does not count; None: all of it does
    invdepth: Tensor | None = None  # (1, H, W) 1 / world units, 0: unknown; None: all of it is
    _matrices: dict[torch.device, CameraMatrices] = field(default_factory=dict, init=False, repr=False)

    @property
    def image_width(self) -> int:
        return self.width

    @property
    def image_height(self) -> int:
        return self.height

    @property
    def FoVx(self) -> float:  # noqa: N802 (the name that 3DGS code knows)
        """Horizontal field of view in radians, 2 atan(width / (2 fx)), wherever the principal point is."""
        return 2 * math.atan(self.width / (2 * self.fx))

    @property
    def FoVy(self) -> float:  # noqa: N802
        """Vertical field of view in radians, 2 atan(height / (2 fy))."""
        return 2 * math.atan(self.height / (2 * self.fy))

    @property
    def world_view_transform(self) -> Tensor:
        """(4, 4) float32 on the CPU; `matrices(device)` has it elsewhere."""
        return self.matrices().world_view_transform

    @property
    def full_proj_transform(self) -> Tensor:
        """(4, 4) float32 on the CPU; `matrices(device)` has it elsewhere."""
        return self.matrices().full_proj_transform

    @property
    def camera_center(self) -> Tensor:
        """(3,) float32 on the CPU; `matrices(device)` has it elsewhere."""
        return self.matrices().camera_center

    def matrices(self, device: torch.device | str = "cpu") -> CameraMatrices:
        """The matrices on `device`, computed in float64 and kept: cheap in every training iteration."""
        device = torch.device(device)
        if device not in self._matrices:
            view = self.world_to_camera
            center = camera_to_world(view)[:3, 3]
            numbers = np.concatenate([view.T.flat, (self.projection_matrix() @ view).T.flat, center])
            packed = bring_to(device, keep_on("cpu", torch.from_numpy(numbers).float()))  # one copy
            self._matrices[device] = CameraMatrices(
                packed[:16].view(4, 4), packed[16:32].view(4, 4), packed[32:]
            )
        return self._matrices[device]

    def projection_matrix(self) -> np.ndarray:
        """(4, 4) float64, column vectors: camera space to clip space, such that, with ndc = clip / w,

            (ndc_x + 1) width / 2 = fx X / Z + cx        (ndc_y + 1) height / 2 = fy Y / Z + cy

        and ndc_z runs from 0 at ZNEAR to 1 at ZFAR; w = Z.
        """
        matrix = np.zeros((4, 4))
        matrix[0, 0] = 2 * self.fx / self.width
        matrix[0, 2] = 2 * self.cx / self.width - 1
        matrix[1, 1] = 2 * self.fy / self.height
        matrix[1, 2] = 2 * self.cy / self.height - 1
        matrix[2, 2] = ZFAR / (ZFAR - ZNEAR)
        matrix[2, 3] = -ZFAR * ZNEAR / (ZFAR - ZNEAR)
        matrix[3, 2] = 1
        return matrix

    def ground_truth(
        self,
        background: Tensor,  # (3,) in [0, 1]
        device: torch.device | str,
    ) -> Tensor:
        """The photo as (3, H, W) float32 in [0, 1] on `device`; any alpha is composited over `background`."""
        if self.image is None:
            raise ValueError(f"camera {self.image_name} has no photo")
        planes = bring_to(device, self.image).permute(2, 0, 1)
        planes = planes.contiguous().to(torch.float32).div_(255)
        if planes.shape[0] == 3:
            return planes
        color, alpha = planes[:3], planes[3:]
        return torch.lerp(background.to(planes)[:, None, None], color, alpha)

    def masked(self, image: Tensor, otherwise: Tensor | float) -> Tensor:
        """`picture` (C, H, W) where the photo counts, `otherwise` where the mask leaves it out."""
        mask = self.mask_on(image.device)
        return image if mask is None else torch.where(mask, image, otherwise)

    def mask_on(self, device: torch.device | str) -> Tensor | None:
        return None if self.mask is None else bring_to(device, self.mask)


def camera_to_world(
    world_to_camera: np.ndarray,  # (4, 4)
) -> np.ndarray:
    """(4, 4) inverse of a rigid transform, by transposing its rotation."""
    inverse = np.eye(4)
    inverse[:3, :3] = world_to_camera[:3, :3].T
    inverse[:3, 3] = -world_to_camera[:3, :3].T @ world_to_camera[:3, 3]
    return inverse


def camera_mean(cameras: Sequence[Camera]) -> np.ndarray:
    """(3,) mean of the camera centres, world."""
    return _centers(cameras).mean(axis=0)


def scene_extent(cameras: Sequence[Camera]) -> float:
    """1.1 times the largest distance of a camera centre to their mean: the unit of 3DGS's learning rates."""
    return 1.1 * float(np.linalg.norm(_centers(cameras) - camera_mean(cameras), axis=1).max())


def _centers(cameras: Sequence[Camera]) -> np.ndarray:  # (C, 3)
    return np.stack([camera_to_world(camera.world_to_camera)[:3, 3] for camera in cameras])


def viewer_entries(cameras: Sequence[Camera]) -> list[dict]:
    """The content of `cameras.json` as 3DGS viewers read it; by custom the held-out cameras come first."""
    return [_viewer_entry(index, camera) for index, camera in enumerate(cameras)]


def _viewer_entry(index: int, camera: Camera) -> dict:
    pose = camera_to_world(camera.world_to_camera)
    return {
        "id": index,
        "img_name": camera.image_name,
        "width": camera.width,
        "height": camera.height,
        "position": pose[:3, 3].tolist(),
        "rotation": pose[:3, :3].tolist(),
        "fy": camera.fy,
        "fx": camera.fx,
    }


def cameras_of_entries(entries: object, owner: object) -> list[Camera]:
    """The inverse of `viewer_entries`, without photos. ValueError, naming `owner`, for anything else."""
    try:
        return [_camera_of_entry(entry) for entry in entries]
    except (TypeError, KeyError, ValueError) as problem:
        raise ValueError(f"{owner}: not a list of cameras as train.py writes it ({problem!r})") from None


def _camera_of_entry(entry: dict) -> Camera:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = entry["rotation"], entry["position"]
    size = int(entry["width"]), int(entry["height"])
    numbers = (*size, float(entry["fx"]), float(entry["fy"]))
    if not np.isfinite(pose).all() or min(numbers) <= 0:
        raise ValueError(
            f"{entry['img_name']}: sizes and focal lengths above 0 and a finite pose are expected"
        )
    center = (size[0] / 2, size[1] / 2)
    return Camera(str(entry["img_name"]), *numbers, *center, camera_to_world(pose))
