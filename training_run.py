"""A training run: its state, how it starts or goes on from a checkpoint, and what it leaves in its folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from diff_gaussian_rasterization import best_device, cpu_info
from torch import Tensor

import subfunction as policy
from arguments import VARIANTS, Settings, make_settings
from gaussian_model import GaussianModel, gaussians_in_ply
from scene import Scene, viewer_entries
from utils import run_folder
from utils.checkpoints import save_checkpoint
from utils.exposures import Exposures
from utils.files import write_json
from utils.history import History
from utils.ply import write_point_cloud
from utils.progress import Progress
from utils.rendering import RenderOutput
from utils.view_order import ViewOrder


FIXED_BY_CHECKPOINT = (
    "train_test_exp",
    "sh_degree",
    "optimizer_type",
    "variant",
    "seed",
    "initial_opacity",
    "importance",
)
FIXED_BY_CHECKPOINT += ("latent_size", "importance_width", "importance_frequencies")


@dataclass
class Training:
    """A run: what it was asked to do, and everything that changes while it does it."""

    settings: Settings
    folder: Path
    scene: Scene
    model: GaussianModel
    generator: torch.Generator  # on the CPU, so that a seed means the same on every device
    views: ViewOrder
    totals: dict[str, Tensor]  # over views, see policy.initial_totals
    exposures: Exposures | None = None  # with --train_test_exp
    given: dict[str, Any] = field(default_factory=dict)  # flags of this command
    iteration: int = 0  # done so far
    started: float = field(default_factory=time.monotonic)  # earlier by what was done before a resume
    measures: dict[str, Any] = field(default_factory=dict)  # by iteration
    history: History = field(default_factory=History)
    date: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))

    @property
    def seconds(self) -> float:
        """Spent on training so far, also before a resume."""
        return time.monotonic() - self.started

    @property
    def budget(self) -> int:
        """Gaussians that growth may not exceed, 0: any number."""
        return gaussian_budget(self.settings)


def gaussian_budget(settings: Settings) -> int:
    """What --max_gaussians and --target_size_mb leave room for, 0: any number. ValueError for no room."""
    growth = settings.densification
    in_file = gaussians_in_ply(1e6 * growth.target_size_mb, settings.model.sh_degree)
    if growth.target_size_mb and not in_file:
        raise ValueError(f"--target_size_mb: {growth.target_size_mb} MB do not hold a single Gaussian")
    return min(filter(None, (growth.max_gaussians, in_file)), default=0)


@dataclass
class TrainingView:
    """One training view as the model shows it, with what its backward pass left behind."""

    render: RenderOutput
    image: Tensor  # (3, H, W) rendered, with the photo where a mask leaves it out
    truth: Tensor  # (3, H, W)
    loss: Tensor  # ()
    carrier: Tensor | None  # (N, 1) e_k, whose gradient is E_k times aux_scale
    error: Tensor | None = None  # (1, H, W) E(u), with a carrier


def choose_background(run: Training, measuring: bool = False) -> Tensor:
    """The colour (3,) behind the scene: a new one every time if random, except for measuring."""
    if run.settings.optimization.random_background and not measuring:
        return torch.rand(3, generator=run.generator).to(run.model.device)
    return torch.full((3,), float(run.settings.model.white_background), device=run.model.device)


# Before the loop


def start(settings: Settings, scene: Scene, folder: Path) -> Training:
    """A run from the scene's points; from a random choice of them if there are more than the budget."""
    generator = torch.Generator().manual_seed(settings.run.seed)
    xyz, rgb = scene.points.xyz, scene.points.rgb
    budget = gaussian_budget(settings)
    if 0 < budget < len(xyz):
        chosen = torch.randperm(len(xyz), generator=generator)[:budget].sort().values.numpy()
        xyz, rgb = xyz[chosen], rgb[chosen]
    model = GaussianModel.from_points(
        xyz, rgb, settings.model.sh_degree, settings.optimization.initial_opacity, best_device()
    )
    model.start_training(settings.optimization)
    totals = policy.initial_totals(settings.importance, model.device)
    order = ViewOrder(len(scene.train), generator)
    return Training(settings, folder, scene, model, generator, order, totals, new_exposures(settings, scene))


def new_exposures(settings: Settings, scene: Scene) -> Exposures | None:
    """One for every training view, where they are wanted."""
    if not settings.model.train_test_exp:
        return None
    return Exposures([camera.image_name for camera in scene.train], best_device())


