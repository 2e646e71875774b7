"""Fit 3D Gaussians to the photos of a scene: python train.py -s SCENE [-m OUTPUT]"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

import secrets
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from diff_gaussian_rasterization import best_device, cpu_info
from torch import Tensor

import subfunction as policy
from arguments import Settings, given_flags, make_settings, train_parser
from gaussian_model import GaussianModel
from scene import Scene, load_scene, viewer_entries
from utils import run_folder
from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.commands import run_command
from utils.devices import check_data_device
from utils.files import write_json
from utils.losses import l1, psnr
from utils.ply import write_point_cloud
from utils.progress import Progress
from utils.rendering import RenderOutput, render
from utils.tensorboard import TensorBoardLog
from utils.view_order import ViewOrder

TRAINING_VIEWS_MEASURED = range(5, 30, 5)  # indices, as in 3DGS


@dataclass
class Training:
    """A run: what it was asked to do, and everything that changes while it does it."""

    settings: Settings
    folder: Path
    scene: Scene
    model: GaussianModel
    generator: torch.Generator  # on the CPU, so that a seed means the same on every device
    views: ViewOrder
    iteration: int = 0  # done so far
    started: float = field(default_factory=time.monotonic)  # earlier than that by what earlier sessions took
    measures: dict[str, Any] = field(default_factory=dict)  # by iteration
    date: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))

    @property
    def seconds(self) -> float:
        """Spent on training so far, earlier sessions included."""
        return time.monotonic() - self.started


def fit(run: Training, progress: Progress, log: TensorBoardLog) -> None:
    """The optimisation (Kerbl et al. 2023, algorithm 1)."""
    for iteration in range(run.iteration + 1, run.settings.optimization.iterations + 1):
        learn_from_a_view(run, iteration, progress, log)
        run.iteration = iteration
        if iteration in run.settings.run.checkpoint_iterations:
            save_state(run, progress)


def learn_from_a_view(run: Training, iteration: int, progress: Progress, log: TensorBoardLog) -> None:
    """One iteration. A function of its own, so that a render's memory is free before the next one begins."""
    settings, model, extent = run.settings.optimization, run.model, run.scene.extent
    model.active_sh_degree = policy.active_sh_degree(iteration, model.sh_degree, settings)
    model.set_learning_rate("means", policy.position_learning_rate(iteration, extent, settings))

    camera = run.scene.train[run.views.next()]
    background = choose_background(run)
    view = render(camera, model, background, **pipeline_flags(run.settings, iteration))
    truth = camera.ground_truth(background, model.device)
    loss = policy.training_loss(view.image, truth, settings.lambda_dssim)
    loss.backward()

    with torch.no_grad():
        report(run, iteration, view.image, truth, loss, progress, log)
        save_if_due(run, iteration, progress)  # the model that was rendered
        densify_and_prune(run, iteration, view)
        model.step(view.radii > 0)


def densify_and_prune(run: Training, iteration: int, view: RenderOutput) -> None:
    """Clone small and split large Gaussians that the picture pulls at, drop what hardly shows (sec. 5)."""
    settings, model, extent = run.settings.optimization, run.model, run.scene.extent
    if policy.collects_statistics(iteration, settings):
        policy.accumulate_gradients(model.statistics, view.means2d.grad, view.radii)
    if policy.densifies(iteration, settings):
        chosen = policy.densification_candidates(model.statistics, settings.densify_grad_threshold)
        large = policy.is_large(model.scales, settings.percent_dense * extent)
        clones = model.rows(chosen & ~large)
        children = policy.split_children(model.rows(chosen & large), run.generator)
        model.keep(~(chosen & large))
        model.append(clones)
        model.append(children)
        large_too = policy.prunes_large(iteration, settings)
        sizes = (model.scales, model.statistics["max_radius"])
        model.keep(~policy.prunable(model.opacities, *sizes, extent, large_too, settings))
        model.reset_statistics()
        if len(model) == 0:
            raise ValueError(
                f"iteration {iteration} pruned the last Gaussian; does the scene's scale fit its cameras?"
            )
    if policy.resets_opacity(iteration, settings, run.settings.model.white_background):
        model.overwrite("opacities", policy.lowered_opacities(model.raw["opacities"], settings.reset_opacity))


