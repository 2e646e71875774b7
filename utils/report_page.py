"""The page that shows a run: numbers, curves, distributions, pictures; one HTML text, sufficient in itself."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Sequence

import cv2
import numpy as np

from utils import run_folder
from utils.charts import Axis, Chart, between, quantile, round_step, running_mean, short
from utils.images import read_image, resize_image

SPLITS = {"test": "Held-out views", "train": "Training views"}
METRICS = {"PSNR": (2, " dB"), "SSIM": (4, ""), "LPIPS": (4, ""), "L1": (4, "")}  # digits, unit
DISTRIBUTIONS = {
    "E_k": "Error E_k",
    "s_k": "Importance s_k",
    "opacity": "Opacity",
    "age": "Age in iterations",
}
FLOATERS = {"low_opacity": "of opacity below 0.1", "near_camera": "in the nearest tenth of the depth range"}

MOST_VIEWS = 6  # shown of the first split; of another one half as many
PICTURE_SIDE, PICTURE_HEIGHT_SHOWN, JPEG_QUALITY = 500, 314, 85  # pixels


@dataclass(frozen=True)
class Run:
    """What a run's folder tells. Only `history` is checked, the types of all else are not to be trusted."""

    folder: Path
    iteration: int  # of the pictures and measures shown
    config: dict[str, Any]
    settings: dict[str, Any]
    history: dict[str, list] | None
    results: Any  # of results.json, at `iteration`
    per_view: Any
    names: list[str]  # of the photos, held-out views first


def page(run: Run) -> str:
    """The whole page. OSError or ValueError for pictures that cannot be read."""
    name = scene_name(run)
    content = "\n".join([head(run, name), curves(run), distributions(run), pictures(run), all_settings(run)])
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} – {escape(variant(run))}</title><style>{CSS}</style></head>\n"
        f"<body><main>\n{content}\n</main></body></html>\n"
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can hold what UTF-8 cannot