def resume(
    settings: Settings, scene: Scene, folder: Path, tensors: dict[str, Tensor], record: dict[str, Any]
) -> Training:
    """A run from a checkpoint."""
    if record["training_views"] != len(scene.train):
        raise ValueError(
            f"{settings.run.start_checkpoint} was trained on {record['training_views']} views, "
            f"but {settings.model.source_path} has {len(scene.train)} with these settings"
        )
    model = GaussianModel.from_state(
        tensors, settings.optimization, settings.importance, scene.extent, best_device()
    )
    generator = torch.Generator()
    views = ViewOrder(len(scene.train), generator)
    try:
        generator.set_state(tensors["generator"])
        views.restore(tensors["views"].tolist())
        names = policy.initial_totals(settings.importance, model.device)
        totals = {name: tensors[f"totals.{name}"].to(model.device) for name in names}
        exposures = new_exposures(settings, scene)
        if exposures is not None:
            exposures.restore(tensors)
    except (KeyError, RuntimeError, TypeError, ValueError) as problem:
        raise ValueError(
            f"{settings.run.start_checkpoint}: its random state is damaged ({problem})"
        ) from problem
    run = Training(settings, folder, scene, model, generator, views, totals, exposures)
    run.iteration, run.started = record["iteration"], time.monotonic() - record["seconds"]
    run.measures, run.history = record["measures"], History(record["history"])
    return run


def resumed_settings(given: dict[str, Any], record: dict[str, Any]) -> Settings:
    """The checkpoint's settings under the flags given. ValueError where they cannot go together."""
    settings = make_settings(given, record["settings"])
    for name in FIXED_BY_CHECKPOINT:
        if settings.flat()[name] != record["settings"][name]:
            raise ValueError(
                f"--{name}: the checkpoint has {record['settings'][name]}, got {settings.flat()[name]}"
            )
    if record["iteration"] >= settings.optimization.iterations:
        raise ValueError(
            f"the checkpoint is at iteration {record['iteration']} already; give more --iterations than that"
        )
    settings.model.model_path = given.get("model_path", str(Path(settings.run.start_checkpoint).parent))
    return settings


def check_output_folder(folder: Path, settings: Settings) -> None:
    """ValueError if training would replace an earlier run that was not meant to be replaced."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"-m {folder}: expected a folder, this is a file")
    if run_folder.holds_results(folder) and not (settings.run.overwrite or continues_in(folder, settings)):
        raise ValueError(
            f"-m {folder} holds an earlier run; give another folder, or --overwrite to replace that run"
        )


def continues_in(folder: Path, settings: Settings) -> bool:
    checkpoint = settings.run.start_checkpoint
    return bool(checkpoint) and Path(checkpoint).resolve().parent == folder.resolve()


def write_inputs(run: Training) -> None:
    """What others' tools want to know of a run before it ends."""
    if run.settings.run.overwrite and not continues_in(run.folder, run.settings):
        run_folder.remove_results(run.folder)
    run_folder.write_cfg_args(run.folder, vars(run.settings.model))
    write_json(run.folder / "cameras.json", viewer_entries(run.scene.test + run.scene.train))
    write_point_cloud(run.folder / "input.ply", run.scene.points.xyz, run.scene.points.rgb)
    write_record(run, finished=False)


def write_record(run: Training, finished: bool) -> None:
    """Our own record of the run, config.json."""
    per_second = run.iteration / run.seconds if run.iteration else 0.0
    record = {
        "finished": finished,
        "iteration": run.iteration,
        "timing": {"training_seconds": run.seconds, "iterations_per_second": per_second},
        "views": {"train": len(run.scene.train), "test": len(run.scene.test)},
        "measures": run.measures,
        "seed": run.settings.run.seed,
        "versions": run_folder.versions(),
        "given": sorted(run.given),
        "variant_values": VARIANTS[run.settings.run.variant],
        "peak_memory_bytes": run_folder.peak_memory(),
        "machine": run_folder.machine(cpu_info()) | {"device": str(best_device())},
        "started": run.date,
        "settings": run.settings.flat(),
    }
    run_folder.write_config(run.folder, record)


# What it leaves


def save_if_due(run: Training, iteration: int, progress: Progress) -> None:
    if iteration in run.settings.run.save_iterations or iteration == run.settings.optimization.iterations:
        path = run_folder.point_cloud_path(run.folder, iteration)
        model = run.model.exported(run.settings.importance.importance_gate)
        model.save_ply(path)
        if run.exposures is not None:
            run.exposures.save(run.folder)
        run.measures.setdefault(str(iteration), {})["gaussians"] = len(model)
        run.history.write(run.folder)
        progress.say(f"[ITER {iteration}] Saved {len(model):,} Gaussians to {path}")


def save_state(run: Training, progress: Progress) -> None:
    """Write a checkpoint from which training goes on as if it had never stopped."""
    path = run_folder.checkpoint_path(run.folder, run.iteration)
    tensors = run.model.state_tensors()
    tensors |= {
        "generator": run.generator.get_state(),
        "views": torch.tensor(run.views.remaining, dtype=torch.int64),
    }
    if run.exposures is not None:
        tensors |= run.exposures.state_tensors()
    tensors |= {f"totals.{name}": value for name, value in run.totals.items()}
    record = {
        "iteration": run.iteration,
        "active_sh_degree": run.model.active_sh_degree,
        "training_views": run.views.count,
        "seconds": run.seconds,
        "settings": run.settings.flat(),
        "measures": run.measures,
        "history": run.history.record,
    }
    save_checkpoint(path, tensors, record)
    progress.say(f"[ITER {run.iteration}] Saved checkpoint {path}")