def choose_background(run: Training, measuring: bool = False) -> Tensor:
    """The colour (3,) behind the scene: a new one every time if random, except for measuring."""
    if run.settings.optimization.random_background and not measuring:
        return torch.rand(3, generator=run.generator).to(run.model.device)
    return torch.full((3,), float(run.settings.model.white_background), device=run.model.device)


def pipeline_flags(settings: Settings, iteration: int) -> dict[str, bool]:
    late_debug = 0 <= settings.run.debug_from < iteration
    return vars(settings.pipeline) | {"debug": settings.pipeline.debug or late_debug}


def report(
    run: Training,
    iteration: int,
    image: Tensor,
    truth: Tensor,
    loss: Tensor,
    progress: Progress,
    log: TensorBoardLog,
) -> None:
    """Show and log how it goes: every few iterations only, as reading a number waits for the device."""
    if iteration % Progress.INTERVAL == 0 or iteration == run.settings.optimization.iterations:
        numbers = (iteration, loss.item(), psnr(image.clamp(0, 1), truth).item(), len(run.model))
        progress.update(*numbers)
        log.training(*numbers)
    if iteration in run.settings.run.test_iterations:
        measure(run, iteration, progress, log)


def measure(run: Training, iteration: int, progress: Progress, log: TensorBoardLog) -> None:
    """L1 and PSNR on all held-out views and on a few training views."""
    train = run.scene.train
    for name, cameras in (
        ("test", run.scene.test),
        ("train", [train[i % len(train)] for i in TRAINING_VIEWS_MEASURED]),
    ):
        if not cameras:
            continue
        sums = torch.zeros(2)
        for camera in cameras:
            background = choose_background(run, measuring=True)
            image = render(camera, run.model, background, **vars(run.settings.pipeline)).image.clamp(0, 1)
            truth = camera.ground_truth(background, run.model.device)
            sums += torch.stack([l1(image, truth), psnr(image, truth)]).cpu()
        error, decibels = (sums / len(cameras)).tolist()
        progress.say(f"[ITER {iteration}] Evaluating {name}: L1 {error:.6f} PSNR {decibels:.4f}")
        log.views(iteration, name, error, decibels)
        measured = {"L1": error, "PSNR": decibels, "views": len(cameras)}
        run.measures.setdefault(str(iteration), {})[name] = measured
    log.opacities(iteration, run.model.opacities)


def save_if_due(run: Training, iteration: int, progress: Progress) -> None:
    if iteration in run.settings.run.save_iterations or iteration == run.settings.optimization.iterations:
        path = run_folder.point_cloud_path(run.folder, iteration)
        run.model.save_ply(path)
        run.measures.setdefault(str(iteration), {})["gaussians"] = len(run.model)
        progress.say(f"[ITER {iteration}] Saved {len(run.model):,} Gaussians to {path}")


def save_state(run: Training, progress: Progress) -> None:
    """Write a checkpoint from which training goes on as if it had never stopped."""
    path = run_folder.checkpoint_path(run.folder, run.iteration)
    tensors = run.model.state_tensors()
    tensors |= {
        "generator": run.generator.get_state(),
        "views": torch.tensor(run.views.remaining, dtype=torch.int64),
    }
    record = {
        "iteration": run.iteration,
        "active_sh_degree": run.model.active_sh_degree,
        "training_views": run.views.count,
        "seconds": run.seconds,
        "settings": run.settings.flat(),
        "measures": run.measures,
    }
    save_checkpoint(path, tensors, record)
    progress.say(f"[ITER {run.iteration}] Saved checkpoint {path}")


# Before and after the loop


