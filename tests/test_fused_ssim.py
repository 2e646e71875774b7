"""The fused SSIM kernels against SSIM written with plain convolutions in float64."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from backends import Backend, on_every_backend
from fused_ssim import FusedSSIMMap, fused_l1_ssim, fused_ssim, fused_ssim_map
from plain_ssim import plain_ssim_map

pytestmark = on_every_backend

# Wider and higher than a strip of the kernel, no multiple of a register, smaller than the window.
SHAPES = [(1, 3, 45, 400), (2, 1, 11, 11), (1, 2, 263, 17), (1, 1, 13, 321), (2, 2, 12, 310)]
SMALL_SHAPES = [(1, 1, 1, 1), (1, 2, 3, 7), (2, 1, 1, 200), (1, 1, 40, 1)]
CASES = [(shape, "same") for shape in SHAPES + SMALL_SHAPES] + [(shape, "valid") for shape in SHAPES]


def images(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """An image with smooth and rough parts and another not far from it, float64 in [0, 1]."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=rng, dtype=torch.float64)
    x = x * torch.linspace(0, 1, shape[-1], dtype=torch.float64)
    return x, (x + 0.2 * torch.rand(shape, generator=rng, dtype=torch.float64)).clamp(0, 1)


def values_and_gradients(
    ssim_map: Callable[[Tensor, Tensor, str], Tensor], x: Tensor, y: Tensor, padding: str, weight: Tensor
) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    values = ssim_map(x, y, padding)
    return values.detach(), torch.autograd.grad((values * weight).sum(), x)[0]


def worst(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max())


def assert_as_exact_as_torch(got: Tensor, torch32: Tensor, exact: Tensor) -> None:
    """Within twice what plain torch loses in float32, or a few roundings."""
    assert worst(got, exact) <= max(2 * worst(torch32, exact), 2e-6)


class Operators:
    """The operators of the package on a back end: tensors go there and come back."""

    def __init__(self, backend: Backend) -> None:
        self._device = backend.device
        self.mean = self._there_and_back(fused_ssim)
        self.map = self._there_and_back(fused_ssim_map)
        self.l1_ssim = self._there_and_back(fused_l1_ssim)
        self.map_function = self._there_and_back(FusedSSIMMap.apply)

    def _there_and_back(self, operator):
        def run(*arguments, **options):
            there = [a.to(self._device) if isinstance(a, Tensor) else a for a in arguments]
            result = operator(*there, **options)
            if isinstance(result, tuple):
                return tuple(t if t is None else t.cpu() for t in result)
            return result.cpu()

        return run


@pytest.fixture
def ops(backend: Backend) -> Operators:
    return Operators(backend)


@pytest.mark.parametrize("shape, padding", CASES)
def test_map_and_gradient(ops: Operators, shape, padding):
    x, y = images(shape)
    weight = torch.randn(plain_ssim_map(x, y, padding).shape, dtype=torch.float64)
    exact = values_and_gradients(plain_ssim_map, x, y, padding, weight)
    doubles = values_and_gradients(ops.map, x, y, padding, weight)
    floats = values_and_gradients(ops.map, x.float(), y.float(), padding, weight.float())
    torch32 = values_and_gradients(plain_ssim_map, x.float(), y.float(), padding, weight.float())
    for i in range(2):
        assert worst(doubles[i], exact[i]) < 1e-12
        assert_as_exact_as_torch(floats[i], torch32[i], exact[i])


