"""What a file format loses: Gaussians as they were read back, against those that were given."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from utils.sh import C0
from utils.splat_formats import Precision, Splats, sigmoid, unit_quats

# Logarithms of sizes; flat axes are at minus infinity.
SMALLEST_LOG_SCALE = -30.0
LARGEST_LOGIT = 15.0  # an opacity that float32 can tell from 1
# The smallest visible sizes: over the largest axis of a Gaussian, and over the spread of the positions.
THIN, SMALL = 100, 1e-4
# A format holds a model if at most this share of its Gaussians is beyond the format's precision.
LARGEST_SHARE = 0.01


def cleaned(splats: Splats) -> tuple[Splats, list[str]]:
    """Return the Gaussians that files can hold, and a sentence for every kind of change.

    Those with a NaN, or with an infinite position, color, rotation or size, are left out: nothing draws them.
    Infinite opacities and flat axes become finite, a rotation without direction the identity. Raise
    ValueError if none is left.
    """
    found = [splats.means, splats.quats, splats.sh_dc, splats.sh_rest.reshape(len(splats), -1)]
    sound = np.all([np.isfinite(values).all(1) for values in found], axis=0) & ~np.isnan(splats.opacities)
    sound &= (splats.scales < np.inf).all(1)
    if not sound.any():
        raise ValueError(f"none of the {len(splats)} Gaussians is finite")
    splats = splats.only(sound)
    flat = splats.scales < SMALLEST_LOG_SCALE
    lost = np.linalg.norm(splats.quats, axis=1) < 1e-12
    changes = {
        "left out, their numbers are not finite": int((~sound).sum()),
        "made opaque or transparent, their opacity was infinite": int(np.isinf(splats.opacities).sum()),
        f"flat, with axes made exp({SMALLEST_LOG_SCALE:g}) thick": int(flat.any(1).sum()),
        "turned nowhere, their rotation was zero": int(lost.sum()),
    }
    splats.opacities = np.clip(splats.opacities, -LARGEST_LOGIT, LARGEST_LOGIT)
    splats.scales = np.maximum(splats.scales, SMALLEST_LOG_SCALE)
    splats.quats = np.where(lost[:, None], np.float32([1, 0, 0, 0]), splats.quats)
    return splats, [f"{count:,} Gaussians {what}" for what, count in changes.items() if count]


@dataclass(frozen=True)
class Loss:
    """The errors that 99 % of the Gaussians are within, and how many are beyond a format's precision."""

    position: float  # world units
    size: float  # relative
    opacity: float  # in [0, 1]
    color: float  # in [0, 1]
    rotation: float  # degrees
    harmonics: float | None  # of view-dependent color, root mean square; None: it is not held
    beyond: int
    largest: str  # the number that is most often beyond
    count: int

    @property
    def is_held(self) -> bool:
        """Return whether the format holds the model."""
        return self.beyond <= LARGEST_SHARE * self.count

    def record(self) -> dict[str, float | int | str | None]:
        """Return the numbers for export.json."""
        return asdict(self)

    def __str__(self) -> str:
        text = f"positions within {self.position:.2g}, sizes {self.size:.2g}, opacities {self.opacity:.2g}, "
        text += f"colors {self.color:.2g}, rotations {self.rotation:.2g} degrees"
        text += ", no view-dependent color" if self.harmonics is None else f", SH {self.harmonics:.2g}"
        return text + (f"; {self.beyond:,} beyond the format ({self.largest})" if self.beyond else "")


def measure_loss(given: Splats, found: Splats, precision: Precision) -> Loss:
    """Return what was lost between the Gaussians given and those read back, in the same order.

    Raise ValueError if their numbers differ or something that is not finite was read.
    """
    if len(given) != len(found):
        raise ValueError(f"{len(given)} Gaussians were written, {len(found)} are in the file")
    if not all(np.isfinite(values).all() for values in vars(found).values()):
        raise ValueError("numbers that are not finite are in the file")
    spread = float(np.quantile(np.linalg.norm(given.means - np.median(given.means, 0), axis=1), 0.9))
    errors = _errors(given, found, spread)
    limits = vars(precision) | {"position": max(precision.position * spread, _rounding(given.means))}
    over = {name: values > limits[name] for name, values in errors.items()}
    rest = given.sh_rest.shape[1]
    held = found.sh_rest.shape[1] == rest and rest
    harmonics = float(np.sqrt(np.square(given.sh_rest - found.sh_rest).mean())) if held else None
    return Loss(
        **{name: float(np.quantile(values, 0.99)) for name, values in errors.items()},
        harmonics=harmonics if rest else 0.0,
        beyond=int(np.any(list(over.values()), axis=0).sum()),
        largest=max(over, key=lambda name: over[name].sum()),
        count=len(given),
    )


def _rounding(means: np.ndarray) -> float:
    """Return the error of float32 positions."""
    return float(np.spacing(np.abs(means).max()))


def _errors(given: Splats, found: Splats, spread: float) -> dict[str, np.ndarray]:  # (N,) each
    """Return the errors by the names of Precision. Sizes too small to be seen are one size."""
    thinnest = given.scales.max(1, keepdims=True) - np.log(float(THIN))
    floor = np.maximum(thinnest, np.log(SMALL * spread + 1e-30))
    sizes = np.abs(np.maximum(found.scales, floor) - np.maximum(given.scales, floor))
    cosines = np.abs((unit_quats(given.quats) * unit_quats(found.quats)).sum(1, dtype=np.float64))
    turns = 2 * np.degrees(np.arccos(np.minimum(cosines, 1)))
    return {
        "position": np.linalg.norm(given.means.astype(np.float64) - found.means, axis=1),
        "size": np.expm1(sizes.max(1)),
        "opacity": np.abs(sigmoid(given.opacities) - sigmoid(found.opacities)),
        "color": C0 * np.abs(given.sh_dc - found.sh_dc).max(1),
        "rotation": np.where(np.ptp(given.scales, axis=1) > 0.01, turns, 0),
    }
