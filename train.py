"""Fit 3D Gaussians to the photos of a scene: python train.py -s SCENE [-m OUTPUT]"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

import contextlib
import functools
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diff_gaussian_rasterization import best_device

import subfunction as policy
from arguments import OF_ONE_COMMAND, Settings, given_flags, train_parser, variant_values
from scene import load_scene
from subfunction import Phase
from training.density_control import collect, control_opacity, densify_and_prune, start_or_bake_importance
from training.interrupts import Interrupted, Interrupts
from training.monitoring import check_numbers, looks_at_gaussians, report
from training.resume import find_resume_point, resume
from training.run import Training, TrainingView, check_output_folder, choose_background, gaussian_budget
from training.run import start, write_inputs, write_record
from training.saving import save_checkpoints, save_if_due, save_last_checkpoint, save_state
from training.tensorboard import TensorBoardLog
from training.together import turns, views_of_turn
from training.viewers import Viewers, open_viewers
from training.views import contributions, importance_penalty, measure_view, new_carrier, new_gates
from training.views import next_camera, weights_of_pixels
from utils import run_folder
from utils.commands import rounded, run_command
from utils.devices import check_data_device
from utils.heap import give_back_if_little_is_left
from utils.progress import Progress
from utils.ranks import Ranks
from utils.rendering import render
from viewer.browser import require_viser


def fit(
    run: Training, progress: Progress, log: TensorBoardLog, viewers: Viewers, interrupts: Interrupts
) -> None:
    """Optimize the Gaussians (Kerbl et al. 2023, algorithm 1; what is added to it: docs/method.md)."""
    for iteration in policy.step_ends(run.iteration, run.settings):
        with interrupts.held(run.ranks):
            training_step(run, iteration, progress, log)
            run.iteration = iteration
            save_checkpoints(run, progress)
        viewers.show(run, interrupts)


def training_step(run: Training, iteration: int, progress: Progress, log: TensorBoardLog) -> None:
    """Run the iterations of one step of Adam, a view each; report and save what is due."""
    views = render_step(run, policy.step_of(iteration, run.settings))
    with torch.no_grad():
        report(run, iteration, views, progress, log)
        save_if_due(run, iteration, progress)  # the model that was rendered
    update(run, iteration, *views)
    check_numbers(run, iteration, views, progress)


def render_step(run: Training, step: Sequence[int]) -> list[TrainingView]:
    """Render the views of a step and run their backward passes, as one of several processes or alone."""
    if run.ranks.count > 1:
        return forward_backward_together(run, step)
    return [forward_backward(run, number, may_step=len(step) == 1) for number in step]


def forward_backward(run: Training, iteration: int, may_step: bool = False) -> TrainingView:
    """Render the next view and run the one backward pass: gradients of the loss, and E_k on the carrier.

    Gradients of the loss are added to those of the views before in this step of Adam, which does not care for
    how large they are. With `may_step` it takes Adam's step, too, where it can, and leaves no gradients.
    """
    settings, model, due = run.settings, run.model, policy.phase(iteration, run.settings)
    set_schedules(run, due)
    camera, background = next_camera(run, due.divisor), choose_background(run, iteration)
    importance, carrier = model.hold_importance(), new_carrier(run, due)
    gates = new_gates(run, due, importance)
    gt_image = camera.ground_truth(background, model.device)
    energy_weights = weights_of_pixels(run, due, camera, gt_image)
    rendered = render(
        camera,
        model,
        background,
        importance=gates,
        error_carrier=carrier,
        statistics=due.collects_removal_energy,
        energy_weights=energy_weights,
        stepping=model.stepping() if may_step and can_step(run, due) else None,
        **pipeline_flags(settings, iteration),
    )
    pictures = rendered.image, rendered.invdepth, rendered.error_image
    measured = measure_view(run, due, camera, gt_image, *pictures, energy_weights)
    objective = measured.objective
    if importance is not None:
        objective = objective + importance_penalty(run, due, importance, measured.loss)
    objective.backward()

    statistics = rendered.rasterizer.statistics
    return TrainingView(
        iteration=iteration,
        name=camera.image_name,
        pixels=camera.width * camera.height,
        ends_round=not run.views.remaining,
        radii=rendered.radii * camera.divisor,
        screen_gradients=rendered.means2d.grad,
        errors=None if carrier is None else carrier.grad[:, 0] / settings.densification.aux_scale,  # E_k
        contributions=contributions(due, statistics and statistics.removal_energy, gates),
        loss=measured.loss,
        typical_error=measured.typical_error,
        squared_error=measured.squared_error,
        shown=measured.shown,
    )


def forward_backward_together(run: Training, step: Sequence[int]) -> list[TrainingView]:
    """Do the same for the views of a step, of Gaussians that ranks share: each renders one at a time."""
    due = policy.phase(step[-1], run.settings)
    set_schedules(run, due)
    flags = pipeline_flags(run.settings, step[-1])
    give_back_if_little_is_left()  # what was sent had the sizes of those views, and has left holes
    return [view for turn in turns(step, run.ranks) for view in views_of_turn(run, due, turn, flags)]


@torch.no_grad()
def update(run: Training, iteration: int, *views: TrainingView) -> None:
    """Collect statistics of the step's views, densify and prune, control opacity, step the optimizers."""
    due = policy.phase(iteration, run.settings)
    if due.steps_importance:
        run.model.learn_importance(run.ranks)
    for view in views:
        collect(run, due, view)
    densify_and_prune(run, due)
    control_opacity(run, due)
    run.model.step(functools.reduce(torch.maximum, [view.radii for view in views]) > 0)
    if run.exposures is not None:
        run.exposures.gather(run.ranks)
        run.exposures.step(policy.exposure_learning_rate(iteration, run.settings.optimization))


