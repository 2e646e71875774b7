"""Every setting of a run. Settings of 3DGS (Kerbl et al. 2023) keep their names and defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .flags import PACE, RATE, Bound, at_least, between, flag, milestone, one_of, open_unit_interval, share


@dataclass
class ModelSettings:
    """Scene and model."""

    sh_degree: int = flag(3, "highest degree of the spherical harmonics", bound=between(0, 3))
    source_path: str = flag(
        "", "folder of the scene: COLMAP (sparse/0) or transforms_train.json", short="-s", metavar="SCENE"
    )
    model_path: str = flag(
        "",
        "folder of the run; if not given, train.py makes output/<10 hex digits>",
        short="-m",
        metavar="OUTPUT",
    )
    images: str = flag("images", "folder of the images inside the scene", short="-i", metavar="FOLDER")
    depths: str = flag(
        "",
        "folder of inverse depth maps inside the scene: 16-bit PNGs, see docs/scenes.md",
        short="-d",
        metavar="FOLDER",
    )
    resolution: int = flag(
        -1,
        "1, 2, 4, 8: divide the image size; other numbers: width in pixels; -1: as it is, up to 1600 wide",
        bound=Bound("-1 or at least 1", lambda value: value == -1 or value >= 1),
        short="-r",
    )
    white_background: bool = flag(False, "white instead of black behind the scene", short="-w")
    train_test_exp: bool = flag(
        False,
        "fit an exposure to every view; train on the left half of held-out views, measure the right half",
    )
    data_device: str = flag(
        "auto",
        "device that stores the images, with 8 bits; they are converted when used. auto: the GPU, if they "
        "take at most a quarter of its free memory",
    )
    eval: bool = flag(False, "hold every 8th view out for testing")
    max_memory_gb: float = flag(
        0.0,
        "memory to use; photos that need more than 40 % of it stay on disk until they are needed; "
        "0: the available memory",
        unit="10^9 bytes",
        bound=at_least(0),
    )
    init_points: str = flag("", "PLY of points to start from instead of the scene's own", metavar="FILE")


@dataclass
class PipelineSettings:
    """Rendering."""

    convert_SHs_python: bool = flag(False, "evaluate the spherical harmonics in torch, not in the rasterizer")
    compute_cov3D_python: bool = flag(False, "build the 3D covariances in torch, not in the rasterizer")
    debug: bool = flag(
        False, "check inputs and outputs of the rasterizer for NaN and infinity; print tracebacks"
    )
    antialiasing: bool = flag(False, "compensate opacities for the screen-space blur (Mip-Splatting)")


@dataclass
class OptimizationSettings:
    """Optimization."""

    iterations: int = flag(30_000, "iterations to train", bound=at_least(1))
    position_lr_init: float = flag(
        0.00016, "first learning rate of positions", unit="x extent", bound=at_least(0), scales=RATE
    )
    position_lr_final: float = flag(
        0.0000016, "last learning rate of positions", unit="x extent", bound=at_least(0), scales=RATE
    )
    position_lr_delay_steps: int = flag(
        0, "warm-up iterations of the learning rate of positions", bound=at_least(0)
    )
    position_lr_delay_mult: float = flag(
        0.01, "factor of the learning rate at the start of its warm-up", bound=between(0, 1)
    )
    position_lr_max_steps: int = milestone(30_000, "iteration at which position_lr_final is reached", 1)
    feature_lr: float = flag(
        0.0025, "learning rate of colors; SH degrees above 0 use a 20th of it", bound=at_least(0), scales=RATE
    )
    opacity_lr: float = flag(0.025, "learning rate of opacities", bound=at_least(0), scales=RATE)
    scaling_lr: float = flag(0.005, "learning rate of scales", bound=at_least(0), scales=RATE)
    rotation_lr: float = flag(0.001, "learning rate of rotations", bound=at_least(0), scales=RATE)
    exposure_lr_init: float = flag(0.01, "first learning rate of exposures", bound=at_least(0))
    exposure_lr_final: float = flag(0.001, "last learning rate of exposures", bound=at_least(0))
    exposure_lr_delay_steps: int = flag(
        0, "warm-up iterations of the learning rate of exposures", bound=at_least(0)
    )
    exposure_lr_delay_mult: float = flag(
        0.0, "factor of the learning rate at the start of its warm-up", bound=between(0, 1)
    )
    lambda_dssim: float = flag(0.2, "weight of 1 - SSIM in the loss; L1 has the rest", bound=between(0, 1))
    depth_l1_weight_init: float = flag(1.0, "first weight of the depth loss", bound=at_least(0))
    depth_l1_weight_final: float = flag(0.01, "last weight of the depth loss", bound=at_least(0))
    random_background: bool = flag(False, "use a new random background color in every iteration")
    views_per_step: int = flag(
        1,
        "views whose gradients are added up before each step of Adam, of several processes one for each; "
        "iterations and milestones count views",
        bound=at_least(1),
    )
    optimizer_type: str = flag(
        "default",
        "sparse_adam updates only the Gaussians seen in a view",
        bound=one_of("default", "sparse_adam"),
    )
    sh_degree_interval: int = flag(
        1000, "iterations between increases of the SH degree", bound=at_least(1), scales=PACE
    )
    resolution_schedule: int = milestone(
        0,
        "photos are used at their full size after this iteration, at half of it before, and at a quarter in "
        "the first fifth of that time; 0: always at their full size",
    )
    initial_opacity: float = flag(0.1, "opacity of the initial Gaussians", bound=open_unit_interval())
    scale_schedule: bool = flag(
        False,
        "scale milestones, decay of the position learning rate and steps of growth from 30,000 to "
        "--iterations, as all variants but 3dgs do",
        of_variants=True,
    )
    scale_rates: bool = flag(
        False,
        "multiply learning rates by the square root of 30,000 / --iterations, of 1,000 at least, and scale "
        "sh_degree_interval, as all variants but 3dgs do",
        of_variants=True,
    )


@dataclass
class DensificationSettings:
    """Densification."""

    densify_by: str = flag(
        "gradient",
        "densify Gaussians with a large screen gradient of the position, or with a large error share E_k",
        bound=one_of("gradient", "error"),
    )
    densification_interval: int = flag(100, "iterations between densifications", bound=at_least(1))
    densify_from_iter: int = milestone(500, "densification starts after this iteration")
    densify_until_iter: int = milestone(15_000, "densification ends before this iteration")
    densify_grad_threshold: float = flag(
        0.0002,
        "mean screen gradient of the position from which a Gaussian is densified",
        unit="NDC units",
        bound=at_least(0),
    )
    percent_dense: float = flag(
        0.01,
        "Gaussians up to this scale are cloned, larger ones are split; 0: all are split",
        unit="x extent",
        bound=at_least(0),
    )
    split: str = flag(
        "random",
        "place the two parts of a split at random in the parent, or side by side along its longest axis",
        bound=one_of("random", "long_axis"),
    )
    error_metric: str = flag(
        "mixed",
        "error of a pixel: L1, 1 - SSIM, or both mixed as in the loss",
        bound=one_of("l1", "dssim", "mixed"),
    )
    error_reduce: str = flag(
        "max",
        "how E_k is reduced since the last densification, over views in which the Gaussian has a share of "
        "the error; mean_drawn also counts views in which others hide it",
        bound=one_of("max", "mean", "mean_drawn", "mean_std", "ema"),
    )
    error_coherence: float = flag(
        1.0,
        "power of the relative screen gradient that weights E_k, to ignore noise; 0: no weight",
        bound=at_least(0),
    )
    error_fineness: float = flag(
        0.0,
        "power of the relative radius on the screen that divides E_k: 1 gives error per length; 0: no weight",
        bound=at_least(0),
    )
    error_beta: float = flag(
        1.0, "standard deviations that mean_std of --error_reduce adds", bound=at_least(0)
    )
    error_keep: float = flag(0.8, "weight of the old value when ema adds a view", bound=between(0, 1))
    aux_scale: float = flag(
        2.0**-20,
        "factor of the auxiliary loss whose gradient is E_k; E_k is divided by it",
        bound=Bound("a power of two", lambda value: value > 0 and math.frexp(value)[0] == 0.5),
    )
    error_threshold: str = flag(
        "quantile",
        "threshold of E_k: fixed, a quantile of E_k, or mean plus standard deviations",
        bound=one_of("fixed", "quantile", "mean_std"),
    )
    error_fixed: float = flag(0.1, "threshold of E_k for fixed", unit="error x pixels", bound=at_least(0))
    error_quantile: float = flag(
        0.2, "share of the Gaussians above the threshold, for quantile", bound=between(0, 1)
    )
    error_deviations: float = flag(
        1.0, "standard deviations above the mean, for mean_std of --error_threshold", bound=between(-10, 100)
    )
    error_floor: float = flag(
        2e-4,
        "smallest E_k that is densified: that of this share of a picture with the typical error",
        unit="share of the pixels",
        bound=between(0, 1),
    )
    growth_cap: float = flag(
        0.0,
        "largest growth by one densification; 0: no limit",
        unit="share of the Gaussians",
        bound=at_least(0),
    )
    max_gaussians: int = flag(
        0,
        "largest number of Gaussians; 0: no limit; with --thin_energy there may be more during "
        "densification, as many as pruning will remove",
        bound=at_least(0),
    )
    target_size_mb: float = flag(
        0.0, "the same limit as the size of the saved PLY; 0: no limit", unit="10^6 bytes", bound=at_least(0)
    )
    clone_opacity: str = flag(
        "kept",
        "opacity of a clone and its parent: kept as it was, or corrected so that both together are as opaque",
        bound=one_of("kept", "corrected"),
    )
    opacity_control: str = flag(
        "reset",
        "lower all opacities: to a low value at intervals, by a little at every densification, or never",
        bound=one_of("reset", "decay", "none"),
    )
    opacity_reset_interval: int = flag(3000, "iterations between opacity resets", bound=at_least(1))
    opacity_decay: float = flag(0.001, "opacity that a decay subtracts", bound=between(0, 1))


@dataclass
class PruningSettings:
    """Pruning."""

    prune_by: str = flag(
        "opacity",
        "prune Gaussians with a low opacity, importance s_k, removal energy, both of the last two, or "
        "sensitivity |s dL/ds|; gradient is another name of removal_energy",
        bound=one_of("opacity", "importance", "removal_energy", "both", "sensitivity"),
    )
    prune_threshold: str = flag(
        "fixed",
        "scores that are low: those below a fixed value, the lowest share, or as many as exceed the budget",
        bound=one_of("fixed", "quantile", "budget"),
    )
    prune_opacity: float = flag(
        0.005, "opacity below which a Gaussian is pruned, for fixed", bound=between(0, 1)
    )
    prune_importance: float = flag(
        0.5, "importance below which a Gaussian is pruned, for fixed", bound=between(0, 1)
    )
    prune_energy: float = flag(
        0.01,
        "removal energy or sensitivity below which a Gaussian is pruned, for fixed",
        unit="least squared error, or loss, of the training views / Gaussians",
        bound=at_least(0),
    )
    thin_energy: float = flag(
        0.0,
        "removal energy below which a Gaussian is pruned once densification has ended: thinning stops where "
        "the squared error would rise by this share per share of Gaussians; 0: --prune_energy goes on",
        unit="least squared error of the training views / Gaussians",
        bound=at_least(0),
    )
    energy_contrast: float = flag(
        0.01,
        "variance of the photo around a pixel with which it counts half in removal energies; 0: all pixels "
        "count alike",
        unit="gray value^2, white is 1",
        bound=at_least(0),
    )
    prune_quantile: float = flag(
        0.01, "share of the Gaussians whose scores are low, for quantile", bound=between(0, 1)
    )
    prune_cap: float = flag(
        0.0,
        "largest share of the Gaussians that one pruning round removes; 0: no limit",
        bound=between(0, 1),
    )
    prune_keep: float = flag(
        1.0,
        "share of the Gaussians to keep after densification; every pruning round removes an even part, "
        "lowest scores first; 1: the thresholds decide",
        bound=share(),
    )
    save_shares: tuple[float, ...] = flag(
        (),
        "save and measure the model whenever thinning has left one of these shares of what had grown, all of "
        "them in sizes.json; thinning goes on to the smallest one at least",
        bound=open_unit_interval(),
        of=float,
    )
    prune_interval: int = flag(100, "iterations between pruning rounds", bound=at_least(1))
    prune_until_iter: int = milestone(0, "pruning ends before this iteration; 0: when densification ends")
    max_screen_size: int = flag(
        0,
        "Gaussians with a larger radius are pruned after the first opacity reset; 0: none",
        unit="pixels",
        bound=at_least(0),
    )
    tag_lifespan: int = flag(
        0, "age below which a Gaussian is not pruned", unit="iterations", bound=at_least(0)
    )
    tag_patience: int = flag(
        1, "consecutive pruning rounds with a low score after which a Gaussian is pruned", bound=at_least(1)
    )


@dataclass
class ImportanceSettings:
    """Importance s_k."""

    importance: str = flag(
        "none",
        "inputs of s_k: none (s_k is 1); geometry, color and a latent (full); the others are ablations",
        bound=one_of("none", "full", "mlp", "latent", "constant"),
    )
    importance_gate: str = flag(
        "sampled",
        "factor of the opacity: 1 with probability s_k, else 0 (sampled), s_k rounded, or s_k itself (soft)",
        bound=one_of("sampled", "rounded", "soft"),
    )
    importance_from_iter: int = milestone(1000, "importance is learned from this iteration on")
    importance_until_iter: int = milestone(
        0,
        "importance is baked at this iteration, at the latest in the last: Gaussians with s_k < 1/2 are "
        "removed, the others train on without it; 0: when pruning ends, as with --prune_by importance at the "
        "earliest",
    )
    importance_start: float = flag(0.95, "initial importance of every Gaussian", bound=open_unit_interval())
    lambda_importance: float = flag(0.1, "weight of the mean importance", unit="loss", bound=at_least(0))
    lambda_binary: float = flag(0.0, "weight of the mean of s (1 - s)", unit="loss", bound=at_least(0))
    importance_control: str = flag(
        "fixed",
        "keep lambda_importance fixed, or adjust it after densification until the importances add up to the "
        "budget",
        bound=one_of("fixed", "budget"),
    )
    importance_control_rate: float = flag(
        0.02,
        "relative change of lambda_importance when the importances add up to twice the budget",
        unit="share of lambda_importance per iteration",
        bound=between(0, 1),
    )
    importance_control_range: float = flag(
        10.0, "largest factor between the adjusted and the given lambda_importance", bound=at_least(1)
    )
    importance_interval: int = flag(
        10,
        "iterations between steps of the importance network; s_k stays the same between them",
        bound=at_least(1),
    )
    importance_lr: float = flag(
        0.002, "learning rate of the importance network", bound=at_least(0), scales=RATE
    )
    latent_lr: float = flag(0.02, "learning rate of the latents", bound=at_least(0), scales=RATE)


@dataclass
class RunSettings:
    """Run."""

    variant: str = flag(
        "tag_gradprune_decomp",
        "named set of settings: 3dgs (Kerbl et al. 2023) or a row of the table in docs/method.md",
    )
    test_iterations: tuple[int, ...] = flag(
        (7_000, 30_000), "measure quality at these iterations", bound=at_least(-1)
    )
    save_iterations: tuple[int, ...] = flag(
        (7_000, 30_000), "save the Gaussians at these iterations and at the last one", bound=at_least(-1)
    )
    checkpoint_iterations: tuple[int, ...] = flag(
        (), "save a checkpoint at these iterations", bound=at_least(-1)
    )
    start_checkpoint: str = flag(
        "", "continue from this checkpoint with its settings; flags given here override them", metavar="FILE"
    )
    checkpoint_every: float = flag(
        5.0,
        "save a checkpoint after this time, always in the same file, and at the end; 0: never",
        unit="minutes",
        bound=at_least(0),
    )
    resume: bool = flag(
        False,
        "continue the interrupted run in the folder -m with its settings, or start it if there is none; "
        "continue a finished run with more --iterations",
    )
    overwrite: bool = flag(False, "replace the run that the output folder holds")
    seed: int = flag(0, "seed of everything random", bound=between(0, 2**63 - 1))
    threads: int = flag(0, "CPU threads; 0: one per core", bound=between(0, 1024))
    quiet: bool = flag(False, "print nothing but errors")
    debug_from: int = flag(-1, "switch --debug on after this iteration; -1: never", bound=at_least(-1))
    detect_anomaly: bool = flag(False, "let torch check every backward pass for NaN (slow)")
    ip: str = flag("127.0.0.1", "address on which the viewers listen")
    port: int = flag(6009, "port of 3DGS's network viewer", bound=between(0, 65_535))
    disable_viewer: bool = flag(False, "do not listen for the network viewer")
    viewer: bool = flag(False, "show training on a page in the browser, as view.py does")
    viewer_port: int = flag(8080, "port of that page, or the next free one", bound=between(1, 65_535))
