"""Every setting of a run; names and defaults are those of 3DGS (Kerbl et al. 2023) where it has them."""

from __future__ import annotations

from dataclasses import dataclass

from .flags import Bound, above, at_least, between, flag, one_of

NO_DEPTH = "depth supervision is not part of this version"
NO_EXPOSURE = "per-image exposure compensation is not part of this version"
NO_VIEWER = (
    "the network viewer is not part of this version; open the saved point_cloud.ply in any 3DGS viewer"
)


@dataclass
class ModelSettings:
    """Scene and model."""

    sh_degree: int = flag(3, "highest degree of the spherical harmonics", bound=between(0, 3))
    source_path: str = flag(
        "", "folder of the scene: COLMAP (sparse/0) or transforms_train.json", short="-s", metavar="SCENE"
    )
    model_path: str = flag(
        "",
        "folder of the run; train.py makes output/<10 hex digits> if not given",
        short="-m",
        metavar="OUTPUT",
    )
    images: str = flag("images", "folder of the pictures inside the scene", short="-i", metavar="FOLDER")
    depths: str = flag("", "folder of depth maps inside the scene", short="-d", unavailable=NO_DEPTH)
    resolution: int = flag(
        -1,
        "1, 2, 4, 8: divide the picture size; other numbers: width in pixels; -1: as it is, up to 1600 wide",
        bound=Bound("-1 or at least 1", lambda value: value == -1 or value >= 1),
        short="-r",
    )
    white_background: bool = flag(False, "white instead of black behind the scene", short="-w")
    train_test_exp: bool = flag(
        False, "exposure fitted on the left half of held-out views", unavailable=NO_EXPOSURE
    )
    data_device: str = flag("cpu", "device that keeps the pictures; 8-bit there, converted when used")
    eval: bool = flag(False, "hold every 8th view out for testing")


@dataclass
class PipelineSettings:
    """Rendering."""

    convert_SHs_python: bool = flag(False, "evaluate the spherical harmonics in torch, not in the rasterizer")
    compute_cov3D_python: bool = flag(False, "build the 3D covariances in torch, not in the rasterizer")
    debug: bool = flag(
        False, "look for NaN and infinity in all that enters and leaves the rasterizer; print tracebacks"
    )
    antialiasing: bool = flag(False, "opacity compensation for the screen-space blur (Mip-Splatting)")


@dataclass
class OptimizationSettings:
    """Optimisation."""

    iterations: int = flag(30_000, "iterations to train", bound=at_least(1))
    position_lr_init: float = flag(
        0.00016, "first learning rate of positions", unit="x extent", bound=at_least(0)
    )
    position_lr_final: float = flag(
        0.0000016, "last learning rate of positions", unit="x extent", bound=at_least(0)
    )
    position_lr_delay_steps: int = flag(0, "iterations of warm-up of the position rate", bound=at_least(0))
    position_lr_delay_mult: float = flag(
        0.01, "rate at the start of that warm-up, as a factor", bound=between(0, 1)
    )
    position_lr_max_steps: int = flag(
        30_000, "iteration at which the last position rate is reached", bound=at_least(1)
    )
    feature_lr: float = flag(
        0.0025, "learning rate of colours; a 20th of it for degrees above 0", bound=at_least(0)
    )
    opacity_lr: float = flag(0.025, "learning rate of opacities", bound=at_least(0))
    scaling_lr: float = flag(0.005, "learning rate of scales", bound=at_least(0))
    rotation_lr: float = flag(0.001, "learning rate of rotations", bound=at_least(0))
    exposure_lr_init: float = flag(0.01, "first learning rate of exposures", unavailable=NO_EXPOSURE)
    exposure_lr_final: float = flag(0.001, "last learning rate of exposures", unavailable=NO_EXPOSURE)
    exposure_lr_delay_steps: int = flag(0, "warm-up of the exposure rate", unavailable=NO_EXPOSURE)
    exposure_lr_delay_mult: float = flag(0.0, "rate at the start of that warm-up", unavailable=NO_EXPOSURE)
    percent_dense: float = flag(
        0.01, "largest scale that is cloned, not split", unit="x extent", bound=at_least(0)
    )
    lambda_dssim: float = flag(0.2, "share of 1 - SSIM in the loss, the rest is L1", bound=between(0, 1))
    densification_interval: int = flag(100, "iterations between densifications", bound=at_least(1))
    opacity_reset_interval: int = flag(3000, "iterations between opacity resets", bound=at_least(1))
    densify_from_iter: int = flag(500, "densification starts after this iteration", bound=at_least(0))
    densify_until_iter: int = flag(15_000, "densification ends before this iteration", bound=at_least(0))
    densify_grad_threshold: float = flag(
        0.0002, "mean view-space position gradient that densifies", unit="NDC units", bound=at_least(0)
    )
    depth_l1_weight_init: float = flag(1.0, "first weight of the depth loss", unavailable=NO_DEPTH)
    depth_l1_weight_final: float = flag(0.01, "last weight of the depth loss", unavailable=NO_DEPTH)
    random_background: bool = flag(False, "a new random background colour in every iteration")
    optimizer_type: str = flag(
        "default",
        "sparse_adam updates only the Gaussians seen in a view",
        bound=one_of("default", "sparse_adam"),
    )
    sh_degree_interval: int = flag(1000, "iterations between increases of the SH degree", bound=at_least(1))
    initial_opacity: float = flag(
        0.1, "opacity of the first Gaussians", bound=Bound("above 0 and below 1", lambda value: 0 < value < 1)
    )
    reset_opacity: float = flag(
        0.01,
        "opacity that a reset leaves at most",
        bound=Bound("above 0 and below 1", lambda value: 0 < value < 1),
    )
    prune_opacity: float = flag(0.005, "Gaussians of lower opacity are pruned", bound=between(0, 1))
    prune_scale: float = flag(
        0.1, "Gaussians of larger scale are pruned once opacities were reset", unit="x extent", bound=above(0)
    )
    max_screen_size: int = flag(
        0,
        "Gaussians of larger radius are pruned once opacities were reset, 0: none",
        unit="pixels",
        bound=at_least(0),
    )


@dataclass
class RunSettings:
    """Run."""

    variant: str = flag("3dgs", "which method to train: 3dgs (Kerbl et al. 2023)")
    test_iterations: tuple[int, ...] = flag(
        (7_000, 30_000), "measure views at these iterations", bound=at_least(-1)
    )
    save_iterations: tuple[int, ...] = flag(
        (7_000, 30_000), "save the Gaussians at these iterations, and always at the last", bound=at_least(-1)
    )
    checkpoint_iterations: tuple[int, ...] = flag(
        (), "save a checkpoint at these iterations", bound=at_least(-1)
    )
    start_checkpoint: str = flag(
        "", "go on from this checkpoint, with its settings; flags given here win", metavar="FILE"
    )
    overwrite: bool = flag(False, "replace the run that the output folder holds")
    seed: int = flag(0, "seed of everything random", bound=between(0, 2**63 - 1))
    threads: int = flag(0, "CPU threads, 0: as many as there are cores", bound=between(0, 1024))
    quiet: bool = flag(False, "print nothing but errors")
    debug_from: int = flag(-1, "switch --debug on after this iteration, -1: never", bound=at_least(-1))
    detect_anomaly: bool = flag(False, "let torch look for NaN in every backward pass (slow)")
    ip: str = flag("127.0.0.1", "address of the network viewer", unavailable=NO_VIEWER)
    port: int = flag(6009, "port of the network viewer", unavailable=NO_VIEWER)
    disable_viewer: bool = flag(False, "no network viewer; there is none in this version")
