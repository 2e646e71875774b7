"""Small random scenes, how to run them through the reference and a rasterizer back end, and how to compare.

The tests of the rasterizer are written against `Backend` (backends.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor

import reference
from backends import Backend, on_every_backend  # noqa: F401  as pytestmark
from reference import Cutoffs, ReferenceCamera

FLOAT32_EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Scene:
    """A view and the rasterizer's inputs by argument name, float64 holding values that float32 can hold."""

    view: ReferenceCamera
    inputs: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.inputs["means3D"])

    def rows(self, index: Tensor) -> Scene:
        return replace(self, inputs={name: tensor[index] for name, tensor in self.inputs.items()})

    def with_inputs(self, **changes: Tensor | None) -> Scene:
        """Inputs replaced or added; None takes one away."""
        inputs = {**self.inputs, **changes}
        return replace(self, inputs={name: tensor for name, tensor in inputs.items() if tensor is not None})

    def with_view(self, **changes) -> Scene:
        return replace(self, view=replace(self.view, **changes))


@dataclass
class Result:
    """What came out of one forward and backward pass, all float64 on the CPU."""

    values: dict[str, Tensor]  # color (3, H, W), invdepth (1, H, W), carried (1, H, W) where asked for
    radii: Tensor  # (N,)
    gradients: dict[str, Tensor] = field(default_factory=dict)  # by argument name
    statistics: dict[str, Tensor] = field(default_factory=dict)
    rendering: reference.Rendering | None = None  # of the reference only


def exact_in_float32(tensor: Tensor) -> Tensor:
    return tensor.float().double()


def make_view(
    width=61, height=45, principal=(0.0, 0.0), rotation=None, position=(0.0, 0.0, 0.0), **options
) -> ReferenceCamera:
    """A pinhole camera of 60 degrees; principal: pixels off the image centre; rotation: camera to world."""
    rotation = torch.eye(3, dtype=torch.float64) if rotation is None else rotation
    position = torch.as_tensor(position, dtype=torch.float64)
    tanfovx = math.tan(math.radians(30))
    tanfovy = tanfovx * height / width
    near, far = 0.01, 100.0
    view = torch.eye(4, dtype=torch.float64)
    view[:3, :3], view[3, :3] = rotation, -position @ rotation
    projection = torch.zeros(4, 4, dtype=torch.float64)  # column vectors
    projection[0, 0], projection[0, 2] = 1 / tanfovx, 2 * principal[0] / width
    projection[1, 1], projection[1, 2] = 1 / tanfovy, 2 * principal[1] / height
    projection[2, 2], projection[2, 3] = far / (far - near), -far * near / (far - near)
    projection[3, 2] = 1
    background = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return ReferenceCamera(
        width=width,
        height=height,
        tanfovx=tanfovx,
        tanfovy=tanfovy,
        viewmatrix=exact_in_float32(view),
        projmatrix=exact_in_float32(view @ projection.T),
        campos=exact_in_float32(position),
        **{"background": background, "energy_weights": energy_weights(height, width), **options},
    )


def energy_weights(height: int, width: int) -> Tensor:
    """(H, W) of pixels in removal energies."""
    generator = torch.Generator().manual_seed(7)
    return exact_in_float32(torch.rand(height, width, generator=generator, dtype=torch.float64))


def random_rotation(generator: torch.Generator) -> Tensor:
    """(3, 3), a proper rotation."""
    quaternion = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    return reference.rotation_matrix(quaternion)[0]


def world_points(view: ReferenceCamera, pixels: Tensor, depth: Tensor) -> Tensor:
    """(N, 3) points that project to pixels (N, 2) at camera depth (N,)."""
    ndc = 2 * pixels / torch.tensor([view.width, view.height], dtype=torch.float64) - 1
    projection = torch.linalg.solve(view.viewmatrix, view.projmatrix)  # camera to clip
    slope = (ndc - projection[2, :2]) / projection.diagonal()[:2]
    camera = torch.cat([slope * depth[:, None], depth[:, None]], dim=1)
    return (camera - view.viewmatrix[3, :3]) @ torch.linalg.inv(view.viewmatrix[:3, :3])


