"""Fit 3D Gaussians to the photos of a scene: python train.py -s SCENE [-m OUTPUT]"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

import secrets
import shlex
from pathlib import Path

import torch
from torch import Tensor

import subfunction as policy
from arguments import OF_ONE_COMMAND, Settings, given_flags, train_parser, variant_values
from gaussian_model import gate
from scene import Camera, load_scene
from subfunction import Phase
from training.density_control import collect, control_opacity, densify_and_prune, start_or_bake_importance
from training.interrupts import Interrupted, Interrupts
from training.monitoring import check_numbers, looks_at_gaussians, report
from training.resume import find_resume_point, resume
from training.run import Training, TrainingView, check_output_folder, choose_background, gaussian_budget
from training.run import start, write_inputs, write_record
from training.saving import save_checkpoints, save_if_due, save_last_checkpoint, save_state
from training.tensorboard import TensorBoardLog
from training.viewers import Viewers, open_viewers
from utils import run_folder
from utils.commands import rounded, run_command
from utils.counter_random import Stream, random_key
from utils.devices import bring_to, check_data_device
from utils.progress import Progress
from utils.rendering import RenderOutput, render
from viewer.browser import require_viser

READ_AHEAD = 3  # views whose photos are read meanwhile, if they are not all in memory


def fit(
    run: Training, progress: Progress, log: TensorBoardLog, viewers: Viewers, interrupts: Interrupts
) -> None:
    """Optimize the Gaussians (Kerbl et al. 2023, algorithm 1; what is added to it: docs/method.md)."""
    for iteration in range(run.iteration + 1, run.settings.optimization.iterations + 1):
        with interrupts.held():
            training_step(run, iteration, progress, log)
            run.iteration = iteration
            save_checkpoints(run, progress)
        viewers.show(run)


def training_step(run: Training, iteration: int, progress: Progress, log: TensorBoardLog) -> None:
    """Run one iteration; report and save what is due."""
    view = forward_backward(run, iteration, may_step=True)
    with torch.no_grad():
        report(run, iteration, view, progress, log)
        save_if_due(run, iteration, progress)  # the model that was rendered
    update(run, iteration, view)
    check_numbers(run, iteration, view, progress)


def forward_backward(run: Training, iteration: int, may_step: bool = False) -> TrainingView:
    """Render the next view and run the one backward pass: gradients of the loss, and E_k on the carrier.

    With `may_step` it takes Adam's step, too, where it can, and leaves no gradients.
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
    image = camera.masked(exposed(run, rendered.image, camera), gt_image)
    metric = None if carrier is None else settings.densification.error_metric
    loss, pixel_errors = policy.training_loss(image, gt_image, settings.optimization.lambda_dssim, metric)

    objective = loss
    if carrier is not None:
        pixel_errors = camera.masked(pixel_errors, 0.0)
        auxiliary = policy.auxiliary_loss(pixel_errors, rendered.error_image)
        objective = objective + settings.densification.aux_scale * auxiliary
    if camera.invdepth is not None:
        objective = objective + weighted_depth_loss(run, due, camera, rendered.invdepth)
    if importance is not None:
        objective = objective + importance_penalty(run, due, importance, loss.detach())
    objective.backward()

    return TrainingView(
        name=camera.image_name,
        image=image.detach(),
        gt_image=gt_image,
        loss=loss.detach(),
        radii=rendered.radii * camera.divisor,
        screen_gradients=rendered.means2d.grad,
        pixel_errors=pixel_errors,
        errors=None if carrier is None else carrier.grad[:, 0] / settings.densification.aux_scale,  # E_k
        contributions=contributions(due, rendered, gates),
        energy_weights=energy_weights,
    )


@torch.no_grad()
def update(run: Training, iteration: int, view: TrainingView) -> None:
    """Collect statistics of the view, densify and prune, control opacity, step the optimizers."""
    due = policy.phase(iteration, run.settings)
    if due.steps_importance:
        run.model.learn_importance()
    collect(run, due, view)
    densify_and_prune(run, due)
    control_opacity(run, due)
    run.model.step(view.radii > 0)
    if run.exposures is not None:
        run.exposures.step(policy.exposure_learning_rate(iteration, run.settings.optimization))


def set_schedules(run: Training, due: Phase) -> None:
    """Set SH degree and position rate of this iteration; begin or end learning importance."""
    run.model.raise_sh_degree(due.sh_degree)
    rate = policy.position_learning_rate(due.iteration, run.scene.extent, run.settings.optimization)
    run.model.set_learning_rate("means", rate)
    start_or_bake_importance(run, due)


def next_camera(run: Training, divisor: int = 1) -> Camera:
    """Return the next training view, its sides divided, and begin to read the photos of those after it."""
    camera = run.scene.train.at_divisor(run.views.next(), divisor)
    run.scene.train.expect(run.views.remaining[-READ_AHEAD:])
    return camera


