"""The back ends of the tests: the CPU, the CUDA kernels emulated there, and a GPU if there is one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import diff_gaussian_rasterization
import fused_ssim
import pytest
import simple_knn._C
import torch

PACKAGES = {  # by name, what chooses the kernels of each
    "diff_gaussian_rasterization": diff_gaussian_rasterization.backends.KERNELS,
    "fused_ssim": fused_ssim.KERNELS,
    "simple_knn": simple_knn._C.KERNELS,
}


@dataclass(frozen=True)
class Backend:
    """device: where its tensors are."""

    name: str
    device: str

    @property
    def package(self) -> ModuleType:
        """The rasterizer."""
        return diff_gaussian_rasterization

    @contextmanager
    def running(self) -> Iterator[None]:
        """Meanwhile the packages use it for tensors on its device."""
        with ExitStack() as stack:
            if self.name == "cuda-emulated":
                for kernels in PACKAGES.values():
                    stack.enter_context(kernels.emulating_cuda())
            yield


@cache
def backends() -> tuple[Backend, ...]:
    found = [Backend("cpu", "cpu"), Backend("cuda-emulated", "cpu")]
    if torch.cuda.is_available() and all(kernels.has(torch.device("cuda")) for kernels in PACKAGES.values()):
        found.append(Backend("cuda", "cuda:0"))
    return tuple(found)


is_emulation_built = all(importlib.util.find_spec(f"{package}._cuda_emulated") for package in PACKAGES)
needs_emulation = pytest.mark.skipif(
    not is_emulation_built, reason="built without -Ccmake.define.GS_EMULATED_CUDA=ON, which `make test` sets"
)


def parameters() -> list[Any]:
    """The back ends; the emulated one says so where it was not built."""
    marks = {"cuda-emulated": [needs_emulation]}
    return [
        pytest.param(backend, marks=marks.get(backend.name, []), id=backend.name) for backend in backends()
    ]


# As `pytestmark`: every test of the module takes `backend`, and conftest.py has it running meanwhile.
on_every_backend = pytest.mark.parametrize("backend", parameters())
