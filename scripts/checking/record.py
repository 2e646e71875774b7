"""Results of the steps in four small files: summary.md, gpu.json, kernels.json, logs.tar.gz."""

from __future__ import annotations

import csv
import io
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from checking.steps import DEMO_ITERATIONS, DEMO_VARIANTS
from checking.supervision import LARGEST_LOG, PROJECT, Step, last_lines
from utils.files import read_json, write_atomically, write_json, write_text

FILES = ("summary.md", "gpu.json", "kernels.json", "logs.tar.gz")
STEPS_TIMED = ("step", "step_of_method")  # by gpu_step.py
LINES, COLUMNS = 10, 160  # of a failed step's log in the summary
KERNELS_SHOWN = 12
WITHIN_DB = 0.5  # of the CPU's PSNR; two seeds differ by 0.1 dB
Table = list[list[str]]  # rows, the first of them is the head


def write_record(output: Path, steps: list[Step], work: Path, logs: Path) -> None:
    """Write all four files anew. OSError if that is not possible."""
    figures = read_figures(work)
    kernels = take_kernels(figures)
    write_text(output / "summary.md", summary(steps, work, logs))
    write_json(output / "gpu.json", {"steps": [asdict(step) for step in steps], **figures})
    write_json(output / "kernels.json", kernels)
    write_atomically(output / "logs.tar.gz", lambda file: file.write(packed_logs(logs)))


def read_figures(work: Path) -> dict[str, Any]:
    """Return what the steps have written, by step; empty where they have not."""
    found: dict[str, Any] = {name: read_json(work / f"{name}.json") for name in ("smoke", *STEPS_TIMED)}
    trained = [*(f"demo {variant}" for variant in DEMO_VARIANTS), "scene"]
    return found | {"trained": {name: read_training(work / name) for name in trained}}


def read_training(model: Path) -> dict[str, Any]:
    """Return Gaussians, seconds and held-out PSNR and SSIM of a trained model, as far as they are there."""
    config, results = read_json(model / "config.json"), read_json(model / "results.json")
    iteration = config.get("iteration")
    measured = results.get(f"ours_{iteration}", {})
    saved = config.get("measures", {}).get(str(iteration), {})
    return {
        "iterations": iteration,
        "gaussians": saved.get("gaussians"),
        "seconds": config.get("timing", {}).get("training_seconds"),
        "PSNR": measured.get("PSNR"),
        "SSIM": measured.get("SSIM"),
    }


