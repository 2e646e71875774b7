"""The training history on report.py's page: curves, bars and distributions over iterations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evaluation.report.charts import Axis, Chart, between, quantile, running_mean, short
from evaluation.report.html import SPLIT_TITLES, figure, grid, note, section
from evaluation.report.run import RunRecord, dig, is_number, mapping, number

DISTRIBUTIONS = {
    "E_k": "Error E_k",
    "s_k": "Importance s_k",
    "removal energy": "Removal energy",
    "opacity": "Opacity",
    "age": "Age in iterations",
}
FLOATERS = {"low_opacity": "of opacity below 0.1", "near_camera": "nearer than a tenth of the median depth"}


def time_axis(run: RunRecord) -> Axis:
    return Axis(0, max(run.iterations_done, 1))


# Curves


def curves(run: RunRecord) -> str:
    """Return the section with loss, PSNR, number of Gaussians, births and prunings as HTML."""
    if run.history is None:
        text = "No curves and distributions: there is no <code>history.json</code> in this folder, so "
        return section("Curves", note(text + "the run is of an older version or of another program."))
    figures = [
        noisy_curve(run, 1, "Loss", log=True),
        noisy_curve(run, 2, "PSNR in dB", log=False),
        count_curve(run),
        births(run),
    ]
    content = grid(figures)
    if not run.history["progress"]:
        content += note("No iteration was recorded: the run ended too early for curves.")
    if not run.history["steps"]:
        content += note("No Gaussian was born or pruned: the run has no densification or pruning step.")
    return section("Curves", content)


def noisy_curve(run: RunRecord, column: int, title: str, log: bool) -> str:
    """Draw a number of the current training view per recorded iteration: dots, and their running mean."""
    points = [(row[0], row[column]) for row in run.history["progress"] if row[column] is not None]
    if not points:
        return ""
    window = len(points) // 40 * 2 + 1
    smooth = running_mean([value for _, value in points], window).tolist()
    line = [(x, mean) for (x, _), mean in zip(points, smooth)]
    measured = measured_while_training(run) if column == 2 else []
    axis = Axis.over([value for _, value in points] + [mark[1] for mark in measured], log=log)
    chart = Chart(f"{title} over iterations, ending at {short(smooth[-1], 4)}", time_axis(run), axis)
    chart.dots(points, "c1")
    chart.line(line, "c1")
    chart.hover([(x, f"iteration {x:,.0f}: {short(value, 4)}") for x, value in line])
    for x, value, split, style in measured:
        chart.ring(x, value, style, f"iteration {x:,.0f}, {SPLIT_TITLES[split].lower()}: {value:.2f} dB")
    smoothed = f"; line: mean of {window} points" if window > 1 else ""
    legend = [("c1", f"training view at hand{smoothed}")]
    legend += sorted({(style, SPLIT_TITLES[split].lower() + ", measured") for _, _, split, style in measured})
    return figure(title, f"{short(smooth[-1], 4)} at the end", chart, legend)


def measured_while_training(run: RunRecord) -> list[tuple[float, float, str, str]]:
    """Return iteration, PSNR, split and style of every entry in config.json's `measures`."""
    by_iteration = mapping(run.config, "measures")
    return [
        (int(iteration), value, split, style)
        for iteration in by_iteration
        for split, style in (("test", "c2"), ("train", "c4"))
        if iteration.isdecimal() and (value := number(by_iteration, iteration, split, "PSNR")) is not None
    ]


def count_curve(run: RunRecord) -> str:
    points = [(row[0], row[3]) for row in run.history["progress"] if row[3] is not None]
    if not points:
        return ""
    last = f"{points[-1][1]:,.0f}"
    axis = Axis.over([count for _, count in points], zero=True)
    chart = Chart(f"Number of Gaussians over iterations, ending at {last}", time_axis(run), axis)
    chart.line(points, "c1")
    chart.hover([(x, f"iteration {x:,.0f}: {count:,.0f} Gaussians") for x, count in points])
    return figure("Gaussians", f"{last} at the end", chart)


def births(run: RunRecord) -> str:
    """Draw born Gaussians as bars upwards and pruned ones as bars downwards."""
    steps, time = run.history["steps"], time_axis(run)
    if not steps:
        return ""
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


