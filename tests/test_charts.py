"""evaluation/report/charts.py: axes, marks, and the numbers behind them."""

from __future__ import annotations

import math
import re

import pytest

from evaluation.report import charts
from evaluation.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Chart


def test_known_points_lie_where_they_should():
    chart = Chart("test", Axis(0, 1000), Axis(0.01, 100, log=True))
    chart.line([(0, 0.01), (500, 1.0), (1000, 100)], "c1")
    middle = (LEFT + (WIDTH - LEFT - RIGHT) / 2, TOP + (HEIGHT - TOP - BOTTOM) / 2)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    expected = f"M{LEFT:.1f} {bottom:.1f}L{middle[0]:.1f} {middle[1]:.1f}L{right:.1f} {TOP:.1f}"
    assert f'd="{expected}"' in chart.svg()


def test_many_points_are_thinned_but_keep_their_ends():
    chart = Chart("test", Axis(0, 1e5), Axis(0, 1))
    chart.dots([(x, 0.5) for x in range(100_001)], "c1")
    path = re.search(r'd="([^"]+)"', chart.marks[0]).group(1)
    assert path.count("h") == charts.MOST_DOTS
    assert path.startswith(f"M{LEFT:.1f} ") and f"M{WIDTH - RIGHT:.1f} " in path


@pytest.mark.parametrize(
    "axis, labels",
    [
        (Axis(0, 7000), ["0", "2k", "4k", "6k"]),
        (Axis(0, 2_500_000), ["0", "500k", "1M", "1.5M", "2M", "2.5M"]),
        (Axis(-200, 400), ["−200", "0", "200", "400"]),
        (Axis(0, 0.1, percent=True), ["0 %", "2 %", "4 %", "6 %", "8 %", "10 %"]),
        (Axis(0.018, 0.55, log=True), ["0.02", "0.05", "0.1", "0.2", "0.5"]),
        (Axis(2e-7, 3e-4, log=True), ["10⁻⁶", "10⁻⁵", "10⁻⁴"]),
        (Axis(1e-10, 1e10, log=True), ["10⁻⁹", "10⁻⁶", "0.001", "1", "1k", "1M", "1000M"]),
        (Axis(0.0212, 0.0244, log=True), ["0.022", "0.023", "0.024"]),
    ],
)
def test_ticks_are_round(axis, labels):
    assert [axis.label(value) for value in axis.ticks()] == labels


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values", [[0.0], [5.0], [-3.0], [7.0, 7.0], [1e-12, 1e12], [-1e290, 1e290], [5e-324], [0, 0.3]]
)
def test_axes_hold_their_values(values, log, zero):
    axis = Axis.over(values, zero, log)
    assert axis.low < axis.high
    assert all(0 <= axis.share(value) <= 1 for value in values)
    assert len(axis.ticks()) <= 12 and all(map(math.isfinite, axis.ticks()))
    if zero and not axis.log:
        assert axis.low <= 0 <= axis.high
    for value in values if not axis.log else ():
        assert axis.low <= value <= axis.high


def test_small_numbers_read_well():
    assert [charts.short(value) for value in (0, 5e-6, 1e-4, 0.02, 999, 1500, -20_000)] == [
        "0", "5·10⁻⁶", "10⁻⁴", "0.02", "999", "1.5k", "−20k",
    ]  # fmt: skip


def test_running_mean_shortens_at_the_ends():
    assert charts.running_mean([1, 2, 6, 3], 3).tolist() == [1.5, 3, 11 / 3, 4.5]
    assert charts.running_mean([4], 5).tolist() == [4]


def test_quantiles_of_a_histogram():
    edges, counts = [0, 1, 2, 4, 8], [0, 2, 2, 0]
    assert [charts.quantile(edges, counts, q) for q in (0, 0.25, 0.5, 0.75, 1)] == [1, 1.5, 2, 3, 4]
