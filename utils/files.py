"""Atomic writing of files: a reader never sees a half-written one."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Callable


LEFTOVERS = ".*.part*"  # temporary files of killed processes


@contextlib.contextmanager
def replacing(path: str | os.PathLike, suffix: str = "") -> Iterator[Path]:
    """Let the block write to a temporary path beside `path`, then replace `path` by that file in one step.

    Missing parent folders are created. If the block raises (or Ctrl-C arrives), the temporary file is removed
    and an earlier file at `path` is untouched. suffix: the end of the temporary name, for writers that choose
    a format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, writer: Callable[[BinaryIO], object]) -> None:
    """Let `writer` fill a file that then replaces `path` in one step.

    Raise OSError, which names `path`, if it cannot be written.
    """
    try:
        with replacing(path) as temporary, open(temporary, "xb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        raise OSError(problem.errno, f"could not be written: {problem.strerror}", str(path)) from problem


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of killed processes in `folder`, by the names that only `replacing` gives."""
    for path in folder.glob(LEFTOVERS):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.part(\.[a-z.]+)?", path.name):
            path.unlink()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity, which JSON does not have, become null."""
    write_text(path, json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON object (dict) or array (list), as `kind` says; empty without the file.

    Raise ValueError if the file is damaged or of another kind.
    """
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{path}: not readable as JSON ({problem})") from problem
    if not isinstance(value, kind):
        raise ValueError(f"{path}: expected a JSON {'object' if kind is dict else 'array'}")
    return value


def refuse_foreign(path: Path, content: bytes) -> None:
    """Raise ValueError if a file at `path` does not begin with a match of the regular expression `content`.

    Called for outputs before any long work, so that a file of another kind is not overwritten.
    """
    if path.is_dir() or (path.exists() and not re.match(content, path.read_bytes())):
        raise ValueError(
            f"{path} is not a file that this command writes: move it away, or give another folder"
        )


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise ValueError if an existing file of `outputs` is one of the command's `inputs`, or lies in one."""
    read = {path.resolve() for path in inputs}
    for path in outputs:
        if path.exists() and read & {path.resolve(), *path.resolve().parents}:
            raise ValueError(f"{path} is read by this command, which would replace it: give another folder")


def remove_empty_folders(path: Path, top: Path) -> None:
    """Remove the folder `path` and its parents below `top` if they are empty."""
    while path != top and not any(path.iterdir()):
        path.rmdir()
        path = path.parent


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
