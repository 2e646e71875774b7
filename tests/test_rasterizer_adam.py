"""GaussianAdam against torch's Adam, SparseGaussianAdam against its rule written out in plain torch."""

from __future__ import annotations

import pytest
import torch

import raster_scenes as scenes
from raster_scenes import Backend

pytestmark = scenes.on_every_backend

BETA1, BETA2, EPS = 0.9, 0.999, 1e-15
SHAPES = {"means": (50, 3), "opacity": (50, 1), "sh_rest": (50, 15, 3)}
RATES = {"means": 1.6e-4, "opacity": 0.05, "sh_rest": 1.25e-4}


def random_steps(count: int):
    """Gradients and visibility per step; every third step a row's gradient is zero."""
    generator = torch.Generator().manual_seed(8)
    for step in range(count):
        gradients = {
            name: torch.randn(shape, generator=generator) * 10.0 ** (-step % 4)
            for name, shape in SHAPES.items()
        }
        gradients["opacity"][step % 50] = 0
        yield gradients, torch.rand(50, generator=generator) < (0.0 if step == 3 else 0.6)


def plain_adam(params, steps, dtype):
    """Only visible rows: both moments decay and take the gradient, no bias correction."""
    params = {name: tensor.to(dtype) for name, tensor in params.items()}
    first = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    second = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    for gradients, visible in steps:
        for name, param in params.items():
            g = gradients[name].to(dtype)[visible]
            first[name][visible] = BETA1 * first[name][visible] + (1 - BETA1) * g
            second[name][visible] = BETA2 * second[name][visible] + (1 - BETA2) * g * g
            param[visible] -= RATES[name] * first[name][visible] / (second[name][visible].sqrt() + EPS)
    return {"param": params, "exp_avg": first, "exp_avg_sq": second}


def kernel_adam(backend: Backend, params, steps):
    params = {
        name: torch.nn.Parameter(tensor.to(backend.device, copy=True)) for name, tensor in params.items()
    }
    groups = [{"params": [param], "lr": RATES[name], "name": name} for name, param in params.items()]
    optimizer = backend.package.SparseGaussianAdam(groups, lr=0.0, eps=EPS)
    for gradients, visible in steps:
        for name, param in params.items():
            param.grad = gradients[name].to(backend.device)
        optimizer.step(visible.to(backend.device), 50)
    state = {
        key: {name: optimizer.state[param][key] for name, param in params.items()}
        for key in ("exp_avg", "exp_avg_sq")
    }
    return {"param": {name: param.detach() for name, param in params.items()}, **state}


def start():
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def test_against_plain_torch(backend: Backend):
    steps = list(random_steps(12))
    got = kernel_adam(backend, start(), steps)
    exact, plain = plain_adam(start(), steps, torch.float64), plain_adam(start(), steps, torch.float32)
    for part, tensors in exact.items():
        for name, wanted in tensors.items():
            error, single = (scenes.worst(result[part][name].cpu() - wanted) for result in (got, plain))
            allowed = 2 * single + 4 * scenes.FLOAT32_EPS * scenes.worst(wanted)
            assert error <= allowed, f"{part} of {name}: error {error:.2e}, allowed {allowed:.2e}"


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.7)])
def test_all_gaussians_step_as_torchs_adam_does(backend: Backend, betas):
    """Parameters whose gradient is missing now and then, and a first step that bias correction decides."""
    ours = {
        name: torch.nn.Parameter(values.to(backend.device, copy=True)) for name, values in start().items()
    }
    exact, single = (
        {name: torch.nn.Parameter(values.to(dtype, copy=True)) for name, values in start().items()}
        for dtype in (torch.float64, torch.float32)
    )
    optimizers = [
        kind(
            [{"params": [param], "lr": RATES[name]} for name, param in params.items()],
            lr=0.0,
            eps=EPS,
            betas=betas,
        )
        for params, kind in (
            (ours, backend.package.GaussianAdam),
            (exact, torch.optim.Adam),
            (single, torch.optim.Adam),
        )
    ]
    for step, (gradients, _) in enumerate(random_steps(12)):
        for name in SHAPES:
            skipped = name == "means" and step % 4 == 2
            for params in (ours, exact, single):
                grad = gradients[name].to(params[name].device, params[name].dtype)
                params[name].grad = None if skipped else grad
        for optimizer in optimizers:
            optimizer.step()
        for name, wanted in exact.items():
            error, plain = (
                scenes.worst(params[name].detach().cpu() - wanted.detach()) for params in (ours, single)
            )
            allowed = 2 * plain + 4 * scenes.FLOAT32_EPS * scenes.worst(wanted.detach())
            assert error <= allowed, f"step {step}, {name}: error {error:.2e}, allowed {allowed:.2e}"


