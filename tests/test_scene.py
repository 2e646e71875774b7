from __future__ import annotations


import numpy as np
import pytest
import torch

from scene import load_scene
from scene.lenses import Pinhole
from scene.split import hold_out
from scene.views import target_size
from utils.devices import device_for_photos
from scene_files import SIZE, Model, quantized_photo, write_blender_scene, write_colmap_scene, write_photo


def load(source, **options):
    return load_scene(source, quiet=True, **options)


def many_views(count: int) -> Model:
    names = [f"{i:02d}.png" for i in range(count)]
    return Model(
        images=[(name, 1, (1.0, 0.0, 0.0, 0.0), (float(i), 0.0, 0.0)) for i, name in enumerate(names)][::-1]
    )


def test_colmap_scene(tmp_path):
    scene = load(write_colmap_scene(tmp_path), resolution=1)
    camera = scene.train[0]
    assert (camera.image_name, camera.width, camera.height) == ("view_0.png", *SIZE)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (20.0, 21.0, 11.0, 8.5)
    assert camera.image.dtype == torch.uint8
    assert np.array_equal(camera.image, quantized_photo(1)), "view_0 is the second image of the model"
    assert scene.source == tmp_path and len(scene.points) == 3


def test_eval_holds_out_every_8th_of_the_sorted_names(tmp_path):
    write_colmap_scene(tmp_path, many_views(18))
    scene = load(tmp_path, eval=True)
    assert [camera.image_name for camera in scene.test] == ["00.png", "08.png", "16.png"]
    assert [camera.image_name for camera in scene.train] == [f"{i:02d}.png" for i in range(18) if i % 8]
    scene = load(tmp_path)
    assert (len(scene.train), len(scene.test)) == (18, 0)


def test_hold_out_of_nothing():
    assert hold_out([]) == ([], [])


def test_extent_is_that_of_the_training_cameras(tmp_path):
    write_colmap_scene(tmp_path, many_views(9))
    assert load(tmp_path).extent == pytest.approx(1.1 * 4)
    assert load(tmp_path, eval=True).extent == pytest.approx(1.1 * 3)  # without 0 and 8: 1 to 7


def test_intrinsics_follow_the_scaled_image(tmp_path):
    camera = load(write_colmap_scene(tmp_path), resolution=2).train[0]
    assert (camera.width, camera.height, tuple(camera.image.shape)) == (12, 8, (8, 12, 3))
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (10.0, 10.5, 5.5, 4.25)


def test_other_image_folder_with_scaled_photos(tmp_path):
    write_colmap_scene(tmp_path)
    for path in (tmp_path / "images").iterdir():
        write_photo(tmp_path / "images_4" / path.name, quantized_photo(0, 6, 4))
    camera = load(tmp_path, images="images_4").train[0]
    assert (camera.width, camera.height) == (6, 4)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (5.0, 5.25, 2.75, 2.125)
    assert load(tmp_path, images="images_4", resolution=2).train[0].width == 3


def test_other_aspect_ratio_is_refused(tmp_path):
    write_colmap_scene(tmp_path)
    write_photo(tmp_path / "images/view_2.png", quantized_photo(0, SIZE[1], SIZE[0]))
    with pytest.raises(
        ValueError, match=r"view_2.png: the image is 16x24 pixels, but its camera is 24x16: another aspect"
    ):
        load(tmp_path)


def test_damaged_image_is_named(tmp_path):
    write_colmap_scene(tmp_path)
    (tmp_path / "images/view_2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="view_2.png .* is damaged or not an image"):
        load(tmp_path)


def test_rounded_sizes_are_the_same_picture():
    lens = Pinhole(4946, 3286, 4000.0, 4000.0, 2473.0, 1643.0)
    for size in ((1237, 822), (1236, 821), (2473, 1643), (618, 411)):
        scaled = lens.at_size(*size)
        assert scaled.fx / size[0] == pytest.approx(4000 / 4946)
        assert scaled.cy / size[1] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="another aspect ratio"):
        lens.at_size(1237, 830)


@pytest.mark.parametrize(
    "size, resolution, expected",
    [
        ((561, 1000), 1, (561, 1000)),
        ((561, 1000), 2, (280, 500)),  # as in 3DGS, Python rounds 280.5 to the even number
        ((563, 1000), 4, (141, 250)),
        ((3, 3), 8, (1, 1)),
        ((1600, 900), -1, (1600, 900)),
        ((1601, 900), -1, (1600, 899)),
        ((4946, 3286), -1, (1600, 1063)),
        ((4946, 3286), 800, (800, 531)),
        ((100, 50), 3, (3, 1)),
        ((100, 50), 200, (200, 100)),
    ],
)
def test_resolution_means_what_it_means_in_3dgs(size, resolution, expected):
    assert target_size(*size, resolution) == expected


@pytest.mark.parametrize("resolution", [0, -2, 40000])
def test_meaningless_resolution_is_refused(tmp_path, resolution):
    with pytest.raises(ValueError, match=rf"resolution \(-r\) must be -1, a divisor .* got {resolution}"):
        load(write_colmap_scene(tmp_path), resolution=resolution)


