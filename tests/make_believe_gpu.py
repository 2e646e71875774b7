"""A make-believe GPU: a device `gpu` whose tensors lie in the CPU's memory.

    python tests/make_believe_gpu.py [--waits] SCRIPT [ARGUMENTS...]

runs a command or benchmark of the project with this device as the best one, and ends with its exit code. As
with CUDA, operations on tensors of two devices raise, but for CPU scalars. What would make the host wait is
recorded with its place: reading a number, choosing rows by a mask, a copy that is not queued; --waits prints
it. The kernels are the CUDA ones, emulated. Nothing runs in parallel: a missing wait is not found.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "helpers")]

import utils.before_torch  # noqa: F401  before torch

import importlib
import runpy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from backends import PACKAGES

NAME = "gpu"
FIRST = f"{NAME}:0"
# Operators whose result has a size or a value that the host must know.
READING = {
    "_local_scalar_dense": "a number is read",
    "equal": "a number is read",
    "nonzero": "rows are counted",
    "masked_select": "rows are counted",
    "bincount": "rows are counted",
    "repeat_interleave": "rows are counted",
    "unique_consecutive": "rows are counted",
    "unique_dim": "rows are counted",
    "_unique2": "rows are counted",
}
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
COPYING = ("_to_copy", "copy_")
# Classes of the kernels whose forward pass reads how many pairs there are.
READS_BACK = ("BlendingFloat", "BlendingDouble")


# Waits


_recorders: list[list[str]] = []


@contextmanager
def recorded_waits() -> Iterator[list[str]]:
    """Give a list that grows with each wait, such as `rows are counted at gaussian_model.py:394`."""
    waits: list[str] = []
    _recorders.append(waits)
    try:
        yield waits
    finally:
        _recorders.pop()


def record_wait(what: str) -> None:
    for waits in _recorders:
        waits.append(f"{what} at {place()}")


def place() -> str:
    """Return the innermost file and line of the project that the call comes from."""
    frame = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path != Path(__file__) and "site-packages" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "a script"


# Tensors


class GpuTensor(torch.Tensor):
    """A tensor on the make-believe GPU. `raw` is the CPU tensor with its values."""

    raw: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> GpuTensor:
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), raw.stride(), raw.storage_offset(), dtype=raw.dtype, device=FIRST
        )
        wrapper.raw = raw
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return dispatch(operator, args, kwargs or {})

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"GpuTensor({self.raw})"

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def tolist(self) -> list:
        return self.cpu().tolist()


class Dispatch(TorchDispatchMode):
    """Also sends operators here that have no tensor yet, such as `torch.zeros(3, device="gpu")`."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return dispatch(operator, args, kwargs or {})


