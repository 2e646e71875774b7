"""Gaussians as plain arrays, and the file formats of other programs: compressed PLY, SPZ, SOG and .splat.

gaussian_model.py reads and writes the PLY that training saves. The optional package gsply reads and writes
compressed PLY and SPZ. utils/sog.py encodes SOG. All formats but PLY round their numbers, and .splat holds no
view-dependent color. Writers keep the order of the Gaussians; `Format.arrange` brings them into the one that
suits a format. utils/splat_loss.py compares what was read back with what was given.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils import sog
from utils.files import replacing, write_atomically
from utils.sh import C0

# Sign of each SH basis above degree 0 when y and z are negated: of y z x, xy yz zz xz xx-yy, ...
SH_SIGNS = np.float32([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1])
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

    def only(self, rows: np.ndarray) -> Splats:  # (M,) indices, or (N,) bool
        """Return the Gaussians in `rows`, in that order."""
        return Splats(**{name: values[rows] for name, values in vars(self).items()})


# .splat: 32 bytes per Gaussian, ordered by opacity times volume


def largest_first(splats: Splats) -> np.ndarray:
    """Return the (N,) indices of the Gaussians by opacity times volume: viewers show the first ones first."""
    return np.argsort(-sigmoid(splats.opacities) * np.exp(splats.scales.sum(1)), kind="stable")


def write_splat(path: Path, splats: Splats) -> None:
    """Write a .splat file atomically."""
    rows = np.zeros(len(splats), SPLAT_ROW)
    rows["means"], rows["scales"] = splats.means, np.exp(splats.scales)
    color = np.concatenate([0.5 + C0 * splats.sh_dc, sigmoid(splats.opacities)[:, None]], 1)
    rows["rgba"] = np.clip(np.rint(color * 255), 0, 255)
    rows["quats"] = np.clip(np.rint(unit_quats(splats.quats) * 128 + 128), 0, 255)
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


# SOG


def write_sog(path: Path, splats: Splats) -> None:
    """Write a SOG archive atomically."""
    parameters = vars(splats) | {"opacities": sigmoid(splats.opacities), "quats": unit_quats(splats.quats)}
    write_atomically(path, lambda file: file.write(sog.encode(**parameters)))


def read_sog(path: Path) -> Splats:
    """Read a SOG archive. Raise ValueError, naming the file, if it is none."""
    found = sog.decode(path)
    return Splats(**found | {"opacities": _logit(found["opacities"])})


# By gsply


def write_compressed_ply(path: Path, splats: Splats) -> None:
    """Write a compressed PLY atomically. Raise ValueError if gsply is not installed.

    The format rounds numbers relative to their range within chunks of 256 Gaussians. Those of a chunk should
    be near each other.
    """
    _by_gsply(path, splats, lambda gsply, name, data: gsply.plywrite(name, data, compressed=True))


def write_spz(path: Path, splats: Splats) -> None:
    """Write an SPZ file atomically. Raise ValueError if gsply is not installed.

    SPZ has y up and z backward, and gsply does not convert.
    """
    bits = spz_fractional_bits(splats.means)
    _by_gsply(
        path, turned(splats), lambda gsply, name, data: gsply.write_spz(name, data, fractional_bits=bits)
    )


def spz_fractional_bits(means: np.ndarray) -> int:
    """Return how many of the 24 bits of SPZ's fixed-point positions are a fraction: as many as fit.

    SPZ's usual 12 are too few for scenes in small units, and too many for those that are far across.
    """
    whole = int(np.ceil(np.log2(max(np.abs(means).max() * (1 + 1e-6), 2.0**-30))))
    return int(np.clip(23 - whole, 1, 23))


def read_compressed_ply(path: Path) -> Splats:
    """Read a compressed PLY. Raise ValueError if gsply is not installed."""
    return _read_by_gsply(path, "plyread")


def read_spz(path: Path) -> Splats:
    """Read an SPZ file. Raise ValueError if gsply is not installed."""
    return turned(_read_by_gsply(path, "read_spz"))


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


def _by_gsply(path: Path, splats: Splats, write: Callable[[Any, str, Any], None]) -> None:
    require_gsply()
    import gsply

    data = gsply.GSData.from_arrays(
        *(splats.means, splats.scales, unit_quats(splats.quats), splats.opacities, splats.sh_dc),
        splats.sh_rest,
        format="ply",  # logarithms and logits, which gsply would guess from the values
    )
    with replacing(path, "".join(path.suffixes)) as temporary:
        write(gsply, str(temporary), data)


def _read_by_gsply(path: Path, reader: str) -> Splats:
    require_gsply()
    import gsply

    data = getattr(gsply, reader)(str(path))
    rest = np.zeros((len(data.means), 0, 3), np.float32) if data.shN is None else data.shN
    return Splats(
        data.means, data.scales, data.quats, data.opacities, data.sh0, rest.reshape(len(data.means), -1, 3)
    )


@dataclass(frozen=True)
class Precision:
    """The largest errors of numbers that a format can hold. Numbers beyond its range have larger ones."""

    position: float  # relative to the spread of the positions
    size: float  # relative
    opacity: float  # in [0, 1]
    color: float  # in [0, 1], of the first SH coefficient
    rotation: float  # degrees


@dataclass(frozen=True)
class Format:
    """A file format: the suffix of its files, a pattern of their content, and its functions."""

    suffix: str
    content: bytes  # regular expression that its files match from their start
    write: Callable[[Path, Splats], None]
    read: Callable[[Path], Splats]
    order: Callable[[Splats], np.ndarray]  # returns the indices (N,) in the order that suits the format
    precision: Precision
    by_gsply: bool = False

    def arrange(self, splats: Splats) -> Splats:
        """Return the Gaussians in the order that suits the format."""
        return splats.only(self.order(splats))


def _along_a_curve(splats: Splats) -> np.ndarray:
    return sog.morton_order(splats.means)


FORMATS = {
    "compressed_ply": Format(
        ".compressed.ply",
        rb"(?s)ply\n.{0,500}\nelement chunk ",
        write_compressed_ply,
        read_compressed_ply,
        _along_a_curve,
        Precision(position=2e-3, size=0.02, opacity=0.003, color=0.01, rotation=0.3),
        by_gsply=True,
    ),
    "spz": Format(
        ".spz",
        rb"\x1f\x8b",
        write_spz,
        read_spz,
        lambda splats: np.arange(len(splats)),
        Precision(position=1e-3, size=0.035, opacity=0.003, color=0.005, rotation=0.3),
        by_gsply=True,
    ),
    "sog": Format(
        ".sog",
        rb"PK\x03\x04",
        write_sog,
        read_sog,
        _along_a_curve,
        Precision(position=1e-3, size=0.3, opacity=0.003, color=0.1, rotation=0.7),  # codebooks of 256
    ),
    "splat": Format(
        ".splat",
        rb"(?s)(.{32})+\Z",
        write_splat,
        read_splat,
        largest_first,
        Precision(position=1e-6, size=1e-4, opacity=0.003, color=np.inf, rotation=1.2),  # colors in [0, 1]
    ),
}


def sigmoid(values: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)


def _logit(shares: np.ndarray) -> np.ndarray:
    clipped = np.clip(shares.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped)).astype(np.float32)


def unit_quats(quats: np.ndarray) -> np.ndarray:
    return quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-12)
