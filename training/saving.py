"""What training leaves in the run's folder: Gaussians of one or more sizes, and checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from training.run import Training
from utils import run_folder
from utils.checkpoints import newest_checkpoint, save_checkpoint
from utils.files import write_json
from utils.progress import Progress


def save_if_due(run: Training, iteration: int, progress: Progress) -> None:
    """Save the Gaussians at the iterations asked for, at the last one, and in the sizes to be kept."""
    is_last = iteration == run.settings.optimization.iterations
    is_due = run.reaches(iteration, run.settings.run.save_iterations)
    if not (is_last or is_due or run.keeps_size(iteration)):
        return
    path = run_folder.point_cloud_path(run.folder, iteration)
    model = run.baked_model(iteration)
    model.save_ply(path, run.ranks)
    saved = run.measures.setdefault(str(iteration), {})
    saved["gaussians"] = sum(run.ranks.counts(len(model), model.device))
    if run.keeps_size(iteration):
        saved["share"] = run.left
    if run.ranks.is_first:
        write_beside_gaussians(run)
    progress.say(f"[ITER {iteration}] Saved {saved['gaussians']:,} Gaussians to {path}")


def write_beside_gaussians(run: Training) -> None:
    """Write exposures, the list of kept sizes and the history."""
    if run.exposures is not None:
        run.exposures.save(run.folder)
    if sizes := kept_sizes(run):
        write_json(run.folder / run_folder.SIZES, sizes)
    run.history.write(run.folder)


def kept_sizes(run: Training) -> list[dict[str, Any]]:
    """Return share, count, file and measures of every size kept so far, in the order of iterations."""
    kept = sorted((int(iteration), saved) for iteration, saved in run.measures.items() if "share" in saved)
    return [
        {"iteration": iteration, "file": run_folder.point_cloud_path(Path(), iteration).as_posix()} | saved
        for iteration, saved in kept
    ]


def save_checkpoints(run: Training, progress: Progress) -> None:
    """Write the checkpoints that are due: those asked for, and the one replaced every few minutes."""
    if run.reaches(run.iteration, run.settings.run.checkpoint_iterations):
        path = run_folder.checkpoint_path(run.folder, run.iteration)
        save_state(run, path)
        progress.say(f"[ITER {run.iteration}] Saved checkpoint {path}")
    minutes = run.settings.run.checkpoint_every
    is_late = minutes and time.monotonic() - run.last_checkpoint > 60 * minutes
    if run.ranks.any(bool(is_late), run.model.device):
        try:
            save_state(run, run_folder.latest_checkpoint_path(run.folder))
        except OSError as problem:  # a full disk is no reason to give up what is in memory
            progress.say(f"[ITER {run.iteration}] No checkpoint: {problem}")
        run.last_checkpoint = time.monotonic()


def save_last_checkpoint(run: Training, progress: Progress) -> None:
    """Write the checkpoint with which a finished run can be trained further, where checkpoints are wanted."""
    path = run_folder.latest_checkpoint_path(run.folder)
    if not run.settings.run.checkpoint_every:
        if run.ranks.is_first:
            path.unlink(missing_ok=True)
        return
    try:
        save_state(run, path)
    except OSError as problem:  # the Gaussians are saved
        progress.say(f"[ITER {run.iteration}] No checkpoint to train further from: {problem}")


def require_sound(run: Training, iteration: int) -> None:
    """Raise ValueError if the model holds NaN or infinity: it must not replace an earlier checkpoint."""
    unsound = run.model.unsound()
    if not run.ranks.any(bool(unsound), run.model.device):
        return
    unsound = unsound or ["Gaussians of another rank"]
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
    tensors |= {f"totals.{name}": value for name, value in vars(run.totals).items()}
    record = {
        "iteration": run.iteration,
        "active_sh_degree": run.model.active_sh_degree,
        "training_views": run.views.count,
        "shift": run.scene.shift.tolist(),
        "seconds": run.seconds,
        "settings": run.settings.flat(),
        "measures": run.measures,
        "history": run.history.record,
    }
    save_checkpoint(path, tensors, record, run.ranks)
