"""Charts as inline SVG: round axes, lines, dots, bars, heat strips. The page's CSS colors the classes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import Sequence

import numpy as np

from utils.selection import evenly_spaced_with_ends

WIDTH, HEIGHT = 560, 240  # of the drawing, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 36  # margins around the plot
MOST_DOTS = 1500  # more cannot be told apart and make the page larger
MOST_HOVERS = 60
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Point = tuple[float, float]
Cell = tuple[float, float, float, float, float]  # x from, x to, y from, y to, strength in [0, 1]


def round_step(span: float, parts: int) -> float:
    """Return the smallest of 1, 2, 5 x 10^n that fits into `span` (above 0) at most `parts` times."""
    power = 10.0 ** math.floor(math.log10(span / parts))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * parts >= span * (1 - 1e-9))


def short(value: float, digits: int = 6) -> str:
    """Format a number for an axis: 0.02, 1.5k, 20k, 2M, 5·10⁻⁶."""
    size = abs(value)
    sign = "−" if value < 0 else ""
    for limit, unit in ((1e6, "M"), (1e3, "k"), (1e-3, "")):
        if size >= limit:
            return f"{sign}{size / (limit if unit else 1):.{digits}g}{unit}"
    if size == 0:
        return "0"
    factor, _, exponent = f"{size:.{digits - 1}e}".partition("e")
    factor = "" if float(factor) == 1 else f"{float(factor):g}·"
    return f"{sign}{factor}10{str(int(exponent)).translate(SUPERSCRIPTS)}"


@dataclass(frozen=True)
class Axis:
    """The range of an axis from `low` to `high`, linear or logarithmic (then both above 0)."""

    low: float
    high: float
    log: bool = False
    percent: bool = False  # whether labels show percentages

    @staticmethod
    def over(values: Sequence[float], zero: bool = False, log: bool = False, percent: bool = False) -> Axis:
        """Return an axis that contains all `values`, and 0 if `zero`. A linear axis ends at round numbers.

        A logarithmic axis ignores values that are not positive. Without a positive value it is linear.
        """
        positive = [value for value in values if value > 1e-300]  # normal numbers
        if log and positive:
            low, high = min(positive), max(positive)
            return Axis(low / 1.1, high * 1.1, True, percent)
        low, high = (min([*values, 0]), max([*values, 0])) if zero else (min(values), max(values))
        if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
            widening = abs(high) / 10 or 1.0
            low, high = low - widening * (not zero or low < 0), high + widening
        step = round_step(high - low, 5)
        return Axis(
            math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, False, percent
        )

    def share(self, value: float) -> float:
        """Return the position of `value` along the axis, clamped to [0, 1]."""
        if self.log:
            start, end = math.log(self.low), math.log(self.high)
            value = (math.log(max(value, self.low)) - start) / (end - start)
        else:
            value = (value - self.low) / (self.high - self.low)
        return min(max(value, 0.0), 1.0)

    def ticks(self, most: int = 5) -> list[float]:
        """Return about `most` round numbers between the ends."""
        found = self._log_ticks() if self.log else []
        if len(found) >= 2:
            return found
        step = round_step(self.high - self.low, most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        decades = math.log10(self.high) - math.log10(self.low)
        factors, every = ((1,), math.ceil(decades / 7)) if decades >= 2 else ((1, 2, 5), 1)
        ticks = [
            factor * 10.0**power for power in range(low, high + 1) if power % every == 0 for factor in factors
        ]
        return [tick for tick in ticks if self.low <= tick <= self.high]

    def label(self, value: float) -> str:
        return f"{short(100 * value)} %" if self.percent else short(value)


@dataclass
class Chart:
    """The plot to which marks are added one by one, in the coordinates of the data."""

    name: str  # read aloud by screen readers
    x: Axis
    y: Axis
    x_title: str = "iteration"
    marks: list[str] = field(default_factory=list)

    def across(self, x: float) -> float:
        return LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT)

    def down(self, y: float) -> float:
        return HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Sequence[Point], style: str) -> None:
        path = "L".join(f"{self.across(x):.1f} {self.down(y):.1f}" for x, y in _thinned(points, MOST_DOTS))
        self.marks.append(f'<path class="line {style}" d="M{path}"/>')

    def dots(self, points: Sequence[Point], style: str) -> None:
        """Draw small dots as one path of very short lines with round ends."""
        kept = _thinned(points, MOST_DOTS)
        path = "".join(f"M{self.across(x):.1f} {self.down(y):.1f}h.1" for x, y in kept)
        self.marks.append(f'<path class="dots {style}" d="{path}"/>')

    def ring(self, x: float, y: float, style: str, title: str) -> None:
        self.marks.append(
            f'<circle class="ring {style}" cx="{self.across(x):.1f}" cy="{self.down(y):.1f}" r="4">'
            f"<title>{escape(title)}</title></circle>"
        )

    def bar(self, x: float, y_from: float, y_to: float, width: float, style: str) -> None:
        """Draw a bar around x. width: in units of x."""
        wide = max((WIDTH - LEFT - RIGHT) * width / (self.x.high - self.x.low), 1.0)
        left, right = self.across(x) - wide / 2, self.across(x) + wide / 2
        if y_to > y_from:
            box = _box(left, self.down(y_to), right, self.down(y_from))
            self.marks.append(f'<rect class="bar {style}" {box}/>')

    def cells(self, cells: Sequence[Cell]) -> None:
        """Draw boxes whose opacity is their strength."""
        for x_from, x_to, y_from, y_to, strength in cells:
            box = _box(self.across(x_from), self.down(y_to), self.across(x_to), self.down(y_from))
            self.marks.append(f'<rect class="cell" {box} opacity="{strength:.2f}"/>')

    def hover(self, titles: Sequence[tuple[float, str]]) -> None:
        """Add texts that appear while the pointer is near their x. titles: (x, text), ascending in x."""
        titles = _thinned(titles, MOST_HOVERS)
        ends = between([x for x, _ in titles], self.x.low, self.x.high)
        for (_, text), x_from, x_to in zip(titles, ends, ends[1:]):
            box = _box(self.across(x_from), TOP, self.across(x_to), HEIGHT - BOTTOM)
            self.marks.append(f'<rect class="hover" {box}><title>{escape(text)}</title></rect>')

    def svg(self) -> str:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.name)}">']
        for value in self.y.ticks():
            y = self.down(value)
            parts.append(f'<path class="{"axis" if value == 0 else "rule"}" d="M{LEFT} {y:.1f}H{right}"/>')
            parts.append(f'<text class="y" x="{LEFT - 7}" y="{y + 4:.1f}">{self.y.label(value)}</text>')
        for value in self.x.ticks(8):
            x = self.across(value)
            parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
            parts.append(f'<text class="x" x="{x:.1f}" y="{bottom + 16}">{self.x.label(value)}</text>')
        title = f'<text class="x" x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 4}">{escape(self.x_title)}</text>'
        frame = f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
        return "".join([*parts, title, *self.marks, frame, "</svg>"])


def _box(left: float, top: float, right: float, bottom: float) -> str:
    """Return a rectangle's attributes. Its sides are rounded, so that neighbors share one without a seam."""
    left, top, right, bottom = (round(side, 1) for side in (left, top, right, bottom))
    return f'x="{left:g}" y="{top:g}" width="{right - left:.1f}" height="{bottom - top:.1f}"'


