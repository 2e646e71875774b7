"""SOG, version 2: Gaussians as lossless WebP images in a ZIP archive, PlayCanvas' format for the web.

The format is described at https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog.
A Gaussian has the same pixel in all images. Images are smaller if neighbors in space are neighbors in them.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from utils.selection import evenly_spaced_with_ends

VERSION = 2
CODES = 256  # numbers of a codebook
FIXED_CODES = (
    64  # of them, evenly spaced over the range: no number is farther from its code than half a space
)
LARGEST_PALETTE = 65_536
# Gaussians per palette entry of view-dependent color, where LARGEST_PALETTE is no limit.
GAUSSIANS_PER_ENTRY = 4
# Largest number of distances between Gaussians and palette entries in a round: about ten seconds on a core.
MOST_DISTANCES = 8 * 10**9
PALETTE_ROUNDS = 8
ENTRIES_PER_ROW = 64
BASES = {1: 3, 2: 8, 3: 15}  # SH bases above degree 0, by number of bands
CHUNK = 4096  # rows


def encode(
    means: np.ndarray,  # (N, 3)
    scales: np.ndarray,  # (N, 3) logarithms
    quats: np.ndarray,  # (N, 4) w x y z, unit length
    opacities: np.ndarray,  # (N,) in [0, 1]
    sh_dc: np.ndarray,  # (N, 3)
    sh_rest: np.ndarray,  # (N, 0, 3, 8 or 15, 3)
) -> bytes:
    """Return the bytes of an archive, with the Gaussians in the order given: best along a curve."""
    width = 4 * int(np.ceil(np.sqrt(len(means)) / 4))
    images: dict[str, np.ndarray] = {}

    logs = np.sign(means) * np.log1p(np.abs(means.astype(np.float64)))
    low, high = logs.min(0), logs.max(0)
    steps = np.rint((logs - low) / np.maximum(high - low, 1e-12) * 65535).astype(np.uint16)
    images["means_l.webp"], images["means_u.webp"] = (
        (steps & 255).astype(np.uint8),
        (steps >> 8).astype(np.uint8),
    )
    images["quats.webp"] = pack_quats(quats)
    scale_codes, scale_book = quantize(scales)
    images["scales.webp"] = scale_codes
    color_codes, color_book = quantize(sh_dc)
    alpha = np.clip(np.rint(opacities[:, None] * 255), 0, 255).astype(np.uint8)
    images["sh0.webp"] = np.concatenate([color_codes, alpha], 1)
    meta = {
        "version": VERSION,
        "asset": {"generator": "error-driven-3dgs"},
        "count": len(means),
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book, "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": color_book, "files": ["sh0.webp"]},
    }
    flat = {name: _as_image(pixels, width) for name, pixels in images.items()}
    if sh_rest.shape[1]:
        labels, palette = make_palette(sh_rest.reshape(len(means), -1))
        codes, book = quantize(palette)
        count = len(palette)
        rows = -(-count // ENTRIES_PER_ROW) * ENTRIES_PER_ROW
        entries = np.zeros((rows, sh_rest.shape[1], 3), np.uint8)
        entries[:count] = codes.reshape(count, -1, 3)
        flat["shN_centroids.webp"] = entries.reshape(rows // ENTRIES_PER_ROW, -1, 3)
        pair = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], 1).astype(np.uint8)
        flat["shN_labels.webp"] = _as_image(pair, width)
        bands = next(number for number, bases in BASES.items() if bases == sh_rest.shape[1])
        files = ["shN_centroids.webp", "shN_labels.webp"]
        meta["shN"] = {"count": count, "bands": bands, "codebook": book, "files": files}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name, content in (
            ("meta.json", json.dumps(meta).encode()),
            *((n, _webp(p)) for n, p in flat.items()),
        ):
            file.writestr(zipfile.ZipInfo(name), content)
    return archive.getvalue()


# The exceptions that a damaged or foreign archive raises. An encrypted one or a later version of ZIP raises
# RuntimeError.
_BROKEN = (zipfile.BadZipFile, zlib.error, RuntimeError, KeyError, IndexError, TypeError, AttributeError)
_BROKEN += (ValueError, OverflowError, OSError, EOFError)


def decode(path: Path) -> dict[str, np.ndarray]:
    """Return the arguments of `encode` that an archive holds, as float32.

    Raise ValueError, naming the file, if it is not a SOG archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read("meta.json"))
            if meta["version"] != VERSION:
                raise ValueError(f"its version is {meta['version']}, expected {VERSION}")
            return _decode(meta, lambda name: _pixels(archive.read(name)))
    except _BROKEN as problem:
        raise ValueError(f"{path}: not a SOG archive ({problem})") from problem


