"""Show a training run on one HTML page: python report.py -m OUTPUT"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

import json
from operator import itemgetter
from pathlib import Path
from typing import Any, Sequence

from arguments.flags import Parser
from utils import run_folder
from utils.commands import run_command
from utils.files import write_text
from utils.report_page import Run, is_number, page

HISTORY_VERSION = 1


def read_run(folder: Path, iteration: int) -> Run:
    """What the folder tells of the run; iteration -1: as of its newest pictures.

    OSError or ValueError if it is no run or a damaged one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"-m {folder}: there is no such folder")
    settings = run_folder.read_cfg_args(folder)
    config = run_folder.read_config(folder)
    iteration = choose_iteration(folder, iteration)
    method, views = f"ours_{iteration}", read_json(folder / "cameras.json", list, [])
    return Run(
        folder=folder,
        iteration=iteration,
        config=config,
        settings=settings | config.get("settings", {}),
        history=checked_history(folder / "history.json"),
        results=read_json(folder / "results.json", dict, {}).get(method),
        per_view=read_json(folder / "per_view.json", dict, {}).get(method),
        names=[str(view.get("img_name", "")) if isinstance(view, dict) else "" for view in views],
    )


def choose_iteration(folder: Path, iteration: int) -> int:
    """`iteration` if there are pictures or Gaussians of it, else FileNotFoundError.

    -1: the newest rendered, without any the newest saved, without any 0.
    """
    folders = [path for split in ("test", "train") for path in (folder / split).glob("ours_*/renders")]
    rendered = {int(path.parent.name[5:]) for path in folders if path.parent.name[5:].isdecimal()}
    saved = set(run_folder.saved_iterations(folder))
    if iteration == -1:
        return max(rendered or saved or {0})
    if iteration not in rendered | saved:
        there = ", ".join(map(str, sorted(rendered | saved))) or "nothing"
        raise FileNotFoundError(
            f"{folder}: iteration {iteration} is neither rendered nor saved, only {there}"
        )
    return iteration


def read_json(path: Path, kind: type, missing: Any) -> Any:
    """The file's content, `missing` without the file. ValueError if it is damaged or not of that `kind`."""
    if not path.is_file():
        return missing
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{path}: not readable as JSON ({problem})") from problem
    if not isinstance(content, kind):
        raise ValueError(f"{path}: expected a JSON {'object' if kind is dict else 'array'}")
    return content


def checked_history(path: Path) -> dict[str, list] | None:
    """The run's history, its parts in the order of iterations; None without the file.

    ValueError names the first entry that is not as train.py writes it. Numbers may be null where nothing was
    measured, iterations may not.
    """
    history = read_json(path, dict, None)
    if history is None:
        return None
    if history.get("version") != HISTORY_VERSION:
        raise ValueError(f"{path}: expected version {HISTORY_VERSION}, got {history.get('version')!r}")
    parts = {}
    checks = {"progress": _is_progress, "steps": _is_step, "distributions": _is_distribution}
    for part, is_right in checks.items():
        entries = history.get(part, [])
        if not isinstance(entries, list):
            raise ValueError(f"{path}: expected '{part}' to be a list")
        for index, entry in enumerate(entries):
            if not is_right(entry):
                raise ValueError(f"{path}: {part}[{index}] is damaged")
        parts[part] = sorted(entries, key=itemgetter(0 if part == "progress" else "iteration"))
    return parts


def _is_progress(entry: Any) -> bool:
    right_type = isinstance(entry, list) and len(entry) == 5 and is_number(entry[0])
    return right_type and all(value is None or is_number(value) for value in entry)


def _is_step(entry: Any) -> bool:
    names = ("iteration", "cloned", "split", "pruned", "gaussians")
    return isinstance(entry, dict) and all(is_number(entry.get(name)) for name in names)


def _is_distribution(entry: Any) -> bool:
    if not isinstance(entry, dict) or not is_number(entry.get("iteration")):
        return False
    values, floaters = entry.get("values", {}), entry.get("floaters", {})
    if not isinstance(values, dict) or not isinstance(floaters, dict):
        return False
    shares_right = all(share is None or is_number(share) for share in floaters.values())
    return shares_right and all(map(_is_histogram, values.values()))


def _is_histogram(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    edges, counts = value.get("edges"), value.get("counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1:
        return False
    numbers = all(map(is_number, edges)) and all(is_number(count) and count >= 0 for count in counts)
    return numbers and all(low <= high for low, high in zip(edges, edges[1:]))


def report_parser() -> Parser:
    parser = Parser(
        prog="report.py",
        usage="report.py -m OUTPUT [flags]",
        description="Write a run's numbers, curves, pictures and errors to one page, OUTPUT/report.html.",
    )
    parser.add_argument(
        "-m", "--model_path", required=True, type=Path, metavar="OUTPUT", help="folder of the run"
    )
    parser.add_argument(
        "--iteration", type=int, default=-1, metavar="N", help="rendered iteration to show, -1: the newest"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    options = report_parser().parse_args(argv)
    text = page(read_run(options.model_path, options.iteration))
    path = options.model_path / "report.html"
    write_text(path, text)
    if not options.quiet:
        print(f"Report: {path} ({len(text.encode()) / 1e6:.1f} MB), for any browser")


if __name__ == "__main__":
    run_command(main)
