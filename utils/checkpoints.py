"""Checkpoints: one safetensors file with tensors and a JSON record. Nothing in it is ever executed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
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


def save_checkpoint(path: str | os.PathLike, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(contiguous, {RECORD: json.dumps(record)})
    write_atomically(path, lambda file: file.write(content))


def load_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU and the record. FileNotFoundError, or ValueError for a file that is none of ours."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with safe_open(str(path), framework="pt") as file:
            record = json.loads((file.metadata() or {})[RECORD])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, ValueError) as problem:
        raise ValueError(f"{path}: not a checkpoint written by train.py (chkpntN.safetensors)") from problem
    _check_record(path, record)
    return tensors, record


def _check_record(path: str | os.PathLike, record: Any) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{path}: the checkpoint's record is no JSON object")
    for key, kind in RECORD_KEYS.items():
        if not isinstance(record.get(key), kind):
            raise ValueError(f"{path}: the checkpoint's record has no valid {key!r}, got {record.get(key)!r}")
