"""The views of a model under inspection: its colors, scores per Gaussian, and errors against photos.

view.py shows them for a finished run, train.py --viewer for a run in training. The page is viewer/browser.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import subfunction as policy
from arguments import DensificationSettings, OptimizationSettings, Settings
from gaussian_model import GaussianModel, deterministic_gate, ply_size
from scene import Camera, Cameras
from scene.camera import NEAR, camera_to_world
from scene.camera_paths import focus, mean_up
from scene.lenses import FieldOfView
from utils.colormaps import INFERNO, color_range, colorize, apply_colormap
from utils.images import resize_image, to_bytes
from utils.progress import each
from utils.ranks import ALONE, Ranks
from utils.rendering import RenderOutput, background_color, render
from utils.rotations import covariances
from utils.selection import evenly_spaced
from utils.sh import rgb_to_sh, sh_to_rgb
from viewer.browser import BrowserSplats, RenderedView, WebViewer, ViewRequest

COLOR, DEPTH, PHOTO, DIFFERENCE = "color", "depth", "photo of the view", "error of the view"
VIEWS_MEASURED = 24  # on which the scores of a finished model are measured
REMOVED_COLOR = (1.0, 0.0, 1.0)
# From the initial camera to where it looks, over the latter's distance to the origin, for float32.
SMALLEST_DISTANCE = 1e-3


@dataclass(frozen=True)
class Score:
    """The color scale of a score per Gaussian, and what the score requires."""

    scale: str  # see utils/colormaps.py
    needs: str  # what must be available to compute the score


SCORES = {
    "opacity": Score("unit", ""),
    "importance": Score(
        "unit", "a run with --importance, in training or with a checkpoint of this iteration"
    ),
    "error": Score("log", "photos of the scene"),
    "removal energy": Score("log", "photos of the scene"),
    "age": Score("linear", "a run in training or with a checkpoint of this iteration"),
    "generation": Score("linear", "a run in training or with a checkpoint of this iteration"),
}
MODES = (COLOR, DEPTH, *SCORES, DIFFERENCE, PHOTO)


@dataclass
class InspectedModel:
    """The model at one iteration, with its known scores.

    Where ranks share it, each has its own Gaussians. All answer a request, the first one has the image then.
    """

    model: GaussianModel
    background: Tensor  # (3,)
    flags: Mapping[str, Any]  # of the pipeline
    gates: Tensor | None = None  # (N, 1) factors on the opacities
    known: dict[str, Tensor] = field(default_factory=dict)  # (N,) by names of SCORES
    photos: Callable[[], Cameras] = lambda: Cameras([])  # returns the training views; may be slow
    measures: bool = False  # whether errors are measured on request
    near: float = NEAR  # world units, of free cameras
    ranks: Ranks = ALONE
    draw: Callable[..., RenderOutput] = render  # renders the Gaussians of all ranks

    def score(self, name: str) -> Tensor:
        """Return the values (N,) of one of SCORES.

        Raise ValueError if they are unknown; the message says what they require.
        """
        if name == "opacity":
            return self.model.opacities[:, 0]
        if name in ("error", "removal energy") and name not in self.known and self.measures:
            self.known |= measure_scores(self, self.photos())
        if name not in self.known:
            raise ValueError(f"not known of this model; it takes {SCORES[name].needs}")
        return self.known[name]


def inspect_model(model: GaussianModel, settings: Settings, photos: Callable[[], Cameras]) -> InspectedModel:
    """Return a model with only the contents of its file; its errors are measured on request."""
    background = background_color(settings.model.white_background, model.device)
    return InspectedModel(model, background, vars(settings.pipeline), photos=photos, measures=True)


def inspect_with_tags(
    model: GaussianModel, iteration: int, settings: Settings, photos: Callable[[], Cameras]
) -> InspectedModel:
    """Return a model from training with its ages, generations and, if it learns them, importances."""
    inspected = inspect_model(model, settings, photos)
    inspected.known["age"] = iteration - model.tags["birth"]
    inspected.known["generation"] = model.tags["generation"]
    if model.network is not None:
        with torch.no_grad():
            importance = model.compute_importance()
        inspected.known["importance"] = importance[:, 0]
        inspected.gates = deterministic_gate(importance, settings.importance.importance_gate)
    return inspected


def measure_scores(inspected: InspectedModel, cameras: Cameras) -> dict[str, Tensor]:
    """Measure the largest E_k and the summed removal energy, (N,) each, over a few evenly spaced views.

    Raise ValueError without views.
    """
    if not cameras:
        raise ValueError("it takes photos of the scene, which were not found")
    model, settings = inspected.model, DensificationSettings(densify_by="error")
    energy = torch.zeros(len(model), device=model.device)
    model.reset_statistics("densification")
    for index in each(evenly_spaced(len(cameras), VIEWS_MEASURED), "Measuring errors"):
        camera = cameras[index]
        carrier = torch.zeros(len(model), 1, device=model.device, requires_grad=True)
        with torch.enable_grad():
            rendered = render(
                camera, model, inspected.background, importance=inspected.gates, error_carrier=carrier,
                statistics=True, **inspected.flags,
            )  # fmt: skip
            gt_image = camera.ground_truth(inspected.background, model.device)
            image = camera.masked(rendered.image, gt_image)
            mix = OptimizationSettings.lambda_dssim
            _, error = policy.training_loss(image, gt_image, mix, settings.error_metric)
            auxiliary = policy.auxiliary_loss(camera.masked(error, 0.0), rendered.error_image)
        (gradient,) = torch.autograd.grad(auxiliary, carrier)
        policy.accumulate_errors(model.statistics, gradient[:, 0], settings)
        energy += rendered.rasterizer.statistics.removal_energy
    return {"error": policy.reduced_errors(model.statistics, settings), "removal energy": energy}


# Images


def free_camera(request: Any, near: float) -> Camera:
    """Return the camera of a viewer's request, with its near plane in world units.

    The request has width and height (pixels), fov_x and fov_y (radians), and world_to_camera (4, 4).
    """
    lens = FieldOfView(request.fov_x, request.fov_y).at_size(request.width, request.height)
    size, intrinsics = (request.width, request.height), (lens.fx, lens.fy, lens.cx, lens.cy)
    return Camera("viewer", *size, *intrinsics, request.world_to_camera, near=near)


@torch.no_grad()
def answer_request(inspected: InspectedModel, request: ViewRequest) -> RenderedView:
    """Render the request. If its mode is not available, render the model's colors and note the reason."""
    notes = []
    if request.mode in (PHOTO, DIFFERENCE):
        try:
            return compare_with_photo(inspected, request)
        except ValueError as problem:
            notes.append(f"{request.mode}: {problem}")
    model, gates = styled(inspected, request, notes)
    camera = free_camera(request, inspected.near)
    rendered = inspected.draw(camera, model, inspected.background, importance=gates, **inspected.flags)
    image = to_bytes(rendered.image)
    if request.mode == DEPTH:
        nearest = color_range(rendered.invdepth[rendered.invdepth > 0], "linear")[1]
        image = apply_colormap(rendered.invdepth[0], "linear", 0.0, nearest)
        notes.append(f"inverse distance: red {nearest:.3g}, blue 0")
    return RenderedView(image, notes)


