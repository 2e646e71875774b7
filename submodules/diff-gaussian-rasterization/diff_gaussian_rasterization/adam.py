"""Adam over all Gaussians, and over those that a view has seen: all parameters in one kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import check_tensor
from .backends import KERNELS


class GaussianAdam(torch.optim.Adam):
    """Adam (Kingma and Ba 2015), with the numbers of torch's. Parameters have one row for each Gaussian.

    After a step `unsound` (P,) int32, on the parameters' device, is 1 for the parameters, in the order of the
    groups, that have come to hold a NaN or an infinity, in this step or an earlier one.
    """

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
        params = [(param, group) for group in self.param_groups for param in group["params"]]
        if len(self.unsound) != len(params):
            self.unsound = torch.zeros(len(params), dtype=torch.int32, device=device)
        entries = [
            self._entry(place, *pair, rows, device, corrected=visibility is None)
            for place, pair in enumerate(params)
            if pair[0].grad is not None
        ]
        kernels = KERNELS.on("parameter", device)
        seen = 0 if visibility is None else visibility.data_ptr()
        kernels.module.adam_step(rows, seen, entries, *kernels.place(device))

    def _entry(
        self, place: int, param: Tensor, group: dict, rows: int, device: torch.device, corrected: bool
    ) -> tuple[int | float, ...]:
        """Return a parameter's AdamEntry for the kernels. Create its moments at the first step."""
        shape = (rows, *param.shape[1:])
        if check_tensor("parameter", param, shape, torch.float32, device) is not param:
            raise ValueError(f"parameter: expected a contiguous tensor, got strides {param.stride()}")
        grad = check_tensor("gradient", param.grad, shape, torch.float32, device)
        param.grad = grad  # where it was not contiguous, the copy must live as long as the kernels read it
        state = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0)  # on the CPU: reading it waits for no GPU
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        steps = int(state["step"]) + 1 if corrected else 0
        if corrected:
            state["step"].fill_(steps)
        tensors = (param, grad, state["exp_avg"], state["exp_avg_sq"])
        addresses = (tensor.data_ptr() for tensor in tensors)
        unsound = self.unsound.data_ptr() + place * self.unsound.element_size()
        columns = param.numel() // max(rows, 1)
        return (columns, *addresses, unsound, group["lr"], group["eps"], *group["betas"], steps)


class SparseGaussianAdam(GaussianAdam):
    """Adam that updates only visible rows and their moments (Mallick et al. 2024).

    Without bias correction: a row's number of steps is not the number of iterations.
    """

    @torch.no_grad()
    def step(self, visibility: Tensor, N: int) -> None:
        """visibility: bool (N,). Every parameter has N rows. Raises ValueError otherwise."""
        visibility = check_tensor("visibility", visibility, (N,), torch.bool)
        self._run(N, visibility.device, visibility)
