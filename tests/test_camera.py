from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scene.camera import ZFAR, ZNEAR, Camera, scene_extent, viewer_entries


def rotation(seed: int) -> np.ndarray:
    """(3, 3) random rotation."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def make_camera(seed: int = 0, **changes) -> Camera:
    pose = np.eye(4)
    pose[:3, :3] = rotation(seed)
    pose[:3, 3] = (0.3, -0.7, 5.0)
    values = dict(width=40, height=30, fx=50.0, fy=45.0, cx=17.5, cy=18.25)
    return Camera("a/b.png", **{**values, **changes}, world_to_camera=pose)


def test_projection_gives_the_pinhole_pixel_with_off_centre_principal_point():
    camera = make_camera()
    world = np.random.default_rng(1).normal(size=(50, 3))
    x, y, z = (camera.world_to_camera[:3, :3] @ world.T) + camera.world_to_camera[:3, 3:]
    clip = (
        torch.cat([torch.tensor(world, dtype=torch.float32), torch.ones(50, 1)], 1)
        @ camera.full_proj_transform
    )
    ndc = (clip[:, :3] / clip[:, 3:]).double().numpy()
    np.testing.assert_allclose((ndc[:, 0] + 1) * 40 / 2, 50 * x / z + 17.5, atol=1e-4)
    np.testing.assert_allclose((ndc[:, 1] + 1) * 30 / 2, 45 * y / z + 18.25, atol=1e-4)
    np.testing.assert_allclose(clip[:, 3], z, atol=1e-5)


def test_projection_maps_the_clip_planes_to_0_and_1():
    matrix = make_camera().projection_matrix()
    for depth, expected in ((ZNEAR, 0.0), (ZFAR, 1.0)):
        clip = matrix @ (0, 0, depth, 1)
        assert clip[2] / clip[3] == pytest.approx(expected, abs=1e-9)


def test_world_view_transform_is_transposed_and_center_maps_to_origin():
    camera = make_camera()
    point = torch.tensor([0.2, -0.4, 1.0, 1.0])
    expected = camera.world_to_camera @ point.double().numpy()
    np.testing.assert_allclose(point @ camera.world_view_transform, expected, atol=1e-6)
    center = torch.cat([camera.camera_center, torch.ones(1)])
    np.testing.assert_allclose(center @ camera.world_view_transform, (0, 0, 0, 1), atol=1e-5)
    assert camera.camera_center.dtype == camera.full_proj_transform.dtype == torch.float32


def test_field_of_view():
    camera = make_camera()
    assert math.tan(camera.FoVx / 2) == pytest.approx(40 / (2 * 50))
    assert math.tan(camera.FoVy / 2) == pytest.approx(30 / (2 * 45))


def test_matrices_are_computed_once_per_device():
    camera = make_camera()
    assert camera.matrices("cpu") is camera.matrices(torch.device("cpu"))
    assert camera.world_view_transform is camera.matrices().world_view_transform
    assert camera.matrices("meta").camera_center.device.type == "meta"


def test_ground_truth_scales_and_reorders():
    image = torch.randint(0, 256, (30, 40, 3), dtype=torch.uint8)
    gt_image = make_camera(image=image).ground_truth(torch.ones(3), "cpu")
    assert gt_image.dtype == torch.float32 and gt_image.is_contiguous()
    torch.testing.assert_close(gt_image, image.permute(2, 0, 1) / 255)


def test_ground_truth_composites_over_the_background():
    image = torch.randint(0, 256, (30, 40, 4), dtype=torch.uint8)
    background = torch.tensor([0.1, 0.5, 0.9])
    gt_image = make_camera(image=image).ground_truth(background, "cpu")
    color, alpha = image[..., :3].double() / 255, image[..., 3:].double() / 255
    expected = (color * alpha + background.double() * (1 - alpha)).permute(2, 0, 1).float()
    torch.testing.assert_close(gt_image, expected, atol=1e-6, rtol=0)


def test_ground_truth_leaves_the_stored_image_alone():
    image = torch.randint(0, 256, (30, 40, 3), dtype=torch.uint8)
    camera = make_camera(image=image.clone())
    camera.ground_truth(torch.zeros(3), "cpu").zero_()
    assert torch.equal(camera.image, image)


def test_ground_truth_without_photo_is_refused():
    with pytest.raises(ValueError, match=r"camera a/b.png has no photo"):
        make_camera().ground_truth(torch.zeros(3), "cpu")


def test_scene_extent_is_1_1_times_the_largest_distance_to_the_mean():
    def camera_at(x: float) -> Camera:
        pose = np.eye(4)
        pose[:3, :3] = rotation(3)
        pose[:3, 3] = -pose[:3, :3] @ (x, 2.0, 3.0)
        return Camera("x", 4, 4, 4.0, 4.0, 2.0, 2.0, pose)

    assert scene_extent([camera_at(0.0), camera_at(1.0), camera_at(5.0)]) == pytest.approx(1.1 * 3)


def test_viewer_entries():
    first, second = make_camera(0), make_camera(1, fx=99.0)
    entries = viewer_entries([first, second], np.zeros(3))
    assert [entry["id"] for entry in entries] == [0, 1]
    names = {"id", "img_name", "width", "height", "position", "rotation", "fx", "fy", "near"}
    assert set(entries[1]) == names
    assert (entries[1]["fx"], entries[1]["fy"], entries[1]["width"], entries[1]["height"]) == (
        99.0,
        45.0,
        40,
        30,
    )
    pose = np.linalg.inv(first.world_to_camera)
    np.testing.assert_allclose(entries[0]["position"], pose[:3, 3], atol=1e-12)
    np.testing.assert_allclose(entries[0]["rotation"], pose[:3, :3], atol=1e-12)
    assert all(type(number) is float for row in entries[0]["rotation"] for number in row)


def test_matrices_are_float32_and_lie_in_memory_as_the_kernels_read_them():
    camera = make_camera()
    expected = (camera.world_to_camera.T, (camera.projection_matrix() @ camera.world_to_camera).T)
    for matrix, wanted in zip(camera.matrices()[:2], expected):
        assert matrix.is_contiguous() and torch.equal(matrix, torch.tensor(wanted, dtype=torch.float32))
    assert camera.camera_center.shape == (3,)
