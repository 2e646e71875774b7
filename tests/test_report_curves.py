"""Curves, bars and distributions on the page of report.py."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from report_folder import histogram, history, made, write, write_finished_run

from evaluation.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH


@pytest.fixture
def run(tmp_path):
    return write_finished_run(tmp_path)


def test_empty_lists_are_explained(run):
    write(run / "history.json", {"version": 1, "progress": [], "steps": [], "distributions": []})
    page = made(run)
    for words in ("No iteration was recorded", "no densification or pruning step", "None were recorded"):
        assert words in page.text
    assert not page.all("svg")


def test_importances_that_do_not_vary_have_no_correlation(run):
    changed = history()
    for moment in changed["distributions"]:
        moment["importance_correlation"] = None
    write(run / "history.json", changed)
    assert not any("Correlation" in a["aria-label"] for a in made(run).all("svg"))


def test_a_variant_without_some_distributions(run):
    changed = history()
    for moment in changed["distributions"]:
        del moment["floaters"], moment["importance_correlation"]
        for name in ("s_k", "E_k", "removal energy"):
            del moment["values"][name]
        moment["values"]["extra"] = histogram()
        moment["values"]["age"]["counts"] = [0, 0, 0]
    write(run / "history.json", changed)
    page = made(run)
    labels = [a["aria-label"] for a in page.all("svg")][4:]
    assert labels == ["Distribution of Opacity over iterations", "Distribution of extra over iterations"]
    assert "Not recorded in this run: Error E_k, Importance s_k, Removal energy." in page.text


def test_nothing_measured_is_a_gap(run):
    changed = history()
    for row in changed["progress"]:
        row[1] = None
    changed["progress"][3][2] = None
    changed["progress"][4] = [50, math.nan, math.nan, None, None]  # Python's json writes and reads NaN
    write(run / "history.json", json.dumps(changed).replace("NaN", "null"))
    labels = [a["aria-label"] for a in made(run).all("svg")]
    assert not any("Loss" in label for label in labels) and any("PSNR" in label for label in labels)


def boxes(page, css):
    """(left, top, width, height) of all rectangles of a class."""
    return [tuple(float(a[name]) for name in ("x", "y", "width", "height")) for a in page.all("rect", css)]


def test_bars_of_births_and_prunings(run):
    page = made(run)
    scale = (HEIGHT - TOP - BOTTOM) / 600  # the axis goes from -200 to 400
    bars = {css: boxes(page, css) for css in ("c1", "c2", "c3")}
    zero = HEIGHT - BOTTOM - 200 * scale
    cloned, split, pruned = bars["c1"][0], bars["c2"][0], bars["c3"][0]
    assert [len(those) for those in bars.values()] == [2, 1, 1]  # nothing is drawn for none
    assert cloned[1] + cloned[3] == pytest.approx(zero, abs=0.1) and cloned[3] == pytest.approx(
        300 * scale, abs=0.1
    )
    assert split[1] == pytest.approx(TOP, abs=0.1) and split[3] == pytest.approx(100 * scale, abs=0.1)
    assert pruned[1] == pytest.approx(zero, abs=0.1) and pruned[3] == pytest.approx(200 * scale, abs=0.1)
    assert cloned[0] + cloned[2] / 2 == pytest.approx(LEFT + 0.6 * (WIDTH - LEFT - RIGHT), abs=0.1)
    assert "iteration 600: 300 cloned, 100 split, 200 pruned; then 1,200 Gaussians" in page.text


def test_heat_strip_shows_shares(run):
    changed = history()
    for moment, counts in zip(changed["distributions"], ((4, 0, 0), (0, 3, 1))):
        moment["values"] = {"opacity": histogram(counts)}
    changed["distributions"][0]["iteration"] = 600
    write(run / "history.json", changed)
    page = made(run)
    cells = page.all("rect", "cell")
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    lefts, tops, widths, heights = zip(*boxes(page, "cell"))
    starts = (LEFT + 0.5 * wide, LEFT + 0.7 * wide, LEFT + 0.7 * wide)
    assert lefts == pytest.approx(starts, abs=0.1)
    assert widths == pytest.approx((0.2 * wide, 0.3 * wide, 0.3 * wide), abs=0.11)  # from 500, 700 to 1000
    assert tops == pytest.approx((TOP + 0.75 * high, TOP + 0.5 * high, TOP), abs=0.1)
    assert heights == pytest.approx((0.25 * high, 0.25 * high, 0.5 * high), abs=0.11)
    full = float(np.quantile([1, 0.75, 0.25], 0.98))
    strengths = [min(1, math.sqrt(share / full)) for share in (1, 0.75, 0.25)]
    assert [float(a["opacity"]) for a in cells] == pytest.approx(strengths, abs=0.006)
    assert "iteration 800: median 0.417, eight in ten between 0.283 and 0.8" in page.text


def test_bins_without_width_are_drawn(run):
    changed = history()
    for moment in changed["distributions"]:  # edges as they are when rounding makes them equal
        moment["values"] = {"opacity": {"edges": [0.1, 0.1, 0.1], "counts": [3, 5], "scale": "linear"}}
    write(run / "history.json", changed)
    assert "iteration 400: median 0.1, eight in ten between 0.1 and 0.1" in made(run).text
