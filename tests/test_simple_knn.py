"""Nearest-neighbour distances against all pairs in float64."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from simple_knn._C import distCUDA2


def brute_force(points: Tensor) -> Tensor:
    points = points.double()
    squares = (points[:, None] - points[None]).square().sum(dim=2)
    squares.fill_diagonal_(float("inf"))
    return squares.topk(3, largest=False).values.mean(dim=1)


def random_points(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


def clusters(count: int) -> Tensor:
    """Half of the points in a millionth of the space of the other half."""
    return random_points(count) * torch.where(torch.arange(count) % 2 == 0, 1e-2, 1e2)[:, None]


@pytest.mark.parametrize("count", [4, 5, 8, 9, 16, 17, 33, 100, 1000])
@pytest.mark.parametrize(
    "place",
    [
        lambda p: p,
        lambda p: p.round(),  # many duplicates
        lambda p: p * torch.tensor([1.0, 0.0, 1e-3]),
        lambda p: p[:, :1].expand(-1, 3),  # a line
        lambda p: clusters(len(p)),
    ],
)
def test_against_all_pairs(count, place):
    points = place(random_points(count))
    expected = brute_force(points)
    assert torch.allclose(distCUDA2(points).double(), expected, rtol=1e-6, atol=0)


def test_few_points():
    points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert distCUDA2(points).tolist() == [(1 + 4) / 2, (1 + 5) / 2, (4 + 5) / 2]
    assert distCUDA2(points[:2]).tolist() == [1, 1]
    assert distCUDA2(points[:1]).tolist() == [0]
    assert distCUDA2(points[:0]).shape == (0,)


def test_all_points_at_one_place():
    assert not distCUDA2(torch.full((1000, 3), 7.0)).any()


def test_order_follows_the_points():
    points = random_points(500)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    assert torch.equal(distCUDA2(points[order]), distCUDA2(points)[order])


def test_same_bits_for_every_number_of_threads():
    points = clusters(20_000)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(distCUDA2(points))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("place", [clusters, lambda n: random_points(n).round(), lambda n: torch.zeros(n, 3)])
def test_not_quadratic(place):
    points = place(100_000)  # all pairs would take ten billion distances
    start = time.process_time()
    distCUDA2(points)
    assert time.process_time() - start < 5


def test_non_contiguous_and_differentiable_points():
    points = random_points(50)
    assert torch.equal(distCUDA2(points.T.contiguous().T), distCUDA2(points))
    assert torch.equal(distCUDA2(points.clone().requires_grad_()), distCUDA2(points))


def test_huge_coordinates_do_not_crash():
    points = random_points(20)
    points[0, 0] = 3e38
    result = distCUDA2(points)
    assert result[0] == float("inf") and result[1:].isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(bad):
    points = random_points(20)
    points[7, 1] = bad
    with pytest.raises(ValueError, match="points: expected finite coordinates, got .* for point 7"):
        distCUDA2(points)


@pytest.mark.parametrize("points", [torch.zeros(5, 2), torch.zeros(3), torch.zeros(5, 3).double()])
def test_bad_arguments(points):
    with pytest.raises(ValueError, match=r"points: expected a float32 tensor of shape \(N, 3\), got a"):
        distCUDA2(points)


def test_no_tensor():
    with pytest.raises(TypeError, match="points: expected a float32 tensor .* got list"):
        distCUDA2([[0.0, 0.0, 0.0]])