@pytest.mark.parametrize("shape, padding", CASES)
def test_mean_and_gradient(ops: Operators, shape, padding):
    x, y = images(shape)

    def mean(x, y, padding):
        return plain_ssim_map(x, y, padding).mean()

    minus_two = torch.tensor(-2.0)
    exact = values_and_gradients(mean, x, y, padding, minus_two)
    doubles = values_and_gradients(ops.mean, x, y, padding, minus_two)
    floats = values_and_gradients(ops.mean, x.float(), y.float(), padding, minus_two)
    torch32 = values_and_gradients(mean, x.float(), y.float(), padding, minus_two)
    for i in range(2):
        assert worst(doubles[i], exact[i]) < 1e-12
        assert_as_exact_as_torch(floats[i], torch32[i], exact[i])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_loss_of_3dgs_and_its_gradient(ops: Operators, shape, weight):
    x, y = images(shape)
    x[..., 0, :3] = y[..., 0, :3]  # |x - y| has no slope there

    def plain(x, y, _):
        return (1 - weight) * (x - y).abs().mean() + weight * (1 - plain_ssim_map(x, y, "same").mean())

    def fused(x, y, _):
        return ops.l1_ssim(x, y, weight)[0]

    minus_two = torch.tensor(-2.0)
    exact = values_and_gradients(plain, x, y, "same", minus_two)
    doubles = values_and_gradients(fused, x, y, "same", minus_two)
    floats = values_and_gradients(fused, x.float(), y.float(), "same", minus_two)
    torch32 = values_and_gradients(plain, x.float(), y.float(), "same", minus_two)
    for i in range(2):
        assert worst(doubles[i], exact[i]) < 1e-12
        assert_as_exact_as_torch(floats[i], torch32[i], exact[i])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_error_of_every_pixel(ops: Operators, shape, share):
    def plain(x, y):
        errors = (1 - share) * (x - y).abs() + share * (1 - plain_ssim_map(x, y, "same"))
        return errors.mean(1, keepdim=True)

    (x, y), (x32, y32) = images(shape), (image.float() for image in images(shape))
    exact = plain(x, y)
    assert worst(ops.l1_ssim(x, y, 0.2, share)[1], exact) < 1e-12
    assert_as_exact_as_torch(ops.l1_ssim(x32, y32, 0.2, share)[1], plain(x32, y32), exact)


def test_loss_of_3dgs_is_the_same_with_errors(ops: Operators):
    x, y = (image.float() for image in images(SHAPES[0]))
    x.requires_grad_()
    loss, error = ops.l1_ssim(x, y, 0.2, 0.5)
    alone, none = ops.l1_ssim(x, y, 0.2)
    assert torch.equal(alone, loss) and none is None and not error.requires_grad
    with torch.no_grad():
        assert torch.allclose(ops.l1_ssim(x, y, 0.2)[0], loss, rtol=1e-6)


def test_loss_of_3dgs_refuses_what_it_cannot_mean(ops: Operators):
    x, y = images(SHAPES[0])
    for number in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"ssim_weight: expected a number in \[0, 1\]"):
            ops.l1_ssim(x, y, number)
        with pytest.raises(ValueError, match=r"error_share: expected a number in \[0, 1\]"):
            ops.l1_ssim(x, y, 0.2, number)
    with pytest.raises(ValueError, match="img2"):
        ops.l1_ssim(x, y.requires_grad_(), 0.2)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("operator", ["mean", "map"])
def test_gradcheck(ops: Operators, operator, padding):
    x, y = images((1, 1, 11, 12))
    assert torch.autograd.gradcheck(lambda x: getattr(ops, operator)(x, y, padding), x.requires_grad_())


def test_equal_images_are_a_maximum(ops: Operators):
    x, _ = images((1, 3, 40, 60))
    x.requires_grad_()
    values = ops.map(x, x.detach())
    assert torch.allclose(values, torch.ones_like(values), atol=1e-12)
    assert torch.autograd.grad(values.sum(), x)[0].abs().max() < 1e-9


def test_same_bits_for_every_number_of_threads(ops: Operators):
    x, y = (t.float() for t in images((1, 3, 300, 350)))
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        x = x.detach().requires_grad_()
        mean = ops.mean(x, y)
        results.append((mean, torch.autograd.grad(mean, x)[0], ops.map(x, y)))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_views_and_accumulated_gradients(ops: Operators):
    x, y = images((1, 3, 20, 30))
    stored = x.permute(0, 2, 3, 1).contiguous().requires_grad_()
    for _ in range(2):
        ops.mean(stored.permute(0, 3, 1, 2), y).backward()
    once = values_and_gradients(ops.mean, x, y, "same", torch.tensor(1.0))[1]
    assert torch.allclose(stored.grad.permute(0, 3, 1, 2), 2 * once)


def test_without_gradient(ops: Operators):
    x, y = images((1, 3, 20, 30))
    x.requires_grad_()
    assert not ops.mean(x, y, train=False).requires_grad
    assert ops.mean(x, y).requires_grad
    assert ops.mean(x, y, train=False) == ops.mean(x, y)
    with torch.no_grad():
        assert ops.mean(x, y.requires_grad_()) == ops.mean(x, y.detach())
        assert not ops.map(x, y).requires_grad


def test_map_function_refuses_a_gradient_to_the_second_image(ops: Operators):
    x, y = images((1, 3, 20, 30))
    values = ops.map_function(0.01**2, 0.03**2, x, y.requires_grad_())
    with pytest.raises(ValueError, match="img2: expected a tensor that needs no gradient"):
        values.sum().backward()