# What may be missing


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def dig(tree: Any, *keys: str) -> Any:
    """What lies at the end of `keys`, None if there is no such path."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def mapping(tree: Any, *keys: str) -> dict[str, Any]:
    found = dig(tree, *keys)
    return found if isinstance(found, dict) else {}


def number(tree: Any, *keys: str) -> float | None:
    value = dig(tree, *keys)
    return value if is_number(value) else None


def command(run: Run, name: str) -> str:
    return f"<code>python {name} -m {escape(str(run.folder))}</code>"


def section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>\n{content}</section>"


def note(text: str) -> str:
    """`text` in HTML."""
    return f'<p class="note">{text}</p>'


# Head


def scene_name(run: Run) -> str:
    return re.split(r"[/\\]", str(run.settings.get("source_path", "")).rstrip("/\\"))[-1] or run.folder.name


def variant(run: Run) -> str:
    return str(run.settings.get("variant", "of another program"))


def head(run: Run, name: str) -> str:
    parts = [f'<header><h1>{escape(name)} <span class="badge">{escape(variant(run))}</span></h1>']
    done, planned = iterations_done(run), number(run.settings, "iterations")
    if run.config and not run.config.get("finished"):
        text = f"Not finished: this run stands at iteration {done:,.0f}"
        text += f" of {planned:,.0f}" if planned else ""
        parts.append(f'<p class="warning">{text}. It was interrupted, or it is still training.</p>')
    parts += [tiles(run), metrics_table(run), facts(run, done, planned), flags(run), "</header>"]
    return "\n".join(parts)


def iterations_done(run: Run) -> float:
    progress = run.history["progress"] if run.history else []
    return max(number(run.config, "iteration") or 0, progress[-1][0] if progress else 0, run.iteration)


def measures(run: Run) -> dict[str, dict[str, Any]]:
    """Of metrics.py by split; without those, what training measured."""
    if isinstance(run.results, dict):
        found = {"test": run.results, "train": mapping(run.results, "train")}
        return {split: {**found[split], "views": dig(run.results, "views", split)} for split in SPLITS}
    return {split: mapping(run.config, "measures", str(run.iteration), split) for split in SPLITS}


def tiles(run: Run) -> str:
    measured = measures(run)
    split = next((split for split in SPLITS if number(measured[split], "PSNR") is not None), "test")
    shown = [
        (f"{metric}, {SPLITS[split].lower()}", shown_metric(metric, value))
        for metric in METRICS
        if metric != "L1" and (value := number(measured[split], metric)) is not None
    ]
    shown += [("Gaussians", f"{count:,.0f}")] if (count := gaussians(run)) is not None else []
    shown += [("saved PLY", size_of(size))] if (size := ply_size(run)) else []
    seconds = number(run.config, "timing", "training_seconds")
    shown += [("training time", duration(seconds))] if seconds else []
    boxes = "".join(f"<div><b>{value}</b><span>{label}</span></div>" for label, value in shown)
    return f'<div class="tiles">{boxes}</div>'


def shown_metric(metric: str, value: float | None) -> str:
    digits, unit = METRICS[metric]
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def metrics_table(run: Run) -> str:
    measured = {
        split: row for split, row in measures(run).items() if any(is_number(row.get(m)) for m in METRICS)
    }
    columns = [metric for metric in METRICS if any(is_number(row.get(metric)) for row in measured.values())]
    if not columns:
        return note(f"No measures of iteration {run.iteration:,}: run {command(run, 'metrics.py')} first.")
    source = "metrics.py, from the saved pictures" if run.results else "train.py, while training"
    head_row = "".join(f"<th>{metric}</th>" for metric in [*columns, "views"])
    rows = [f"<tr><th>iteration {run.iteration:,}</th>{head_row}</tr>"]
    for split, values in measured.items():
        shown = [shown_metric(metric, number(values, metric)) for metric in columns]
        shown.append(short(number(values, "views") or 0))
        rows.append(f"<tr><th>{SPLITS[split]}</th>{''.join(f'<td>{text}</td>' for text in shown)}</tr>")
    return f"<table>{''.join(rows)}</table>" + note(f"Means over the views, measured by {source}.")


def facts(run: Run, done: float, planned: float | None) -> str:
    machine, versions = mapping(run.config, "machine"), mapping(run.config, "versions")
    speed = number(run.config, "timing", "iterations_per_second")
    memory = number(run.config, "peak_memory_bytes")
    views = [
        f"{number(run.config, 'views', split) or 0:,.0f} {name.lower()}" for split, name in SPLITS.items()
    ]
    rows = {
        "Scene": run.settings.get("source_path"),
        "Run": str(run.folder),
        "Iterations": f"{done:,.0f}" + (f" of {planned:,.0f}" if planned else ""),
        "Views": ", ".join(views) if "views" in run.config else None,
        "Seed": dig(run.config, "seed"),
        "Started": dig(run.config, "started"),
        "Speed": f"{speed:.3g} iterations a second" if speed else None,
        "Peak memory": size_of(memory) if memory else None,
        "Commit": dig(versions, "commit"),
        "Versions": pairs(versions, without=("commit",)),
        "Machine": pairs(machine),
    }
    return description({label: value for label, value in rows.items() if value not in (None, "")})


def description(rows: dict[str, Any]) -> str:
    items = (f"<dt>{escape(str(label))}</dt><dd>{escape(str(value))}</dd>" for label, value in rows.items())
    return f"<dl>{''.join(items)}</dl>"


def pairs(values: dict[str, Any], without: Sequence[str] = ()) -> str:
    known = {name: value for name, value in values.items() if name not in without and value not in (None, "")}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items())


def flags(run: Run) -> str:
    """What the variant set, and what was given by hand."""
    given = dig(run.config, "given")
    if not isinstance(given, list):
        return note("What the variant set and what was given by hand is not recorded in this run.")
    by_variant = mapping(run.config, "variant_values").items()
    by_variant = [chip(name, value, overruled=name in given) for name, value in by_variant]
    by_hand = [chip(str(name), run.settings.get(str(name), "")) for name in given]
    chips = {"Set by the variant": by_variant, "Given by hand": by_hand}
    return "".join(f"<p>{title}: {' '.join(those) or 'nothing'}</p>" for title, those in chips.items())


def chip(name: str, value: Any, overruled: bool = False) -> str:
    text = f"<code>--{escape(str(name))}{'' if value is True else ' ' + escape(str(value))}</code>"
    return f'<s title="overruled by hand">{text}</s>' if overruled else text


def all_settings(run: Run) -> str:
    settings = description({name: run.settings[name] for name in sorted(run.settings)})
    return f"<details><summary>All settings</summary>{settings}</details>"


def gaussians(run: Run) -> float | None:
    """How many are saved, as the PLY's own header says."""
    path = run_folder.point_cloud_path(run.folder, run.iteration)
    if path.is_file():
        with open(path, "rb") as file:
            found = re.search(rb"^element vertex (\d{1,18})\s", file.read(4096), re.MULTILINE)
        if found:
            return int(found.group(1))
    return number(run.config, "measures", str(run.iteration), "gaussians")


