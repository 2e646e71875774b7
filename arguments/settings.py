"""Every setting of a run; names and defaults are those of 3DGS (Kerbl et al. 2023) where it has them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .flags import Bound, at_least, between, flag, milestone, one_of, open_unit_interval, share


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
    depths: str = flag(
        "",
        "folder of inverse depth maps inside the scene: 16-bit PNGs, see docs/scenes.md",
        short="-d",
        metavar="FOLDER",
    )
    resolution: int = flag(
        -1,
        "1, 2, 4, 8: divide the picture size; other numbers: width in pixels; -1: as it is, up to 1600 wide",
        bound=Bound("-1 or at least 1", lambda value: value == -1 or value >= 1),
        short="-r",
    )
    white_background: bool = flag(False, "white instead of black behind the scene", short="-w")
    train_test_exp: bool = flag(
        False, "fit an exposure to every view, to held-out ones on their left half; measure their right half"
    )
    data_device: str = flag("cpu", "device that keeps the pictures; 8-bit there, converted when used")
    eval: bool = flag(False, "hold every 8th view out for testing")
    max_memory_gb: float = flag(
        0.0,
        "memory to use; photos that need more than half of it stay on disk until they are needed; 0: what is there",
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
    position_lr_max_steps: int = milestone(30_000, "iteration at which the last position rate is reached", 1)
    feature_lr: float = flag(
        0.0025, "learning rate of colours; a 20th of it for degrees above 0", bound=at_least(0)
    )
    opacity_lr: float = flag(0.025, "learning rate of opacities", bound=at_least(0))
    scaling_lr: float = flag(0.005, "learning rate of scales", bound=at_least(0))
    rotation_lr: float = flag(0.001, "learning rate of rotations", bound=at_least(0))
    exposure_lr_init: float = flag(0.01, "first learning rate of exposures", bound=at_least(0))
    exposure_lr_final: float = flag(0.001, "last learning rate of exposures", bound=at_least(0))
    exposure_lr_delay_steps: int = flag(0, "iterations of warm-up of the exposure rate", bound=at_least(0))
    exposure_lr_delay_mult: float = flag(
        0.0, "rate at the start of that warm-up, as a factor", bound=between(0, 1)
    )
    lambda_dssim: float = flag(0.2, "share of 1 - SSIM in the loss, the rest is L1", bound=between(0, 1))
    depth_l1_weight_init: float = flag(1.0, "first weight of the depth loss", bound=at_least(0))
    depth_l1_weight_final: float = flag(0.01, "last weight of the depth loss", bound=at_least(0))
    random_background: bool = flag(False, "a new random background colour in every iteration")
    optimizer_type: str = flag(
        "default",
        "sparse_adam updates only the Gaussians seen in a view",
        bound=one_of("default", "sparse_adam"),
    )
    sh_degree_interval: int = flag(1000, "iterations between increases of the SH degree", bound=at_least(1))
    initial_opacity: float = flag(0.1, "opacity of the first Gaussians", bound=open_unit_interval())
    scale_schedule: bool = flag(
        False,
        "scale milestones, decay of the position rate and growth cap from 30,000 to the given --iterations",
    )


@dataclass
class DensificationSettings:
    """Densification."""

    densify_by: str = flag(
        "gradient",
        "what a candidate has much of: screen gradient of its position, or share E_k of the error",
        bound=one_of("gradient", "error"),
    )
    densification_interval: int = flag(100, "iterations between densifications", bound=at_least(1))
    densify_from_iter: int = milestone(500, "densification starts after this iteration")
    densify_until_iter: int = milestone(15_000, "densification ends before this iteration")
    densify_grad_threshold: float = flag(
        0.0002, "mean view-space position gradient that densifies", unit="NDC units", bound=at_least(0)
    )
    percent_dense: float = flag(
        0.01, "largest scale that is cloned, not split; 0: all are split", unit="x extent", bound=at_least(0)
    )
    split: str = flag(
        "random",
        "where the halves of a split lie: at random in the parent, or side by side along its longest axis",
        bound=one_of("random", "long_axis"),
    )
    error_metric: str = flag(
        "mixed",
        "error of a pixel: L1, 1 - SSIM, or both mixed as in the loss",
        bound=one_of("l1", "dssim", "mixed"),
    )
    error_reduce: str = flag(
        "max",
        "a Gaussian's error since the last densification, over the views that saw it; mean_drawn: over those, too, "
        "in which others hid it",
        bound=one_of("max", "mean", "mean_drawn", "mean_std", "ema"),
    )
    error_coherence: float = flag(
        1.0,
        "power of the relative screen gradient that weighs E_k, as noise pulls to no side; 0: no weight",
        bound=at_least(0),
    )
    error_fineness: float = flag(
        0.0,
        "power of the relative radius on the screen that divides E_k: how much error in a length; 0: no weight",
        bound=at_least(0),
    )
    error_beta: float = flag(1.0, "standard deviations added by mean_std", bound=at_least(0))
    error_keep: float = flag(0.8, "share of the old value that ema keeps at a new view", bound=between(0, 1))
    aux_scale: float = flag(
        2.0**-20,
        "factor of the auxiliary loss whose gradient is E_k, undone afterwards",
        bound=Bound("a power of two", lambda value: value > 0 and math.frexp(value)[0] == 0.5),
    )
    error_threshold: str = flag(
        "quantile",
        "how the threshold of E_k is found: as given, from its quantile, or from mean and deviation",
        bound=one_of("fixed", "quantile", "mean_std"),
    )
    error_fixed: float = flag(0.1, "threshold of fixed", unit="error x pixels", bound=at_least(0))
    error_quantile: float = flag(0.2, "top fraction that quantile takes", bound=between(0, 1))
    error_deviations: float = flag(
        1.0, "standard deviations above the mean, for mean_std", bound=between(-10, 100)
    )
    error_floor: float = flag(
        28.0,
        "no Gaussian is densified whose E_k is less than that of so many pixels with the typical error",
        unit="pixels",
        bound=at_least(0),
    )
    growth_cap: float = flag(
        0.0, "largest growth of one densification, 0: any", unit="share of the Gaussians", bound=at_least(0)
    )
    max_gaussians: int = flag(
        0,
        "Gaussians in the end, 0: any number; there are never more, but with --prune_keep as many more while "
        "they grow as it will thin out",
        bound=at_least(0),
    )
    target_size_mb: float = flag(
        0.0, "the same as the size of the saved PLY, 0: any", unit="10^6 bytes", bound=at_least(0)
    )
    clone_opacity: str = flag(
        "kept",
        "opacity of a clone and its parent: the parent's, or such that the two together are as opaque as it",
        bound=one_of("kept", "corrected"),
    )
    opacity_control: str = flag(
        "reset",
        "lower all opacities: to reset_opacity now and then, by a little at every densification, or never",
        bound=one_of("reset", "decay", "none"),
    )
    opacity_reset_interval: int = flag(3000, "iterations between opacity resets", bound=at_least(1))
    opacity_decay: float = flag(0.001, "what a decay takes from every opacity", bound=between(0, 1))


@dataclass
class PruningSettings:
    """Pruning."""

    prune_by: str = flag(
        "opacity",
        "score that prunes: opacity, importance s_k, removal energy, both of the last two, or sensitivity "
        "|s dL/ds|; gradient is another name of removal_energy",
        bound=one_of("opacity", "importance", "removal_energy", "both", "sensitivity"),
    )
    prune_threshold: str = flag(
        "fixed",
        "which scores are low: below a fixed one, the lowest share, or as many as exceed the budget",
        bound=one_of("fixed", "quantile", "budget"),
    )
    prune_opacity: float = flag(0.005, "opacity below which fixed prunes", bound=between(0, 1))
    prune_importance: float = flag(0.5, "importance below which fixed prunes", bound=between(0, 1))
    prune_energy: float = flag(
        0.01,
        "removal energy, or sensitivity, below which fixed prunes",
        unit="least squared error, or loss, of the training views / Gaussians",
        bound=at_least(0),
    )
    prune_quantile: float = flag(0.01, "share with the lowest scores, for quantile", bound=between(0, 1))
    prune_cap: float = flag(
        0.0,
        "share of the Gaussians that one round may prune of those with low scores, 0: all",
        bound=between(0, 1),
    )
    prune_keep: float = flag(
        1.0,
        "share of the Gaussians that pruning leaves once densification is over, an even part going in every "
        "round, lowest scores first; 1: the threshold goes on deciding",
        bound=share(),
    )
    prune_interval: int = flag(100, "iterations between pruning rounds", bound=at_least(1))
    prune_until_iter: int = milestone(0, "pruning ends before this iteration, 0: when densification does")
    max_screen_size: int = flag(
        0,
        "Gaussians of larger radius are pruned once opacities were reset, 0: none",
        unit="pixels",
        bound=at_least(0),
    )
    tag_lifespan: int = flag(0, "age below which nothing is pruned", unit="iterations", bound=at_least(0))
    tag_patience: int = flag(
        1, "pruning rounds in a row with a low score before a Gaussian is pruned", bound=at_least(1)
    )


@dataclass
class ImportanceSettings:
    """Importance s_k."""

    importance: str = flag(
        "none",
        "what s_k is computed from: nothing (it is 1), geometry and colour and a latent (full), or ablations",
        bound=one_of("none", "full", "mlp", "latent", "constant"),
    )
    importance_gate: str = flag(
        "sampled",
        "what the picture sees of s_k: 0 or 1 at random with that probability, rounded, or itself (soft)",
        bound=one_of("sampled", "rounded", "soft"),
    )
    importance_from_iter: int = milestone(1000, "importance is learnt from this iteration on")
    importance_until_iter: int = milestone(
        0,
        "here importance is settled: what it leaves out goes, the rest trains on; 0, and where importance alone "
        "prunes: when pruning ends; at the latest in the last iteration",
    )
    importance_start: float = flag(
        0.95, "importance that every Gaussian starts at", bound=open_unit_interval()
    )
    lambda_importance: float = flag(0.1, "price of the mean importance", unit="loss", bound=at_least(0))
    lambda_binary: float = flag(0.0, "price of the mean of s (1 - s)", unit="loss", bound=at_least(0))
    importance_control: str = flag(
        "fixed",
        "lambda_importance stays as given, or is steered after densification so that the importances add up "
        "to the budget",
        bound=one_of("fixed", "budget"),
    )
    importance_control_rate: float = flag(
        0.02,
        "how fast it is steered when the importances add up to twice the budget",
        unit="share of lambda_importance per iteration",
        bound=between(0, 1),
    )
    importance_control_range: float = flag(
        10.0, "how many times larger or smaller than given it may become", bound=at_least(1)
    )
    importance_lr: float = flag(0.002, "learning rate of the importance network", bound=at_least(0))
    latent_lr: float = flag(0.02, "learning rate of the latents", bound=at_least(0))


@dataclass
class RunSettings:
    """Run."""

    variant: str = flag(
        "3dgs", "named set of settings: 3dgs (Kerbl et al. 2023), or a row of the table in docs/method.md"
    )
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
    checkpoint_every: float = flag(
        5.0,
        "save a checkpoint, the same file each time, after so long, and at the end; 0: never",
        unit="minutes",
        bound=at_least(0),
    )
    resume: bool = flag(
        False,
        "go on with the run in the folder -m where it was stopped, with its settings, or begin it; a finished "
        "run with more --iterations",
    )
    overwrite: bool = flag(False, "replace the run that the output folder holds")
    seed: int = flag(0, "seed of everything random", bound=between(0, 2**63 - 1))
    threads: int = flag(0, "CPU threads, 0: as many as there are cores", bound=between(0, 1024))
    quiet: bool = flag(False, "print nothing but errors")
    debug_from: int = flag(-1, "switch --debug on after this iteration, -1: never", bound=at_least(-1))
    detect_anomaly: bool = flag(False, "let torch look for NaN in every backward pass (slow)")
    ip: str = flag("127.0.0.1", "address at which training can be watched")
    port: int = flag(6009, "port for 3DGS's network viewer", bound=between(0, 65_535))
    disable_viewer: bool = flag(False, "answer no network viewer")
    viewer: bool = flag(False, "show training on a page in the browser, see view.py")
    viewer_port: int = flag(8080, "its port, or the next free one", bound=between(1, 65_535))