def test_map_function_takes_constants(ops: Operators):
    x, y = images((1, 1, 20, 20))
    default = ops.map_function(0.01**2, 0.03**2, x, y, "valid", False)
    assert torch.equal(default, ops.map(x, y, "valid"))
    assert not torch.allclose(ops.map_function(0.1, 0.1, x, y), ops.map(x, y))


def test_only_the_neighbourhood_of_a_bad_pixel_suffers(ops: Operators):
    x, y = images((1, 1, 60, 150))
    x[0, 0, 30, 75] = float("nan")
    bad = ops.map(x, y)[0, 0].isnan()
    expected = torch.zeros(60, 150, dtype=torch.bool)
    expected[25:36, 70:81] = True
    assert torch.equal(bad, expected)


SCRIPT = """
import sys, numpy, torch
from fused_ssim import _kernels, fused_ssim_map
assert _kernels.cpu_isa() == sys.argv[1], _kernels.cpu_isa()
x, y = (torch.from_numpy(a) for a in numpy.load(sys.argv[2]))
x.requires_grad_()
values = fused_ssim_map(x, y)
grad, = torch.autograd.grad(values.sum(), x)
numpy.save(sys.argv[3], numpy.stack([values.detach().numpy(), grad.numpy()]))
"""


def run_with_isa(isa: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    environment = dict(os.environ, GS_CPU_ISA=isa)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def only_on_the_cpu(backend: Backend) -> None:
    if backend.name != "cpu":
        pytest.skip("a matter of the CPU kernels")


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_instruction_sets(backend: Backend, isa, tmp_path):
    only_on_the_cpu(backend)
    x, y = images((1, 2, 40, 400))
    np.save(tmp_path / "in.npy", torch.stack([x, y]).float().numpy())
    done = run_with_isa(isa, isa, str(tmp_path / "in.npy"), str(tmp_path / "out.npy"))
    if "not supported by this CPU or build" in done.stderr and isa != "scalar":
        pytest.skip(f"this CPU or build has no {isa}")
    assert done.returncode == 0, done.stderr
    got = torch.from_numpy(np.load(tmp_path / "out.npy"))
    ones = torch.ones_like(x)
    exact = values_and_gradients(plain_ssim_map, x, y, "same", ones)
    torch32 = values_and_gradients(plain_ssim_map, x.float(), y.float(), "same", ones.float())
    for i in range(2):
        assert_as_exact_as_torch(got[i], torch32[i], exact[i])


def test_unknown_instruction_set(backend: Backend, tmp_path):
    only_on_the_cpu(backend)
    done = run_with_isa("mmx", "mmx", "", "")
    assert done.returncode != 0
    assert "ValueError: GS_CPU_ISA=mmx: expected scalar, avx2 or avx512" in done.stderr


IMAGE = torch.rand(1, 3, 8, 8)
WIDE = torch.rand(1, 3, 8, 20)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((IMAGE[0], IMAGE[0]), r"img1: expected a float32 or float64 tensor of shape \(B, C, H, W\)"),
        ((IMAGE.half(), IMAGE), "got a float16 tensor"),
        ((IMAGE, WIDE), r"img2: expected a float32 tensor of shape \(1, 3, 8, 8\) on cpu"),
        ((IMAGE, IMAGE.double()), "img2: .* got a float64 tensor"),
        ((IMAGE, IMAGE, "full"), 'padding: expected "same" or "valid", got \'full\''),
        ((WIDE, WIDE, "valid"), "img1: expected at least one image of 11x11 pixels"),
        ((IMAGE[:0], IMAGE[:0]), r"at least one image of 1x1 pixels, got shape \(0, 3, 8, 8\)"),
        ((IMAGE, IMAGE.clone().requires_grad_()), "img2: expected a tensor that needs no gradient"),
        ((IMAGE.to("meta"), IMAGE), "img1: expected a tensor on cpu"),
    ],
)
def test_bad_arguments(backend: Backend, arguments, message):
    for operator in (fused_ssim, fused_ssim_map):
        with pytest.raises(ValueError, match=message):
            operator(*arguments)


def test_no_tensor(backend: Backend):
    with pytest.raises(TypeError, match="img2: expected a float32 tensor .* got ndarray"):
        fused_ssim(torch.rand(1, 3, 8, 8), np.zeros((1, 3, 8, 8), np.float32))
