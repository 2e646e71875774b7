"""The page that shows a run: numbers, curves, distributions and images in one HTML text."""

from __future__ import annotations

import re
from html import escape
from typing import Any, Sequence

from evaluation.report.charts import short
from evaluation.report.curves import curves, distributions
from evaluation.report.html import (
    METRIC_FORMATS,
    SPLIT_TITLES,
    command,
    description,
    document,
    duration,
    note,
)
from evaluation.report.html import format_metric, section, size_of
from evaluation.report.images import image_sections
from evaluation.report.run import RunRecord, dig, is_number, mapping, number
from utils import run_folder
from utils.commands import rounded


def page(run: RunRecord) -> str:
    """Return the whole page as HTML. Raise OSError or ValueError if an image cannot be read."""
    parts = [head(run), sizes(run), curves(run), distributions(run), image_sections(run), all_settings(run)]
    return document(f"{scene_name(run)} – {variant(run)}", "\n".join(parts))


def scene_name(run: RunRecord) -> str:
    return re.split(r"[/\\]", str(run.settings.get("source_path", "")).rstrip("/\\"))[-1] or run.folder.name


def variant(run: RunRecord) -> str:
    return str(run.settings.get("variant", "of another program"))


def head(run: RunRecord) -> str:
    """Return the page's header as HTML: title, warning, tiles, metrics, facts and flags."""
    badge = f'<span class="badge">{escape(variant(run))}</span>'
    done, planned = run.iterations_done, number(run.settings, "iterations")
    of = f" of {planned:,.0f}" if planned else ""
    parts = [f"<header><h1>{escape(scene_name(run))} {badge}</h1>"]
    if run.config and not run.config.get("finished"):
        text = f"Not finished: this run stands at iteration {done:,.0f}{of}."
        parts.append(f'<p class="warning">{text} It was interrupted, or it is still training.</p>')
    parts += [tiles(run), metrics_table(run), facts(run, f"{done:,.0f}{of}"), flags(run), "</header>"]
    return "\n".join(parts)


# Metrics


def measures(run: RunRecord) -> dict[str, dict[str, Any]]:
    """Return the metrics of metrics.py by split; without those, the ones measured during training."""
    if isinstance(run.results, dict):
        found = {"test": run.results, "train": mapping(run.results, "train")}
        return {split: {**found[split], "views": dig(run.results, "views", split)} for split in SPLIT_TITLES}
    return {split: mapping(run.config, "measures", str(run.iteration), split) for split in SPLIT_TITLES}


def tiles(run: RunRecord) -> str:
    """Return the main numbers as large tiles: metrics, Gaussians, size and training time."""
    measured = measures(run)
    split = next((split for split in SPLIT_TITLES if number(measured[split], "PSNR") is not None), "test")
    shown = [
        (f"{metric}, {SPLIT_TITLES[split].lower()}", format_metric(metric, value))
        for metric in METRIC_FORMATS
        if metric != "L1" and (value := number(measured[split], metric)) is not None
    ]
    shown += [("Gaussians", f"{count:,.0f}")] if (count := gaussians(run)) is not None else []
    path = run_folder.point_cloud_path(run.folder, run.iteration)
    shown += [("saved PLY", size_of(path.stat().st_size))] if path.is_file() else []
    seconds = number(run.config, "timing", "training_seconds")
    shown += [("training time", duration(seconds))] if seconds else []
    boxes = "".join(f"<div><b>{value}</b><span>{label}</span></div>" for label, value in shown)
    return f'<div class="tiles">{boxes}</div>'


def gaussians(run: RunRecord) -> float | None:
    """Return the number of saved Gaussians: from the PLY's header, else from config.json."""
    path = run_folder.point_cloud_path(run.folder, run.iteration)
    if path.is_file():
        with open(path, "rb") as file:
            found = re.search(rb"^element vertex (\d{1,18})\s", file.read(4096), re.MULTILINE)
        if found:
            return int(found.group(1))
    return number(run.config, "measures", str(run.iteration), "gaussians")