def styled(
    inspected: InspectedModel, request: ViewRequest, notes: list[str]
) -> tuple[GaussianModel, Tensor | None]:
    """Return the model pruned and colored as the request asks, and its gates; append to `notes`."""
    model, gates = inspected.model, inspected.gates
    raw = {name: values.detach() for name, values in model.raw.items() if name != "latents"}
    degree = model.active_sh_degree
    if request.mode in SCORES:
        try:
            raw, degree = raw | false_color_sh(inspected, request.mode, notes), 0
        except ValueError as problem:
            notes.append(f"{request.mode}: {problem}")
    if request.prune_share > 0:
        try:
            kept = kept_after_pruning(inspected, request, notes)
        except ValueError as problem:
            notes.append(f"pruning by {request.prune_by}: {problem}")
        else:
            if request.mark_pruned:
                mark = rgb_to_sh(raw["sh_dc"].new_tensor(REMOVED_COLOR))
                raw["sh_dc"] = torch.where(kept[:, None, None], raw["sh_dc"], mark)
                raw["sh_rest"] = raw["sh_rest"] * kept[:, None, None]
            else:
                raw = {name: values[kept] for name, values in raw.items()}
                gates = None if gates is None else gates[kept]
    plain = GaussianModel(raw)
    plain.active_sh_degree = degree
    return plain, gates


def false_color_sh(inspected: InspectedModel, name: str, notes: list[str]) -> dict[str, Tensor]:
    """Return raw SH parameters that show a score as false colors; append the scale to `notes`."""
    values, scale = inspected.score(name), SCORES[name].scale
    low, high = color_range(inspected.ranks.together(values), scale)
    rgb = torch.from_numpy(apply_colormap(values, scale, low, high)).to(values.device) / 255
    notes.append(f"{name}: blue {low:.3g}, red {high:.3g}{', equal ratios' if scale == 'log' else ''}")
    rest = inspected.model.sh_rest.detach()
    return {"sh_dc": rgb_to_sh(rgb)[:, None], "sh_rest": torch.zeros_like(rest)}


