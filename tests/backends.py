"""Where kernels run in the tests: on the CPU, as CUDA kernels emulated there, and on a GPU if there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType

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


# As `pytestmark`: every test of the module takes `backend`, and conftest.py has it running meanwhile.
on_every_backend = pytest.mark.parametrize("backend", backends(), ids=lambda backend: backend.name)