def metrics_table(run: RunRecord) -> str:
    """Return a table of metrics by split as HTML, or a note that none were measured."""
    measured = {
        split: values
        for split, values in measures(run).items()
        if any(is_number(values.get(metric)) for metric in METRIC_FORMATS)
    }
    if not measured:
        missing = f"No measures of iteration {run.iteration:,}: "
        return note(f"{missing}run {command('metrics.py', run.folder)} first.")
    columns = [
        metric for metric in METRIC_FORMATS if any(is_number(row.get(metric)) for row in measured.values())
    ]
    headings = "".join(f"<th>{metric}</th>" for metric in [*columns, "views"])
    rows = [f"<tr><th>iteration {run.iteration:,}</th>{headings}</tr>"]
    for split, values in measured.items():
        shown = [format_metric(metric, number(values, metric)) for metric in columns]
        shown.append(short(number(values, "views") or 0))
        rows.append(f"<tr><th>{SPLIT_TITLES[split]}</th>{''.join(f'<td>{text}</td>' for text in shown)}</tr>")
    source = "metrics.py, from the saved images" if run.results else "train.py, while training"
    return f"<table>{''.join(rows)}</table>" + note(f"Means over the views, measured by {source}.")


def sizes(run: RunRecord) -> str:
    """Return the section with the models that --save_shares has kept as HTML, empty without any."""
    kept = [
        (int(iteration), saved)
        for iteration, saved in mapping(run.config, "measures").items()
        if iteration.isdecimal() and number(saved, "share") is not None
    ]
    if not kept:
        return ""
    split = next((name for name in SPLIT_TITLES if any(mapping(saved, name) for _, saved in kept)), "test")
    columns = ["Gaussians", "of what had grown", "PSNR", "SSIM"]
    rows = [f"<tr><th>iteration</th>{''.join(f'<th>{name}</th>' for name in columns)}</tr>"]
    for iteration, saved in sorted(kept, key=lambda item: item[0]):
        metrics = [format_metric(name, number(saved, split, name)) for name in ("PSNR", "SSIM")]
        numbers = [f"{number(saved, 'gaussians') or 0:,.0f}", f"{100 * saved['share']:.1f} %", *metrics]
        rows.append(f"<tr><th>{iteration:,}</th>{''.join(f'<td>{text}</td>' for text in numbers)}</tr>")
    about = f"Kept by --save_shares; {SPLIT_TITLES[split].lower()}, measured while training."
    return section("Sizes", f"<table>{''.join(rows)}</table>" + note(about))


# Origin


def facts(run: RunRecord, iterations: str) -> str:
    """Return the run's origin as an HTML list: scene, views, seed, speed, versions and machine."""
    versions = mapping(run.config, "versions")
    speed = number(run.config, "timing", "iterations_per_second")
    memory = number(run.config, "peak_memory_bytes")
    counts = {name: number(run.config, "views", split) or 0 for split, name in SPLIT_TITLES.items()}
    views = ", ".join(f"{count:,.0f} {name.lower()}" for name, count in counts.items())
    rows = {
        "Scene": run.settings.get("source_path"),
        "Run": str(run.folder),
        "Iterations": iterations,
        "Views": views if "views" in run.config else None,
        "Seed": dig(run.config, "seed"),
        "Started": dig(run.config, "started"),
        "Speed": f"{speed:.3g} iterations a second" if speed else None,
        "Peak memory": size_of(memory) if memory else None,
        "Commit": dig(versions, "commit"),
        "Versions": pairs(versions, without=("commit",)),
        "Machine": pairs(mapping(run.config, "machine")),
    }
    return description({label: value for label, value in rows.items() if value not in (None, "")})


def pairs(values: dict[str, Any], without: Sequence[str] = ()) -> str:
    """Format `values` as "name value, name value" and skip empty ones and the names in `without`."""
    known = {name: value for name, value in values.items() if name not in without and value not in (None, "")}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items())


def flags(run: RunRecord) -> str:
    """Return the flags that the variant set and those given by hand, as HTML."""
    given = dig(run.config, "given")
    if not isinstance(given, list):
        return note("What the variant set and what was given by hand is not recorded in this run.")
    by_variant = mapping(run.config, "variant_values").items()
    by_variant = [chip(name, rounded(value), overruled=name in given) for name, value in by_variant]
    by_hand = [chip(str(name), run.settings.get(str(name), "")) for name in given]
    chips = {"Set by the variant": by_variant, "Given by hand": by_hand}
    return "".join(f"<p>{title}: {' '.join(texts) or 'nothing'}</p>" for title, texts in chips.items())


def chip(name: str, value: Any, overruled: bool = False) -> str:
    """Return a flag with its value as HTML, struck through if a flag given by hand overrules it."""
    text = f"<code>--{escape(str(name))}{'' if value is True else ' ' + escape(str(value))}</code>"
    return f'<s title="overruled by hand">{text}</s>' if overruled else text


def all_settings(run: RunRecord) -> str:
    settings = description({name: run.settings[name] for name in sorted(run.settings)})
    return f"<details><summary>All settings</summary>{settings}</details>"
