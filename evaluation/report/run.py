"""The record that report.py reads from a run's folder, which may be incomplete, damaged or foreign."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from utils import history, run_folder
from utils.files import read_json
from utils.run_folder import SPLITS


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run's folder. Only `history` is validated; other values may have any type."""

    folder: Path
    iteration: int  # of the images and metrics shown
    config: dict[str, Any]
    settings: dict[str, Any]
    history: dict[str, list] | None
    results: Any  # of results.json, at `iteration`
    per_view: Any
    names: list[str]  # of the photos, held-out views first

    @property
    def iterations_done(self) -> float:
        progress = self.history["progress"] if self.history else []
        return max(number(self.config, "iteration") or 0, progress[-1][0] if progress else 0, self.iteration)

    def per_view_of(self, split: str) -> Any:
        return self.per_view if split == "test" else dig(self.per_view, "train")


# Reading


def read_run(folder: Path, iteration: int) -> RunRecord:
    """Read the record of a run. iteration: -1 for that of the newest renders.

    Raise OSError or ValueError if the folder holds no run or a damaged one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"-m {folder}: there is no such folder")
    settings = run_folder.read_cfg_args(folder)
    config = run_folder.read_config(folder)
    iteration = choose_iteration(folder, iteration)
    method, views = f"ours_{iteration}", read_json(folder / "cameras.json", list)
    return RunRecord(
        folder=folder,
        iteration=iteration,
        config=config,
        settings=settings | config.get("settings", {}),
        history=read_history(folder / history.FILE_NAME),
        results=read_json(folder / "results.json").get(method),
        per_view=read_json(folder / "per_view.json").get(method),
        names=[str(view.get("img_name", "")) if isinstance(view, dict) else "" for view in views],
    )


def choose_iteration(folder: Path, iteration: int) -> int:
    """Return `iteration`, or for -1 the newest rendered one, else the newest saved one, else 0.

    Raise FileNotFoundError if `iteration` is neither rendered nor saved.
    """
    folders = [path.parent.name for split in SPLITS for path in (folder / split).glob("ours_*/renders")]
    rendered = {int(name[5:]) for name in folders if name[5:].isdecimal()}
    saved = set(run_folder.saved_iterations(folder))
    if iteration == -1:
        return max(rendered or saved or {0})
    if iteration not in rendered | saved:
        found = ", ".join(map(str, sorted(rendered | saved))) or "nothing"
        message = f"iteration {iteration} is neither rendered nor saved, only {found}"
        raise FileNotFoundError(f"{folder}: {message}")
    return iteration


def read_history(path: Path) -> dict[str, list] | None:
    """Read a run's history, each part in the order of iterations; None without the file.

    Numbers may be null if nothing was measured; iterations may not. Raise ValueError, which names the first
    malformed entry, if the file is not as train.py writes it.
    """
    if not path.is_file():
        return None
    record, parts = read_json(path), {}
    if record.get("version") != history.VERSION:
        raise ValueError(f"{path}: expected version {history.VERSION}, got {record.get('version')!r}")
    checks = {"progress": _is_progress, "steps": _is_step, "distributions": _is_distribution}
    for part, is_valid in checks.items():
        entries = record.get(part, [])
        if not isinstance(entries, list):
            raise ValueError(f"{path}: expected '{part}' to be a list")
        for index, entry in enumerate(entries):
            if not is_valid(entry):
                raise ValueError(f"{path}: {part}[{index}] is damaged")
        parts[part] = sorted(entries, key=itemgetter(0 if part == "progress" else "iteration"))
    return parts


def _is_progress(entry: Any) -> bool:
    is_row = isinstance(entry, list) and len(entry) == 5 and is_number(entry[0])
    return is_row and all(value is None or is_number(value) for value in entry)


def _is_step(entry: Any) -> bool:
    names = ("iteration", "cloned", "split", "pruned", "gaussians")
    return all(number(entry, name) is not None for name in names)


def _is_distribution(entry: Any) -> bool:
    if number(entry, "iteration") is None:
        return False
    values, floaters = entry.get("values", {}), entry.get("floaters", {})
    if not isinstance(values, dict) or not isinstance(floaters, dict):
        return False
    scalars = [*floaters.values(), entry.get("importance_correlation")]
    are_numbers = all(value is None or is_number(value) for value in scalars)
    return are_numbers and all(map(_is_histogram, values.values()))


def _is_histogram(value: Any) -> bool:
    edges, counts = dig(value, "edges"), dig(value, "counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1:
        return False
    are_numbers = all(map(is_number, edges)) and all(is_number(count) and count >= 0 for count in counts)
    return are_numbers and all(low <= high for low, high in zip(edges, edges[1:]))


# Values that may be missing


def is_number(value: Any) -> bool:
    """Return whether `value` is a finite JSON number, small enough to draw."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def dig(tree: Any, *keys: str) -> Any:
    """Return the value at the end of the path `keys`, None if there is no such path."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def mapping(tree: Any, *keys: str) -> dict[str, Any]:
    """Return the dictionary at the path `keys`, an empty one if there is none."""
    found = dig(tree, *keys)
    return found if isinstance(found, dict) else {}


def number(tree: Any, *keys: str) -> float | None:
    """Return the number at the path `keys`, None if there is none."""
    value = dig(tree, *keys)
    return value if is_number(value) else None
