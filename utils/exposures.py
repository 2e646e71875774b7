"""An exposure for every view: colors c become A c + b, with A (3, 3) and b (3,) that are learnt.

Kerbl et al. 2024 (A Hierarchical 3D Gaussian Representation) compensate exposure changes like this. In a
run's folder they are exposure.json: {image name: [[a11, a12, a13, b1], ...]}, three rows of four.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from utils.files import read_json, write_json
from utils.ranks import Ranks

FILE = "exposure.json"


class Exposures:
    """The exposures of some views by image name; the identity for other views and before training."""

    def __init__(self, names: list[str], device: torch.device) -> None:
        self.indices = {name: index for index, name in enumerate(names)}
        identity = torch.eye(3, 4, device=device).repeat(len(names), 1, 1)
        self.matrices = identity.requires_grad_()  # (V, 3, 4)
        self.optimizer = torch.optim.Adam([self.matrices], lr=0.0)

    def apply(self, image: Tensor, name: str) -> Tensor:
        """Return the image (3, H, W) as the view `name` was exposed."""
        if name not in self.indices:
            return image
        matrix = self.matrices[self.indices[name]]
        return torch.einsum("ij,jhw->ihw", matrix[:, :3], image) + matrix[:, 3, None, None]

    def gather(self, ranks: Ranks) -> None:
        """Add up the gradients of all ranks, each of which has rendered some of the views."""
        if ranks.count == 1:
            return
        if self.matrices.grad is None:
            self.matrices.grad = torch.zeros_like(self.matrices)
        self.matrices.grad = ranks.sum(self.matrices.grad)

    def step(self, rate: float) -> None:
        """Take one Adam step and drop the gradient."""
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        tensors = {"exposures": self.matrices.detach()}
        state = self.optimizer.state.get(self.matrices, {})
        return tensors | {f"exposures.{key}": torch.as_tensor(value) for key, value in state.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned. Raise KeyError or RuntimeError if it does not fit."""
        with torch.no_grad():
            self.matrices.copy_(tensors["exposures"])
        for key, value in tensors.items():
            if key.startswith("exposures."):
                entry = key.removeprefix("exposures.")
                device = "cpu" if entry == "step" else self.matrices.device
                self.optimizer.state[self.matrices][entry] = value.to(device, copy=True)

    def save(self, folder: Path) -> None:
        matrices = self.matrices.detach().cpu().tolist()
        write_json(folder / FILE, {name: matrices[index] for name, index in self.indices.items()})

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Exposures:
        """Return the exposures of the run in `folder`.

        Raise FileNotFoundError or ValueError, naming the file.
        """
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: the run was trained with --train_test_exp")
        content = read_json(path)
        for name, rows in content.items():
            if not _is_matrix(rows):
                raise ValueError(f"{path}: {name} needs three rows of four finite numbers, got {rows!r}")
        exposures = cls(list(content), device)
        with torch.no_grad():
            exposures.matrices.copy_(torch.tensor(list(content.values())).reshape(-1, 3, 4))
        return exposures


def _is_matrix(rows: object) -> bool:
    if not isinstance(rows, list) or [isinstance(row, list) and len(row) for row in rows] != [4, 4, 4]:
        return False
    numbers = [number for row in rows for number in row]
    return all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
