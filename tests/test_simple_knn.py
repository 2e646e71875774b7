"""Nearest-neighbour distances against all pairs in float64."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from backends import Backend, on_every_backend
from simple_knn._C import distCUDA2

pytestmark = on_every_backend


def distances(backend: Backend, points: Tensor) -> Tensor:
    result = distCUDA2(points.to(backend.device))
    assert result.device == torch.device(backend.device)
    return result.cpu()


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
def test_against_all_pairs(backend: Backend, count, place):
    points = place(random_points(count))
    expected = brute_force(points)
    assert torch.allclose(distances(backend, points).double(), expected, rtol=1e-6, atol=0)


def test_few_points(backend: Backend):
    points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert distances(backend, points).tolist() == [(1 + 4) / 2, (1 + 5) / 2, (4 + 5) / 2]
    assert distances(backend, points[:2]).tolist() == [1, 1]
    assert distances(backend, points[:1]).tolist() == [0]
    assert distances(backend, points[:0]).shape == (0,)


def test_all_points_at_one_place(backend: Backend):
    assert not distances(backend, torch.full((1000, 3), 7.0)).any()


def test_order_follows_the_points(backend: Backend):
    points = random_points(500)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    assert torch.equal(distances(backend, points[order]), distances(backend, points)[order])


def test_same_bits_for_every_number_of_threads(backend: Backend):
    points = clusters(20_000)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(distances(backend, points))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("place", [clusters, lambda n: random_points(n).round(), lambda n: torch.zeros(n, 3)])
def test_not_quadratic(backend: Backend, place):
    points = place(100_000)  # all pairs would take ten billion distances
    start = time.process_time()
    distances(backend, points)
    assert time.process_time() - start < 5


def test_non_contiguous_and_differentiable_points(backend: Backend):
    points = random_points(50)
    assert torch.equal(distances(backend, points.T.contiguous().T), distances(backend, points))
    assert torch.equal(distances(backend, points.clone().requires_grad_()), distances(backend, points))


def test_huge_coordinates_do_not_crash(backend: Backend):
    points = random_points(20)
    points[0, 0] = 3e38
    result = distances(backend, points)
    assert result[0] == float("inf") and result[1:].isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(backend: Backend, bad):
    points = random_points(20)
    points[7, 1] = bad
    with pytest.raises(ValueError, match="points: expected finite coordinates, got .* for point 7"):
        distances(backend, points)


@pytest.mark.parametrize("points", [torch.zeros(5, 2), torch.zeros(3), torch.zeros(5, 3).double()])
def test_bad_arguments(backend: Backend, points):
    with pytest.raises(ValueError, match=r"points: expected a float32 tensor of shape \(N, 3\), got a"):
        distances(backend, points)


def test_no_tensor(backend: Backend):
    with pytest.raises(TypeError, match="points: expected a float32 tensor .* got list"):
        distCUDA2([[0.0, 0.0, 0.0]])
