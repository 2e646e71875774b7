import math

import pytest
import subfunction as policy
import torch
from arguments import OptimizationSettings
from fused_ssim import fused_ssim
from utils.rotations import covariances, quats_to_matrices
from utils.sh import rgb_to_sh, sh_to_rgb

DEFAULTS = OptimizationSettings()


def statistics(**columns):
    base = {"gradient_sum": [0.0], "gradient_views": [0], "max_radius": [0]} | columns
    kinds = {"gradient_sum": torch.float32, "gradient_views": torch.int32, "max_radius": torch.int32}
    return {name: torch.tensor(values, dtype=kinds[name]) for name, values in base.items()}


def test_sh_degree_rises_every_1000_iterations():
    degrees = [policy.active_sh_degree(i, 3, DEFAULTS) for i in (1, 999, 1000, 2000, 3000, 30000)]
    assert degrees == [0, 0, 1, 2, 3, 3]
    assert policy.active_sh_degree(30000, 1, DEFAULTS) == 1


def test_position_rate_scales_with_the_extent():
    assert policy.position_learning_rate(0, 5.0, DEFAULTS) == pytest.approx(0.00016 * 5)
    assert policy.position_learning_rate(30_000, 5.0, DEFAULTS) == pytest.approx(0.0000016 * 5)


def test_densification_starts_after_500_and_ends_before_15000():
    when = [i for i in range(1, 30_001) if policy.densifies(i, DEFAULTS)]
    assert (when[0], when[1], when[-1]) == (600, 700, 14_900)
    assert policy.collects_statistics(14_999, DEFAULTS) and not policy.collects_statistics(15_000, DEFAULTS)


def test_opacity_is_reset_every_3000_until_densification_ends():
    assert [i for i in range(1, 30_001) if policy.resets_opacity(i, DEFAULTS, False)] == [
        3000,
        6000,
        9000,
        12_000,
    ]
    assert [i for i in range(1, 3001) if policy.resets_opacity(i, DEFAULTS, True)] == [500, 3000]


