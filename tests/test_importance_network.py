"""The importance network's kernels: numbers and gradients of plain torch, on the CPU and as CUDA emulated."""

from __future__ import annotations

import pytest
import torch
from plain_importance import differentiate, make_gaussians, make_network, plain_importance

from backends import on_every_backend
from diff_gaussian_rasterization import LATENTS, evaluate_importance

pytestmark = on_every_backend


@pytest.mark.parametrize("count", [1, 31, 700])
@pytest.mark.parametrize("bases", [1, 4, 9, 16])
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_numbers_and_gradients_are_those_of_plain_torch(backend, count, bases, dtype, bound):
    generator = torch.Generator().manual_seed(count + bases)
    network, gaussians = make_network(dtype, generator), make_gaussians(count, bases, dtype, generator)
    found = differentiate(evaluate_importance, network, gaussians)
    expected = differentiate(plain_importance, network, gaussians)
    for ours, theirs in zip(found, expected, strict=True):
        scale = theirs.abs().max()
        assert scale > 0 and (ours - theirs).abs().max() <= bound * scale


def test_bits_are_the_same_every_time_and_for_every_number_of_threads(backend):
    generator = torch.Generator().manual_seed(0)
    network = make_network(torch.float32, generator)
    gaussians = make_gaussians(9001, 16, torch.float32, generator)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            found.append(differentiate(evaluate_importance, network, gaussians))
    finally:
        torch.set_num_threads(threads)
    for again in found[1:]:
        assert all(map(torch.equal, found[0], again))


@pytest.mark.parametrize("center", [0.0, 1e6])
def test_far_and_degenerate_gaussians_have_importances(backend, center):
    """The largest numbers that are positions and scales of a float32."""
    generator = torch.Generator().manual_seed(0)
    network = make_network(torch.float32, generator)
    network = network._replace(center=torch.full((3,), center))
    means, scales, *others = make_gaussians(64, 16, torch.float32, generator)
    for factor in (0.0, 1e15):
        importance = evaluate_importance(network, factor * means, 88 * scales.sign(), *others)
        assert ((importance >= 0) & (importance <= 1)).all()


def test_no_gaussians_no_gradients(backend):
    generator = torch.Generator().manual_seed(0)
    network, gaussians = (
        make_network(torch.float32, generator),
        make_gaussians(0, 16, torch.float32, generator),
    )
    importance, latents, *of_network = differentiate(evaluate_importance, network, gaussians)
    assert importance.shape == (0, 1) and latents.shape == (0, LATENTS)
    assert not any(gradient.any() for gradient in of_network)


@pytest.mark.parametrize(
    "place, value, complaint",
    [
        (1, torch.zeros(5, 2), r"log_scales: expected a float32 tensor of shape \(5, 3\)"),
        (4, torch.zeros(5, LATENTS + 1), r"latents: expected a float32 tensor of shape \(5, 4\)"),
        (2, torch.zeros(5, 1, 3).double(), "sh_dc: expected a float32 tensor"),
        (3, torch.zeros(5, 16, 3), "sh_rest: expected at most 15 coefficients, got 16"),
    ],
)
def test_wrong_tensors_are_named(backend, place, value, complaint):
    generator = torch.Generator().manual_seed(0)
    gaussians = make_gaussians(5, 16, torch.float32, generator)
    gaussians[place] = value
    with pytest.raises(ValueError, match=complaint):
        evaluate_importance(make_network(torch.float32, generator), *gaussians)