def new_carrier(run: Training, due: Phase) -> Tensor | None:
    """Return e_k = 0 (N, 1), where E_k is collected.

    A new one every time, so that no old gradient is left.
    """
    if not due.collects_errors:
        return None
    return torch.zeros(len(run.model), 1, device=run.model.device, requires_grad=True)


def new_gates(run: Training, due: Phase, importance: Tensor | None) -> Tensor | None:
    """Return what opacities are multiplied by (N, 1); with its gradient where that prunes."""
    settings, gates = run.settings, None
    if importance is not None:
        random = random_key(settings.run.seed, Stream.GATES, due.iteration)
        gates = gate(importance, settings.importance.importance_gate, random)
    if due.collects_sensitivity:
        if gates is None:
            gates = torch.ones(len(run.model), 1, device=run.model.device, requires_grad=True)
        gates.retain_grad()
    return gates


def can_step(run: Training, due: Phase) -> bool:
    """Return whether the backward pass may take Adam's step: nothing reads or changes Gaussians before it.

    Then their gradients, a third of the memory that both move, are never written.
    """
    pipeline, importance_steps = run.settings.pipeline, due.learns_importance and due.steps_importance
    changes = due.densifies or due.prunes or due.resets_opacity or due.decays_opacity or importance_steps
    in_torch = pipeline.convert_SHs_python or pipeline.compute_cov3D_python
    debugs = pipeline_flags(run.settings, due.iteration)["debug"]
    return not (changes or in_torch or debugs or looks_at_gaussians(run, due.iteration))


def exposed(run: Training, image: Tensor, camera: Camera) -> Tensor:
    """Return the image (3, H, W) as the view was exposed, where exposures are learnt."""
    return image if run.exposures is None else run.exposures.apply(image, camera.image_name)


def weighted_depth_loss(run: Training, due: Phase, camera: Camera, invdepth: Tensor) -> Tensor:
    """Return the loss () of rendered inverse depths (1, H, W) against the view's depth map."""
    known = camera.masked(bring_to(run.model.device, camera.invdepth), 0.0)
    weight = policy.depth_weight(due.iteration, run.settings.optimization) * run.scene.unit
    return weight * policy.depth_loss(invdepth, known)


def weights_of_pixels(run: Training, due: Phase, camera: Camera, gt_image: Tensor) -> Tensor | None:
    """Return how much each pixel (H, W) counts in removal energies, where those prune."""
    if not due.collects_removal_energy:
        return None
    return camera.masked(policy.energy_weights(gt_image, run.settings.pruning.energy_contrast), 0.0)


def contributions(due: Phase, rendered: RenderOutput, gates: Tensor | None) -> Tensor | None:
    """Return what Gaussians (N,) are worth in this view after its backward pass, where that prunes."""
    if due.collects_removal_energy:
        return rendered.rasterizer.statistics.removal_energy
    if due.collects_sensitivity:
        return (gates.detach() * gates.grad)[:, 0].abs()
    return None


def importance_penalty(run: Training, due: Phase, importance: Tensor, loss: Tensor) -> Tensor:
    """Return the price () of the importances (N, 1), whose weight is steered where that is due."""
    settings, weight = run.settings.importance, run.totals.lambda_importance
    if due.steers_importance:
        run.totals.lambda_importance = policy.steered_lambda(
            weight, importance.detach(), run.budget, settings
        )
    return policy.importance_penalty(importance, loss, weight, settings.lambda_binary)


def pipeline_flags(settings: Settings, iteration: int) -> dict[str, bool]:
    late_debug = 0 <= settings.run.debug_from < iteration
    return vars(settings.pipeline) | {"debug": settings.pipeline.debug or late_debug}


def train(run: Training) -> None:
    """Write the folder's inputs, optimise, record the outcome."""
    write_inputs(run)
    quiet = run.settings.run.quiet
    progress = Progress(run.iteration, run.settings.optimization.iterations, quiet)
    progress.say(f"Training {len(run.model):,} Gaussians on {len(run.scene.train)} views into {run.folder}")
    progress.say(about_the_variant(run))
    log, viewers = TensorBoardLog(run.folder), open_viewers(run, progress)
    with Interrupts() as interrupts:
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


def main() -> None:
    given = given_flags(train_parser())
    resume_point = find_resume_point(given)
    settings = resume_point.settings
    if not settings.model.source_path:
        raise ValueError("which scene? give its folder with -s")
    check_data_device(settings.model.data_device)
    check_schedules(settings)
    if settings.run.viewer:
        require_viser()
    gaussian_budget(settings)  # and budgets without room
    settings.model.source_path = str(Path(settings.model.source_path).resolve())
    settings.model.model_path = settings.model.model_path or f"output/{secrets.token_hex(5)}"
    folder = Path(settings.model.model_path)
    check_output_folder(folder, settings)
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)

    with run_folder.claimed(folder):
        scene = load_scene(**settings.of_scene())
        run = resume(resume_point, scene, folder) if resume_point.record else start(settings, scene, folder)
        run.given = resume_point.given
        train(run)


if __name__ == "__main__":
    run_command(main)