def test_notice_about_wide_images_comes_once(tmp_path, capsys):
    model = Model(cameras={1: ("SIMPLE_PINHOLE", 1700, 10, (900.0, 850.0, 5.0))})
    write_colmap_scene(tmp_path, model)
    for path in (tmp_path / "images").iterdir():
        write_photo(path, quantized_photo(0, 1700, 10))
    scene = load_scene(tmp_path)
    assert scene.train[0].width == 1600 and scene.train[0].fx == pytest.approx(900 * 1600 / 1700)
    assert capsys.readouterr().out.count("scaled down to 1600; -r 1 keeps their full size") == 1
    assert load_scene(tmp_path, resolution=1).train[0].width == 1700
    load_scene(tmp_path, quiet=True)
    assert capsys.readouterr().out == ""


def test_white_background_changes_nothing_that_is_read(tmp_path):
    write_blender_scene(tmp_path)
    plain, white = load(tmp_path), load(tmp_path, white_background=True)
    assert torch.equal(plain.train[0].image, white.train[0].image)
    on_white = white.train[0].ground_truth(torch.ones(3), "cpu")
    on_black = plain.train[0].ground_truth(torch.zeros(3), "cpu")
    alpha = plain.train[0].image[..., 3] / 255
    torch.testing.assert_close(on_white - on_black, (1 - alpha).expand(3, -1, -1))


# What is refused, and with which sentence


@pytest.mark.parametrize(("renders_on", "locked"), [("cuda", True), ("cpu", False)])
def test_photos_wait_for_a_gpu_in_page_locked_memory(tmp_path, monkeypatch, renders_on, locked):
    """So that copying them costs no waiting. The GPU's driver, which locks the pages, is not needed here."""
    locks = []
    monkeypatch.setattr("utils.devices.best_device", lambda: torch.device(renders_on))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda pixels: locks.append(pixels.shape) or pixels)
    scene = load(write_colmap_scene(tmp_path), data_device="cpu")
    assert len(locks) == (len(scene.train) if locked else 0)


@pytest.mark.parametrize(
    ("name", "renders_on", "photos", "expected", "words"),
    [
        ("auto", "cpu", 3e9, "cpu", ""),
        ("auto", "cuda", 3e9, "cuda", "The photos stay on the GPU, 3.0 of the 12.0 GB free there"),
        ("auto", "cuda", 4e9, "cpu", "in the CPU's memory: on the GPU they would take 4.0 of the 12.0 GB"),
        ("cpu", "cuda", 1e9, "cpu", ""),
        ("cuda", "cuda", 99e9, "cuda", ""),
    ],
)
def test_photos_stay_on_a_gpu_with_room_for_them(monkeypatch, name, renders_on, photos, expected, words):
    monkeypatch.setattr("utils.devices.best_device", lambda: torch.device(renders_on))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12_000_000_000, 24_000_000_000))
    device, sentence = device_for_photos(name, photos)
    assert device.type == expected and words in sentence and bool(words) == bool(sentence)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="scene folder not found: .*nowhere"):
        load(tmp_path / "nowhere")


def test_file_instead_of_folder(tmp_path):
    (tmp_path / "a.zip").touch()
    with pytest.raises(ValueError, match="a scene is a folder, but .*a.zip is a file"):
        load(tmp_path / "a.zip")


def test_empty_folder_lists_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"no scene in {tmp_path}: looked for sparse/0/cameras.bin or .txt (COLMAP), "
        "sparse/cameras.bin or .txt (COLMAP), transforms_train.json (Blender), "
        "transforms.json (nerfstudio, instant-ngp)"
    )


def test_single_view_with_eval_leaves_nothing_to_train_on(tmp_path):
    write_colmap_scene(tmp_path, many_views(1))
    with pytest.raises(ValueError, match="with --eval all of its 1 views are held out and none is left"):
        load(tmp_path, eval=True)


def test_cameras_at_one_point_are_refused(tmp_path):
    with pytest.raises(ValueError, match="all 1 training cameras stand at one point"):
        load(write_colmap_scene(tmp_path, many_views(1)))


# Real scenes


@pytest.mark.parametrize(
    "name, views, size, points",
    [("fox", 50, (561, 1000), 9600), ("plant", 90, (560, 1000), 20584), ("monstree", 23, (750, 1000), 7043)],
)
def test_real_colmap_scenes(scenes_dir, name, views, size, points):
    if not (scenes_dir / name).is_dir():
        pytest.skip(f"no {scenes_dir / name}")
    scene = load(scenes_dir / name, resolution=8, eval=True)
    assert len(scene.train) + len(scene.test) == views and len(scene.test) == -(-views // 8)
    assert len(scene.points) == points
    width, height = scene.train[0].width, scene.train[0].height
    assert abs(width - size[0] / 8) < 1 and height == size[1] / 8
    assert share_of_points_in_view(scene) > 0.2


def share_of_points_in_view(scene) -> float:
    """Over all views, the mean share of the points that project into the picture: triangulated points do."""
    homogeneous = torch.cat([torch.tensor(scene.points.xyz), torch.ones(len(scene.points), 1)], 1).float()
    shares = []
    for camera in scene.train:
        clip = homogeneous @ camera.full_proj_transform
        inside = (clip[:, :2].abs() < clip[:, 3:]).all(1)
        shares.append(inside.float().mean())
    return float(torch.stack(shares).mean())