def kept_after_pruning(inspected: InspectedModel, request: ViewRequest, notes: list[str]) -> Tensor:
    """Return the mask (N,) of Gaussians that remain after pruning the share of all with the lowest scores.

    Gaussians with an unknown score (NaN) remain. The outcome is appended to `notes`.
    """
    own = inspected.score(request.prune_by)
    scores = inspected.ranks.together(own)
    known = ~scores.isnan()
    kept = ~policy.top_k(known, -scores, round(request.prune_share * int(known.sum())))
    left = int(kept.sum())
    size = ply_size(left, inspected.model.sh_degree) / 1e6
    lowest = scores[kept & known].min().item() if bool((kept & known).any()) else float("inf")
    notes.append(
        f"pruned {len(kept) - left:,} of {len(kept):,} below {lowest:.3g}: {left:,} left, {size:.1f} MB"
    )
    return inspected.ranks.own(kept, len(own))


def compare_with_photo(inspected: InspectedModel, request: ViewRequest) -> RenderedView:
    """Return the photo of the requested view, or the model's error against it, in the requested size.

    Raise ValueError if the view has no photo.
    """
    cameras = inspected.photos()
    names = [camera.image_name for camera in cameras.without_images]
    if request.view not in names:
        raise ValueError("choose a view whose photo is there")
    camera = cameras[names.index(request.view)]
    gt_image = camera.ground_truth(inspected.background, inspected.model.device)
    if request.mode == PHOTO:
        return RenderedView(fit_to_canvas(to_bytes(gt_image), request), [camera.image_name])
    image = inspected.draw(
        camera, inspected.model, inspected.background, importance=inspected.gates, **inspected.flags
    ).image
    error = camera.masked((image.clamp(0, 1) - gt_image).abs().mean(0, keepdim=True), 0.0)[0]
    high = max(color_range(error.flatten(), "linear")[1], 1e-3)
    note = f"{camera.image_name}: error {error.mean().item():.4f} on average, brightest from {high:.3g}"
    return RenderedView(fit_to_canvas(colorize((error / high).cpu().numpy(), INFERNO), request), [note])


def fit_to_canvas(
    image: np.ndarray,  # (h, w, 3) uint8
    request: ViewRequest,
) -> np.ndarray:
    """Resize an image to fit into the requested size, centered on black."""
    width, height = request.width, request.height
    factor = min(width / image.shape[1], height / image.shape[0])
    inner = resize_image(image, *(max(1, int(factor * side)) for side in image.shape[1::-1]))
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return canvas


def place_cameras(page: WebViewer, cameras: Sequence[Camera]) -> None:
    """Add the cameras to the page as frusta, and set its initial camera to one of them."""
    poses = np.stack([camera_to_world(camera.world_to_camera) for camera in cameras])
    page.show_cameras(cameras, poses, focus(poses), mean_up(poses))


@torch.no_grad()
def bulk_of(model: GaussianModel) -> tuple[np.ndarray, float]:
    """Return a point (3,) amid the Gaussians and a distance from which half of them are seen, world units.

    Both are medians of finite positions, which no far-out Gaussian moves. A lone Gaussian is seen from
    several times its own size. Raise ValueError without a finite position.
    """
    finite = model.means.isfinite().all(1)
    if not finite.any():
        raise ValueError(f"nothing to look at: none of {len(model):,} Gaussians has a finite position")
    means = model.means.detach()[finite].double().cpu()
    middle = means.median(0).values
    spread = (means - middle).norm(dim=1).median().item()
    size = model.scales.detach()[finite].amax(1).double().median().item()
    return middle.numpy(), max(2 * spread, 5 * size, SMALLEST_DISTANCE * middle.norm().item(), 1e-30)


@torch.no_grad()
def browser_splats(inspected: InspectedModel, request: ViewRequest) -> BrowserSplats:
    """Return the Gaussians for a browser to render, finite ones, without view-dependent color."""
    model, gates = styled(inspected, request, [])
    opacities = model.opacities if gates is None else model.opacities * gates
    colors = sh_to_rgb(0, model.sh_dc, torch.zeros_like(model.means))
    full = covariances(model.scales, model.quats)[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]]
    rows = torch.cat([model.means, full, colors, opacities], 1)
    rows = rows[rows.isfinite().all(1)]
    counts = inspected.ranks.counts(len(rows), rows.device)
    rows = torch.cat([rows[:0], *inspected.ranks.to_first(rows, counts)]).cpu()
    centers, full, colors, opacities = (part.contiguous().numpy() for part in rows.split([3, 9, 3, 1], 1))
    return BrowserSplats(centers, full.reshape(-1, 3, 3), colors, opacities)