@dataclass
class Crowd:
    """Gaussians described on the screen: where, how deep, how large, how opaque, how important."""

    pixels: Tensor  # (N, 2)
    depth: Tensor  # (N,)
    sigmas: Tensor  # (N, 3) px
    opacity: Tensor  # (N,)
    importance: Tensor  # (N,)

    def __add__(self, other: Crowd) -> Crowd:
        return Crowd(*(torch.cat([a, b]) for a, b in zip(vars(self).values(), vars(other).values())))


def split_randomly(count: int, view: ReferenceCamera, generator: torch.Generator) -> Crowd:
    """Gaussians of many sizes all over the view and a little beyond."""

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    size = torch.tensor([view.width, view.height], dtype=torch.float64)
    return Crowd(
        pixels=uniform(-0.1, 1.1, count, 2) * size,
        depth=uniform(1.0, 6.0, count),
        sigmas=uniform(math.log(0.6), math.log(5.0), count, 3).exp(),
        opacity=uniform(0.05, 0.98, count),
        importance=uniform(0.05, 1.0, count),
    )


def corner_cases(view: ReferenceCamera) -> Crowd:
    """Gaussians that meet every cutoff and clamp; `test_random_scenes_meet_every_cutoff` says which."""
    width, height = view.width, view.height
    rows = [  # x, y in pixels, depth, sigma in pixels, opacity
        *[(0.3 * width + i, 0.4 * height, 1.5 + 0.31 * i, 4.0, 0.93) for i in range(7)],  # ends pixels
        (int(0.7 * width) + 0.52, int(0.6 * height) + 0.47, 4.5, 9.0, 0.9995),  # alpha above 0.99
        (1.28 * width, 0.5 * height, 2.0, 0.22 * width, 0.9),  # beyond 1.3 fields of view, reaches in
        (0.5 * width, -0.3 * height, 2.5, 0.20 * height, 0.9),
        (0.2 * width, 0.2 * height, -1.0, 2.0, 0.9),  # behind the camera
        (0.5 * width, 0.5 * height, 0.19, 2.0, 0.9),  # in front of the near plane
        (0.5 * width, 0.5 * height, 3.3, 2.0, 0.003),  # never above 1/255
        (width // 3 + 0.6, height // 4 + 0.45, 1.05, 0.02, 0.95),  # opacity compensation at its lower bound
        (-0.6 * width, 0.5 * height, 2.2, 1.0, 0.9),  # out of sight
    ]
    table = torch.tensor(rows, dtype=torch.float64)
    sigmas = table[:, 3:4] * torch.tensor([1.0, 0.9, 0.8])
    return Crowd(table[:, :2], table[:, 2], sigmas, table[:, 4], torch.full((len(table),), 0.9996))


def random_scene(
    seed: int,
    count: int = 70,
    width: int = 61,
    height: int = 45,
    degree: int = 3,
    bases: int | None = None,  # SH coefficients given, where more than the degree needs
    color: str = "shs",  # "shs", "dc" (DC apart from the rest) or "precomp"
    covariance: bool = False,  # cov3D_precomp instead of scales and rotations
    importance: bool = True,
    carrier: bool = True,
    principal: tuple[float, float] = (3.7, -2.2),
    margin: float | None = 5e-5,
    **options,
) -> Scene:
    """A scene that meets every cutoff; no Gaussian is closer to one than the margin (relative; None: any)."""
    generator = torch.Generator().manual_seed(seed)
    pose = random_rotation(generator), torch.randn(3, generator=generator, dtype=torch.float64)
    view = make_view(width, height, principal, *pose, sh_degree=degree, **options)
    crowd = split_randomly(count, view, generator) + corner_cases(view)
    focal = view.width / (2 * view.tanfovx)

    def normal(*shape):
        return torch.randn(len(crowd.depth), *shape, generator=generator, dtype=torch.float64)

    inputs = {
        "means3D": world_points(view, crowd.pixels, crowd.depth),
        "opacities": crowd.opacity[:, None],
        "scales": crowd.sigmas * crowd.depth.abs()[:, None] / focal / view.scale_modifier,
        "rotations": normal(4),
        **color_inputs(color, bases or (degree + 1) ** 2, normal),
    }
    if covariance:
        inputs["cov3D_precomp"] = packed_covariance(inputs.pop("scales"), inputs.pop("rotations"))
    if importance:
        inputs["importance"] = crowd.importance[:, None]
    if carrier:
        inputs["error_carrier"] = normal(1)
    scene = Scene(view, {name: exact_in_float32(tensor) for name, tensor in inputs.items()})
    return scene if margin is None else away_from_cutoffs(scene, margin)


def packed_covariance(scales: Tensor, rotations: Tensor) -> Tensor:
    """(N, 6) xx xy xz yy yz zz."""
    full = reference.covariance_3d(scales, rotations)
    return full[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]


def color_inputs(color: str, bases: int, normal) -> dict[str, Tensor]:
    if color == "precomp":
        return {"colors_precomp": normal(3).abs()}
    size = torch.full((bases, 1), 0.3, dtype=torch.float64)
    size[0] = 1.6  # wide enough for some colors to fall below 0
    coefficients = normal(bases, 3) * size
    return (
        {"shs": coefficients} if color == "shs" else {"dc": coefficients[:, :1], "shs": coefficients[:, 1:]}
    )


def smooth_scene(seed: int, count: int = 4, **options) -> Scene:
    """A tiny scene far from every cutoff: finite differences of a kernel are exact there."""
    generator = torch.Generator().manual_seed(seed)
    view = make_view(9, 7, (0.4, -0.3), random_rotation(generator), (0.3, -0.5, 0.2), **options)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(count, *shape, generator=generator, dtype=torch.float64)

    depth = uniform(1.5, 3.0)
    focal = view.width / (2 * view.tanfovx)
    inputs = {
        "means3D": world_points(view, uniform(2.0, 6.0, 2), depth),
        "opacities": uniform(0.4, 0.7, 1),
        "scales": uniform(3.5, 5.0, 3) * depth[:, None] / focal / view.scale_modifier,
        "rotations": uniform(-1.0, 1.0, 4),
        "shs": uniform(-0.15, 0.15, (view.sh_degree + 1) ** 2, 3),
        "importance": uniform(0.5, 0.9, 1),
        "error_carrier": uniform(-1.0, 1.0, 1),
    }
    scene = Scene(view, {name: exact_in_float32(tensor) for name, tensor in inputs.items()})
    return away_from_cutoffs(scene, 1e-3)


def away_from_cutoffs(scene: Scene, margin: float) -> Scene:
    """The scene without the Gaussians on which rounding could change a decision."""
    while True:
        keep = reference.render(scene.view, **scene.inputs).margins > margin
        if keep.all():
            return scene
        scene = scene.rows(keep)


def convert(view: ReferenceCamera, dtype: torch.dtype, device: str = "cpu") -> ReferenceCamera:
    names = [name for name, value in vars(view).items() if isinstance(value, torch.Tensor)]
    return replace(view, **{name: getattr(view, name).to(device, dtype) for name in names})


def leaves(scene: Scene, dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor]:
    """Inputs that collect gradients, means2D among them."""
    tensors = {name: tensor.detach().to(device, dtype, copy=True) for name, tensor in scene.inputs.items()}
    tensors["means2D"] = torch.zeros(len(scene), 3, dtype=dtype, device=device)
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


@cache
def cotangents(height: int, width: int, seed: int = 99) -> dict[str, Tensor]:
    """Random dL/d(output) for every image the rasterizer returns."""
    generator = torch.Generator().manual_seed(seed)
    channels = {"color": 3, "invdepth": 1, "carried": 1}
    return {
        name: exact_in_float32(torch.randn(count, height, width, generator=generator, dtype=torch.float64))
        for name, count in channels.items()
    }


def backpropagate(scene: Scene, values: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of the images against the random cotangents; backward() as training calls it."""
    weights = cotangents(scene.view.height, scene.view.width)
    torch.autograd.backward(
        list(values.values()), [weights[name].to(image) for name, image in values.items()]
    )
    return {
        name: (torch.zeros_like(tensor) if tensor.grad is None else tensor.grad).double().cpu().detach()
        for name, tensor in inputs.items()
    }


def run_reference(scene: Scene, dtype: torch.dtype = torch.float64, cutoffs: Cutoffs | None = None) -> Result:
    inputs = leaves(scene, dtype)
    rendering = reference.render(convert(scene.view, dtype), **inputs, cutoffs=cutoffs)
    values = {"color": rendering.color, "invdepth": rendering.invdepth, "carried": rendering.carried}
    values = {name: image for name, image in values.items() if image is not None}
    return Result(
        gradients=backpropagate(scene, values, inputs),
        values={name: image.detach().double() for name, image in values.items()},
        radii=rendering.radii,
        statistics={name: value.double() for name, value in vars(rendering.statistics).items()},
        rendering=rendering,
    )


def settings(backend: Backend, view: ReferenceCamera, dtype: torch.dtype = torch.float32, **options):
    """The rasterizer's settings for a view."""
    view = convert(view, dtype, backend.device)
    return backend.package.GaussianRasterizationSettings(
        image_height=view.height,
        image_width=view.width,
        tanfovx=view.tanfovx,
        tanfovy=view.tanfovy,
        bg=view.background,
        scale_modifier=view.scale_modifier,
        viewmatrix=view.viewmatrix,
        projmatrix=view.projmatrix,
        sh_degree=view.sh_degree,
        campos=view.campos,
        antialiasing=view.antialiasing,
        near=view.near,
        dilation=view.dilation,
        energy_weights=view.energy_weights,
        **options,
    )


def run(backend: Backend, scene: Scene, dtype: torch.dtype = torch.float32) -> Result:
    """Forward and backward through the rasterizer, statistics included."""
    inputs = leaves(scene, dtype, backend.device)
    rasterizer = backend.package.GaussianRasterizer(settings(backend, scene.view, dtype, statistics=True))
    color, radii, invdepth, *carried = rasterizer(**inputs)
    values = {"color": color, "invdepth": invdepth, **dict(zip(["carried"], carried))}
    gradients = backpropagate(scene, values, inputs)
    names = ("weight_sum", "weight_max", "pixels", "removal_energy")
    return Result(
        values={name: image.detach().double().cpu() for name, image in values.items()},
        radii=radii.cpu(),
        gradients=gradients,
        statistics={name: getattr(rasterizer.statistics, name).double().cpu() for name in names},
    )


def run_image(backend: Backend, scene: Scene, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Forward only, without gradients; radii among the values."""
    inputs = {name: tensor.detach() for name, tensor in leaves(scene, dtype, backend.device).items()}
    rasterizer = backend.package.GaussianRasterizer(settings(backend, scene.view, dtype))
    color, radii, invdepth, *carried = rasterizer(**inputs)
    return {"color": color, "radii": radii, "invdepth": invdepth, **dict(zip(["carried"], carried))}


def everything(result: Result) -> dict[str, Tensor]:
    """Images, gradients and statistics by name."""
    return {**result.values, **result.gradients, **result.statistics}


def assert_exact(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    """Float64 against float64: each Gaussian's row (or each image channel) relative to its own size."""
    assert got.keys() == expected.keys()
    for name, wanted in expected.items():
        assert got[name].shape == wanted.shape, name
        if wanted.numel() == 0:
            continue
        rows, exact = got[name].reshape(len(wanted), -1), wanted.reshape(len(wanted), -1)
        scale = exact.abs().amax(1, keepdim=True) + 1e-4 * exact.abs().max()
        worst = ((rows - exact).abs() / scale.clamp_min(1e-300)).max()
        assert worst <= tolerance, f"{name}: relative error {worst:.2e}"


def assert_within_float32(got: dict[str, Tensor], exact: dict[str, Tensor], slack: float = 1.0) -> None:
    """Float32 against float64, by the largest error over the largest value.

    Allowed is three times what plain torch loses in float32 (`plain_float32_loss`) and a few roundings of the
    largest value. slack: for images of a few pixels, where one cancelling sum decides.
    """
    assert got.keys() == exact.keys()
    for name, wanted in exact.items():
        assert got[name].shape == wanted.shape, name
        allowed = slack * (3 * plain_float32_loss()[name] + 16 * FLOAT32_EPS) * worst(wanted)
        error = worst(got[name] - wanted)
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"  # a NaN fails too


def worst(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


@cache
def plain_float32_loss() -> dict[str, float]:
    """What the reference loses in float32, per result: the worst over all cases, over the largest value.

    Over all cases, because the error of one small scene is a matter of luck.
    """
    loss: dict[str, float] = {}
    for name in CASES:
        scene, exact = case(name).scene, case(name).exact
        if case(name).slack > 1:
            continue
        plain = run_reference(scene, torch.float32, exact.rendering.cutoffs)
        single = everything(plain)
        for key, wanted in everything(exact).items():
            loss[key] = max(loss.get(key, 0.0), worst(single[key] - wanted) / max(worst(wanted), 1e-300))
    return loss


# The scenes on which a back end meets the reference: together every input, degree, option and odd size.
CASES = {
    "degree 0": {"degree": 0},
    "degree 1": {"degree": 1, "antialiasing": True},
    "degree 2": {"degree": 2, "width": 64, "height": 48, "principal": (0.0, 0.0)},
    "degree 3": {"degree": 3},
    "degree 3, antialiasing": {"degree": 3, "antialiasing": True, "width": 47, "height": 33},
    "degree 0 apart": {"degree": 0, "color": "dc"},
    "degree 3 apart": {"degree": 3, "color": "dc", "antialiasing": True},
    "degree 1 of 3": {"degree": 1, "bases": 16},
    "degree 2 of 3 apart": {"degree": 2, "bases": 16, "color": "dc"},
    "no extras": {"importance": False, "carrier": False},
    "no extras, antialiasing": {"importance": False, "carrier": False, "antialiasing": True},
    "importance only": {"carrier": False, "principal": (-9.5, 6.25)},
    "carrier only": {"importance": False, "width": 16, "height": 80},
    "colors given": {"color": "precomp"},
    "covariances given": {"covariance": True, "scale_modifier": 1.7, "antialiasing": True},
    "both given": {"color": "precomp", "covariance": True, "importance": False},
    "scale modifier": {"scale_modifier": 0.6},
    "less dilation": {"dilation": 0.1, "antialiasing": True},
    "one pixel": {"width": 1, "height": 1, "principal": (0.0, 0.0), "count": 20},
    "one row": {"width": 37, "height": 1, "principal": (0.5, 0.0), "count": 20},
    "tall": {"width": 3, "height": 65, "principal": (0.5, 0.0), "count": 30},
}


@dataclass(frozen=True)
class Case:
    """A scene and what the reference makes of it in float64."""

    scene: Scene
    exact: Result

    @property
    def slack(self) -> float:
        return 1.0 if self.scene.view.width * self.scene.view.height > 1000 else 10.0


def case_scene(name: str) -> Scene:
    return random_scene(100 + list(CASES).index(name), **CASES[name])


@cache
def case(name: str) -> Case:
    scene = case_scene(name)
    return Case(scene, run_reference(scene))
