"""A training run: its state, how it starts, and its record."""

from __future__ import annotations

import math
import time
from collections.abc import Container
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from diff_gaussian_rasterization import best_device, cpu_info
from torch import Tensor

import subfunction as policy
from arguments import Settings, variant_values
from gaussian_model import GaussianModel, gaussians_in_ply
from scene import Scene, viewer_entries
from training.view_order import ViewOrder
from training.whole_model import WholeModel
from utils import run_folder
from utils.counter_random import Stream, random_key, uniform
from utils.exposures import Exposures
from utils.files import refuse_inputs, write_json
from utils.history import History
from utils.ply import write_point_cloud
from utils.ranks import ALONE, Ranks
from utils.rendering import background_color


@dataclass
class Totals:
    """Sums over views, () float64 each, beside the statistics of every Gaussian."""

    pixel_error: Tensor  # typical E(u) of each view since the last densification, added up
    error_views: Tensor  # how many views these were
    error_so_far: Tensor  # squared error of the views of the round
    next_round_start: Tensor  # iteration after which the round began
    round_start: Tensor  # that of the last complete round; before all births: none is complete yet
    mean_error_per_gaussian: Tensor  # least squared error over Gaussians of a round so far
    grown: Tensor  # Gaussians at the end of densification, once thinning them has begun
    thinned: Tensor  # iteration of the last thinning by a threshold, 0 before the first
    lambda_importance: Tensor  # price of the mean importance, which may be steered

    @classmethod
    def at_start(cls, lambda_importance: float, device: torch.device) -> Totals:
        start = {
            "round_start": -1.0,
            "mean_error_per_gaussian": math.inf,
            "lambda_importance": lambda_importance,
        }
        names = [item.name for item in fields(cls)]
        values = {name: start.get(name, 0.0) for name in names}
        return cls(
            **{
                name: torch.tensor(value, dtype=torch.float64, device=device)
                for name, value in values.items()
            }
        )


@dataclass
class Training:
    """A training run: its settings, and everything that changes while it trains."""

    settings: Settings
    folder: Path
    scene: Scene
    model: GaussianModel
    generator: torch.Generator  # on the CPU, so that a seed means the same on every device
    views: ViewOrder
    totals: Totals
    exposures: Exposures | None = None  # with --train_test_exp
    ranks: Ranks = ALONE  # this process among those that share the Gaussians
    given: dict[str, Any] = field(default_factory=dict)  # flags of this command
    iteration: int = 0  # done so far
    started: float = field(default_factory=time.monotonic)  # earlier by what was done before a resume
    last_checkpoint: float = field(default_factory=time.monotonic)  # when, of those every few minutes
    measures: dict[str, Any] = field(default_factory=dict)  # by iteration
    history: History = field(default_factory=History)
    empty_views: set[str] = field(default_factory=set)  # that were told of: no Gaussian was seen in them
    sees_gaussians: bool = False  # in any view since the start or a resume
    date: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))

    @property
    def seconds(self) -> float:
        """Time spent on training so far, that before a resume included."""
        return time.monotonic() - self.started

    @property
    def whole(self) -> GaussianModel | WholeModel:
        """Return the Gaussians of all ranks, as far as decisions look at them."""
        return self.model if self.ranks.count == 1 else WholeModel(self.model, self.ranks)

    def own(self, rows: Tensor) -> Tensor:  # (N, ...) of the whole -> (n, ...)
        """Return the rows of this rank's Gaussians."""
        return self.ranks.own(rows, len(self.model))

    def own_generator(self, iteration: int) -> torch.Generator:
        """Return what draws random numbers for this rank's Gaussians alone."""
        if self.ranks.count == 1:
            return self.generator
        key = random_key(self.settings.run.seed, Stream.SPLITS, iteration, self.ranks.rank)
        return torch.Generator().manual_seed(key)

    def reaches(self, iteration: int, milestones: Container[int]) -> bool:
        """Return whether one of the milestones lies in the step that ends with `iteration`."""
        return policy.step_reaches(iteration, milestones, self.settings)

    @property
    def left(self) -> float:
        """The share that thinning has left of what had grown; 1 before that."""
        return len(self.whole) / self.totals.grown.item() if self.totals.grown else 1.0

    def baked_model(self, iteration: int) -> GaussianModel:
        """Return the model as a file of this iteration holds it: as baking would leave it now."""
        return self.model.baked(policy.baking_gate(iteration, self.settings))

    def keeps_size(self, iteration: int) -> bool:
        """Return whether --save_shares keeps the model of this iteration: the last one it does always."""
        if not policy.phase(iteration, self.settings).may_keep_size:
            return False
        kept = [saved["share"] for saved in self.measures.values() if "share" in saved]
        is_last = iteration == self.settings.optimization.iterations
        return is_last or policy.reaches_a_share(self.left, kept, self.settings.pruning)

    @property
    def budget(self) -> int:
        """The most Gaussians at the end, 0: any number."""
        return gaussian_budget(self.settings)

    @property
    def growth_budget(self) -> int:
        """The most Gaussians during growth, maybe more than at the end. 0: any number."""
        return policy.growth_budget(self.budget, len(self.scene.train), self.settings)


def gaussian_budget(settings: Settings) -> int:
    """Return how many Gaussians --max_gaussians and --target_size_mb allow, 0: any number.

    Raise ValueError if they allow none.
    """
    growth = settings.densification
    in_file = gaussians_in_ply(1e6 * growth.target_size_mb, settings.model.sh_degree)
    if growth.target_size_mb and not in_file:
        raise ValueError(f"--target_size_mb: {growth.target_size_mb} MB do not hold a single Gaussian")
    return min(filter(None, (growth.max_gaussians, in_file)), default=0)