def test_parameters_of_other_rows_are_refused(backend: Backend):
    params = [torch.nn.Parameter(torch.ones(rows, 3, device=backend.device)) for rows in (4, 5)]
    for param in params:
        param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match=r"parameter.*4.*\(5, 3\)"):
        backend.package.GaussianAdam(params).step()


def test_rows_that_were_not_visible_keep_their_bits(backend: Backend):
    (gradients, visible), (later, _) = list(random_steps(2))
    before = kernel_adam(backend, start(), [(gradients, torch.ones(50, dtype=torch.bool))])
    after = kernel_adam(backend, start(), [(gradients, torch.ones(50, dtype=torch.bool)), (later, visible)])
    for part in before:
        for name in SHAPES:
            assert torch.equal(after[part][name][~visible], before[part][name][~visible])
            assert (after[part][name][visible] != before[part][name][visible]).any()


def test_parameters_without_a_gradient_stay(backend: Backend):
    kept = torch.nn.Parameter(torch.ones(4, 3, device=backend.device))
    optimizer = backend.package.SparseGaussianAdam([{"params": [kept], "lr": 0.1}], lr=0.1, eps=EPS)
    optimizer.step(torch.ones(4, dtype=torch.bool, device=backend.device), 4)
    assert torch.equal(kept.detach().cpu(), torch.ones(4, 3))


@pytest.mark.parametrize("visibility, message", [
    (torch.ones(3, dtype=torch.bool), r"visibility.*4.*\(3,\)"),
    (torch.ones(4), "visibility.*bool.*float32"),
])  # fmt: skip
def test_wrong_visibility_is_refused(backend: Backend, visibility, message):
    param = torch.nn.Parameter(torch.ones(4, 3, device=backend.device))
    param.grad = torch.ones_like(param)
    optimizer = backend.package.SparseGaussianAdam([{"params": [param], "lr": 0.1}], lr=0.1, eps=EPS)
    with pytest.raises(ValueError, match=message):
        optimizer.step(visibility.to(backend.device), 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_number_that_is_none_is_told_by_its_parameter(backend, value, sparse):
    torch.manual_seed(0)
    params = [torch.randn(5000, size, device=backend.device, requires_grad=True) for size in (3, 4, 1)]
    kind = backend.package.SparseGaussianAdam if sparse else backend.package.GaussianAdam
    optimizer = kind([{"params": [param], "lr": 0.1} for param in params])
    step = (torch.arange(5000, device=backend.device) != 7, 5000) if sparse else ()

    def take_step(bad):
        for place, param in enumerate(params):
            param.grad = torch.randn_like(param)
            if place == bad:
                param.grad[4321 if not sparse else 7] = value
        optimizer.step(*step)
        return optimizer.unsound.tolist()

    assert take_step(None) == [0, 0, 0]
    assert take_step(1) == ([0, 0, 0] if sparse else [0, 1, 0])  # row 7 was not seen
    if sparse:
        params[1].grad[8] = value
        optimizer.step(*step)
    assert optimizer.unsound.tolist() == [0, 1, 0]
    assert take_step(None) == [0, 1, 0]  # it stays


def test_large_numbers_are_sound(backend):
    param = torch.full((64, 1), 3e38, device=backend.device, requires_grad=True)
    optimizer = backend.package.GaussianAdam([param], lr=1.0)
    param.grad = torch.full_like(param, 1e-30)
    optimizer.step()
    assert optimizer.unsound.tolist() == [0]
