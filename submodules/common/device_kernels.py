"""The kernels of a package that run for a tensor, and the device and stream that they run on.

CMake installs this file as `_devices.py` into each kernel package. A package has `_cuda` if it was built
with a CUDA compiler, and `_cuda_emulated`, for tests, if that was asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch


class Kernels(NamedTuple):
    """module: the compiled functions. place: the last arguments of each, for a device."""

    module: ModuleType
    place: Callable[[torch.device], tuple[Any, ...]]


class DeviceKernels:
    """The kernels of one package by type of device."""

    def __init__(self, package: str, cpu: ModuleType) -> None:
        self._package = package
        self._by_type = {"cpu": Kernels(cpu, _threads)}
        try:
            self._by_type["cuda"] = Kernels(importlib.import_module(f"{package}._cuda"), _stream)
        except ModuleNotFoundError:
            pass  # built without CUDA

    def best_device(self) -> torch.device:
        return torch.device("cuda" if "cuda" in self._by_type and torch.cuda.is_available() else "cpu")

    def has(self, device: torch.device) -> bool:
        return device.type in self._by_type

    def on(self, name: str, device: torch.device) -> Kernels:
        """The kernels for tensors on a device. ValueError, about the argument `name`, if there are none."""
        if not self.has(device):
            usable = " or ".join(self._by_type)
            raise ValueError(
                f"{name}: expected a tensor on {usable}, for which this build has kernels, got {device}"
            )
        return self._by_type[device.type]

    @contextmanager
    def emulating_cuda(self) -> Iterator[None]:
        """Meanwhile, tensors on the CPU go through the CUDA kernels, compiled for the CPU. For tests."""
        before = self._by_type["cpu"]
        module = importlib.import_module(f"{self._package}._cuda_emulated")
        self._by_type["cpu"] = Kernels(module, _emulated)
        try:
            yield
        finally:
            self._by_type["cpu"] = before


def _threads(device: torch.device) -> tuple[int]:
    return (torch.get_num_threads(),)


def _stream(device: torch.device) -> tuple[int, int, Callable]:
    index = torch.cuda.current_device() if device.index is None else device.index
    return index, torch.cuda.current_stream(device).cuda_stream, _allocator(device)


def _emulated(device: torch.device) -> tuple[int, int, Callable]:
    return 0, 0, _allocator(device)


def _allocator(device: torch.device) -> Callable[[int], torch.Tensor]:
    """Temporary memory comes from torch, which has it at hand."""
    return partial(torch.empty, dtype=torch.uint8, device=device)
