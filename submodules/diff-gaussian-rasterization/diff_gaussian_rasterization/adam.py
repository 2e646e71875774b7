"""Adam over all Gaussians, and over those that a view has seen: all parameters in one kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._checks import check_tensor
from .backends import KERNELS


class GaussianAdam(torch.optim.Adam):
    """Adam (Kingma and Ba 2015), with the numbers of torch's. Parameters have one row for each Gaussian.

    After a step `unsound` (P,) int32, on the parameters' device, is 1 for the parameters, in the order of the
    groups, that have come to hold a NaN or an infinity, in this step or an earlier one.
    """

    corrects_bias = True  # of the moments, by the number of steps

    def __init__(
        self, params, lr: float = 1e-3, eps: float = 1e-8, betas: tuple[float, float] = (0.9, 0.999)
    ):
        super().__init__(params=params, lr=lr, eps=eps, betas=betas)
        self.unsound = torch.zeros(0, dtype=torch.int32)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient. Raise ValueError if their numbers of rows differ."""
        first = next((param for group in self.param_groups for param in group["params"]), None)
        if first is not None:
            self._run(len(first), first.device, None)

    def _run(self, rows: int, device: torch.device, visibility: Tensor | None) -> None:
        params = self._params(device)
        entries = [
            self._entry(place, *pair, rows, device)
            for place, pair in enumerate(params)
            if pair[0].grad is not None
        ]
        kernels = KERNELS.on("parameter", device)
        seen = 0 if visibility is None else visibility.data_ptr()
        kernels.module.adam_step(rows, seen, entries, *kernels.place(device))

    def _params(self, device: torch.device) -> list[tuple[Tensor, dict]]:
        """Return every parameter with its group; have a place for each in `unsound`."""
        params = [(param, group) for group in self.param_groups for param in group["params"]]
        if len(self.unsound) != len(params):
            self.unsound = torch.zeros(len(params), dtype=torch.int32, device=device)
        return params

    def _entry(
        self, place: int, param: Tensor, group: dict, rows: int, device: torch.device
    ) -> tuple[int | float, ...]:
        """Return a parameter's AdamEntry for the kernels, and count the step.

        Create its moments at the first step. It may have no gradient, if the kernels know that themselves.
        """
        shape = (rows, *param.shape[1:])
        if check_tensor("parameter", param, shape, torch.float32, device) is not param:
            raise ValueError(f"parameter: expected a contiguous tensor, got strides {param.stride()}")
        if param.grad is not None:  # where it was not contiguous, the copy must live as long as it is read
            param.grad = check_tensor("gradient", param.grad, shape, torch.float32, device)
        state = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0)  # on the CPU: reading it waits for no GPU
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        steps = int(state["step"]) + 1 if self.corrects_bias else 0
        if self.corrects_bias:
            state["step"].fill_(steps)
        tensors = (param, param.grad, state["exp_avg"], state["exp_avg_sq"])
        addresses = (0 if tensor is None else tensor.data_ptr() for tensor in tensors)
        unsound = self.unsound.data_ptr() + place * self.unsound.element_size()
        columns = param.numel() // max(rows, 1)
        return (columns, *addresses, unsound, group["lr"], group["eps"], *group["betas"], steps)


class SparseGaussianAdam(GaussianAdam):
    """Adam that updates only visible rows and their moments (Mallick et al. 2024).

    Without bias correction: a row's number of steps is not the number of iterations.
    """

    corrects_bias = False

    @torch.no_grad()
    def step(self, visibility: Tensor, N: int) -> None:
        """visibility: bool (N,). Every parameter has N rows. Raises ValueError otherwise."""
        visibility = check_tensor("visibility", visibility, (N,), torch.bool)
        self._run(N, visibility.device, visibility)


ACTIVATIONS = {"scales": 1, "opacities": 2}  # Activation of adam.h: exp, sigmoid; the others are plain


@dataclass
class StepInBackward:
    """Adam as a part of the backward pass: no gradient is written, and none is returned.

    optimizer: steps the parameters, float32; those of SparseGaussianAdam only where a Gaussian is seen.
    parameters: by the rasterizer's names, all of means3D, scales, rotations, dc, shs and opacities. Those of
        scales and opacities are logarithms and logits of what is rendered.
    """

    optimizer: GaussianAdam
    parameters: dict[str, Tensor]

    def entries(self, activated: dict[str, Tensor]) -> dict[str, tuple[tuple[int | float, ...], int, int]]:
        """Return a StepEntry for each parameter by the rasterizer's names, and count the step.

        Raise ValueError for a parameter that is not the optimizer's.
        """
        means = activated["means3D"]
        known = {
            param: (place, param, group)
            for place, (param, group) in enumerate(self.optimizer._params(means.device))
        }
        found = {}
        for name, param in self.parameters.items():
            if param not in known:
                raise ValueError(f"{name}: expected a parameter of the optimizer")
            entry = self.optimizer._entry(*known[param], len(means), means.device)
            found[name] = (entry, ACTIVATIONS.get(name, 0), activated[name].data_ptr())
        return found