@dataclass
class TrainingView:
    """One training view and what its backward pass says of every Gaussian, without the graph."""

    iteration: int
    name: str  # of the photo
    pixels: int
    ends_round: bool  # it is the last of all views, which then begin anew
    radii: Tensor  # (N,) pixels of the full size, 0 where a Gaussian is not seen
    screen_gradients: Tensor  # (N, 3) of the projected means, NDC units
    errors: Tensor | None  # (N,) E_k, where it is collected
    contributions: Tensor | None  # (N,) removal energy or sensitivity, where that prunes
    loss: Tensor  # ()
    typical_error: Tensor | None  # () of E(u), where E_k is collected
    squared_error: Tensor | None  # () weighed as removal energies are, where those prune
    shown: Shown | None  # where this rank has rendered it


@dataclass
class Shown:
    """The picture of a training view."""

    image: Tensor  # (3, H, W) rendered, with the photo where a mask leaves it out
    gt_image: Tensor  # (3, H, W)
    pixel_errors: Tensor | None  # (1, H, W) E(u), where E_k is collected


def choose_background(run: Training, iteration: int | None = None) -> Tensor:
    """Return the color (3,) behind the scene; random ones are drawn for training iterations only."""
    if run.settings.optimization.random_background and iteration is not None:
        return uniform(random_key(run.settings.run.seed, Stream.BACKGROUND, iteration), 3, run.model.device)
    return background_color(run.settings.model.white_background, run.model.device)


# Before the loop


def start(settings: Settings, scene: Scene, folder: Path, ranks: Ranks = ALONE) -> Training:
    """Return a run that starts from the scene's points, or from as many random ones as the budget allows.

    Each of several ranks owns every so many of them.
    """
    generator = torch.Generator().manual_seed(settings.run.seed)
    xyz, rgb = scene.points.xyz, scene.points.rgb
    budget = policy.growth_budget(gaussian_budget(settings), len(scene.train), settings)
    if 0 < budget < len(xyz):
        chosen = torch.randperm(len(xyz), generator=generator)[:budget].sort().values.numpy()
        xyz, rgb = xyz[chosen], rgb[chosen]
    model = GaussianModel.from_points(
        *(xyz, rgb, 0, settings.optimization.initial_opacity, best_device()),
        scene.unit,
        scene.shift,
        slice(ranks.rank, None, ranks.count),
    )
    model.sh_degree = settings.model.sh_degree
    model.start_training(settings.optimization)
    totals = Totals.at_start(settings.importance.lambda_importance, model.device)
    order = ViewOrder(len(scene.train), generator, settings.optimization.views_per_step)
    exposures = new_exposures(settings, scene)
    return Training(settings, folder, scene, model, generator, order, totals, exposures, ranks)


def new_exposures(settings: Settings, scene: Scene) -> Exposures | None:
    """Return an exposure for every training view with --train_test_exp, else None."""
    if not settings.model.train_test_exp:
        return None
    return Exposures([camera.image_name for camera in scene.train.without_images], best_device())


def check_output_folder(folder: Path, settings: Settings) -> None:
    """Raise ValueError if training would replace foreign files, its inputs, or a run without being asked."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"-m {folder}: expected a folder, this is a file")
    run_folder.require_run_or_room(folder)
    outputs = run_folder.files_like(folder, *run_folder.RUN_FILES, "input.ply", "cameras.json", "config.json")
    refuse_inputs(outputs, settings.inputs(folder))
    if settings.run.overwrite and not continues_in(folder, settings):
        run_folder.require_replaceable(folder)
    wanted = settings.run.overwrite or settings.run.resume or continues_in(folder, settings)
    if run_folder.holds_results(folder) and not wanted:
        raise ValueError(
            f"-m {folder} holds an earlier run; give another folder, --resume to go on with that run, "
            "or --overwrite to replace it"
        )


def continues_in(folder: Path, settings: Settings) -> bool:
    checkpoint = settings.run.start_checkpoint
    return bool(checkpoint) and Path(checkpoint).resolve().parent == folder.resolve()


def write_inputs(run: Training) -> None:
    """Write what other tools read of a run before it ends."""
    if run.settings.run.overwrite and not continues_in(run.folder, run.settings):
        run_folder.remove_results(run.folder)
    run_folder.write_cfg_args(run.folder, vars(run.settings.model))
    cameras = (run.scene.test + run.scene.train).without_images
    write_json(run.folder / "cameras.json", viewer_entries(cameras, run.scene.shift))
    points, shift = run.scene.points, run.scene.shift
    write_point_cloud(run.folder / "input.ply", points.xyz, points.rgb, shift)
    write_record(run, finished=False)


def write_record(run: Training, finished: bool) -> None:
    """Write the record of the run, config.json."""
    per_second = run.iteration / run.seconds if run.iteration else 0.0
    record = {
        "finished": finished,
        "iteration": run.iteration,
        "timing": {"training_seconds": run.seconds, "iterations_per_second": per_second},
        "views": {"train": len(run.scene.train), "test": len(run.scene.test)},
        "shift": run.scene.shift.tolist(),
        "measures": run.measures,
        "seed": run.settings.run.seed,
        "versions": run_folder.versions(),
        "given": sorted(run.given),
        "variant_values": variant_values(run.settings),
        "peak_memory_bytes": run_folder.peak_memory(),
        "machine": run_folder.machine(cpu_info()) | {"device": str(best_device())},
        "started": run.date,
        "settings": run.settings.flat(),
    }
    run_folder.write_config(run.folder, record)