def start(settings: Settings, scene: Scene, folder: Path) -> Training:
    """A run from the scene's points."""
    model = GaussianModel.from_points(
        scene.points.xyz,
        scene.points.rgb,
        settings.model.sh_degree,
        settings.optimization.initial_opacity,
        best_device(),
    )
    model.start_training(settings.optimization)
    generator = torch.Generator().manual_seed(settings.run.seed)
    return Training(settings, folder, scene, model, generator, ViewOrder(len(scene.train), generator))


def resume(
    settings: Settings, scene: Scene, folder: Path, tensors: dict[str, Tensor], record: dict[str, Any]
) -> Training:
    """A run from a checkpoint."""
    if record["training_views"] != len(scene.train):
        raise ValueError(
            f"{settings.run.start_checkpoint} was trained on {record['training_views']} views, "
            f"but {settings.model.source_path} has {len(scene.train)} with these settings"
        )
    model = GaussianModel.from_state(tensors, settings.optimization, best_device())
    generator = torch.Generator()
    views = ViewOrder(len(scene.train), generator)
    try:
        generator.set_state(tensors["generator"])
        views.restore(tensors["views"].tolist())
    except (KeyError, RuntimeError, TypeError, ValueError) as problem:
        raise ValueError(
            f"{settings.run.start_checkpoint}: its random state is damaged ({problem})"
        ) from problem
    started = time.monotonic() - record["seconds"]
    return Training(
        settings, folder, scene, model, generator, views, record["iteration"], started, record["measures"]
    )


def resumed_settings(given: dict[str, Any], record: dict[str, Any]) -> Settings:
    """The checkpoint's settings under the flags given. ValueError where they cannot go together."""
    settings = make_settings(given, record["settings"])
    for name in ("sh_degree", "optimizer_type", "variant", "seed", "initial_opacity"):
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
        "machine": run_folder.machine(cpu_info()) | {"device": str(best_device())},
        "started": run.date,
        "settings": run.settings.flat(),
    }
    run_folder.write_config(run.folder, record)


def train(run: Training) -> None:
    """Write the folder's inputs, optimise, record the outcome."""
    write_inputs(run)
    quiet = run.settings.run.quiet
    progress = Progress(run.iteration, run.settings.optimization.iterations, quiet)
    progress.say(f"Training {len(run.model):,} Gaussians on {len(run.scene.train)} views into {run.folder}")
    log = TensorBoardLog(run.folder)
    try:
        with torch.autograd.set_detect_anomaly(run.settings.run.detect_anomaly):
            fit(run, progress, log)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(where_it_stands(run)) from None
    finally:
        progress.close()
        log.close()
        write_record(run, finished=run.iteration == run.settings.optimization.iterations)


def where_it_stands(run: Training) -> str:
    saved = run_folder.saved_iterations(run.folder)
    checkpoints = sorted(run.folder.glob("chkpnt*.safetensors"), key=lambda path: path.stat().st_mtime)
    text = f"at iteration {run.iteration} of {run.settings.optimization.iterations}; {run.folder} holds "
    text += f"the Gaussians of iterations {', '.join(map(str, saved))}" if saved else "no Gaussians yet"
    return text + (
        f"; go on with --start_checkpoint {checkpoints[-1]}" if checkpoints else "; there is no checkpoint"
    )


def main() -> None:
    given = given_flags(train_parser())
    tensors, record = (
        load_checkpoint(given["start_checkpoint"]) if given.get("start_checkpoint") else ({}, {})
    )
    settings = resumed_settings(given, record) if record else make_settings(given)
    if not settings.model.source_path:
        raise ValueError("which scene? give its folder with -s")
    check_data_device(settings.model.data_device)
    policy.position_learning_rate(1, 1.0, settings.optimization)  # refuses rates that do not go together
    settings.model.source_path = str(Path(settings.model.source_path).resolve())
    settings.model.model_path = settings.model.model_path or f"output/{secrets.token_hex(5)}"
    folder = Path(settings.model.model_path)
    check_output_folder(folder, settings)
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)

    scene = load_scene(**settings.of_scene())
    train(resume(settings, scene, folder, tensors, record) if record else start(settings, scene, folder))


if __name__ == "__main__":
    run_command(main)
