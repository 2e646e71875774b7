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
from arguments import OF_NO_CONSEQUENCE, VARIANTS, Settings, make_settings
from gaussian_model import GaussianModel, gaussians_in_ply
from scene import Scene, viewer_entries
from utils import run_folder
from utils.checkpoints import load_checkpoint, newest_checkpoint, save_checkpoint
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
    last_checkpoint: float = field(default_factory=time.monotonic)  # when, of those every few minutes
    measures: dict[str, Any] = field(default_factory=dict)  # by iteration
    history: History = field(default_factory=History)
    empty_views: set[str] = field(default_factory=set)  # that were told of: no Gaussian was seen in them
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
    name: str  # of the photo
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
    return Exposures([camera.image_name for camera in scene.train.blank], best_device())


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


@dataclass
class Origin:
    """What a run begins from: the scene's points, or with a record the state of an earlier one."""

    settings: Settings
    given: dict[str, Any]  # flags, also those of the command that began the run
    tensors: dict[str, Tensor] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


def find_origin(given: dict[str, Any]) -> Origin:
    """By the flags given. ValueError where they do not fit the run that is to be gone on with."""
    if given.get("resume"):
        return interrupted_run(given)
    if not given.get("start_checkpoint"):
        return Origin(make_settings(given), given)
    tensors, record = load_checkpoint(given["start_checkpoint"])
    return Origin(resumed_settings(given, record), given, tensors, record)


def interrupted_run(given: dict[str, Any]) -> Origin:
    """The run in the output folder: its newest checkpoint; without one it begins anew, with its settings."""
    if not given.get("model_path"):
        raise ValueError("--resume: which run? give its folder with -m")
    for name in ("start_checkpoint", "overwrite"):
        if given.get(name):
            raise ValueError(f"--resume and --{name} exclude each other")
    folder = Path(given["model_path"])
    config = run_folder.read_config(folder)
    if config.get("finished"):
        raise ValueError(
            f"-m {folder}: this run is finished; to train it further, give a checkpoint of it with "
            "--start_checkpoint and more --iterations"
        )
    path = newest_checkpoint(run_folder.checkpoints(folder))
    tensors, record = load_checkpoint(path) if path else ({}, {})
    recorded = record.get("settings") or config.get("settings", {})
    refuse_differences(given, recorded, folder)
    all_given = dict.fromkeys(config.get("given", [])) | given
    if path is None:
        return Origin(make_settings(given, recorded), all_given)
    settings = resumed_settings(given | {"start_checkpoint": str(path)}, record)
    return Origin(settings, all_given, tensors, record)


def refuse_differences(given: dict[str, Any], recorded: dict[str, Any], folder: Path) -> None:
    """ValueError with their names for flags that would make the run come to something else."""
    settings = make_settings(given, recorded).flat()
    differing = [
        f"--{name} {settings[name]} (the run has {recorded[name]})"
        for name in given
        if name in recorded and name not in OF_NO_CONSEQUENCE and as_json(settings[name]) != recorded[name]
    ]
    if differing:
        raise ValueError(
            f"-m {folder}: --resume goes on with the run's settings, but {', '.join(differing)}; "
            "leave that out, or let it win with --start_checkpoint FILE"
        )


def as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def resumed_settings(given: dict[str, Any], record: dict[str, Any]) -> Settings:
    """The checkpoint's settings under the flags given. ValueError where they cannot go together."""
    settings = make_settings(given, record["settings"])
    for name in FIXED_BY_CHECKPOINT:
        if settings.flat()[name] != record["settings"][name]:
            raise ValueError(
                f"--{name}: the checkpoint has {record['settings'][name]}, got {settings.flat()[name]}"
            )
    done = record["iteration"] >= settings.optimization.iterations
    if done and not settings.run.resume:  # all that an interrupted run may lack then is its record
        raise ValueError(
            f"the checkpoint is at iteration {record['iteration']} already; give more --iterations than that"
        )
    settings.model.model_path = given.get("model_path", str(Path(settings.run.start_checkpoint).parent))
    return settings


def check_output_folder(folder: Path, settings: Settings) -> None:
    """ValueError if training would replace an earlier run that was not meant to be replaced."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"-m {folder}: expected a folder, this is a file")
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
    """What others' tools want to know of a run before it ends."""
    if run.settings.run.overwrite and not continues_in(run.folder, run.settings):
        run_folder.remove_results(run.folder)
    run_folder.write_cfg_args(run.folder, vars(run.settings.model))
    write_json(run.folder / "cameras.json", viewer_entries((run.scene.test + run.scene.train).blank))
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


def save_checkpoints(run: Training, progress: Progress) -> None:
    """Those that were asked for, and the one that is replaced every few minutes."""
    if run.iteration in run.settings.run.checkpoint_iterations:
        path = run_folder.checkpoint_path(run.folder, run.iteration)
        save_state(run, path)
        progress.say(f"[ITER {run.iteration}] Saved checkpoint {path}")
    minutes = run.settings.run.checkpoint_every
    if minutes and time.monotonic() - run.last_checkpoint > 60 * minutes:
        try:
            save_state(run, run_folder.latest_checkpoint_path(run.folder))
        except OSError as problem:  # a full disk is no reason to give up what is in memory
            progress.say(f"[ITER {run.iteration}] No checkpoint: {problem}")
        run.last_checkpoint = time.monotonic()


def require_sound(run: Training, iteration: int) -> None:
    """ValueError if the model holds numbers that are none: an earlier checkpoint must not be replaced by it."""
    unsound = run.model.unsound()
    if not unsound:
        return
    text = f"iteration {iteration}: the {' and the '.join(unsound)} have become NaN or infinite"
    newest = newest_checkpoint(run_folder.checkpoints(run.folder))
    kept = f"{newest} is from before that" if newest else "there is no checkpoint from before that"
    raise ValueError(f"{text}; {kept}; smaller learning rates may help")


def save_state(run: Training, path: Path) -> None:
    """Write a checkpoint from which training goes on as if it had never stopped."""
    require_sound(run, run.iteration)
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