def cpu_figures(variant: str) -> dict[str, float]:
    """Return the same of the bundled scene on the CPU, from docs/data/results.csv."""
    with open(PROJECT / "docs/data/results.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["scene"], row["row"]) == ("demo", variant)]
    row = next(row for row in rows if row["seed"] == "0")
    figures = {"PSNR": "test_PSNR", "SSIM": "test_SSIM", "gaussians": "gaussians"}
    return {name: float(row[column]) for name, column in figures.items()}


def take_kernels(figures: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Move the kernel tables out of what gpu_step.py has written; return them by what was measured."""
    tables = {}
    for name in STEPS_TIMED:
        for workload in figures[name].get("workloads", []):
            title = f"{name.replace('_', ' ')}, {workload['gaussians']:,} Gaussians"
            tables[title] = workload.pop("kernels")
            for other, timed in workload.get("gsplat", {}).items():
                if other != "problem":
                    tables[f"{title}, {other}"] = timed.pop("kernels")
    return tables


def packed_logs(logs: Path) -> bytes:
    """Return a tar.gz of all logs; of long ones the end."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for log in sorted(logs.iterdir()):
            with open(log, "rb") as file:
                file.seek(max(0, log.stat().st_size - LARGEST_LOG))
                text = file.read()
            entry = tarfile.TarInfo(log.name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return content.getvalue()


# The summary


def summary(steps: list[Step], work: Path, logs: Path) -> str:
    """Return the outcome in one line, what failed with the end of its log, then all tables."""
    figures, asked = read_figures(work), without_machine(steps)
    text = ["# On a GPU", "", headline(asked), *doubts(figures["trained"]), ""]
    text += [f"- {step.name}: {machine_line(step, logs)}" for step in steps if step.part == "machine"]
    for step in asked:
        text += failure(step, logs)
    kernels = take_kernels(figures)
    tables = [steps_table(asked), trainings_table(figures["trained"])]
    tables += [times_table(figures[name], name.replace("_", " ")) for name in STEPS_TIMED]
    tables += [kernels_table(name, rows) for name, rows in kernels.items()]
    for table in tables:
        text += ["", *markdown(table)] if len(table) > 1 else []
    return "\n".join(text) + "\n"


def without_machine(steps: list[Step]) -> list[Step]:
    """Return the steps that can fail: what the machine is called may stay unknown."""
    return [step for step in steps if step.part != "machine"]


def failure(step: Step, logs: Path) -> list[str]:
    """Return the end of the log of a step that failed; nothing where it has not, or left no log."""
    lines = last_lines(step.log(logs), LINES) if step.failed else []
    head = ["", f"{step.name}, {step.outcome}:", ""] if lines else []
    return head + [f"    {line[:COLUMNS]}" for line in lines]


def headline(steps: list[Step]) -> str:
    passed = sum(step.passed for step in steps)
    failed = [step.name for step in steps if step.failed]
    return f"{passed} of {len(steps)} steps passed" + (f"; failed: {', '.join(failed)}" if failed else "")


def doubts(trained: dict[str, dict[str, Any]]) -> list[str]:
    """Return a sentence for each training that is not as good as on the CPU."""
    found = []
    for variant in DEMO_VARIANTS:
        ours, wanted = trained[f"demo {variant}"], cpu_figures(variant)
        if comparable(ours) and ours["PSNR"] < wanted["PSNR"] - WITHIN_DB:
            found.append(f"demo {variant}: {ours['PSNR']:.2f} dB, the CPU has {wanted['PSNR']:.2f}")
    return found


def comparable(figures: dict[str, Any]) -> bool:
    """Return whether a training was measured that was as long as the CPU's."""
    return figures["PSNR"] is not None and figures["iterations"] == DEMO_ITERATIONS


def machine_line(step: Step, logs: Path) -> str:
    lines = last_lines(step.log(logs), 1)
    return lines[0] if step.passed and lines else step.outcome


def steps_table(steps: list[Step]) -> Table:
    return [
        ["step", "outcome", "seconds"],
        *([step.name, step.outcome, f"{step.seconds:.0f}"] for step in steps),
    ]


def trainings_table(trained: dict[str, dict[str, Any]]) -> Table:
    """Return a row for each training that was begun, and one for the CPU's below it."""
    table = [["training", "Gaussians", "PSNR", "SSIM", "seconds"]]
    for name, figures in trained.items():
        if figures["iterations"] is None:
            continue
        columns = ("gaussians", "PSNR", "SSIM", "seconds")
        table.append([name, *(shown(figures[column]) for column in columns)])
        if comparable(figures) and name.startswith("demo "):
            cpu = cpu_figures(name.removeprefix("demo "))
            table.append(["the same on the CPU", *(shown(cpu[column]) for column in columns[:-1]), ""])
    return table


def times_table(record: dict[str, Any], name: str) -> Table:
    """Return milliseconds by stage, a column for each number of Gaussians."""
    workloads = record.get("workloads", [])
    columns = [times_of(workload) for workload in workloads]
    rows = list(dict.fromkeys(row for column in columns for row in column))
    head = [f"{name}, ms", *(f"{workload['gaussians']:,}" for workload in workloads)]
    return [head, *([row, *(shown(column.get(row)) for column in columns)] for row in rows)]


def times_of(workload: dict[str, Any]) -> dict[str, Any]:
    times = dict(workload["milliseconds"])
    for name, figures in workload.get("gsplat", {}).items():
        times |= {"gsplat": figures} if name == "problem" else figures["milliseconds"]
    extra = {"pairs, millions": workload["pairs"] / 1e6, "peak memory, GB": workload["peak_bytes"] / 1e9}
    return times | extra | {"parameters moved, GB/s": workload["bytes_per_second"] / 1e9}


def kernels_table(name: str, rows: list[dict[str, Any]]) -> Table:
    head = [f"kernel, {name}", "calls", "us"]
    shortened = (row["kernel"][:60].replace("|", "/") for row in rows)
    return [head] + [
        [kernel, f"{row['calls']:.0f}", f"{row['microseconds']:.0f}"]
        for kernel, row in list(zip(shortened, rows))[:KERNELS_SHOWN]
    ]


def shown(value: Any) -> str:
    """Return a number with three digits or more, or what else stands in a table."""
    if not isinstance(value, (int, float)):
        return str(value or "")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def markdown(table: Table) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return [lines[0], "|" + "---|" * len(table[0]), *lines[1:]]
