"""The posed, calibrated camera of a photo, and the matrices that the rasterizer needs of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from utils.devices import bring_to, keep_on

# The near plane of 3DGS in camera z. `find_unit` in scene/world.py says how long its unit is in a scene.
NEAR = 0.2
# The clip planes of 3DGS. They only shape the depth row of the projection: culling uses `Camera.near`.
ZNEAR = 0.01
ZFAR = 100.0
# px^2 by which 3DGS blurs Gaussians on the screen, in both directions.
DILATION = 0.3


class CameraMatrices(NamedTuple):
    """The matrices of a camera that a rasterizer needs, float32, on one device.

    Both matrices are transposed, for row vectors: `p_camera = p_world @ world_view_transform`. This is how
    3DGS and its forks pass `viewmatrix` and `projmatrix`.
    """

    world_view_transform: Tensor  # (4, 4)
    full_proj_transform: Tensor  # (4, 4)
    camera_center: Tensor  # (3,) world


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with x right, y down and z forward.

    Pixel centers lie at +0.5, so cx = width / 2 is the middle. `image_name` is the name in the scene's own
    files and may hold a subfolder. `world_to_camera` is for column vectors. `image` is None for a camera
    without a photo. An alpha channel is straight, not premultiplied.
    """

    image_name: str
    width: int  # pixels
    height: int  # pixels
    fx: float  # pixels
    fy: float  # pixels
    cx: float  # pixels
    cy: float  # pixels
    world_to_camera: np.ndarray  # (4, 4) float64
    image: Tensor | None = None  # (H, W, 3) or (H, W, 4) uint8
    mask: Tensor | None = None  # (H, W) bool, False where pixels are ignored; None: no pixel is
    invdepth: Tensor | None = None  # (1, H, W) in 1 / world units, 0 where unknown; None: no depth map
    near: float = NEAR  # world units; what is closer is not drawn
    divisor: int = 1  # the photo's pixels along each side of one of these, which is their mean
    _matrices: dict[torch.device, CameraMatrices] = field(default_factory=dict, init=False, repr=False)

    @property
    def image_width(self) -> int:
        return self.width

    @property
    def image_height(self) -> int:
        return self.height

    @property
    def FoVx(self) -> float:  # noqa: N802 (the name in 3DGS)
        """Return the horizontal field of view in radians, 2 atan(width / (2 fx)).

        The principal point has no influence on it.
        """
        return 2 * math.atan(self.width / (2 * self.fx))

    @property
    def FoVy(self) -> float:  # noqa: N802
        """Return the vertical field of view in radians, 2 atan(height / (2 fy))."""
        return 2 * math.atan(self.height / (2 * self.fy))

    @property
    def dilation(self) -> float:
        """Return the variance in px^2 by which Gaussians are blurred on the screen, in both directions.

        It is that of the photo's pixels, and that of the mean over a square of them.
        """
        squares = self.divisor**2
        return (DILATION + (squares - 1) / 12) / squares

    @property
    def world_view_transform(self) -> Tensor:
        """Return the (4, 4) float32 matrix on the CPU; `matrices` has it on other devices."""
        return self.matrices().world_view_transform

    @property
    def full_proj_transform(self) -> Tensor:
        """Return the (4, 4) float32 matrix on the CPU; `matrices` has it on other devices."""
        return self.matrices().full_proj_transform

    @property
    def camera_center(self) -> Tensor:
        """Return the (3,) float32 position in the world on the CPU; `matrices` has it on other devices."""
        return self.matrices().camera_center

    def matrices(self, device: torch.device | str = "cpu") -> CameraMatrices:
        """Return the matrices on `device`.

        They are computed once per device, in float64. Later calls are cheap enough for every iteration.
        """
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
        """Return the (4, 4) float64 matrix from camera space to clip space, for column vectors.

        With w = Z and ndc = clip / w it satisfies

            (ndc_x + 1) width / 2 = fx X / Z + cx        (ndc_y + 1) height / 2 = fy Y / Z + cy

        and ndc_z runs from 0 at ZNEAR to 1 at ZFAR.
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
        """Return the photo as a (3, H, W) float32 image in [0, 1] on `device`.

        An alpha channel is composited over `background`. Raise ValueError if the camera has no photo.
        """
        if self.image is None:
            raise ValueError(f"camera {self.image_name} has no photo")
        planes = bring_to(device, self.image).permute(2, 0, 1)
        planes = planes.contiguous().to(torch.float32).div_(255)
        if planes.shape[0] == 3:
            return planes
        color, alpha = planes[:3], planes[3:]
        return torch.lerp(background.to(planes)[:, None, None], color, alpha)

    def masked(self, image: Tensor, otherwise: Tensor | float) -> Tensor:
        """Return the (C, H, W) `image` with `otherwise` in the pixels that the mask ignores."""
        mask = self.mask_on(image.device)
        return image if mask is None else torch.where(mask, image, otherwise)

    def mask_on(self, device: torch.device | str) -> Tensor | None:
        """Return the (H, W) mask on `device`, None if no pixel is ignored."""
        return None if self.mask is None else bring_to(device, self.mask)


class HasPose(Protocol):
    """A camera or a view that is none yet."""

    world_to_camera: np.ndarray  # (4, 4)


def camera_to_world(
    world_to_camera: np.ndarray,  # (4, 4)
) -> np.ndarray:
    """Return the (4, 4) inverse of a rigid transform, by transposing its rotation."""
    inverse = np.eye(4)
    inverse[:3, :3] = world_to_camera[:3, :3].T
    inverse[:3, 3] = -world_to_camera[:3, :3].T @ world_to_camera[:3, 3]
    return inverse


def camera_mean(cameras: Sequence[HasPose]) -> np.ndarray:
    """Return the (3,) mean of the camera centers, world."""
    return _centers(cameras).mean(axis=0)


def scene_extent(cameras: Sequence[HasPose]) -> float:
    """Return 1.1 times the largest distance of a camera center to their mean, in world units.

    3DGS multiplies the learning rate of positions by this extent.
    """
    return 1.1 * float(np.linalg.norm(_centers(cameras) - camera_mean(cameras), axis=1).max())


def _centers(cameras: Sequence[HasPose]) -> np.ndarray:  # (C, 3)
    return np.stack([camera_to_world(camera.world_to_camera)[:3, 3] for camera in cameras])


def viewer_entries(
    cameras: Sequence[Camera],
    shift: np.ndarray,  # (3,) where their origin is in the scene's files
) -> list[dict]:
    """Return the content of `cameras.json` as 3DGS viewers read it, with near plane and shift besides.

    By convention the held-out cameras come first.
    """
    said = {"shift": shift.tolist()} if shift.any() else {}
    return [_viewer_entry(index, camera) | said for index, camera in enumerate(cameras)]


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
        "near": camera.near,
    }


def cameras_of_entries(entries: object, owner: object) -> list[Camera]:
    """Return the cameras, without photos, that `viewer_entries` turned into `entries`.

    Raise ValueError, naming `owner`, if `entries` is anything else.
    """
    try:
        return [_camera_of_entry(entry) for entry in entries]
    except (TypeError, KeyError, ValueError) as problem:
        raise ValueError(f"{owner}: not a list of cameras as train.py writes it ({problem!r})") from None


def _camera_of_entry(entry: dict) -> Camera:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = entry["rotation"], entry["position"]
    size = int(entry["width"]), int(entry["height"])
    numbers, near = (*size, float(entry["fx"]), float(entry["fy"])), float(entry.get("near", NEAR))
    if not np.isfinite(pose).all() or min(*numbers, near) <= 0:
        raise ValueError(
            f"{entry['img_name']}: sizes, focal lengths and near plane above 0 and a finite pose are expected"
        )
    center = (size[0] / 2, size[1] / 2)
    return Camera(str(entry["img_name"]), *numbers, *center, camera_to_world(pose), near=near)
