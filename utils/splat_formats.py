"""Gaussians as plain arrays, and the file formats of other programs: compressed PLY, SPZ, SOG and .splat.

gaussian_model.py reads and writes the PLY that training saves. The optional package gsply reads and writes
compressed PLY and SPZ. utils/sog.py encodes SOG. All formats but PLY round their numbers, and .splat holds no
view-dependent color.
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


# .splat: 32 bytes per Gaussian, ordered by opacity times volume


def write_splat(path: Path, splats: Splats) -> None:
    """Write a .splat file atomically."""
    opacity = _sigmoid(splats.opacities)
    order = np.argsort(-opacity * np.exp(splats.scales.sum(1)), kind="stable")
    rows = np.zeros(len(splats), SPLAT_ROW)
    rows["means"], rows["scales"] = splats.means[order], np.exp(splats.scales[order])
    color = np.concatenate([0.5 + C0 * splats.sh_dc, opacity[:, None]], 1)[order]
    rows["rgba"] = np.clip(np.rint(color * 255), 0, 255)
    rows["quats"] = np.clip(np.rint(_unit(splats.quats[order]) * 128 + 128), 0, 255)
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
    parameters = vars(splats) | {"opacities": _sigmoid(splats.opacities), "quats": _unit(splats.quats)}
    write_atomically(path, lambda file: file.write(sog.encode(**parameters)))


def read_sog(path: Path) -> Splats:
    """Read a SOG archive. Raise ValueError, naming the file, if it is none."""
    found = sog.decode(path)
    return Splats(**found | {"opacities": _logit(found["opacities"])})


# By gsply


def write_compressed_ply(path: Path, splats: Splats) -> None:
    """Write a compressed PLY atomically. Raise ValueError if gsply is not installed.

    The format rounds numbers relative to their range within chunks of 256 Gaussians. Gaussians are sorted
    along a curve, so that those of a chunk are near each other and are rounded finely.
    """
    order = sog.morton_order(splats.means)
    splats = Splats(**{name: values[order] for name, values in vars(splats).items()})
    _by_gsply(path, splats, lambda gsply, name, data: gsply.plywrite(name, data, compressed=True))


def write_spz(path: Path, splats: Splats) -> None:
    """Write an SPZ file atomically. Raise ValueError if gsply is not installed.

    SPZ has y up and z backward, and gsply does not convert.
    """
    _by_gsply(path, turned(splats), lambda gsply, name, data: gsply.write_spz(name, data))


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

    data = gsply.GSData(
        means=splats.means,
        scales=splats.scales,
        quats=_unit(splats.quats),
        opacities=splats.opacities,
        sh0=splats.sh_dc,
        shN=splats.sh_rest,
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
class Format:
    """A file format: the suffix of its files, a pattern of their content, and its functions."""

    suffix: str
    content: bytes  # regular expression that its files match from their start
    write: Callable[[Path, Splats], None]
    read: Callable[[Path], Splats]
    by_gsply: bool = False


FORMATS = {
    "compressed_ply": Format(
        ".compressed.ply",
        rb"(?s)ply\n.{0,500}\nelement chunk ",
        write_compressed_ply,
        read_compressed_ply,
        by_gsply=True,
    ),
    "spz": Format(".spz", rb"\x1f\x8b", write_spz, read_spz, by_gsply=True),
    "sog": Format(".sog", rb"PK\x03\x04", write_sog, read_sog),
    "splat": Format(".splat", rb"(?s)(.{32})+\Z", write_splat, read_splat),
}


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-values.astype(np.float64)))).astype(np.float32)


def _logit(shares: np.ndarray) -> np.ndarray:
    clipped = np.clip(shares.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped)).astype(np.float32)


def _unit(quats: np.ndarray) -> np.ndarray:
    return quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-12)