def _decode(meta, pixels) -> dict[str, np.ndarray]:
    count = meta["count"]
    low_bytes, high_bytes = (pixels(name)[:count, :3].astype(np.float64) for name in meta["means"]["files"])
    low, high = (np.array(meta["means"][key]) for key in ("mins", "maxs"))
    logs = low + (high_bytes * 256 + low_bytes) / 65535 * (high - low)
    colors = pixels(meta["sh0"]["files"][0])[:count]
    found = {
        "means": np.sign(logs) * np.expm1(np.abs(logs)),
        "scales": np.array(meta["scales"]["codebook"])[pixels(meta["scales"]["files"][0])[:count, :3]],
        "quats": unpack_quats(pixels(meta["quats"]["files"][0])[:count]),
        "opacities": colors[:, 3] / 255,
        "sh_dc": np.array(meta["sh0"]["codebook"])[colors[:, :3]],
        "sh_rest": np.zeros((count, 0, 3)),
    }
    if "shN" in meta:
        centroids, labels = (pixels(name) for name in meta["shN"]["files"])
        palette = np.array(meta["shN"]["codebook"])[centroids[:, :3]].reshape(
            -1, BASES[meta["shN"]["bands"]], 3
        )
        found["sh_rest"] = palette[labels[:count, 0] + 256 * labels[:count, 1].astype(np.int64)]
    return {name: values.astype(np.float32) for name, values in found.items()}


def pack_quats(quats: np.ndarray) -> np.ndarray:
    """Return (N, 4) uint8 codes of (N, 4) unit quaternions w x y z.

    They hold the three components other than the largest with 8 bits each, and the index of the largest.
    """
    largest = np.abs(quats).argmax(1)
    rows = np.arange(len(quats))
    signed = quats * np.where(quats[rows, largest] < 0, -1, 1)[:, None]
    others = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    small = np.take_along_axis(signed, others, 1) / np.sqrt(2) + 0.5
    return np.column_stack([np.clip(np.rint(small * 255), 0, 255), 252 + largest]).astype(np.uint8)


def unpack_quats(pixels: np.ndarray) -> np.ndarray:
    """Return the (N, 4) unit quaternions w x y z of codes. Raise ValueError for an invalid code."""
    small = (pixels[:, :3] / 255 - 0.5) * np.sqrt(2)
    largest = pixels[:, 3].astype(int) - 252
    if ((largest < 0) | (largest > 3)).any():
        raise ValueError("a quaternion's mode is not one of 252 to 255")
    quats = np.empty((len(pixels), 4))
    rows, others = np.arange(len(pixels)), np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    quats[rows, largest] = np.sqrt(np.maximum(0, 1 - (small**2).sum(1)))
    np.put_along_axis(quats, others, small, 1)
    return quats


def quantize(values: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Return uint8 codes of `values`, in the same shape, and the codebook: the number of each code.

    FIXED_CODES are evenly spaced, which bounds the error by `largest_code_error`. The others start from
    quantiles and are refined to the means of their cells (Lloyd).
    """
    flat = np.sort(values.ravel().astype(np.float64))
    fixed = np.linspace(flat[0], flat[-1], FIXED_CODES)
    free = np.quantile(flat, (np.arange(CODES - FIXED_CODES) + 0.5) / (CODES - FIXED_CODES))
    book = np.unique(np.concatenate([fixed, free]))
    is_fixed = np.isin(book, fixed)
    for _ in range(PALETTE_ROUNDS):
        edges = np.searchsorted(flat, (book[1:] + book[:-1]) / 2)
        cells = np.split(flat, edges)
        means = [cell.mean() if len(cell) else old for cell, old in zip(cells, book)]
        book = np.where(is_fixed, book, means)
    codes = np.searchsorted((book[1:] + book[:-1]) / 2, values).astype(np.uint8)
    return codes, np.pad(book, (0, CODES - len(book)), mode="edge").tolist()


def largest_code_error(values: np.ndarray) -> float:
    """Return the largest error of the numbers that `quantize` encodes."""
    return float(np.ptp(values.astype(np.float64))) / (FIXED_CODES - 1) / 2


def make_palette(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) labels and a (P, D) palette for (N, D) rows, by k-means (Lloyd).

    The palette starts from evenly spaced ones of the distinct rows.
    """
    count = max(1, min(LARGEST_PALETTE, len(rows) // GAUSSIANS_PER_ENTRY, MOST_DISTANCES // len(rows)))
    distinct = np.unique(rows, axis=0)
    if len(distinct) <= count:
        return nearest(rows, distinct), distinct
    palette = distinct[evenly_spaced_with_ends(len(distinct), count)].astype(np.float32)
    for _ in range(PALETTE_ROUNDS):
        labels = nearest(rows, palette)
        members = np.bincount(labels, minlength=count)
        sums = np.zeros_like(palette)
        np.add.at(sums, labels, rows)
        palette = np.where(members[:, None] > 0, sums / np.maximum(members, 1)[:, None], palette)
    return nearest(rows, palette), palette


def nearest(rows: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the (N,) index of the palette entry nearest to each row."""
    lengths = (palette**2).sum(1)
    parts = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
    return np.concatenate([(lengths - 2 * part @ palette.T).argmin(1) for part in parts])


def _as_image(pixels: np.ndarray, width: int) -> np.ndarray:  # (N, C) -> (H, width, C)
    height = -(-len(pixels) // width)
    image = np.zeros((height * width, pixels.shape[1]), np.uint8)
    image[: len(pixels)] = pixels
    if pixels.shape[1] == 4:
        image[len(pixels) :, 3] = 255
    return image.reshape(height, width, -1)


def _webp(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", lossless=True, exact=True, quality=100, method=4)
    return file.getvalue()


def _pixels(content: bytes) -> np.ndarray:  # (H W, 3 or 4)
    image = np.asarray(Image.open(io.BytesIO(content)))
    return image.reshape(-1, image.shape[2])