def ply_size(run: Run) -> int:
    path = run_folder.point_cloud_path(run.folder, run.iteration)
    return path.stat().st_size if path.is_file() else 0


def size_of(count: float) -> str:
    if count < 1e6:
        return f"{count / 1e3:,.1f} kB"
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


# Curves


def curves(run: Run) -> str:
    if run.history is None:
        text = "No curves and distributions: there is no <code>history.json</code> in this folder, so "
        return section("Curves", note(text + "the run is of an older version or of another program."))
    progress, steps = run.history["progress"], run.history["steps"]
    time = Axis(0, max(iterations_done(run), 1))
    figures = []
    if progress:
        figures += [
            noisy_curve(run, time, 1, "Loss", log=True),
            noisy_curve(run, time, 2, "PSNR in dB", log=False),
        ]
        figures.append(count_curve(run, time))
    figures = [drawn for drawn in figures if drawn]
    if steps:
        figures.append(births(steps, time))
    notes = [] if progress else [note("No iteration was recorded: the run ended too early for curves.")]
    notes += (
        []
        if steps
        else [note("No Gaussian was born or pruned: the run has no densification or pruning step.")]
    )
    return section("Curves", grid(figures) + "".join(notes))


def grid(figures: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def figure(
    title: str, aside: str, chart: Chart, legend: Sequence[tuple[str, str]] = (), after: str = ""
) -> str:
    keys = "".join(f'<span class="key {style}">{escape(text)}</span>' for style, text in legend)
    return (
        f"<figure><h3>{escape(title)} <span>{escape(aside)}</span></h3>{chart.svg()}"
        f"<figcaption>{keys}{after}</figcaption></figure>"
    )


def noisy_curve(run: Run, time: Axis, column: int, title: str, log: bool) -> str:
    """One number per recorded iteration, of the one view just trained on: dots, and their running mean."""
    points = [(row[0], row[column]) for row in run.history["progress"] if row[column] is not None]
    if not points:
        return ""
    window = len(points) // 40 * 2 + 1
    smooth = running_mean([value for _, value in points], window).tolist()
    line = [(x, mean) for (x, _), mean in zip(points, smooth)]
    measured = measured_while_training(run) if column == 2 else []
    axis = Axis.over([value for _, value in points] + [mark[1] for mark in measured], log=log)
    chart = Chart(f"{title} over iterations, ending at {short(smooth[-1], 4)}", time, axis)
    chart.dots(points, "c1")
    chart.line(line, "c1")
    chart.hover([(x, f"iteration {x:,.0f}: {short(value, 4)}") for x, value in line])
    for x, value, split, style in measured:
        chart.ring(x, value, style, f"iteration {x:,.0f}, {SPLITS[split].lower()}: {value:.2f} dB")
    smoothed = f"; line: mean of {window} points" if window > 1 else ""
    legend = [("c1", f"training view at hand{smoothed}")]
    legend += sorted({(style, SPLITS[split].lower() + ", measured") for _, _, split, style in measured})
    return figure(title, f"{short(smooth[-1], 4)} at the end", chart, legend)


def measured_while_training(run: Run) -> list[tuple[float, float, str, str]]:
    """Iteration, PSNR, split and style of what config.json's measures hold."""
    by_iteration = mapping(run.config, "measures")
    return [
        (int(iteration), value, split, style)
        for iteration in by_iteration
        for split, style in (("test", "c2"), ("train", "c4"))
        if iteration.isdecimal() and (value := number(by_iteration, iteration, split, "PSNR")) is not None
    ]


def count_curve(run: Run, time: Axis) -> str:
    points = [(row[0], row[3]) for row in run.history["progress"] if row[3] is not None]
    if not points:
        return ""
    chart = Chart(
        f"Number of Gaussians over iterations, ending at {points[-1][1]:,.0f}",
        time,
        Axis.over([count for _, count in points], zero=True),
    )
    chart.line(points, "c1")
    chart.hover([(x, f"iteration {x:,.0f}: {count:,.0f} Gaussians") for x, count in points])
    return figure("Gaussians", f"{points[-1][1]:,.0f} at the end", chart)


def births(steps: list[dict[str, Any]], time: Axis) -> str:
    """Bars up for the born, down for the pruned."""
    born = [step["cloned"] + step["split"] for step in steps]
    pruned = [step["pruned"] for step in steps]
    gaps = [later["iteration"] - step["iteration"] for step, later in zip(steps, steps[1:])]
    width = 0.75 * min([gap for gap in gaps if gap > 0], default=time.high / 100)
    totals = f"{sum(born):,.0f} born, {sum(pruned):,.0f} pruned"
    axis = Axis.over([*born, *(-count for count in pruned)], zero=True)
    chart = Chart(f"Gaussians born and pruned per step, in all {totals}", time, axis)
    for step in steps:
        x, cloned, split = step["iteration"], step["cloned"], step["split"]
        chart.bar(x, 0, cloned, width, "c1")
        chart.bar(x, cloned, cloned + split, width, "c2")
        chart.bar(x, -step["pruned"], 0, width, "c3")
    chart.hover([(step["iteration"], step_title(step)) for step in steps])
    legend = [("c1", "cloned"), ("c2", "split"), ("c3", "pruned (downwards)")]
    return figure("Born and pruned per step", totals, chart, legend)


def step_title(step: dict[str, Any]) -> str:
    parts = [f"{step[name]:,.0f} {name}" for name in ("cloned", "split", "pruned")]
    return f"iteration {step['iteration']:,.0f}: {', '.join(parts)}; then {step['gaussians']:,.0f} Gaussians"


# Distributions


def distributions(run: Run) -> str:
    if run.history is None:
        return ""
    moments = run.history["distributions"]
    if not moments:
        return section("Distributions", note("None were recorded: the run ended before the first of them."))
    time = Axis(0, max(iterations_done(run), 1))
    recorded = dict.fromkeys(name for moment in moments for name in moment.get("values", {}))
    names = [name for name in DISTRIBUTIONS if name in recorded]
    names += [name for name in recorded if name not in DISTRIBUTIONS]
    figures = [heat_strip(moments, name, time) for name in names] + [floaters(moments, time)]
    missing = [title for name, title in DISTRIBUTIONS.items() if name not in recorded]
    text = "Over all Gaussians. Line: the median; dashed: a tenth of the Gaussians lies below, a tenth above."
    text += f" Not recorded in this run: {', '.join(missing)}." if missing else ""
    return section("Distributions over time", note(text) + grid([drawn for drawn in figures if drawn]))


def heat_strip(moments: list[dict[str, Any]], name: str, time: Axis) -> str:
    """One column per moment, one cell per bin, the stronger the larger its share of the Gaussians."""
    columns = [
        (moment["iteration"], moment["values"][name])
        for moment in moments
        if sum(dig(moment, "values", name, "counts") or [0]) > 0
    ]
    if not columns:
        return ""
    occupied = [
        edge
        for _, histogram in columns
        for low, high, count in zip(histogram["edges"], histogram["edges"][1:], histogram["counts"])
        if count
        for edge in (low, high)
    ]
    title = DISTRIBUTIONS.get(name, name)
    axis = Axis.over(occupied, log=columns[0][1].get("scale") == "log")
    chart = Chart(f"Distribution of {title} over iterations", time, axis)
    counts = [np.array(histogram["counts"], np.float64) for _, histogram in columns]
    shares = [count / count.sum() for count in counts]
    full = float(np.quantile(np.concatenate([share[share > 0] for share in shares]), 0.98))
    times = [x for x, _ in columns]
    start = max(0, times[0] - (times[1] - times[0]) / 2) if columns[1:] else 0
    ends = between(times, start, time.high)
    for (_, histogram), share, x_from, x_to in zip(columns, shares, ends, ends[1:]):
        rows = zip(histogram["edges"], histogram["edges"][1:], share)
        chart.cells(
            [(x_from, x_to, low, high, min(1.0, math.sqrt(part / full))) for low, high, part in rows if part]
        )
    medians = add_quantiles(chart, columns)
    aside = f"median {short(medians[-1], 3)} at the end"
    return figure(title, aside, chart, after=heat_legend(full))


def add_quantiles(chart: Chart, columns: list[tuple[float, dict[str, Any]]]) -> list[float]:
    """The median and both outer tenths, as lines and texts. Returns the medians."""
    by_share = {
        q: [quantile(histogram["edges"], histogram["counts"], q) for _, histogram in columns]
        for q in (0.1, 0.5, 0.9)
    }
    times = [x for x, _ in columns]
    for q, values in by_share.items():
        chart.line(list(zip(times, values)), "median" if q == 0.5 else "tenth")
    texts = [
        f"iteration {x:,.0f}: median {short(middle, 3)}, "
        f"eight in ten between {short(low, 3)} and {short(high, 3)}"
        for x, low, middle, high in zip(times, *by_share.values())
    ]
    chart.hover(list(zip(times, texts)))
    return by_share[0.5]


def heat_legend(full: float) -> str:
    steps = "".join(f'<i style="opacity:{math.sqrt((index + 0.5) / 12):.2f}"></i>' for index in range(12))
    most = f"{100 * full:.2g} % or more of the Gaussians"
    return f'<span class="scale">0 <span class="heat">{steps}</span> {most}</span>'


def floaters(moments: list[dict[str, Any]], time: Axis) -> str:
    shares = {
        name: [
            (moment["iteration"], value)
            for moment in moments
            if is_number(value := dig(moment, "floaters", name))
        ]
        for name in FLOATERS
    }
    if not any(shares.values()):
        return ""
    values = [value for points in shares.values() for _, value in points]
    chart = Chart(
        "Blending weight of possible floaters over iterations", time, Axis.over(values, True, percent=True)
    )
    legend, asides = [], []
    for (name, points), style in zip(shares.items(), ("c1", "c2")):
        if points:
            chart.line(points, style)
            for x, value in points:
                chart.ring(x, value, style, f"iteration {x:,.0f}: {value:.2%} {FLOATERS[name]}")
            legend.append((style, FLOATERS[name]))
            asides.append(f"{points[-1][1]:.1%}")
    title = "Floaters: share of all blending weight"
    return figure(title, f"{' and '.join(asides)} at the end", chart, legend)


# Pictures


def pictures(run: Run) -> str:
    """Renders beside photos with error maps, held-out views first."""
    chosen = {split: [] for split in SPLITS}
    most = MOST_VIEWS
    for split in SPLITS:
        chosen[split] = choose_views(numbers_of_views(run, split), psnr_of_views(run, split), most)
        most = MOST_VIEWS // 2 if chosen[split] else most
    if not any(chosen.values()):
        text = f"There are no pictures of iteration {run.iteration:,}: run {command(run, 'render.py')} first."
        return section("Pictures", note(text))
    loaded = {
        split: [(view, *load_pair(run, split, view)) for view in views] for split, views in chosen.items()
    }
    errors = [error for views in loaded.values() for _, _, _, error in views]
    full = min(
        1.0, round_step(max(float(np.quantile(np.concatenate(list(map(np.ravel, errors))), 0.995)), 1e-3), 1)
    )
    parts = []
    for split, title in SPLITS.items():
        blocks = [view_block(run, split, *view, full) for view in loaded[split]]
        why = "pictures of these views: none were held out (<code>--eval</code>), or they were not rendered"
        content = f'<div class="views">{"".join(blocks)}</div>' if blocks else note(f"There are no {why}.")
        parts.append(
            section(f"{title}: render, photo, error", error_legend(full) + content if blocks else content)
        )
    return "\n".join(parts)


def numbers_of_views(run: Run, split: str) -> list[int]:
    """Of views that have both pictures."""
    folders = [run_folder.pictures_path(run.folder, split, run.iteration, kind) for kind in ("renders", "gt")]
    found = [
        {path.stem for path in folder.glob("*.png") if re.fullmatch(r"\d{5,9}", path.stem)}
        for folder in folders
    ]
    return sorted(int(stem) for stem in found[0] & found[1])


def psnr_of_views(run: Run, split: str) -> dict[int, float]:
    """As far as metrics.py measured it; infinite for a perfect view, for which it writes null."""
    values = mapping(run.per_view, "PSNR") if split == "test" else mapping(run.per_view, "train", "PSNR")
    shown = {name[:-4]: math.inf if value is None else value for name, value in values.items()}
    return {
        int(stem): value
        for stem, value in shown.items()
        if stem.isdecimal() and isinstance(value, (int, float))
    }


def choose_views(views: list[int], by_view: dict[int, float], most: int) -> list[int]:
    """The worst, the best, evenly spaced ones between, worst first; without numbers, in order."""
    if all(view in by_view for view in views):
        views = sorted(views, key=lambda view: by_view[view])
    places = np.linspace(0, len(views) - 1, min(most, len(views))).round().astype(int)
    return [views[place] for place in places]


def load_pair(run: Run, split: str, view: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render and photo (H, W, 3) uint8, and their error (H, W) in [0, 1], mean of the channels."""
    paths = [
        run_folder.pictures_path(run.folder, split, run.iteration, kind) / f"{view:05d}.png"
        for kind in ("renders", "gt")
    ]
    render, photo = (read_image(path)[..., :3] for path in paths)
    if render.shape != photo.shape:
        raise ValueError(f"{paths[0]} and {paths[1]} differ in size; run render.py again")
    return render, photo, np.abs(render.astype(np.float32) - photo).mean(axis=2) / 255


def view_block(
    run: Run,
    split: str,
    view: int,
    render: np.ndarray,  # (H, W, 3) uint8
    photo: np.ndarray,  # (H, W, 3) uint8
    error: np.ndarray,  # (H, W) in [0, 1]
    full: float,  # the error that is shown brightest
) -> str:
    height, width = error.shape
    factor = min(1.0, PICTURE_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    shrunk = cv2.resize(error, size, interpolation=cv2.INTER_AREA)
    shown = {
        "render": resize_image(render, *size),
        "photo": resize_image(photo, *size),
        "error": inferno(shrunk / full),
    }
    name = view_title(run, split, view)
    images = "".join(
        f'<img alt="{escape(f"{kind} of {name}")}" width="{size[0]}" height="{size[1]}" '
        f'src="{data_uri(image)}">'
        for kind, image in shown.items()
    )
    wide = round(PICTURE_HEIGHT_SHOWN * min(width / height, 1.4))
    numbers = " · ".join([*view_numbers(run, split, view), f"error {error.mean():.4f}"])
    caption = f"<figcaption><b>{escape(name)}</b> {numbers}</figcaption>"
    return f'<figure class="view" style="--wide:{wide}px"><div>{images}</div>{caption}</figure>'


def view_title(run: Run, split: str, view: int) -> str:
    """Its number, and its photo's name where cameras.json fits the run."""
    counts = {split: number(run.config, "views", split) or 0 for split in SPLITS}
    place = view + (int(counts["test"]) if split == "train" else 0)
    known = run.names and sum(counts.values()) == len(run.names) and place < len(run.names)
    return f"{view:05d}" + (f" ({run.names[place]})" if known else "")


def view_numbers(run: Run, split: str, view: int) -> list[str]:
    tree = run.per_view if split == "test" else dig(run.per_view, "train")
    found = {metric: number(tree, metric, f"{view:05d}.png") for metric in METRICS}
    return [f"{metric} {shown_metric(metric, value)}" for metric, value in found.items() if value is not None]


def inferno(
    values: np.ndarray,  # (H, W), clipped to [0, 1]
) -> np.ndarray:  # (H, W, 3) uint8 RGB
    grey = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def data_uri(image: np.ndarray) -> str:
    """(H, W, 3) uint8 RGB as a JPEG inside the page."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def error_legend(full: float) -> str:
    colours = [f"rgb({red},{green},{blue})" for red, green, blue in inferno(np.linspace(0, 1, 9)[None])[0]]
    text = "Error: difference to the photo, mean of the channels (1: black against white); captions: its mean"
    return (
        '<p class="scale">0 '
        f'<i class="bar" style="background:linear-gradient(90deg,{",".join(colours)})"></i> '
        f"{short(full)}{' or more' if full < 1 else ''}. {text}</p>"
    )


CSS = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2126; --soft: #5c6670; --rule: #dfe3e8;
  --box: #f5f7f9;  --heat: #14508c; --c1: #1f6fb5; --c2: #d9790b; --c3: #b8336a; --c4: #12876f; --median: #c2410c; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e4e8ec; --soft: #98a3ae;
  --rule: #2d343b; --box: #1c2126; --heat: #7cc0ff; --c1: #62aef0; --c2: #f2a541; --c3: #ef7ba6;
  --c4: #46c7a8; --median: #ff9d5c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 30px; margin: 0 0 16px; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 44px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--rule); }
h3 { font-size: 15px; margin: 0 0 4px; display: flex; justify-content: space-between; gap: 12px; }
h3 span, .note, dt, figcaption, .scale, .tiles span { color: var(--soft); font-weight: normal; }
h3 span, figcaption, .scale, .note { font-size: 13px; }
.badge { font-size: 15px; font-weight: normal; vertical-align: 5px; padding: 3px 10px; border-radius: 12px;
  background: var(--c1); color: var(--page); }
.warning { border-left: 4px solid var(--c2); background: var(--box); padding: 10px 14px; margin: 0 0 16px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-bottom: 20px; }
.tiles div { background: var(--box); border-radius: 8px; padding: 12px 16px; }
.tiles b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.tiles span { font-size: 13px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 22px 4px 0; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th { font-weight: 600; } th:first-child { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 18px 0; font-size: 14px; }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: 13px ui-monospace, monospace; background: var(--box); padding: 1px 6px; border-radius: 4px;
  box-decoration-break: clone; -webkit-box-decoration-break: clone; }
p code { white-space: nowrap; }
summary { cursor: pointer; margin-top: 44px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr));
  gap: 30px 36px; }
figure { margin: 0; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
text.x { text-anchor: middle; } text.y { text-anchor: end; }
path.rule { stroke: var(--rule); fill: none; }
path.axis { stroke: var(--soft); fill: none; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.dots { fill: none; stroke-width: 2; stroke-linecap: round; opacity: .4; }
.ring { stroke-width: 2; fill: var(--page); }
.c1 { stroke: var(--c1); --key: var(--c1); } .c2 { stroke: var(--c2); --key: var(--c2); }
.c3 { stroke: var(--c3); --key: var(--c3); } .c4 { stroke: var(--c4); --key: var(--c4); }
.bar { fill: var(--key); stroke: none; }
.cell { fill: var(--heat); shape-rendering: crispEdges; }
.hover { fill: transparent; } .hover:hover { fill: var(--soft); fill-opacity: .14; }
.median { stroke: var(--median); } .tenth { stroke: var(--median); stroke-width: 1; stroke-dasharray: 4 3; }
.key { margin-right: 18px; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: 11px; height: 11px; border-radius: 3px;
  margin-right: 6px; background: var(--key); vertical-align: -1px; }
.scale { display: flex; align-items: center; gap: 7px; }
.heat { display: inline-flex; } .heat i { width: 11px; height: 11px; background: var(--heat); }
i.bar { width: 150px; height: 11px; border-radius: 3px; }
.view { width: min(100%, calc(3 * var(--wide) + 12px)); }
.views { display: flex; flex-wrap: wrap; gap: 26px 32px; }
.view div { display: flex; gap: 6px; }
.view img { width: var(--wide); min-width: 0; flex: 0 1 auto; height: auto; border-radius: 3px;
  outline: 1px solid var(--rule); }
.view figcaption { margin-top: 5px; font-size: 12px; } .view b { color: var(--ink); margin-right: 6px; }
@media print { body { font-size: 12px; } main { max-width: none; padding: 0; } h2 { break-after: avoid; }
  .grid { grid-template-columns: 1fr 1fr; gap: 16px 24px; } .view { zoom: .62; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