def _thinned(items: Sequence, most: int) -> Sequence:
    """Return at most `most` of the items, evenly spaced, with both ends."""
    return [items[index] for index in evenly_spaced_with_ends(len(items), most)]


def between(values: Sequence[float], low: float, high: float) -> list[float]:
    """Return the borders of cells around ascending `values`: `low`, the midpoints, `high`."""
    return [low, *((a + b) / 2 for a, b in zip(values, values[1:])), high]


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Return the mean of the `window` (odd) values around each value; of fewer values at both ends."""
    half = window // 2
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    first = np.maximum(np.arange(len(values)) - half, 0)
    end = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[end] - total[first]) / (end - first)


def quantile(edges: Sequence[float], counts: Sequence[float], q: float) -> float:
    """Return the value below which a share `q` of a histogram lies, with values evenly spread in each bin.

    The histogram must have at least one count above 0.
    """
    total = np.concatenate([[0.0], np.cumsum(np.asarray(counts, np.float64))])
    bin_index = min(int(np.searchsorted(total, q * total[-1], "left")), len(counts)) - 1
    while bin_index < 0 or counts[bin_index] == 0:
        bin_index += 1
    part = (q * total[-1] - total[bin_index]) / counts[bin_index]
    return edges[bin_index] + part * (edges[bin_index + 1] - edges[bin_index])