def distributions(run: RunRecord) -> str:
    """Return the section with the recorded distributions as HTML; empty without a history."""
    if run.history is None:
        return ""
    moments = run.history["distributions"]
    if not moments:
        return section("Distributions", note("None were recorded: the run ended before the first of them."))
    recorded = dict.fromkeys(name for moment in moments for name in moment.get("values", {}))
    names = [name for name in DISTRIBUTIONS if name in recorded]
    names += [name for name in recorded if name not in DISTRIBUTIONS]
    figures = [heat_strip(run, name) for name in names] + [importance_beside_opacity(run), floaters(run)]
    missing = [title for name, title in DISTRIBUTIONS.items() if name not in recorded]
    text = "Over all Gaussians. Line: the median; dashed: a tenth of the Gaussians lies below, a tenth above."
    text += f" Not recorded in this run: {', '.join(missing)}." if missing else ""
    return section("Distributions over time", note(text) + grid(figures))


def heat_strip(run: RunRecord, name: str) -> str:
    """Draw one column per recorded iteration and one cell per bin.

    The opacity of a cell grows with its share of the Gaussians.
    """
    recorded = [(m["iteration"], dig(m, "values", name)) for m in run.history["distributions"]]
    columns = [(x, histogram) for x, histogram in recorded if histogram and sum(histogram["counts"]) > 0]
    if not columns:
        return ""
    title = DISTRIBUTIONS.get(name, name)
    bins = [occupied_bins(histogram) for _, histogram in columns]
    edges = [edge for cells in bins for low, high, _ in cells for edge in (low, high)]
    axis = Axis.over(edges, log=columns[0][1].get("scale") == "log")
    chart = Chart(f"Distribution of {title} over iterations", time_axis(run), axis)
    full = float(np.quantile([share for cells in bins for _, _, share in cells], 0.98))
    times = [x for x, _ in columns]
    start = max(0, times[0] - (times[1] - times[0]) / 2) if columns[1:] else 0
    ends = between(times, start, chart.x.high)
    for cells, x_from, x_to in zip(bins, ends, ends[1:]):
        chart.cells(
            [(x_from, x_to, low, high, min(1.0, math.sqrt(share / full))) for low, high, share in cells]
        )
    medians = add_quantiles(chart, columns)
    return figure(title, f"median {short(medians[-1], 3)} at the end", chart, after=heat_legend(full))


def occupied_bins(histogram: dict[str, Any]) -> list[tuple[float, float, float]]:
    """Return both edges and the share of every bin that is not empty."""
    edges, counts = histogram["edges"], np.array(histogram["counts"], np.float64)
    shares = (counts / counts.sum()).tolist()
    return [(low, high, share) for low, high, share in zip(edges, edges[1:], shares) if share]


def add_quantiles(chart: Chart, columns: list[tuple[float, dict[str, Any]]]) -> list[float]:
    """Draw the median and both outer deciles as lines and hover texts; return the medians."""
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


def importance_beside_opacity(run: RunRecord) -> str:
    """Plot whether importance has become opacity under another name (docs/method.md, The trap)."""
    moments = [
        (moment["iteration"], moment.get("importance_correlation")) for moment in run.history["distributions"]
    ]
    points = [(x, value) for x, value in moments if value is not None]
    if not points:
        return ""
    axis = Axis(min(0.0, *(value for _, value in points)), 1.0)
    chart = Chart("Correlation of s_k with s_k o_k over iterations", time_axis(run), axis)
    chart.line(points, "c1")
    for x, value in points:
        chart.ring(x, value, "c1", f"iteration {x:,.0f}: {value:.3f}")
    legend = [("c1", "1: importance tells nothing that opacity does not")]
    return figure(
        "Importance s_k with s_k o_k: correlation", f"{points[-1][1]:.2f} at the end", chart, legend
    )


def floaters(run: RunRecord) -> str:
    """Plot the shares of all blending weight that hint at floaters."""
    recorded = {
        name: [
            (moment["iteration"], dig(moment, "floaters", name)) for moment in run.history["distributions"]
        ]
        for name in FLOATERS
    }
    shares = {name: [point for point in points if is_number(point[1])] for name, points in recorded.items()}
    values = [value for points in shares.values() for _, value in points]
    if not values:
        return ""
    axis = Axis.over(values, zero=True, percent=True)
    chart = Chart("Blending weight of possible floaters over iterations", time_axis(run), axis)
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
