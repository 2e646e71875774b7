"""Gaussians whose parameters are not finite or too extreme to draw: left out, or brought into range.

Files of other programs hold such rows. A single NaN would spoil a whole file of another format, or a camera
that looks at the mean of all positions.
"""

from __future__ import annotations

import math

from torch import Tensor

# Logarithms of lengths in world units, 4e-18 to 2e17. Their squares are float32.
SCALE_RANGE = (-40.0, 40.0)
LARGEST_LOGIT = math.log(999_999)  # opacity 0.999999, in place of infinity
QUAT_LENGTHS = (1e-10, 1e10)  # between which a float32 quaternion can be normalized


def make_sound(raw: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return raw parameters (N, ...) that can be drawn and exported, and a sentence for each kind of change.

    Gaussians are left out if their position, color or rotation is not finite or any number is NaN. Infinite
    opacities and scales outside SCALE_RANGE are clamped. A quaternion of length 0 becomes the identity.

    Raise ValueError if no Gaussian of some is left.
    """
    raw, total = dict(raw), len(raw["means"])
    notes: list[str] = []

    def note(count: int, text: str) -> None:
        if count:
            notes.append(f"{count:,} of {total:,} Gaussians {text}")

    usable = _usable(raw)
    if total and not usable.any():
        raise ValueError(f"none of its {total:,} Gaussians has finite parameters")
    note(int((~usable).sum()), "have NaN, or an infinite position, color or rotation: left out")
    if not usable.all():
        raw = {name: values[usable] for name, values in raw.items()}
    for infinity, kind in ((math.inf, "opaque"), (-math.inf, "transparent")):
        found = raw["opacities"] == infinity
        note(int(found.sum()), f"are infinitely {kind}: opacity clamped to {_opacity(infinity):.6f}")
        raw["opacities"] = raw["opacities"].masked_fill(found, math.copysign(LARGEST_LOGIT, infinity))
    low, high = SCALE_RANGE
    note(_rows(raw["scales"] < low), f"have a flat axis: clamped to length {math.exp(low):.1e}")
    note(_rows(raw["scales"] > high), f"have an axis without limit: clamped to length {math.exp(high):.1e}")
    raw["scales"] = raw["scales"].clamp(low, high)
    note(_rows(raw["quats"] == 0, every=True), "have a quaternion of length 0: taken as the identity")
    raw["quats"] = _with_lengths(raw["quats"])
    return raw, notes


def _usable(raw: dict[str, Tensor]) -> Tensor:
    """Return the mask (N,) of Gaussians without NaN whose position, color and rotation are finite."""
    may_be_infinite = ("opacities", "scales")
    checks = [
        ~values.isnan() if name in may_be_infinite else values.isfinite() for name, values in raw.items()
    ]
    usable = checks[0].flatten(1).all(1)
    for check in checks[1:]:
        usable = usable & check.flatten(1).all(1)
    return usable


def _rows(mask: Tensor, every: bool = False) -> int:  # (N, C) bool
    """Return in how many rows some, or every, number is meant."""
    return int((mask.all(1) if every else mask.any(1)).sum())


def _opacity(infinity: float) -> float:
    return 1 / (1 + math.exp(-math.copysign(LARGEST_LOGIT, infinity)))


def _with_lengths(quats: Tensor) -> Tensor:
    """Return quaternions (N, 4) as given, but of length 1 where float32 cannot square their length."""
    lengths = quats.double().norm(dim=1)
    odd = (lengths < QUAT_LENGTHS[0]) | (lengths > QUAT_LENGTHS[1])
    if not odd.any():
        return quats
    quats = quats.clone()
    quats[odd] = (quats[odd].double() / lengths[odd].clamp_min(1e-300)[:, None]).to(quats)
    zero = odd & (lengths == 0)
    quats[zero] = quats.new_tensor([1.0, 0.0, 0.0, 0.0])
    return quats
