"""Find and restore what a run starts from: points, a checkpoint, or the interrupted run in its folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from diff_gaussian_rasterization import best_device
from torch import Tensor

import subfunction as policy
from arguments import OF_NO_CONSEQUENCE, Settings, make_settings, without_aliases
from gaussian_model import GaussianModel
from scene import Scene
from training.run import Totals, Training, gaussian_budget, new_exposures
from training.view_order import ViewOrder
from utils import run_folder
from utils.checkpoints import load_checkpoint, newest_checkpoint
from utils.history import History
from utils.ranks import ALONE, Ranks

FIXED_BY_CHECKPOINT = (
    "train_test_exp",
    "sh_degree",
    "optimizer_type",
    "variant",
    "seed",
    "initial_opacity",
    "importance",
)


@dataclass
class ResumePoint:
    """The start of a run: the scene's points, or with a `record` the state of an earlier run."""

    settings: Settings
    given: dict[str, Any]  # flags, also those of the command that began the run
    tensors: dict[str, Tensor] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


def find_resume_point(given: dict[str, Any], ranks: Ranks = ALONE) -> ResumePoint:
    """Return what the flags ask for. Raise ValueError where they do not fit the run to resume."""
    if given.get("resume"):
        return resume_in_folder(given, ranks)
    if not given.get("start_checkpoint"):
        return ResumePoint(make_settings(given), given)
    tensors, record = load_checkpoint(given["start_checkpoint"], ranks)
    return ResumePoint(resumed_settings(given, record), given, tensors, record)


def resume_in_folder(given: dict[str, Any], ranks: Ranks) -> ResumePoint:
    """Return the newest checkpoint of the run in the output folder; without one, its settings alone."""
    if not given.get("model_path"):
        raise ValueError("--resume: which run? give its folder with -m")
    for name in ("start_checkpoint", "overwrite"):
        if given.get(name):
            raise ValueError(f"--resume and --{name} exclude each other")
    folder = Path(given["model_path"])
    config = run_folder.read_config(folder)
    path = newest_checkpoint(run_folder.checkpoints(folder))
    tensors, record = load_checkpoint(path, ranks) if path else ({}, {})
    recorded = record.get("settings") or config.get("settings", {})
    if config.get("finished"):
        require_more_iterations(given, config["iteration"], record, folder)
        recorded = recorded | {"iterations": given["iterations"]}
    refuse_differences(given, recorded, folder)
    known = Settings().flat()
    all_given = dict.fromkeys(name for name in config.get("given", []) if name in known) | given
    if path is None:
        return ResumePoint(make_settings(given, recorded), all_given)
    settings = resumed_settings(given | {"start_checkpoint": str(path)}, record)
    return ResumePoint(settings, all_given, tensors, record)


def require_more_iterations(given: dict[str, Any], done: int, record: dict[str, Any], folder: Path) -> None:
    """Raise ValueError unless a finished run is to be trained further, and has its last checkpoint."""
    if given.get("iterations", 0) <= done:
        raise ValueError(
            f"-m {folder}: this run is finished; give --iterations above {done} to train it further"
        )
    if record.get("iteration") != done:
        raise ValueError(
            f"-m {folder}: this run is finished, and its last checkpoint is gone; "
            "train it anew with --overwrite, or from an earlier checkpoint with --start_checkpoint"
        )


def refuse_differences(given: dict[str, Any], recorded: dict[str, Any], folder: Path) -> None:
    """Raise ValueError, naming them, for flags that would change the result of the run."""
    settings, recorded = make_settings(given, recorded).flat(), without_aliases(recorded)
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
    """Return the checkpoint's settings under the flags given. Raise ValueError where they conflict."""
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


def require_room(run: Training, record: dict[str, Any]) -> None:
    """Raise ValueError if the checkpoint exceeds a new budget that pruning is not sure to reach."""
    if not run.budget or run.budget == gaussian_budget(make_settings({}, record["settings"])):
        return
    is_sure = policy.thinning_is_sure(record["iteration"], len(run.scene.train), run.settings)
    count = len(run.whole)
    if count > run.budget and not is_sure:
        raise ValueError(
            f"{run.settings.run.start_checkpoint} holds {count:,} Gaussians, "
            f"more than the budget of {run.budget:,}, and pruning is not sure to come down to it: give a "
            "larger budget, an earlier checkpoint, or --prune_keep below 1 with a later --prune_until_iter"
        )


def resume(resume_point: ResumePoint, scene: Scene, folder: Path, ranks: Ranks = ALONE) -> Training:
    """Return the run of the checkpoint.

    Raise ValueError if the scene differs or the checkpoint is damaged.
    """
    settings, tensors, record = resume_point.settings, resume_point.tensors, resume_point.record
    if record["training_views"] != len(scene.train):
        raise ValueError(
            f"{settings.run.start_checkpoint} was trained on {record['training_views']} views, "
            f"but {settings.model.source_path} has {len(scene.train)} with these settings"
        )
    shift = record.get("shift", [0.0, 0.0, 0.0])
    if shift != scene.shift.tolist():
        raise ValueError(
            f"{settings.run.start_checkpoint} is of a scene whose origin was at {shift}, but now that of "
            f"{settings.model.source_path} is at {scene.shift.tolist()}: its cameras have changed"
        )
    model = GaussianModel.from_state(
        tensors, settings.optimization, settings.importance, scene.extent, best_device()
    )
    model.sh_degree, model.shift = settings.model.sh_degree, scene.shift
    generator = torch.Generator()
    views = ViewOrder(len(scene.train), generator, settings.optimization.views_per_step)
    try:
        generator.set_state(tensors["generator"])
        views.restore(tensors["views"].tolist())
        names = [item.name for item in fields(Totals)]
        totals = Totals(**{name: tensors[f"totals.{name}"].to(model.device) for name in names})
        exposures = new_exposures(settings, scene)
        if exposures is not None:
            exposures.restore(tensors)
    except (KeyError, RuntimeError, TypeError, ValueError) as problem:
        raise ValueError(
            f"{settings.run.start_checkpoint}: its random state is damaged ({problem})"
        ) from problem
    run = Training(settings, folder, scene, model, generator, views, totals, exposures, ranks)
    require_room(run, record)
    run.iteration, run.started = record["iteration"], time.monotonic() - record["seconds"]
    run.measures, run.history = record["measures"], History(record["history"])
    return run
