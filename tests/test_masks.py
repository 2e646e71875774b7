"""Masks: what a mask picture or a photo's alpha leaves out neither trains Gaussians nor counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import subfunction as policy
from scene import load_scene
from scene.masks import Masks
from scene_files import SIZE, blender_pose, quantized_photo, write_colmap_scene, write_photo
from utils.losses import l1, psnr

LEFT_OUT = np.zeros((SIZE[1], SIZE[0]), np.uint8)
LEFT_OUT[:, 6:] = 255  # the 6 columns on the left do not count


def load(source, **options):
    return load_scene(source, quiet=True, **options)


@pytest.mark.parametrize("name", ["view_0.png.png", "view_0.png"])
def test_a_mask_of_colmaps_name_or_the_photos(tmp_path, name):
    write_photo(write_colmap_scene(tmp_path) / "masks" / name, LEFT_OUT)
    first, second, *_ = load(tmp_path).train
    assert np.array_equal(first.mask, LEFT_OUT == 255) and second.mask is None
    assert first.image.shape == (SIZE[1], SIZE[0], 3)


def test_a_jpgs_mask_may_be_a_png_in_the_same_subfolder(tmp_path):
    write_photo(tmp_path / "masks/left/a.png", LEFT_OUT)
    assert Masks(tmp_path).of("left/a.jpg") == tmp_path / "masks/left/a.png"
    assert Masks(tmp_path).of("images/left/a.jpg") == tmp_path / "masks/left/a.png"
    assert Masks(tmp_path).of("right/a.jpg") is None


KNOWN = {
    "COLMAP": "masks/a/IMG_1.JPG.png",
    "the same": "masks/a/IMG_1.JPG",
    "another suffix": "masks/a/IMG_1.tif",
    "a suffix in capitals": "masks/a/IMG_1.PNG",
    "RealityScan": "masks/a/IMG_1.JPG.mask.png",
    "Metashape": "masks/a/IMG_1_mask.png",
    "its stem": "masks/a/IMG_1.mask.png",
    "in other case": "masks/a/img_1.jpg.png",
    "one folder": "mask/a/IMG_1.JPG.png",
}


@pytest.mark.parametrize("name", KNOWN.values(), ids=KNOWN)
def test_names_of_other_programs_are_understood(tmp_path, name):
    write_photo(tmp_path / name, LEFT_OUT)
    (tmp_path / name).with_name("._" + (tmp_path / name).name).touch()
    assert Masks(tmp_path).of("a/IMG_1.JPG") == tmp_path / name
    assert Masks(tmp_path).of("images/a/IMG_1.JPG") == tmp_path / name
    assert Masks(tmp_path).of("a/IMG_10.JPG") is None and Masks(tmp_path).of("IMG_1.JPG") is None


def test_for_how_many_photos_there_are_masks_is_said(tmp_path, capsys):
    source = write_colmap_scene(tmp_path)
    load_scene(source)
    assert "Masks" not in capsys.readouterr().out
    for name in ("view_0_mask", "view_2_mask", "view_9_mask"):
        write_photo(source / f"masks/{name}.png", LEFT_OUT)
    load_scene(source)
    said = f"Masks for 2 of 4 photos; 1 masks in {source}/masks are not used.\n"
    assert said in capsys.readouterr().out


def test_the_exact_name_comes_first(tmp_path):
    names = ("A.png", "a.png", "b_mask.png", "c.png", "c_mask.png", "d_mask.tif")
    for name in names:
        write_photo(tmp_path / "masks" / name, LEFT_OUT)
    (tmp_path / "elsewhere").mkdir()
    write_photo(tmp_path / "elsewhere/1.png", LEFT_OUT)
    (tmp_path / "masks/left").symlink_to(tmp_path / "elsewhere")
    photos = ("A.jpg", "a.jpg", "b_mask.jpg", "c.jpg", "c_mask.jpg", "d_mask.jpg", "left/1.jpg")
    found = [Masks(tmp_path).of(photo) for photo in photos]
    assert [path.relative_to(tmp_path / "masks").as_posix() for path in found] == [*names, "left/1.png"]
    assert Masks(tmp_path).of("b.jpg") == tmp_path / "masks/b_mask.png"


def test_an_empty_folder_hides_no_masks_and_what_is_not_read_is_told(tmp_path, capsys):
    source = write_colmap_scene(tmp_path)
    (source / "masks").mkdir()
    write_photo(source / "mask/view_0.png", LEFT_OUT)
    (source / "mask/view_1.npy").touch()
    assert load_scene(source).train[0].mask is not None
    assert f"Masks for 1 of 4 photos.\nNot read in {source}/mask: 1 .npy.\n" in capsys.readouterr().out


def test_masks_of_which_none_fits_are_refused(tmp_path):
    source = write_colmap_scene(tmp_path)
    write_photo(source / "masks/m_0.png", LEFT_OUT)
    named = (
        "none of its 1 masks belongs to a photo: the first mask is m_0.png, the first photo view_0.png; a m"
    )
    with pytest.raises(ValueError, match=named):
        load(source)


def test_the_alpha_of_a_photo_is_a_mask(tmp_path):
    write_colmap_scene(tmp_path)
    photo = np.dstack([quantized_photo(1), np.where(LEFT_OUT, 200, 100).astype(np.uint8)])
    write_photo(tmp_path / "images/view_0.png", photo)
    camera = load(tmp_path).train[0]
    assert np.array_equal(camera.image, photo[..., :3]) and np.array_equal(camera.mask, LEFT_OUT == 255)


def test_a_scaled_mask_keeps_whole_pixels_only(tmp_path):
    write_colmap_scene(tmp_path)
    mask = LEFT_OUT.copy()
    mask[:, 6] = 0  # now 7 columns: the 4th pixel of the halved photo is half covered
    write_photo(tmp_path / "masks/view_0.png", mask)
    halved = load(tmp_path, resolution=2).train[0].mask
    assert halved.shape == (SIZE[1] // 2, SIZE[0] // 2)
    assert not halved[:, :4].any() and halved[:, 4:].all()
    write_photo(tmp_path / "masks/view_0.png", np.repeat(np.repeat(mask, 2, 0), 2, 1))
    assert np.array_equal(load(tmp_path, resolution=1).train[0].mask, mask == 255), "a mask of twice the size"


def test_a_mask_of_another_shape_is_refused(tmp_path):
    write_photo(write_colmap_scene(tmp_path) / "masks/view_0.png", LEFT_OUT[:, :8])
    with pytest.raises(
        ValueError, match="masks/view_0.png is 8x16 pixels, but its photo .*view_0.png is 24x16"
    ):
        load(tmp_path)


def test_transforms_name_their_masks(tmp_path):
    frames = []
    for index in range(2):
        write_photo(tmp_path / f"images/{index}.png", quantized_photo(index))
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": blender_pose(index)})
    frames[1]["mask_path"] = "elsewhere/m.png"
    write_photo(tmp_path / "elsewhere/m.png", LEFT_OUT)
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    first, second = load(tmp_path).train
    assert first.mask is None and np.array_equal(second.mask, LEFT_OUT == 255)


# What it does


@pytest.fixture
def masked(tmp_path):
    write_photo(write_colmap_scene(tmp_path) / "masks/view_0.png", LEFT_OUT)
    return load(tmp_path).train[0]


def test_what_is_left_out_has_no_loss_no_gradient_and_no_error(masked):
    gt_image = masked.ground_truth(torch.zeros(3), "cpu")
    image = torch.rand(gt_image.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    spoilt = image.detach().clone()
    spoilt[:, :, :6] = 0.5
    loss, error = policy.training_loss(masked.masked(image, gt_image), gt_image, 0.2, "mixed")
    assert loss == policy.training_loss(masked.masked(spoilt, gt_image), gt_image, 0.2)[0]
    loss.backward()
    assert (image.grad[:, :, :6] == 0).all() and (image.grad[:, :, 6:] != 0).any()
    error = masked.masked(error, 0.0)
    assert (error[:, :, :6] == 0).all() and (error[:, :, 6:] > 0).all()


def test_measures_are_means_over_what_counts(masked):
    gt_image = masked.ground_truth(torch.zeros(3), "cpu")
    image = torch.rand(gt_image.shape, generator=torch.Generator().manual_seed(0))
    right = (image[:, :, 6:], gt_image[:, :, 6:])
    torch.testing.assert_close(l1(image, gt_image, masked.mask), l1(*right))
    torch.testing.assert_close(psnr(image, gt_image, masked.mask), psnr(*right))


# Views of which nothing counts


def mask_all(source, value, count=4):
    for index in range(count):
        write_photo(source / f"masks/view_{index}.png", np.full_like(LEFT_OUT, value))


@pytest.mark.parametrize("value", [0, 1, 3, 127])
def test_masks_of_small_numbers_are_refused(tmp_path, value):
    mask_all(write_colmap_scene(tmp_path), value)
    named = f"no pixel of any training view counts: .*view_0.png: its largest value is {value}, but pixels"
    with pytest.raises(ValueError, match=named):
        load(tmp_path)
    mask_all(tmp_path, 128)
    assert all(camera.mask is None for camera in load(tmp_path).train)


def test_photos_that_are_all_transparent_are_refused(tmp_path):
    write_colmap_scene(tmp_path)
    for index in range(4):
        photo = np.dstack([quantized_photo(index), np.zeros_like(LEFT_OUT)])
        write_photo(tmp_path / f"images/view_{index}.png", photo)
    with pytest.raises(ValueError, match=r"counts: .*images/view_0.png: all of its pixels are transparent"):
        load(tmp_path)


@pytest.mark.parametrize("room", [0.0, 1e-6])
def test_a_view_of_which_nothing_counts_is_named_and_left_out(tmp_path, capsys, room):
    """Whether photos are kept in memory or read again."""
    source = write_colmap_scene(tmp_path)
    mask_all(source, 1, count=2)
    scene = load_scene(source, eval=True, max_memory_gb=room)
    said = capsys.readouterr().out
    assert f"2 of 4 views are left out, no pixel of them counts:\n  {source}/masks/view_1.png: its" in said
    assert f"  {source}/masks/view_0.png: its largest value is 1" in said
    assert [camera.image_name for camera in scene.train] == ["view_2.png", "view_3.png"] and not scene.test
    assert np.array_equal(scene.train[1].image, load(tmp_path, eval=True).train[1].image)


def test_a_mask_too_small_for_the_size_is_named(tmp_path, capsys):
    mask = np.zeros_like(LEFT_OUT)
    mask[3, 3] = 255
    write_photo(write_colmap_scene(tmp_path) / "masks/view_0.png", mask)
    assert len(load_scene(tmp_path).train) == 4 and len(load_scene(tmp_path, resolution=4).train) == 3
    assert "view_0.png: its masks leave no pixel at this size" in capsys.readouterr().out


def test_measures_leave_out_an_image_of_which_nothing_counts(tmp_path, run_here):
    """Renders of another program may hold one."""
    folder = tmp_path / "test/ours_7"
    for index in range(3):
        image = np.full((16, 16, 3), 50 * index, np.uint8)
        write_photo(folder / f"renders/{index:05d}.png", image + np.uint8(5))
        alpha = np.full((16, 16, 1), 0 if index == 1 else 255, np.uint8)
        write_photo(folder / f"gt/{index:05d}.png", np.dstack([image, alpha]))
    (tmp_path / "cfg_args").write_text("Namespace()")
    process = run_here("metrics.py", "-m", tmp_path, "--skip_lpips")
    assert process.returncode == 0, process.stderr
    assert "00001.png" in process.stdout
    results = json.loads((tmp_path / "results.json").read_text())["ours_7"]
    assert results["PSNR"] == pytest.approx(20 * np.log10(51), abs=1e-3)
    assert sorted(json.loads((tmp_path / "per_view.json").read_text())["ours_7"]["PSNR"]) == [
        "00000.png", "00002.png",
    ]  # fmt: skip
