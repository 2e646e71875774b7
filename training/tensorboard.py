"""Curves for TensorBoard, where it is installed."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor


class TensorBoardLog:
    """The log that writes event files under 3DGS's names; nothing without TensorBoard or a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._writer = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._writer = None
        else:
            self._writer = SummaryWriter(str(folder))

    def training(self, iteration: int, loss: float, psnr: float, gaussians: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar("train_loss_patches/total_loss", loss, iteration)
            self._writer.add_scalar("train_loss_patches/psnr", psnr, iteration)
            self._writer.add_scalar("total_points", gaussians, iteration)

    def views(self, iteration: int, name: str, l1: float, psnr: float) -> None:
        """Log averages over a set of views; `name` is `train` or `test`."""
        if self._writer is not None:
            self._writer.add_scalar(f"{name}/loss_viewpoint - l1_loss", l1, iteration)
            self._writer.add_scalar(f"{name}/loss_viewpoint - psnr", psnr, iteration)

    def opacities(self, iteration: int, opacities: Tensor) -> None:
        if self._writer is not None:
            self._writer.add_histogram("scene/opacity_histogram", opacities, iteration)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
