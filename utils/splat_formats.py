"""Gaussians as plain arrays, and the file formats of other programs: compressed PLY, SPZ, SOG and .splat.

gaussian_model.py reads and writes the PLY that training saves. The optional package gsply reads and writes
compressed PLY and SPZ. utils/sog.py encodes SOG. All formats but PLY round their numbers: FORMATS holds what
each can say and how finely. utils/splat_check.py keeps numbers within that and compares what was written.

Writers take sound Gaussians (utils/soundness.py) in the order that the format asks for, and keep it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils import sog
from utils.files import replacing, write_atomically
from utils.morton import MOST_BITS, morton_order
from utils.sh import C0, MAX_DEGREE

# Sign of each SH basis above degree 0 when y and z are negated: of y z x, xy yz zz xz xx-yy, ...
SH_SIGNS = np.float32([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1])
HALF_BYTE = 0.5 / 255  # largest error of a share in 8 bits
# SPZ: the largest coordinate in steps, bits for fractions of a world unit, and its factor on SH of degree 0.
SPZ_LARGEST, SPZ_BITS, SPZ_USUAL_BITS, SPZ_COLOR = 2**23 - 1, (1, 24), 12, 0.15
SPLAT_ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])


@dataclass
class Splats:
    """The unconstrained float32 parameters of a 3DGS PLY."""

    means: np.ndarray  # (N, 3) world
    scales: np.ndarray  # (N, 3) logarithms
    quats: np.ndarray  # (N, 4) w x y z, of any length
    opacities: np.ndarray  # (N,) logits
    sh_dc: np.ndarray  # (N, 3)
    sh_rest: np.ndarray  # (N, K - 1, 3)

    def __len__(self) -> int:
        return len(self.means)

    def rows(self, chosen: np.ndarray) -> Splats:
        """Return the Gaussians that indices or a mask choose."""
        return Splats(**{name: values[chosen] for name, values in vars(self).items()})

    def sizes(self) -> np.ndarray:  # (N,) world units
        """Return the length of the longest axis of each Gaussian."""
        return np.exp(self.scales.max(1).astype(np.float64))

    def shares(self) -> np.ndarray:  # (N,) in [0, 1]
        """Return the opacities themselves, not their logits."""
        return sigmoid(self.opacities)


# The largest errors of a file by name of parameter, scalars or (N, C): opacities as shares, quats as angles
# between rotations in degrees. A parameter that is missing has no bound.
Errors = dict[str, "np.ndarray | float"]


# .splat: 32 bytes per Gaussian, ordered by opacity times volume


def by_weight(splats: Splats) -> np.ndarray:
    """Return the (N,) indices of the Gaussians by opacity times volume, largest first."""
    return np.argsort(-splats.shares() * np.exp(splats.scales.sum(1, dtype=np.float64)), kind="stable")


def write_splat(path: Path, splats: Splats) -> None:
    """Write a .splat file atomically."""
    rows = np.zeros(len(splats), SPLAT_ROW)
    rows["means"], rows["scales"] = splats.means, np.exp(splats.scales)
    color = np.concatenate([0.5 + C0 * splats.sh_dc, splats.shares()[:, None]], 1)
    rows["rgba"] = np.clip(np.rint(color * 255), 0, 255)
    rows["quats"] = np.clip(np.rint(unit(splats.quats) * 128 + 128), 0, 255)
    write_atomically(path, lambda file: file.write(rows.tobytes()))


def read_splat(path: Path) -> Splats:
    """Read a .splat file. Raise ValueError, naming the file, if its size is wrong."""
    data = path.read_bytes()
    if not data or len(data) % SPLAT_ROW.itemsize:
        raise ValueError(
            f"{path}: {len(data)} bytes are no whole number of {SPLAT_ROW.itemsize}-byte Gaussians"
        )
    rows = np.frombuffer(data, SPLAT_ROW)
    rgba = rows["rgba"].astype(np.float32) / 255
    return Splats(
        means=rows["means"].copy(),
        scales=np.log(np.maximum(rows["scales"], 1e-30)),
        quats=(rows["quats"].astype(np.float32) - 128) / 128,
        opacities=_logit(rgba[:, 3]),
        sh_dc=(rgba[:, :3] - 0.5) / C0,
        sh_rest=np.zeros((len(rows), 0, 3), np.float32),
    )


def splat_errors(splats: Splats) -> Errors:
    """Return the largest errors: positions and scales are float32, the rest has 8 bits."""
    return {"means": 0, "scales": 0, "opacities": HALF_BYTE, "sh_dc": HALF_BYTE / C0, "quats": 1.4}


# SOG


def along_curve(splats: Splats) -> np.ndarray:
    """Return the (N,) indices of the Gaussians along a Morton curve."""
    return morton_order(torch.from_numpy(splats.means), MOST_BITS).numpy()


def write_sog(path: Path, splats: Splats) -> None:
    """Write a SOG archive atomically."""
    parameters = vars(splats) | {"opacities": splats.shares(), "quats": unit(splats.quats)}
    write_atomically(path, lambda file: file.write(sog.encode(**parameters)))


def read_sog(path: Path) -> Splats:
    """Read a SOG archive. Raise ValueError, naming the file, if it is none."""
    found = sog.decode(path)
    return Splats(**found | {"opacities": _logit(found["opacities"])})


def sog_errors(splats: Splats) -> Errors:
    """Return the largest errors.

    Positions have 16 bits between the smallest and largest sign(x) log(1 + |x|), so that steps grow with the
    distance from the origin. View-dependent color comes from a palette and has no bound.
    """
    means = splats.means.astype(np.float64)
    steps = np.ptp(np.sign(means) * np.log1p(np.abs(means)), axis=0) / 65535
    return {
        "means": (1 + np.abs(means)) * np.expm1(steps / 2),
        "scales": sog.largest_code_error(splats.scales),
        "opacities": HALF_BYTE,
        "sh_dc": sog.largest_code_error(splats.sh_dc),
        "quats": 1.2,
    }


# By gsply: compressed PLY


def write_compressed_ply(path: Path, splats: Splats) -> None:
    """Write a compressed PLY atomically. Raise ValueError if gsply is not installed."""
    with _for_gsply(path, splats) as (gsply, name, data):
        gsply.plywrite(name, data, compressed=True)


def read_compressed_ply(path: Path) -> Splats:
    """Read a compressed PLY. Raise ValueError, naming the file, if it is none, or gsply is not installed."""
    return _read_by_gsply(path, "plyread")


def compressed_ply_errors(splats: Splats) -> Errors:
    """Return the largest errors: whole steps, as gsply rounds down.

    Positions and scales have 11, 10 and 11 bits (x y z) between the limits of their chunk of 256 Gaussians,
    colors 8 bits. Coefficients of view-dependent color have 8 bits between -4 and 4.
    """
    steps = np.array([2**11 - 1, 2**10 - 1, 2**11 - 1])
    return {
        "means": _chunk_ranges(splats.means) / steps,
        "scales": _chunk_ranges(splats.scales) / steps,
        "opacities": 2 * HALF_BYTE,
        "sh_dc": _chunk_ranges(splats.sh_dc) * 2 * HALF_BYTE,
        "sh_rest": 0.5 / 32,
        "quats": 0.6,
    }


def _chunk_ranges(values: np.ndarray) -> np.ndarray:
    """Return for each row (N, C) the range of its chunk."""
    starts = np.arange(0, len(values), 256)
    values = values.astype(np.float64)
    ranges = np.maximum.reduceat(values, starts) - np.minimum.reduceat(values, starts)
    return np.repeat(ranges, 256, axis=0)[: len(values)]


# By gsply: SPZ


def write_spz(path: Path, splats: Splats) -> None:
    """Write an SPZ file atomically. Raise ValueError if gsply is not installed.

    SPZ has y up and z backward, and gsply does not convert.
    """
    bits = spz_fractional_bits(splats)
    with _for_gsply(path, turned(splats)) as (gsply, name, data):
        gsply.write_spz(name, data, fractional_bits=bits)


def as_given(splats: Splats) -> np.ndarray:
    """Return the (N,) indices of the Gaussians as they are."""
    return np.arange(len(splats))


def read_spz(path: Path) -> Splats:
    """Read an SPZ file. Raise ValueError, naming the file, if it is none, or gsply is not installed."""
    return turned(_read_by_gsply(path, "read_spz"))


def spz_fractional_bits(splats: Splats) -> int:
    """Return how many of the 24 bits of a coordinate stand for fractions of a world unit.

    They are 12 as usual, more if half the Gaussians are smaller than 8 steps, fewer if the farthest Gaussian
    is out of reach.
    """
    farthest = max(float(np.abs(splats.means).max()), 1e-9)
    reach = math.floor(math.log2(SPZ_LARGEST / farthest))
    fine = math.ceil(math.log2(8 / np.median(splats.sizes())))
    return max(SPZ_BITS[0], min(SPZ_BITS[1], reach, max(SPZ_USUAL_BITS, fine)))


def spz_errors(splats: Splats) -> Errors:
    """Return the largest errors: positions have 24 bits in all, the rest 8, quaternions 9 and a sign."""
    return {
        "means": 0.5 / 2 ** spz_fractional_bits(splats),
        "scales": 0.5 / 16,
        "opacities": HALF_BYTE,
        "sh_dc": HALF_BYTE / SPZ_COLOR,
        "sh_rest": 0.5 / 128,
        "quats": 0.3,
    }


def turned(splats: Splats) -> Splats:
    """Return the Gaussians after a half turn about x, which negates y and z. It is its own inverse."""
    return Splats(
        means=splats.means * np.float32([1, -1, -1]),
        scales=splats.scales,
        quats=splats.quats * np.float32([1, 1, -1, -1]),
        opacities=splats.opacities,
        sh_dc=splats.sh_dc,
        sh_rest=splats.sh_rest * SH_SIGNS[: splats.sh_rest.shape[1], None],
    )


def require_gsply() -> None:
    """Raise ValueError if gsply is not installed."""
    if importlib.util.find_spec("gsply") is None:
        raise ValueError(
            "compressed PLY and SPZ need gsply, which is not installed: "
            "pip install gsply, or choose other formats"
        )


@contextlib.contextmanager
def _for_gsply(path: Path, splats: Splats) -> Iterator[tuple[Any, str, Any]]:
    """Give gsply, a temporary name that replaces `path` afterwards, and the Gaussians as gsply takes them."""
    require_gsply()
    import gsply

    data = gsply.GSData.from_arrays(
        means=splats.means,
        scales=splats.scales,
        quats=unit(splats.quats),
        opacities=splats.opacities,
        sh0=splats.sh_dc,
        shN=splats.sh_rest,
        format="ply",  # logarithms and logits; without it gsply guesses from the values
    )
    with replacing(path, "".join(path.suffixes[-2:])) as temporary:
        yield gsply, str(temporary), data


def _read_by_gsply(path: Path, reader: str) -> Splats:
    require_gsply()
    import gsply

    data = getattr(gsply, reader)(str(path))
    if not (data.is_scales_ply and data.is_opacities_ply):
        raise ValueError(
            f"{path}: expected logarithms of scales and logits of opacities from gsply, got neither"
        )
    rest = np.zeros((len(data.means), 0, 3), np.float32) if data.shN is None else data.shN
    return Splats(
        data.means, data.scales, data.quats, data.opacities, data.sh0, rest.reshape(len(data.means), -1, 3)
    )


@dataclass(frozen=True)
class Format:
    """A file format: the suffix of its files, a pattern of their content, what it can say, its functions."""

    suffix: str
    content: bytes  # regular expression that its files match from their start
    order: Callable[[Splats], np.ndarray]  # (N,) indices, in which `write` and `errors` want the Gaussians
    write: Callable[[Path, Splats], None]
    read: Callable[[Path], Splats]
    errors: Callable[[Splats], Errors]  # the largest of a file, for numbers within `ranges`
    ranges: dict[str, tuple[float, float]]  # of stored parameters: logarithms of scales, SH coefficients
    sh_degree: int = MAX_DEGREE  # the largest that it holds
    by_gsply: bool = False


def _symmetric(**largest: float) -> dict[str, tuple[float, float]]:
    return {name: (-value, value) for name, value in largest.items()}


FORMATS = {
    "compressed_ply": Format(
        ".compressed.ply",
        rb"(?s)ply\n.{0,500}\nelement chunk ",
        along_curve,
        write_compressed_ply,
        read_compressed_ply,
        compressed_ply_errors,
        _symmetric(scales=20, sh_rest=127.5 / 32),
        by_gsply=True,
    ),
    "spz": Format(
        ".spz",
        rb"\x1f\x8b",
        as_given,
        write_spz,
        read_spz,
        spz_errors,
        _symmetric(means=SPZ_LARGEST / 2 ** SPZ_BITS[0], sh_dc=0.5 / SPZ_COLOR, sh_rest=127 / 128)
        | {"scales": (-10, 255 / 16 - 10)},
        by_gsply=True,
    ),
    "sog": Format(".sog", rb"PK\x03\x04", along_curve, write_sog, read_sog, sog_errors, {}),
    "splat": Format(
        ".splat",
        rb"(?s)(.{32})+\Z",
        by_weight,
        write_splat,
        read_splat,
        splat_errors,
        _symmetric(sh_dc=0.5 / C0),
        sh_degree=0,
    ),
}


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return shares in [0, 1] of logits, float32."""
    return (0.5 * (1 + np.tanh(logits.astype(np.float64) / 2))).astype(np.float32)


def _logit(shares: np.ndarray) -> np.ndarray:
    clipped = np.clip(shares.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped)).astype(np.float32)


def unit(quats: np.ndarray) -> np.ndarray:
    """Return quaternions (N, 4) of length 1, float32."""
    lengths = np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)
    return (quats / np.maximum(lengths, 1e-300)).astype(np.float32)
