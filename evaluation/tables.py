"""The results of full_eval.py's runs as one table: rows -> Markdown, CSV, JSON, and the survey's CSV.

A row is a dictionary. It holds the names of the run (NAMES), its measured numbers (NUMBERS, None where a
number was not measured) and its origin (ORIGINS). A mean over seeds is a row too: its `seed` is "mean of N",
and it has the spread of each number.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any, Callable, Iterable

from arguments import VARIANTS
from utils import run_folder
from utils.files import read_json, refuse_foreign, write_json, write_text
from utils.run_folder import METRICS, SPLITS

RECORD = "eval.json"  # full_eval.py's own record, in the folder of each of its runs
NAMES = ("dataset", "scene", "row", "variant", "seed")
NUMBERS = (
    *(f"{split}_{name}" for split in SPLITS for name in (*METRICS, "views")),
    *("size_bytes", "gaussians", "peak_memory_bytes", "training_minutes"),
)
ORIGINS = ("iterations", "commit", "machine", "command", "folder")
SURVEY = {"PSNR": "test_PSNR", "SSIM": "test_SSIM", "LPIPS": "test_LPIPS",
          "Size [Bytes]": "size_bytes", "#Gaussians": "gaussians"}  # fmt: skip

Row = dict[str, Any]

ABOUT = """# Results

SSIM, PSNR (dB) and LPIPS are means over the views of the saved PLY, rendered to 8-bit images: "test" over
the held-out views (`--eval`), "train" over the training views, or some of them, evenly spaced
(`--train_views`). MB (10^6 bytes) is the size of the PLY, peak MB the memory that training took, minutes its
time. A mean over seeds is followed by its spread [max - min].
"""


# Reading


def read_rows(output: Path) -> list[Row]:
    """Read one row for every finished run below `output`, in the table's order."""
    records = sorted(output.glob(f"*/*/seed_*/{RECORD}"))
    rows = [row for row in (read_row(path.parent, output) for path in records) if row]
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple:
    variants = list(VARIANTS)
    rank = variants.index(row["variant"]) if row["variant"] in variants else len(variants)
    return row["dataset"], row["scene"], rank, row["row"] != row["variant"], row["row"], row["seed"]


def read_row(folder: Path, output: Path) -> Row | None:
    """Read the row of the run in `folder`, below `output`; None if its training has not finished."""
    record, config = read_json(folder / RECORD), run_folder.read_config(folder)
    if not record or not config.get("finished"):
        return None
    iteration = config["iteration"]
    results = read_json(folder / "results.json").get(f"ours_{iteration}", {})
    row: Row = {name: record[name] for name in NAMES}
    for split, values in (("test", results), ("train", results.get("train", {}))):
        row |= {f"{split}_{name}": values.get(name) for name in METRICS}
        row[f"{split}_views"] = results.get("views", config["views"])[split]
    machine = config.get("machine", {})
    where = (f"{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('threads')} threads"
             f", device {machine.get('device')}")  # fmt: skip
    return row | {
        "size_bytes": run_folder.point_cloud_path(folder, iteration).stat().st_size,
        "gaussians": config["measures"][str(iteration)]["gaussians"],
        "peak_memory_bytes": config.get("peak_memory_bytes"),
        "training_minutes": config["timing"]["training_seconds"] / 60,
        "iterations": iteration,
        "commit": config.get("versions", {}).get("commit", ""),
        "machine": where,
        "command": record["command"],
        "folder": folder.relative_to(output).as_posix(),
    }


# Means


def over_seeds(rows: list[Row]) -> list[Row]:
    """Return the mean over seeds for every scene and table row, in the order of `rows`."""
    return [_mean(group) for group in _groups(rows, "scene", "row")]


def over_scenes(means: list[Row]) -> list[Row]:
    """Return the means over scenes of means over seeds; table rows that lack a scene are left out."""
    scenes = {row["scene"] for row in means}
    groups = [group for group in _groups(means, "row") if len(group) == len(scenes)]
    return [_mean(group) | {"scene": f"mean of {len(scenes)} scenes"} for group in groups]


def _groups(rows: list[Row], *keys: str) -> list[list[Row]]:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(groups.values())


def _mean(rows: list[Row]) -> Row:
    """Return the mean of every number, None if a row lacks it, and the `spread` of each, max - min."""
    values = {name: [row[name] for row in rows] for name in NUMBERS}
    known = {name: numbers for name, numbers in values.items() if None not in numbers}
    commands = {re.sub(r"(--seed|/seed_)( ?)\d+", r"\1\2SEED", row["command"]): None for row in rows}
    return {
        **rows[0],
        "seed": f"mean of {len(rows)}",
        **{name: sum(known[name]) / len(rows) if name in known else None for name in NUMBERS},
        "spread": {name: max(numbers) - min(numbers) for name, numbers in known.items()},
        **{name: ", ".join(dict.fromkeys(str(row[name]) for row in rows)) for name in ("commit", "machine")},
        "command": rows[0]["command"] if len(rows) == 1 else "; ".join(commands),
        "folder": rows[0]["folder"] if len(rows) == 1 else "",
    }


# Writing


