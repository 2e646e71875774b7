"""Checkpoints: one safetensors file with tensors and a JSON record. Nothing in it is ever executed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from utils.files import write_atomically

RECORD = "record"  # the metadata entry that holds the JSON
RECORD_KEYS = {
    "iteration": int,
    "active_sh_degree": int,
    "training_views": int,
    "seconds": (int, float),
    "settings": dict,
    "measures": dict,
    "history": dict,
}

RENAMED = {  # tensors of earlier versions, and their names today
    "statistics.energy": "statistics.contribution",
    "statistics.energy_so_far": "statistics.contribution_so_far",
    "totals.error_share": "totals.mean_error_per_gaussian",
    "network.centre": "network.center",
}
ADDED = {"totals.thinned": 0.0}  # tensors that earlier versions did not write, as these versions behaved


def save_checkpoint(path: str | os.PathLike, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write a checkpoint. Raise OSError if that fails; an earlier file at `path` is untouched then."""
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    about = {RECORD: json.dumps(record)}
    try:
        write_atomically(path, lambda file: safetensors.torch.save_file(contiguous, file.name, about))
    except SafetensorError as problem:
        raise OSError(f"{path}: could not be written ({problem})") from problem


def load_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the record.

    FileNotFoundError, or ValueError for another kind of file.
    """
    with _opened(path) as (file, record):
        tensors = {RENAMED.get(name, name): file.get_tensor(name) for name in file.keys()}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in ADDED.items()} | tensors, record


def newest_checkpoint(paths: Iterable[Path]) -> Path | None:
    """Return the checkpoint of most iterations, None of none. ValueError for another kind of file."""

    def iteration(path: Path) -> int:
        with _opened(path) as (_, record):
            return record["iteration"]

    return max(paths, key=iteration, default=None)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a checkpoint and yield the file and its record."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with safe_open(str(path), framework="pt") as file:
            record = json.loads((file.metadata() or {})[RECORD])
            _check_record(path, record)
            yield file, record
    except (SafetensorError, KeyError, json.JSONDecodeError, RecursionError) as problem:
        raise ValueError(f"{path}: not a checkpoint written by train.py (chkpntN.safetensors)") from problem


def _check_record(path: str | os.PathLike, record: Any) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{path}: the checkpoint's record is no JSON object")
    for key, kind in RECORD_KEYS.items():
        if not isinstance(record.get(key), kind):
            raise ValueError(f"{path}: the checkpoint's record has no valid {key!r}, got {record.get(key)!r}")
