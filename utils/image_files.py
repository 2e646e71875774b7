"""Decode the pixels of an image file as they are stored, with 8 bits per channel.

OpenCV decodes. What it does differently from format to format is evened out here: the range of numbers of
more than 8 bits, the orientation of TIFF, and TIFF's alpha.
"""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

_AVIF, _PNG = rb"....ftypavi[fs]", rb"\x89PNG"
_TIFF = rb"II[*+]\0|MM\0[*+]"
_PNM = rb"P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+(?:#[^\n]*\n\s*)*\d+\s+(?:#[^\n]*\n\s*)*(\d+)\s"
_AV1_DEPTHS = {0: 8, 0x40: 10, 0x60: 12}  # by the bits high_bitdepth and twelve_bit
_ORIENTATION = 274  # number of TIFF's tag
_MOST_TAGS = 1000  # of a TIFF that is not damaged


def decode(path: Path) -> np.ndarray:
    """Return the pixels (H, W) or (H, W, 1 to 4) uint8 in OpenCV's order of channels: BGR, straight alpha.

    Raise ValueError, naming the file, if it cannot be decoded or has a depth that is not supported.
    """
    data = path.read_bytes()
    if _begins(data, _TIFF):
        data = _with_first_orientation(data)
    try:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error as error:
        raise ValueError(f"{path} cannot be decoded: {error.err}") from None
    if stored is None:
        raise ValueError(
            f"{path} ({len(data)} bytes) is damaged or not an image in a format that OpenCV reads"
        )
    if stored.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: images need 8 or 16 bits per channel, this one holds {stored.dtype}")
    if _begins(data, _TIFF) and stored.dtype == np.uint8 and stored.shape[2:] == (4,):
        return _straight_alpha(data, stored)
    largest = _largest_value(data, stored.dtype)
    if largest is None:
        raise ValueError(f"{path}: more than 8 bits are read of PNG, TIFF, AVIF and PNM only")
    if largest == 255:
        return stored
    return ((stored.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8)


def _begins(data: bytes, pattern: bytes) -> re.Match | None:
    return re.match(pattern, data[:512], re.DOTALL)


def _largest_value(data: bytes, dtype: np.dtype) -> int | None:
    """Return the number that is white; None if it is not known."""
    if found := _begins(data, _PNM):
        return int(found[1]) if data[1:2] not in b"14" else 255  # bitmaps have no such number
    if dtype == np.uint8:
        return 255
    if _begins(data, _AVIF):
        flags = data[data.find(b"av1C") + 6] & 0x60
        return 2 ** _AV1_DEPTHS[flags] - 1 if flags in _AV1_DEPTHS else None
    return 65535 if _begins(data, _PNG) or _begins(data, _TIFF) else None


def _with_first_orientation(data: bytes) -> bytes:
    """Return a TIFF with the orientation 1 (as stored): OpenCV would turn the pixels."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = b"+" in data[2:4]  # BigTIFF
    count, entry = (f"{order}Q", 20) if is_big else (f"{order}H", 12)
    try:
        (start,) = struct.unpack_from(*((f"{order}Q", data, 8) if is_big else (f"{order}I", data, 4)))
        (entries,) = struct.unpack_from(count, data, start)
        first = start + struct.calcsize(count)
        for at in range(first, first + entry * min(entries, _MOST_TAGS), entry):
            if struct.unpack_from(f"{order}H", data, at)[0] == _ORIENTATION:
                value = at + entry - (8 if is_big else 4)
                return data[:value] + struct.pack(f"{order}H", 1) + data[value + 2 :]
    except (struct.error, OverflowError):  # damaged, which OpenCV will say
        pass
    return data


def _straight_alpha(data: bytes, stored: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W, 4) uint8 of a TIFF by Pillow: OpenCV multiplies colors by alpha."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode != "RGBA":
            return stored  # CMYK, which OpenCV has made BGR
        return cv2.cvtColor(np.asarray(image), cv2.COLOR_RGBA2BGRA)
