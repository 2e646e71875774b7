"""Checkpoints: one safetensors file with tensors and a JSON record. Nothing in it is ever executed."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from utils.files import write_atomically
from utils.ranks import ALONE, Ranks

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

DTYPES = {  # by their names in safetensors files
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint8: "U8",
}
RENAMED = {  # tensors of earlier versions, and their names today
    "statistics.energy": "statistics.contribution",
    "statistics.energy_so_far": "statistics.contribution_so_far",
    "totals.error_share": "totals.mean_error_per_gaussian",
    "network.centre": "network.center",
}
ADDED = {"totals.thinned": 0.0}  # tensors that earlier versions did not write, as these versions behaved


def save_checkpoint(
    path: str | os.PathLike, tensors: dict[str, Tensor], record: dict[str, Any], ranks: Ranks = ALONE
) -> None:
    """Write a checkpoint. Raise OSError if that fails; an earlier file at `path` is untouched then.

    The first of several ranks writes it, with the rows of all.
    """
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    about = {RECORD: json.dumps(record)}
    if ranks.count > 1:
        return _save_of_all(path, contiguous, about, ranks)
    try:
        write_atomically(path, lambda file: safetensors.torch.save_file(contiguous, file.name, about))
    except SafetensorError as problem:
        raise OSError(f"{path}: could not be written ({problem})") from problem


def _save_of_all(
    path: str | os.PathLike, tensors: dict[str, Tensor], about: dict[str, str], ranks: Ranks
) -> None:
    """Write a safetensors file with the rows of all ranks, of which the first holds one rank's at a time."""
    counts = ranks.counts(len(tensors["raw.means"]), torch.device("cpu"))
    header, end = {"__metadata__": about}, 0
    for name, tensor in tensors.items():
        shape = [sum(counts), *tensor.shape[1:]] if is_by_row(name) else list(tensor.shape)
        begin, end = end, end + math.prod(shape) * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def parts() -> Iterator[Tensor]:
        for name, tensor in tensors.items():
            if is_by_row(name):
                yield from ranks.to_first(tensor, counts)
            elif ranks.is_first:
                yield tensor

    coming = parts()

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in coming:
            file.write(part.contiguous().numpy().tobytes())

    try:
        if ranks.is_first:
            write_atomically(path, write)
    finally:
        list(coming)  # other ranks wait until they are heard


def is_by_row(name: str) -> bool:
    """Return whether a tensor of a checkpoint has a row for each Gaussian."""
    kind, _, entry = name.partition(".")
    return kind in ("raw", "statistics", "tags", "held") or kind == "adam" and not entry.endswith(".step")


def load_checkpoint(
    path: str | os.PathLike, ranks: Ranks = ALONE
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the record; each of several ranks gets its share of the rows.

    FileNotFoundError, or ValueError for another kind of file.
    """
    with _opened(path) as (file, record):
        names = {name: RENAMED.get(name, name) for name in file.keys()}

        def read(name: str) -> Tensor:
            if ranks.count == 1 or not is_by_row(names[name]):
                return file.get_tensor(name)
            rows = file.get_slice(name)
            count = rows.get_shape()[0]
            return rows[count * ranks.rank // ranks.count : count * (ranks.rank + 1) // ranks.count]

        tensors = {new: read(name) for name, new in names.items()}
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