def is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def dispatch(operator: Any, args: tuple, kwargs: dict) -> Any:
    """Run one operator of torch, on the device that its tensors and its `device` say."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if not is_gpu(kwargs.get("device")) and not any(isinstance(tensor, GpuTensor) for tensor in tensors):
        return operator(*args, **kwargs)
    name = operator.overloadpacket.__name__
    if name in COPYING:
        return copy(name, operator, args, kwargs)
    require_one_device(name, args, tensors)
    if name in READING:
        record_wait(READING[name])
    if name in INDEXING and chooses_by_the_host(name, args):
        record_wait("rows are chosen by a mask or by indices of the CPU")
    return compute(operator, args, kwargs)


def require_one_device(name: str, args: tuple, tensors: list[torch.Tensor]) -> None:
    """Raise RuntimeError as CUDA does. A table on the GPU may be indexed from the CPU, which costs a copy."""
    if name in INDEXING and isinstance(args[0], GpuTensor):
        tensors = [tensor for tensor in tensors if not any(tensor is index for index in args[1])]
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, GpuTensor) and tensor.dim()]
    if elsewhere:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in elsewhere)
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} got some on {FIRST} and, of shape "
            f"{shapes}, on the CPU"
        )


def chooses_by_the_host(name: str, args: tuple) -> bool:
    """Whether an index must be copied, or counted to know a size; filling by a mask needs neither."""
    indices = [index for index in args[1] if index is not None]
    fills = name != "index" and args[2].dim() == 0
    masks = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
    return any(not isinstance(index, GpuTensor) for index in indices) or (masks and not fills)


def copy(name: str, operator: Any, args: tuple, kwargs: dict) -> torch.Tensor:
    """Copy between devices or within one. Only page-locked memory is queued, and only towards the GPU."""
    if name == "copy_":
        target, source = args[:2]
        to_gpu, queued = isinstance(target, GpuTensor), kwargs.get("non_blocking", len(args) > 2 and args[2])
    else:
        source, device = args[0], kwargs.get("device")
        to_gpu, queued = is_gpu(device) or device is None, kwargs.get("non_blocking", False)
    crosses = to_gpu != isinstance(source, GpuTensor)
    if crosses and not (to_gpu and queued and hasattr(source, "is_page_locked")):
        record_wait("a copy is not queued")
    return compute(operator, args, kwargs)


def compute(operator: Any, args: tuple, kwargs: dict) -> Any:
    """Run the operator on the CPU; what it makes is on the GPU, unless it was asked for elsewhere."""
    to_gpu = is_gpu(kwargs.get("device") or FIRST)
    given = {
        id(unwrapped(leaf)): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
    }
    here = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
    if "device" in kwargs:
        here["device"] = "cpu"
    made = operator(*tree_map_only(GpuTensor, unwrapped, args), **tree_map_only(GpuTensor, unwrapped, here))

    def wrapped(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in given:  # changed in place
            return given[id(tensor)]
        return GpuTensor(tensor) if to_gpu else tensor

    return tree_map_only(torch.Tensor, wrapped, made)


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.raw if isinstance(tensor, GpuTensor) else tensor


# What of torch does not come through its operators


def with_device(build: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return torch.tensor or torch.as_tensor such that it makes tensors on the GPU too."""

    def tensor(
        data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
    ) -> torch.Tensor:
        made = data if isinstance(data, GpuTensor) else build(data, dtype=dtype)
        made = made.to(device=device or made.device, dtype=dtype or made.dtype)
        return made.requires_grad_() if requires_grad else made

    return tensor


def new_tensor(self: torch.Tensor, data: Any, *, dtype: Any = None, device: Any = None) -> torch.Tensor:
    return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device)


def pin_memory(self: torch.Tensor) -> torch.Tensor:
    copied = self.clone()
    copied.is_page_locked = True
    return copied


FREE_MEMORY = 16e9  # bytes


# The project on it


def install() -> None:
    """Make the GPU known to torch and the best device of the project. This cannot be undone in a process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    torch.get_device_module(NAME).mem_get_info = lambda: (int(FREE_MEMORY), int(2 * FREE_MEMORY))
    # The thread that torch has for backward passes on such a device may abort when Python ends.
    torch.autograd.set_multithreading_enabled(False)
    torch.tensor, torch.as_tensor = with_device(torch.tensor), with_device(torch.as_tensor)
    torch.Tensor.new_tensor, torch.Tensor.pin_memory = new_tensor, pin_memory
    for package, kernels in PACKAGES.items():
        devices = importlib.import_module(f"{package}._devices")
        module = importlib.import_module(f"{package}._cuda_emulated")
        kernels._by_type[NAME] = devices.Kernels(
            reading_back(module), lambda device, place=devices._emulated: place(torch.device("cpu"))
        )
        kernels.best_device = lambda: torch.device(NAME)
    child_processes = importlib.import_module("evaluation.child_processes")
    call = child_processes.ChildProcesses.call
    child_processes.ChildProcesses.call = lambda self, script, flags, log: call(
        self, Path(__file__), [str(script), *flags], log
    )


def reading_back(module: ModuleType) -> SimpleNamespace:
    """Return the compiled functions and classes, with a wait recorded where they read from the GPU."""

    def watched(kind: type) -> type:
        def forward(self, *arguments):
            record_wait("the kernels read how many pairs there are")
            return kind.forward(self, *arguments)

        return type(kind.__name__, (kind,), {"forward": forward})

    content = vars(module)
    return SimpleNamespace(
        **content | {name: watched(content[name]) for name in READS_BACK if name in content}
    )


def main() -> None:
    """Run the script that the command line names."""
    arguments = sys.argv[1:]
    shows_waits = arguments[0] == "--waits"
    sys.argv = arguments[shows_waits:]
    install()
    with recorded_waits() as waits, Dispatch():
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        finally:
            if shows_waits:
                for wait, count in Counter(waits).most_common():
                    print(f"{count:7d}  {wait}", file=sys.stderr)


if __name__ == "__main__":
    import make_believe_gpu  # the one that scripts import, not __main__

    make_believe_gpu.main()