def set_schedules(run: Training, due: Phase) -> None:
    """Set SH degree and position rate of this iteration; begin or end learning importance."""
    run.model.raise_sh_degree(due.sh_degree)
    rate = policy.position_learning_rate(due.iteration, run.scene.extent, run.settings.optimization)
    run.model.set_learning_rate("means", rate)
    start_or_bake_importance(run, due)


def can_step(run: Training, due: Phase) -> bool:
    """Return whether the backward pass may take Adam's step: nothing reads or changes Gaussians before it.

    Then their gradients, a third of the memory that both move, are never written.
    """
    pipeline, importance_steps = run.settings.pipeline, due.learns_importance and due.steps_importance
    changes = due.densifies or due.prunes or due.resets_opacity or due.decays_opacity or importance_steps
    in_torch = pipeline.convert_SHs_python or pipeline.compute_cov3D_python
    debugs = pipeline_flags(run.settings, due.iteration)["debug"]
    return not (changes or in_torch or debugs or looks_at_gaussians(run, due.iteration))


def pipeline_flags(settings: Settings, iteration: int) -> dict[str, bool]:
    late_debug = 0 <= settings.run.debug_from < iteration
    return vars(settings.pipeline) | {"debug": settings.pipeline.debug or late_debug}


def train(run: Training) -> None:
    """Write the folder's inputs, optimise, record the outcome."""
    if run.ranks.is_first:
        write_inputs(run)
    quiet, count = run.settings.run.quiet, len(run.whole)
    progress = Progress(run.iteration, run.settings.optimization.iterations, quiet)
    progress.say(f"Training {count:,} Gaussians on {len(run.scene.train)} views into {run.folder}")
    progress.say(about_the_variant(run))
    log = TensorBoardLog(run.folder if run.ranks.is_first else None)
    viewers = open_viewers(run, progress)
    with Interrupts(run.ranks) as interrupts:
        try:
            with torch.autograd.set_detect_anomaly(run.settings.run.detect_anomaly):
                fit(run, progress, log, viewers, interrupts)
            save_last_checkpoint(run, progress)
        except Interrupted as interruption:
            interruption.args = (keep_what_is_done(run, interrupts),)
            raise
        finally:
            with interrupts.held():
                progress.close()
                log.close()
                viewers.close()
                if run.ranks.is_first:
                    run.history.write(run.folder)
                    write_record(run, finished=run.iteration == run.settings.optimization.iterations)