def test_gradients_are_accumulated_over_the_views_that_draw_the_gaussian():
    collected = statistics(gradient_sum=[0, 0, 0], gradient_views=[0, 0, 0], max_radius=[0, 9, 0])
    gradients = torch.tensor([[3.0, 4.0, 100.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    policy.accumulate_gradients(collected, gradients, torch.tensor([2, 0, 7], dtype=torch.int32))
    policy.accumulate_gradients(collected, gradients, torch.tensor([1, 4, 0], dtype=torch.int32))
    assert collected["gradient_sum"].tolist() == [10, 1, 2]
    assert collected["gradient_views"].tolist() == [2, 1, 1]
    assert collected["max_radius"].tolist() == [2, 9, 7]


def test_candidates_reach_the_mean_threshold_and_the_unseen_never_do():
    collected = statistics(gradient_sum=[1.0, 0.9, 0.0], gradient_views=[2, 2, 0], max_radius=[1, 1, 0])
    assert policy.densification_candidates(collected, 0.5).tolist() == [True, False, False]
    assert policy.densification_candidates(collected, 0.0).tolist() == [True, True, False]


def test_large_means_the_largest_axis():
    scales = torch.tensor([[0.1, 0.1, 0.3], [0.2, 0.2, 0.2]])
    assert policy.is_large(scales, 0.2).tolist() == [True, False]


def test_split_children_follow_their_parent():
    turn = torch.tensor([math.cos(0.4), 0.0, 0.0, math.sin(0.4)])  # about z by 0.8
    count = 20_000
    parents = {
        "means": torch.tensor([1.0, 2, 3]).repeat(count, 1),
        "scales": torch.tensor([0.5, 0.1, 0.02]).log().repeat(count, 1),
        "quats": (3 * turn).repeat(count, 1),
        "opacities": torch.full((count, 1), 0.7),
    }
    children = policy.split_children(parents, torch.Generator().manual_seed(0))
    assert all(len(values) == 2 * count for values in children.values())
    assert torch.allclose(children["scales"].exp(), torch.tensor([0.5, 0.1, 0.02]) / 1.6)
    assert torch.equal(children["opacities"], torch.full((2 * count, 1), 0.7))
    offsets = children["means"] - torch.tensor([1.0, 2, 3])
    axes = quats_to_matrices(turn[None])[0]
    expected = axes @ torch.diag(torch.tensor([0.5, 0.1, 0.02]) ** 2) @ axes.T
    assert torch.allclose(offsets.T @ offsets / (2 * count), expected, atol=4e-3)
    assert offsets.mean(0).abs().max() < 0.01
    again = policy.split_children(parents, torch.Generator().manual_seed(0))
    assert torch.equal(children["means"], again["means"])


def test_pruning_by_opacity_always_by_size_only_later():
    opacities = torch.tensor([[0.004], [0.005], [0.9], [0.9]])
    scales = torch.tensor([[0.01] * 3, [0.01] * 3, [0.01, 0.01, 0.21], [0.01] * 3])
    radii = torch.tensor([1, 1, 1, 25], dtype=torch.int32)

    def prunable(large_too, settings):
        return policy.prunable(opacities, scales, radii, 2.0, large_too, settings).tolist()

    assert prunable(False, DEFAULTS) == [True, False, False, False]
    assert prunable(True, DEFAULTS) == [True, False, True, False]
    assert prunable(True, OptimizationSettings(max_screen_size=20)) == [True, False, True, True]
    assert not policy.prunes_large(3000, DEFAULTS) and policy.prunes_large(3100, DEFAULTS)


def test_opacity_reset_lowers_only():
    raw = torch.tensor([[0.001], [0.5], [0.999]]).logit()
    assert policy.lowered_opacities(raw, 0.01).sigmoid()[:, 0].tolist() == pytest.approx(
        [0.001, 0.01, 0.01], rel=1e-5
    )


def test_loss_is_the_mix_of_l1_and_dssim():
    generator = torch.Generator().manual_seed(0)
    image, truth = torch.rand(2, 3, 17, 23, generator=generator)
    ssim = fused_ssim(image[None], truth[None]).item()
    l1 = (image - truth).abs().mean().item()
    assert policy.training_loss(image, truth, 0.2).item() == pytest.approx(
        0.8 * l1 + 0.2 * (1 - ssim), rel=1e-5
    )
    assert policy.training_loss(truth, truth, 0.2).item() == pytest.approx(0, abs=1e-6)


def test_rotations_and_covariances():
    quarter = torch.tensor([[math.sqrt(0.5), 0, 0, math.sqrt(0.5)]]) * 2  # about z, not normalised
    turned = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    assert torch.allclose(quats_to_matrices(quarter), turned, atol=1e-6)
    packed = covariances(torch.tensor([[1.0, 2, 3]]), quarter)
    assert torch.allclose(packed, torch.tensor([[4.0, 0, 0, 1, 0, 9]]), atol=1e-5)


def test_spherical_harmonics_are_orthonormal_and_colours_come_back():
    directions = torch.nn.functional.normalize(
        torch.randn(100_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1
    )
    responses = []
    for base in range(16):
        sh = torch.zeros(1, 16, 1, dtype=torch.float64)
        sh[0, base] = 0.1  # small: the clamp at 0 must not bite
        responses.append((sh_to_rgb(3, sh, directions)[:, 0] - 0.5) * 10)
    responses = torch.stack(responses)
    assert torch.allclose(4 * math.pi * responses @ responses.T / 100_000, torch.eye(16).double(), atol=0.03)
    rgb = torch.tensor([[0.2, 0.5, 0.9]])
    assert torch.allclose(sh_to_rgb(0, rgb_to_sh(rgb)[:, None], torch.tensor([[0.0, 0, 1]])), rgb)


def test_spherical_harmonics_have_the_signs_of_3dgs_files():
    x, y, z = direction = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
    expected = {
        1: -y,
        2: z,
        3: -x,
        4: x * y,
        5: -y * z,
        7: -x * z,
        8: x * x - y * y,
        10: x * y * z,
        12: z * (5 * z * z - 3),
    }
    expected |= {9: -y * (3 * x * x - y * y), 11: -y * (5 * z * z - 1), 13: -x * (5 * z * z - 1)}
    expected |= {14: z * (x * x - y * y), 15: -x * (x * x - 3 * y * y), 6: 3 * z * z - 1}
    for base, value in expected.items():
        sh = torch.zeros(1, 16, 1, dtype=torch.float64)
        sh[0, base] = 0.1
        response = sh_to_rgb(3, sh, direction[None])[0, 0] - 0.5
        assert torch.sign(response) == torch.sign(value), base


def test_colours_are_not_negative():
    assert sh_to_rgb(0, torch.full((1, 1, 3), -9.0), torch.tensor([[0.0, 0, 1]])).tolist() == [[0, 0, 0]]
