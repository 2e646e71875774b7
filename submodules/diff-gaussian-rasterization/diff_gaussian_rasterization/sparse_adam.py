"""Adam over all Gaussians, and over those that a view has seen."""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import check_tensor
from .backends import KERNELS
from .backends import KERNELS


class SparseGaussianAdam(torch.optim.Adam):
    """Adam whose step leaves rows that were not visible, and their moments, as they are (Mallick et al. 2024).

    Without bias correction: a row's number of steps is not the number of iterations.
    """

    def __init__(
        self, params, lr: float = 1e-3, eps: float = 1e-8, betas: tuple[float, float] = (0.9, 0.999)
    ):
        super().__init__(params=params, lr=lr, eps=eps, betas=betas)

    @torch.no_grad()
    def step(self, visibility: Tensor, N: int) -> None:
        """visibility: bool (N,). Every parameter has N rows. Raises ValueError otherwise."""
        visibility = check_tensor("visibility", visibility, (N,), torch.bool)
        entries = [
            self._entry(param, group, visibility)
            for group in self.param_groups
            for param in group["params"]
            if param.grad is not None
        ]
        kernels = KERNELS.on("visibility", visibility.device)
        place = kernels.place(visibility.device)
        kernels.module.adam_step(N, visibility.data_ptr(), entries, *place)

    def _entry(self, param: Tensor, group: dict, visibility: Tensor) -> tuple[int | float, ...]:
        """What the kernels want to know of a parameter."""
        rows, device = visibility.shape[0], visibility.device
        shape = (rows, *param.shape[1:])
        if check_tensor("parameter", param, shape, torch.float32, device) is not param:
            raise ValueError(f"parameter: expected a contiguous tensor, got strides {param.stride()}")
        grad = check_tensor("gradient", param.grad, shape, torch.float32, device)
        param.grad = grad  # where it was not contiguous, the copy must live as long as the kernels read it
        state = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        tensors = (param, grad, state["exp_avg"], state["exp_avg_sq"])
        addresses = (tensor.data_ptr() for tensor in tensors)
        return (param.numel() // max(rows, 1), *addresses, group["lr"], group["eps"], *group["betas"], 0)
