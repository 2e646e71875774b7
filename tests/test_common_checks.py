"""The argument checks that CMake installs into every kernel package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fused_ssim._checks
import simple_knn._checks
from fused_ssim._checks import check_tensor

CPU = torch.device("cpu")


def test_packages_hold_the_shared_file():
    source = Path(__file__).parent.parent / "submodules" / "common" / "tensor_checks.py"
    for module in (fused_ssim._checks, simple_knn._checks):
        assert Path(module.__file__).read_text() == source.read_text()


def test_good_tensor_is_not_copied():
    means = torch.rand(5, 3)
    assert check_tensor("means3D", means, (None, 3), torch.float32, CPU) is means
    assert check_tensor("means3D", means[:0], (None, 3)).shape == (0, 3)
    assert check_tensor("image", means, ("H", "W"), (torch.float64, torch.float32)) is means


def test_becomes_contiguous():
    means = torch.rand(3, 5).T
    checked = check_tensor("means3D", means, (5, 3), torch.float32, CPU)
    assert checked.is_contiguous() and torch.equal(checked, means)


@pytest.mark.parametrize(
    "tensor, came",
    [
        (torch.zeros(5, 2), r"a float32 tensor of shape \(5, 2\) on cpu"),
        (torch.zeros(3), r"a float32 tensor of shape \(3,\) on cpu"),
        (torch.zeros(1, 5, 3), r"a float32 tensor of shape \(1, 5, 3\) on cpu"),
        (torch.zeros(5, 3, dtype=torch.float64), r"a float64 tensor of shape \(5, 3\) on cpu"),
        (torch.zeros(5, 3, device="meta"), r"a float32 tensor of shape \(5, 3\) on meta"),
    ],
)
def test_message(tensor, came):
    expected = r"a float32 tensor of shape \(N, 3\) on cpu"
    with pytest.raises(ValueError, match=rf"^means3D: expected {expected}, got {came}$"):
        check_tensor("means3D", tensor, (None, 3), torch.float32, CPU)


def test_message_of_what_is_no_tensor():
    expected = r"^bg: expected a float32 or int32 tensor of shape \(3,\), got list$"
    with pytest.raises(TypeError, match=expected):
        check_tensor("bg", [0.0, 0.0, 0.0], (3,), (torch.float32, torch.int32))


def test_any_device():
    meta = torch.zeros(2, device="meta")
    assert check_tensor("x", meta, ("N",)) is meta
