"""What a format of utils/splat_formats.py can hold of a model, and what a written file has lost of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.files import replacing
from utils.sh import C0, base_count, degree_of
from utils.splat_formats import FORMATS, Errors, Splats, unit

# A Gaussian is displaced if it may move by more than its size and this share of the extent of the scene, five
# pixels in a view of all; it is resized if an axis changes by more than this share of its size.
DISPLACED, RESIZED = 5e-3, 0.1
MOST_HARMED = 0.01  # share of Gaussians, displaced or resized, from which a format cannot hold a model
SLACK, ROUNDING = 1.01, 4e-7  # of bounds, for float32: relative to them, and to the numbers themselves

WORDS = {  # for messages: the parameter, and its numbers as people know them
    "means": ("positions", lambda values: values),
    "scales": ("lengths of axes", np.exp),
    "sh_dc": ("colors", lambda values: 0.5 + C0 * values),
    "sh_rest": ("SH coefficients of view-dependent color", lambda values: values),
}


@dataclass(frozen=True)
class Loss:
    """The errors of a file: the largest, and the one that 99 % of the Gaussians do not exceed."""

    position: tuple[float, float]  # world units
    scale: tuple[float, float]  # of an axis, relative to the Gaussian's longest
    opacity: tuple[float, float]
    color: tuple[float, float]  # of degree 0, in [0, 1]
    rotation: tuple[float, float]  # degrees
    sh: tuple[float, float]  # of coefficients above degree 0; those that the file does not hold read as 0

    def __str__(self) -> str:
        parts = [
            f"{name} {largest:.2g} ({most:.2g}){'°' if name == 'rotation' else ''}"
            for name, (largest, most) in vars(self).items()
        ]
        return "largest error (of 99 %): " + ", ".join(parts)


def fit_to_format(name: str, splats: Splats) -> tuple[Splats, list[str]]:
    """Return the Gaussians within the ranges of the named format, in the same order, and sentences on that.

    Raise ValueError if the format cannot hold the model: more than MOST_HARMED of the Gaussians would be
    displaced or resized.
    """
    fitted, notes = splats, []
    for parameter, (low, high) in FORMATS[name].ranges.items():
        values = getattr(fitted, parameter)
        outside = ((values < low) | (values > high)).reshape(len(values), -1).any(1)
        if outside.any():
            fitted = replace(fitted, **{parameter: np.clip(values, np.float32(low), np.float32(high))})
            notes.append(_range_note(name, parameter, values, outside))
    held = base_count(FORMATS[name].sh_degree) - 1
    if fitted.sh_rest[:, held:].any():
        degree = degree_of(1 + fitted.sh_rest.shape[1])
        notes.append(f"{name} holds no SH above degree {FORMATS[name].sh_degree}, the model has {degree}")
    fitted = replace(fitted, sh_rest=fitted.sh_rest[:, :held])
    return fitted, notes + _harm(name, splats, fitted, notes)


def write_checked(name: str, path: Path, splats: Splats, fitted: Splats) -> tuple[Splats, Loss]:
    """Write a model that was fitted to the named format. Return what the file holds and lost of `splats`.

    The file replaces one at `path` if it holds `fitted` to the precision of the format. ValueError, naming
    path and parameter, otherwise.
    """
    kind = FORMATS[name]
    order = kind.order(fitted)
    given = fitted.rows(order)
    with replacing(path, kind.suffix) as temporary:
        kind.write(temporary, given)
        found = kind.read(temporary)
        if len(found) != len(given):
            raise ValueError(
                f"{path} was not written: it would hold {len(found):,} of {len(given):,} Gaussians"
            )
        if wrong := _beyond(_differences(given, found), kind.errors(given), given):
            raise ValueError(f"{path} was not written: it would not hold what was given ({wrong})")
    return found, measure_loss(splats.rows(order), found)


def measure_loss(original: Splats, found: Splats) -> Loss:
    """Return the errors of Gaussians that were read, row by row."""
    off = _differences(original, found)
    axes = np.abs(np.exp(found.scales.astype(np.float64)) - np.exp(original.scales.astype(np.float64)))
    return Loss(
        position=_ends(np.linalg.norm(off["means"], axis=1)),
        scale=_ends(axes / original.sizes()[:, None]),
        opacity=_ends(off["opacities"]),
        color=_ends(C0 * off["sh_dc"]),
        rotation=_ends(off["quats"]),
        sh=_ends(off["sh_rest"]),
    )


def _ends(errors: np.ndarray) -> tuple[float, float]:
    """Return the largest number of (N, ...) and the 99 % quantile over the N largest of each; 0 for none."""
    if not errors.size:
        return 0.0, 0.0
    each = errors.reshape(len(errors), -1).max(1)
    return float(each.max()), float(np.quantile(each, 0.99))


def _differences(original: Splats, found: Splats) -> dict[str, np.ndarray]:
    """Return how far numbers are off, absolutely: (N, ...), opacities as shares, quats in degrees."""
    one, two = (unit(splats.quats).astype(np.float64) for splats in (original, found))
    chords = np.minimum(np.linalg.norm(one - two, axis=1), np.linalg.norm(one + two, axis=1))
    rest = np.zeros_like(original.sh_rest)
    rest[:, : found.sh_rest.shape[1]] = found.sh_rest
    return {
        "means": np.abs(found.means.astype(np.float64) - original.means),
        "scales": np.abs(found.scales.astype(np.float64) - original.scales),
        "opacities": np.abs(found.shares() - original.shares()),
        "sh_dc": np.abs(found.sh_dc - original.sh_dc),
        "sh_rest": np.abs(rest - original.sh_rest),
        "quats": np.degrees(4 * np.arcsin(np.minimum(chords / 2, 1))),
    }


def _beyond(off: dict[str, np.ndarray], errors: Errors, given: Splats) -> str:
    """Return which parameters are off by more than `errors`; empty for none. NaN is more than any."""
    found = []
    for name, bound in errors.items():
        rounding = 1e-3 if name in ("quats", "opacities") else ROUNDING * (1 + np.abs(getattr(given, name)))
        wrong = ~(off[name] <= SLACK * np.asarray(bound) + rounding)
        if wrong.any():
            found.append(f"{name} off by up to {off[name].max():.3g}, expected {np.max(bound):.3g} at most")
    return ", ".join(found)


def _range_note(name: str, parameter: str, values: np.ndarray, outside: np.ndarray) -> str:
    """Return a sentence on Gaussians outside a range of a format; outside: (N,) bool."""
    noun, shown = WORDS[parameter]
    low, high = (shown(np.float64(limit)) for limit in FORMATS[name].ranges[parameter])
    reached = [shown(np.float64(value)) for value in (values.min(), values.max())]
    return (
        f"{name} holds {noun} from {low:.3g} to {high:.3g}, the model has {reached[0]:.3g} to "
        f"{reached[1]:.3g}: clamped in {outside.sum():,} of {len(values):,} Gaussians"
    )


def _harm(name: str, splats: Splats, fitted: Splats, notes: list[str]) -> list[str]:
    """Return a sentence if some Gaussians will be displaced. ValueError if more are harmed than may be."""
    order = FORMATS[name].order(fitted)
    splats, fitted = splats.rows(order), fitted.rows(order)
    steps = np.broadcast_to(FORMATS[name].errors(fitted)["means"], fitted.means.shape)
    moved = (steps + np.abs(fitted.means.astype(np.float64) - splats.means)).max(1)
    extent = np.ptp(np.quantile(splats.means, (0.05, 0.95), axis=0), axis=0).max()
    displaced = moved > np.maximum(splats.sizes(), DISPLACED * extent)
    change = np.exp(fitted.scales.astype(np.float64)) - np.exp(splats.scales.astype(np.float64))
    resized = np.abs(change).max(1) > RESIZED * splats.sizes()
    found = []
    if displaced.any():
        found.append(
            f"{name} holds positions as far as {np.abs(fitted.means).max():.3g} in steps so coarse that "
            f"{displaced.sum():,} of {len(splats):,} Gaussians may move by more than their size and "
            f"{DISPLACED:.1%} of the scene's extent of {extent:.3g}: up to {moved.max():.3g}"
        )
    if (displaced | resized).mean() > MOST_HARMED:
        raise ValueError(f"{name} cannot hold this model. " + ". ".join(notes + found))
    return found