def about_the_variant(run: Training) -> str:
    """Return a sentence such as `Variant tag: densify_by error, ...; by hand: iterations 7000`."""
    settings, variant = run.settings.flat(), run.settings.run.variant
    values = variant_values(run.settings).items()
    of_variant = [f"{name} {rounded(value)}" for name, value in values if settings[name] == value]
    by_hand = [f"{name} {settings[name]}" for name in run.given if name not in OF_ONE_COMMAND + ("variant",)]
    text = f"Variant {variant}: {', '.join(of_variant) or 'all defaults'}"
    return text + (f"; by hand: {', '.join(by_hand)}" if by_hand else "")


def keep_what_is_done(run: Training, interrupts: Interrupts) -> str:
    """Write a checkpoint, unless an iteration was cut short.

    Return where the run stands and how to resume.
    """
    where = f"at iteration {run.iteration} of {run.settings.optimization.iterations}"
    if not interrupts.is_forced:
        with interrupts.held():
            try:
                save_state(run, run_folder.latest_checkpoint_path(run.folder))
            except OSError as problem:
                where += f"; no checkpoint was written: {problem}"
    saved = run_folder.saved_iterations(run.folder)
    text = f"{where}; {run.folder} holds "
    text += f"the Gaussians of iterations {', '.join(map(str, saved))}" if saved else "no Gaussians yet"
    return f"{text}; go on with: python train.py --resume -m {shlex.quote(str(run.folder))}"


def check_schedules(settings: Settings) -> None:
    """Raise ValueError for rates and milestones that do not go together, before any long work."""
    policy.position_learning_rate(1, 1.0, settings.optimization)
    if settings.model.train_test_exp:
        policy.exposure_learning_rate(1, settings.optimization)
    if settings.model.depths:
        policy.depth_weight(1, settings.optimization)
    start, end = settings.densification.densify_until_iter, policy.importance_end(settings)
    learnt_from = settings.importance.importance_from_iter
    if settings.pruning.prune_by == "importance" and learnt_from >= end:
        raise ValueError(
            f"--prune_by importance: it would be learnt from iteration {learnt_from} on, and baked at {end}: "
            "give an earlier --importance_from_iter and, with fewer --iterations, --scale_schedule"
        )
    if settings.importance.importance_control == "budget" and end <= start:
        raise ValueError(
            f"--importance_control budget steers from iteration {start} on, importance is baked at {end}: "
            "give --prune_by importance, a later --prune_until_iter, --scale_schedule with fewer --iterations"
        )


def check_together(settings: Settings) -> None:
    """Raise ValueError for what several processes cannot do."""
    if not settings.model.model_path:
        raise ValueError("-m: several processes have to be told the folder that they train into")


def main() -> None:
    given = given_flags(train_parser())
    ranks = Ranks.connect(best_device())
    try:
        train_with(given, ranks)
    finally:
        ranks.disconnect()


def train_with(given: dict[str, Any], ranks: Ranks) -> None:
    """Train as the flags say. Raise ValueError for flags that do not fit, before any long work."""
    resume_point = find_resume_point(given, ranks)
    settings = resume_point.settings
    settings.run.quiet |= not ranks.is_first
    if not settings.model.source_path:
        raise ValueError("which scene? give its folder with -s")
    check_data_device(settings.model.data_device)
    check_schedules(settings)
    if settings.run.viewer:
        require_viser()
    gaussian_budget(settings)  # and budgets without room
    settings.model.source_path = str(Path(settings.model.source_path).resolve())
    if ranks.count > 1:
        check_together(settings)
    settings.model.model_path = settings.model.model_path or f"output/{secrets.token_hex(5)}"
    folder = Path(settings.model.model_path)
    if ranks.is_first:
        check_output_folder(folder, settings)
    ranks.wait()
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)

    with run_folder.claimed(folder) if ranks.is_first else contextlib.nullcontext():
        scene = load_scene(**settings.of_scene(), ranks=ranks, places=settings.optimization.views_per_step)
        if resume_point.record:
            run = resume(resume_point, scene, folder, ranks)
        else:
            run = start(settings, scene, folder, ranks)
        run.given = resume_point.given
        train(run)


if __name__ == "__main__":
    run_command(main)
