"""Readers under mutated files, and the rasterizer under arguments of all kinds."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backends import on_every_backend

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402


def fuzz_readers(runs, seconds):
    pytest.importorskip("atheris", reason="atheris is not installed")
    script = Path(__file__).with_name("fuzz_readers.py")
    command = [sys.executable, script, f"-runs={runs}", f"-max_total_time={seconds}", "-seed=1"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
    assert process.returncode == 0, process.stderr[-3000:]


def test_readers_answer_mutated_files():
    """A short run; the seeds and tests/corpus are tried first."""
    fuzz_readers(10_000, 60)


@pytest.mark.long
def test_readers_answer_mutated_files_for_long():
    fuzz_readers(1_000_000, 900)


# The rasterizer's arguments


def good_arguments(count, bases):
    generator = torch.Generator().manual_seed(count)
    normal = functools.partial(torch.randn, generator=generator)
    return {
        "means3D": normal(count, 3) + torch.tensor([0, 0, 4.0]),
        "means2D": torch.zeros(count, 3),
        "opacities": torch.rand(count, 1, generator=generator),
        "shs": normal(count, bases, 3),
        "scales": torch.rand(count, 3, generator=generator) * 0.3,
        "rotations": normal(count, 4),
        "importance": torch.rand(count, 1, generator=generator),
    }


def good_view(degree):
    projection = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, -0.01, 0]])
    return {
        "image_height": 20, "image_width": 24, "tanfovx": 1.0, "tanfovy": 1.0, "bg": torch.zeros(3),
        "scale_modifier": 1.0, "viewmatrix": torch.eye(4), "projmatrix": projection, "sh_degree": degree,
        "campos": torch.zeros(3), "debug": False, "antialiasing": False, "prefiltered": False,
    }  # fmt: skip


NUMBERS = st.floats(width=32) | st.sampled_from([0.0, 1e-38, 3e38, math.inf, -math.inf, math.nan])
SHAPES = st.lists(st.integers(0, 7), max_size=3)
DTYPES = st.sampled_from([torch.float64, torch.float16, torch.int32, torch.bool, torch.complex64])
SIZES = st.integers(-5, 5) | st.integers(-(2**70), 2**70) | st.floats() | st.none() | st.text(max_size=3)


@st.composite
def changes(draw):
    """What is done to one tensor."""
    kind = draw(st.sampled_from(["value", "shape", "dtype", "strides", "none", "list"]))
    if kind == "value":
        place, value = draw(st.integers(0, 10**6)), draw(NUMBERS)

        def put(tensor):
            tensor = tensor.clone()
            if tensor.numel():
                tensor.view(-1)[place % tensor.numel()] = value
            return tensor

        return put
    if kind == "shape":
        shape = draw(SHAPES)
        return lambda tensor: torch.zeros(shape)
    if kind == "dtype":
        dtype = draw(DTYPES)
        return lambda tensor: tensor.to(dtype)
    return {
        "strides": lambda tensor: tensor.repeat_interleave(2, -1)[..., ::2],
        "none": lambda tensor: None,
        "list": lambda tensor: tensor.tolist(),
    }[kind]


ARGUMENTS = sorted(good_arguments(1, 1))
TENSORS, PLAIN = ("bg", "viewmatrix", "projmatrix", "campos"), ("image_height", "image_width", "sh_degree")
REFUSALS = (TypeError, ValueError, MemoryError)


@on_every_backend
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    count=st.integers(0, 6),
    degree=st.integers(0, 3),
    gaussians=st.dictionaries(st.sampled_from(ARGUMENTS), changes(), max_size=2),
    tensors=st.dictionaries(st.sampled_from(TENSORS), changes(), max_size=1),
    sizes=st.dictionaries(st.sampled_from(PLAIN), SIZES, max_size=1),
    numbers=st.dictionaries(st.sampled_from(["tanfovx", "tanfovy", "scale_modifier"]), NUMBERS, max_size=1),
)
def test_arguments_of_all_kinds_are_refused_or_drawn(
    backend, count, degree, gaussians, tensors, sizes, numbers
):
    inputs, view = good_arguments(count, (degree + 1) ** 2), good_view(degree)
    for name, change in gaussians.items():
        inputs[name] = change(inputs[name])
    for name, change in tensors.items():
        view[name] = change(view[name])
    view |= sizes | numbers
    package = backend.package
    for tensor in inputs.values():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.is_leaf:
            tensor.requires_grad_()
    try:
        rasterizer = package.GaussianRasterizer(package.GaussianRasterizationSettings(**view))
        color, radii, depth = rasterizer(**inputs)
    except REFUSALS as refusal:
        touched = [*gaussians, *tensors, *sizes, *numbers]
        assert touched, refusal
        return
    assert color.shape == (3, view["image_height"], view["image_width"]) and len(radii) == len(
        inputs["means3D"]
    )
    if color.requires_grad:
        color.sum().backward()
    for name, tensor in {"color": color, "depth": depth, **inputs}.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and name in ("color", "depth"):
            assert torch.isfinite(tensor).all() or not moderate(view, inputs), name
        elif isinstance(tensor, torch.Tensor) and tensor.grad is not None:
            assert torch.isfinite(tensor.grad).all() or not moderate(view, inputs), name


def moderate(view, inputs):
    """Whether products of what is not refused are numbers.

    A Gaussian that is not finite itself is not drawn.
    """
    shared = [torch.as_tensor(value, dtype=torch.float64) for value in view.values() if value is not None]
    own = [value.detach() for value in inputs.values() if isinstance(value, torch.Tensor)]
    limit = 1e9
    return all(bool((value.abs() < limit).all()) for value in shared) and not any(
        bool(((value.abs() >= limit) & value.isfinite()).any()) for value in own
    )
