"""Inspecting a model: false colors, errors, what pruning would leave; and cameras from their file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_runs import explicit_errors, learn, new_run

import subfunction as policy
import view
from arguments import DensificationSettings, make_settings
from gaussian_model import GaussianModel, ply_size
from scene import Cameras, viewer_entries
from scene.camera import camera_to_world, cameras_of_entries
from training.viewers import inspect_in_training
from utils.colormaps import INFERNO, color_range, colorize, apply_colormap
from utils.images import to_bytes
from utils.rendering import render
from viewer.browser import ViewRequest
from viewer.inspect import MODES, REMOVED_COLOR, SCORES, browser_splats, answer_request, inspect_model
from viewer.inspect import bulk_of, inspect_with_tags

# Colors


def test_low_is_blue_and_high_is_red():
    blue, middle, red = apply_colormap(torch.tensor([0.0, 0.5, 1.0]), "linear", 0.0, 1.0).astype(int)
    assert blue[2] > blue[0] and red[0] > red[2] and middle[1] > max(blue[1], red[1])
    assert (apply_colormap(torch.tensor([float("nan")]), "linear", 0.0, 1.0) == blue).all()


def test_a_log_scale_has_equal_ratios():
    shown = apply_colormap(torch.tensor([0.0, 1.0, 10.0, 100.0]), "log", 1.0, 100.0)
    assert (shown[1:] == apply_colormap(torch.tensor([0.0, 0.5, 1.0]), "linear", 0.0, 1.0)).all()
    assert (shown[0] == shown[1]).all()


def test_ranges_leave_out_tails_and_what_is_no_number():
    values = torch.cat([torch.linspace(1, 2, 999), torch.tensor([1e9, float("nan"), 0.0])])
    low, high = color_range(values, "log")
    assert 1 <= low < 1.05 and 1.95 < high <= 2
    assert color_range(values, "unit") == (0.0, 1.0)
    for scale in ("linear", "log"):
        for few in (torch.tensor([]), torch.tensor([3.0]), torch.full((4,), float("nan"))):
            low, high = color_range(few, scale)
            assert low < high


def test_colored_keeps_the_shape_and_clips():
    shown = colorize(np.array([[-1.0, 0.0], [1.0, 2.0]]), INFERNO)
    assert shown.shape == (2, 2, 3) and shown.dtype == np.uint8
    assert (shown[0, 0] == shown[0, 1]).all() and (shown[1, 0] == shown[1, 1]).all()


# Models


@pytest.fixture
def grown(loaded_scene, tmp_path):
    """A run that learns importances, a few iterations in."""
    flags = {"variant": "tag_gradprune_decomp", "importance_from_iter": 1, "densify_until_iter": 500}
    run = new_run(loaded_scene, tmp_path, **flags)
    learn(run, 12)
    return run


def wish_from(camera, **changes):
    about = {"mode": "color", "prune_by": "opacity", "prune_share": 0.0, "mark_pruned": False}
    about |= {"iteration": -1, "view": camera.image_name} | changes
    size = (camera.width, camera.height, camera.FoVx, camera.FoVy)
    return ViewRequest(*size, camera.world_to_camera, **about)


def test_colors_are_those_of_the_saved_file(grown):
    inspected, camera = inspect_in_training(grown), grown.scene.train[0]
    shown = answer_request(inspected, wish_from(camera))
    with torch.no_grad():
        model = grown.model.baked("sampled")
        expected = to_bytes(
            render(camera, model, inspected.background, **vars(grown.settings.pipeline)).image
        )
    assert np.abs(shown.image.astype(int) - expected).max() <= 1 and shown.notes == []


def test_every_mode_shows_a_picture_of_the_size_wished_for(grown):
    inspected, camera = inspect_in_training(grown), grown.scene.train[1]
    pictures = {mode: answer_request(inspected, wish_from(camera, mode=mode)) for mode in MODES}
    for mode, shown in pictures.items():
        assert shown.image.shape == (camera.height, camera.width, 3) and shown.image.std() > 1, mode
        assert mode == "color" or len(shown.notes) == 1, mode
    gt_image = to_bytes(camera.ground_truth(inspected.background, "cpu"))
    assert np.array_equal(pictures["photo of the view"].image, gt_image)
    assert (
        "red" in pictures["importance"].notes[0]
        and camera.image_name in pictures["error of the view"].notes[0]
    )


def test_what_is_not_known_is_said_and_the_colors_are_shown(grown):
    settings = make_settings({})
    inspected = inspect_model(grown.model.baked("sampled"), settings, lambda: Cameras([]))
    camera = grown.scene.train[0]
    plain = answer_request(inspected, wish_from(camera)).image
    for mode in ("age", "importance", "generation", "error", "removal energy", "photo of the view"):
        shown = answer_request(inspected, wish_from(camera, mode=mode))
        assert np.array_equal(shown.image, plain) and shown.notes[0].startswith(f"{mode}: "), mode
    shown = answer_request(inspected, wish_from(camera, prune_by="age", prune_share=0.5))
    assert np.array_equal(shown.image, plain) and "pruning by age" in shown.notes[0]


def test_errors_of_a_finished_model_are_those_of_the_reference(grown):
    cameras, model = grown.scene.train, grown.model.baked("sampled")
    inspected = inspect_model(model, grown.settings, lambda: cameras)
    grown.model = model
    found, largest = inspected.score("error"), torch.zeros(len(model), dtype=torch.float64)
    for camera in cameras:
        with torch.no_grad():
            image = render(camera, model, inspected.background, **inspected.flags).image
            gt_image = camera.ground_truth(inspected.background, "cpu")
            error = policy.training_loss(image, gt_image, 0.2, DensificationSettings().error_metric)[1]
        largest = torch.maximum(largest, explicit_errors(grown, camera, error))
    assert torch.allclose(found.double(), largest, rtol=1e-3, atol=1e-5)
    assert (inspected.score("removal energy") >= 0).all() and inspected.score("removal energy").max() > 0


def test_pruning_leaves_the_highest_and_names_count_and_size(grown, tmp_path):
    inspected, camera = inspect_in_training(grown), grown.scene.train[0]
    count = len(grown.model)
    shown = answer_request(inspected, wish_from(camera, prune_by="opacity", prune_share=0.25))
    left = count - round(0.25 * count)
    assert f"{left:,} left, {ply_size(left, 3) / 1e6:.1f} MB" in shown.notes[0]
    splats = browser_splats(inspected, wish_from(camera, prune_by="opacity", prune_share=0.25))
    assert len(splats.centers) == left and splats.covariances.shape == (left, 3, 3)
    keep = inspected.score("opacity").detach().sort(descending=True).values[:left].numpy()
    gates = inspected.gates is None or (inspected.gates == 1).all()
    assert not gates or np.allclose(np.sort(splats.opacities[:, 0])[::-1], keep)


def test_marked_gaussians_stay_in_a_color_of_their_own(grown):
    request = wish_from(grown.scene.train[0], prune_share=0.5, mark_pruned=True)
    splats = browser_splats(inspect_in_training(grown), request)
    marked = np.abs(splats.rgbs - REMOVED_COLOR).max(1) < 1e-5
    assert len(splats.rgbs) == len(grown.model) and marked.sum() == round(0.5 * len(grown.model))


def test_covariances_for_the_browser_are_symmetric_and_have_the_squared_scales(grown):
    splats = browser_splats(inspect_in_training(grown), wish_from(grown.scene.train[0]))
    values = np.linalg.eigvalsh(splats.covariances.astype(np.float64))
    expected = np.sort(grown.model.scales.detach().numpy().astype(np.float64) ** 2, axis=1)
    assert np.allclose(values, expected, rtol=1e-3, atol=1e-9)


def test_a_wide_canvas_holds_a_tall_photo_in_its_middle(grown):
    camera = grown.scene.train[0]
    request = wish_from(camera, mode="photo of the view")
    wide = ViewRequest(**vars(request) | {"width": 4 * camera.width})
    image = answer_request(inspect_in_training(grown), wide).image
    margin = (image.shape[1] - camera.width) // 2
    assert not image[:, :margin].any() and not image[:, -margin:].any()
    assert np.array_equal(image[:, margin:-margin], answer_request(inspect_in_training(grown), request).image)


def test_scores_follow_the_gaussians_of_a_checkpoint(grown):
    again = GaussianModel.from_state(
        grown.model.state_tensors(), grown.settings.optimization, grown.settings.importance,
        grown.scene.extent, grown.model.device,
    )  # fmt: skip
    inspected = inspect_with_tags(again, 12, grown.settings, lambda: Cameras([]))
    for name in ("age", "generation", "importance"):
        assert torch.equal(inspected.score(name), inspect_in_training(grown).score(name)), name
    assert set(SCORES) == {"opacity", "importance", "error", "removal energy", "age", "generation"}


def test_a_ply_is_as_large_as_foretold(grown, tmp_path):
    model = grown.model.baked("soft")
    for count in (len(model), 10, 1):
        model.keep(torch.arange(len(model)) >= len(model) - count)
        model.save_ply(tmp_path / "a.ply")
        assert (tmp_path / "a.ply").stat().st_size == ply_size(len(model), 3)


# Cameras


def test_cameras_come_back_from_their_file(grown):
    entries = viewer_entries(grown.scene.train.without_images, np.zeros(3))
    for camera, again in zip(grown.scene.train, cameras_of_entries(entries, "file")):
        assert np.allclose(camera.world_to_camera, again.world_to_camera) and again.image is None
        assert (again.image_name, again.width, again.fx) == (camera.image_name, camera.width, camera.fx)


@pytest.mark.parametrize(
    "change", [{"width": 0}, {"fx": "wide"}, {"position": [0, 0, float("nan")]}, {"rotation": [1, 2]}, None]
)
def test_damaged_cameras_are_refused_with_the_files_name(grown, change):
    entry = viewer_entries(grown.scene.train.without_images, np.zeros(3))[0]
    entries = [7] if change is None else [entry | change]
    with pytest.raises(ValueError, match="cameras.json: not a list of cameras"):
        cameras_of_entries(entries, "cameras.json")
    assert np.isfinite(camera_to_world(np.eye(4))).all()


def test_the_near_plane_of_a_file_follows_its_size(grown):
    model = grown.model.baked("soft")
    near = view.Source(None, "some.ply", grown.settings).near(model)
    assert near == pytest.approx(0.04 * bulk_of(model)[1])
    model.raw["means"], model.raw["scales"] = model.means * 1e-4, model.raw["scales"] - 4 * np.log(10)
    assert view.Source(None, "some.ply", grown.settings).near(model) == pytest.approx(1e-4 * near, rel=1e-3)


def test_what_is_not_finite_is_not_sent_to_a_browser(grown):
    model = grown.model.baked("soft")
    for row, value in enumerate((np.nan, np.inf, -np.inf)):
        model.means[row, row] = value
    inspected = inspect_model(model, grown.settings, lambda: Cameras([]))
    splats = browser_splats(inspected, wish_from(grown.scene.train[0]))
    assert len(splats.centers) == len(model) - 3 and np.isfinite(splats.covariances).all()