def write_tables(output: Path) -> list[Row]:
    """Write results.md, .csv and .json, survey.csv and survey/ for the finished runs; return their rows."""
    rows = read_rows(output)
    means = over_seeds(rows)
    write_text(output / "results.md", to_markdown(rows))
    write_text(output / "results.csv", to_csv(rows + [mean for mean in means if mean["seed"] != "mean of 1"]))
    write_json(output / "results.json", {"spread": "max - min over the seeds", "rows": rows, "means": means})
    write_text(output / "survey.csv", to_survey(over_scenes(means)))
    for group in _groups(means, "dataset", "scene"):
        folder = output / "survey" / group[0]["dataset"]
        write_text(folder / f"{group[0]['scene']}.csv", to_survey(group))
    for group in _groups([mean for mean in means if mean["dataset"]], "dataset"):
        write_text(output / "survey" / f"{group[0]['dataset']}.csv", to_survey(over_scenes(group)))
    return rows


def refuse_foreign_tables(output: Path, names: Iterable[dict[str, Any]]) -> None:
    """Raise ValueError if the tables or plots of runs with these `names` would replace a foreign file."""
    about, survey = re.escape(ABOUT[:80].encode()), b"Submethod,PSNR,"
    contents = {"results.md": about, "results.csv": b"dataset,scene,row,", "survey.csv": survey}
    contents["results.json"] = rb'\{\s*"spread":'
    for name in names:
        contents[f"survey/{name['dataset']}/{name['scene']}.csv"] = survey
        if name["dataset"]:
            contents[f"survey/{name['dataset']}.csv"] = survey
        for kind in ("quality", "test_*", "train_*"):
            contents[f"plots/{name['scene']}_{kind}.png"] = rb"(?s)\x89PNG.{0,200}Matplotlib"
    for name, content in contents.items():
        for path in output.glob(name):
            refuse_foreign(path, content)


def to_csv(rows: Iterable[Row]) -> str:
    """Return the rows as CSV: names, numbers, spreads and origins, with a heading line."""
    spreads = [f"{name}_spread" for name in NUMBERS if not name.endswith("_views")]
    lines = [[*NAMES, *NUMBERS, *spreads, *ORIGINS]]
    for row in rows:
        spread = {f"{name}_spread": value for name, value in row.get("spread", {}).items()}
        lines.append([{**row, **spread}.get(name) for name in lines[0]])
    return _csv(lines)


def to_survey(means: Iterable[Row]) -> str:
    """Return the held-out means as CSV, in the columns of the 3DGS compression survey (3dgs.zip)."""
    lines: list[list[Any]] = [["Submethod", *SURVEY]]
    for row in means:
        figures = {name: row[number] for name, number in SURVEY.items()}
        figures |= {name: round(figures[name]) for name in ("Size [Bytes]", "#Gaussians")}
        lines.append([row["row"], *figures.values()])
    return _csv(lines)


def _csv(lines: list[list[Any]]) -> str:
    """Format lines as CSV. None becomes an empty cell; numbers keep all their digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def to_markdown(rows: list[Row]) -> str:
    """Return the table as Markdown: a section for the mean over scenes, then one for each scene."""
    means = over_seeds(rows)
    parts = [ABOUT]
    if len({row["scene"] for row in rows}) > 1 and over_scenes(means):
        # The spread over scenes is dropped, because it says little.
        overall = [row | {"spread": {}} for row in over_scenes(means)]
        parts.append(f"## {overall[0]['scene'].capitalize()}\n\n{_table(overall, with_seed=False)}")
    for group in _groups(rows, "scene"):
        lines = []
        for seeds in _groups(group, "row"):
            lines += seeds + (over_seeds(seeds) if len(seeds) > 1 else [])
        commands = "\n".join(dict.fromkeys(row["command"] for row in over_seeds(group)))
        machines = ", ".join(f"{row['row']}: {row['machine']}" for row in over_seeds(group))
        if len({row["machine"] for row in group}) == 1:
            machines = group[0]["machine"]
        parts.append(f"## {group[0]['scene']}\n\n{_table(lines)}\nOn {machines}:\n\n```\n{commands}\n```\n")
    return "\n".join(parts)


# Heading, number, and the function that formats it.
MARKDOWN: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    *(
        (f"{name} {split}", f"{split}_{name}", lambda value, digits=digits: f"{value:.{digits}f}")
        for split in SPLITS
        for name, digits in (("SSIM", 4), ("PSNR", 2), ("LPIPS", 4), ("views", 0))
    ),
    ("MB", "size_bytes", lambda value: f"{value / 1e6:.2f}"),
    ("Gaussians", "gaussians", lambda value: f"{value:,.0f}"),
    ("peak MB", "peak_memory_bytes", lambda value: f"{value / 1e6:,.0f}"),
    ("minutes", "training_minutes", lambda value: f"{value:.1f}"),
)


def _table(rows: list[Row], with_seed: bool = True) -> str:
    headings = [heading for heading, _, _ in MARKDOWN]
    names = ["seed", *headings] if with_seed else headings
    lines = [["variant", *names, "commit"], ["---", *["---:"] * len(names), "---"]]
    for row in rows:
        cells = [_cell(row, name, format_number) for _, name, format_number in MARKDOWN]
        cells = [str(row["seed"]), *cells] if with_seed else cells
        commit = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{32}", r"\1", row["commit"])
        lines.append([row["row"], *cells, commit or "-"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def summary(row: Row) -> str:
    """Describe a finished run in one line."""
    cells = {heading: _cell(row, name, format_number) for heading, name, format_number in MARKDOWN}
    return "done, " + ", ".join(f"{name} {text}" for name, text in cells.items() if text != "-")


def _cell(row: Row, name: str, format_number: Callable[[float], str]) -> str:
    if row[name] is None:
        return "-"
    spread = row.get("spread", {}).get(name)
    has_spread = spread is not None and "views" not in name
    return format_number(row[name]) + (f" [{format_number(spread)}]" if has_spread else "")
