"""Maps of inverse depth beside the photos, as monocular networks make them and 3DGS supervises by them.

DEPTHS/NAME.png, 16 bit, belongs to the photo NAME.*; depth_params.json, beside the COLMAP model or in the scene's
folder, holds {NAME: {"scale": a, "offset": b}} such that a * value / 2^16 + b is 1 / depth in the scene's units.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.files import read_json

PARAMETERS = "depth_params.json"
PARAMETER_FOLDERS = ("sparse/0", "sparse", ".")
FULL_RANGE = 2**16
# Maps whose scale is further from the median scale than these factors were not aligned well: not used, as in 3DGS.
TRUSTED = (0.2, 5.0)


@dataclass(frozen=True)
class DepthMap:
    """One photo's map, with what puts it into the scene's units."""

    path: Path
    scale: float
    offset: float

    def read(self) -> np.ndarray:
        """(H, W) float32 inverse depths, 1 / world units, at least 0. ValueError, naming a damaged file."""
        data = np.frombuffer(self.path.read_bytes(), np.uint8)
        stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
        if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
            found = "not an image" if stored is None else f"{stored.dtype} {stored.shape}"
            raise ValueError(f"{self.path}: depth maps are 16-bit PNGs of one channel, this is {found}")
        values = stored.astype(np.float32) / FULL_RANGE
        return np.maximum(values * np.float32(self.scale) + np.float32(self.offset), 0)


def find_depth_maps(source: Path, folder: str, image_names: list[str], quiet: bool) -> dict[str, DepthMap]:
    """The maps by image name; how many images have none that can be used is said.

    FileNotFoundError or ValueError if there is no folder, no parameters, or no map for any image.
    """
    if not (source / folder).is_dir():
        raise FileNotFoundError(
            f"folder of depth maps not found: {source / folder} (-d names it inside the scene)"
        )
    parameters = _read_parameters(source)
    usual = statistics.median(scale for scale, _ in parameters.values() if scale > 0)
    maps = {}
    for name in image_names:
        path = source / folder / f"{_stem(name)}.png"
        scale, offset = parameters.get(_stem(name), (0.0, 0.0))
        if path.is_file() and TRUSTED[0] * usual <= scale <= TRUSTED[1] * usual:
            maps[name] = DepthMap(path, scale, offset)
    if not maps:
        raise FileNotFoundError(
            f"{source / folder}: no depth map for any view, such as {_stem(image_names[0])}.png "
            f"with its scale in {PARAMETERS}"
        )
    lacking = len(image_names) - len(maps)
    if lacking and not quiet:
        print(
            f"{lacking} of {len(image_names)} views have no depth map in {source / folder} that can be used"
        )
    return maps


def _stem(image_name: str) -> str:
    """`images/left/1.jpg` and `left/1.jpg` -> `left/1`."""
    name = Path(image_name).with_suffix("")
    return str(Path(*name.parts[1:]) if name.parts[0] == "images" else name)


def _read_parameters(source: Path) -> dict[str, tuple[float, float]]:
    """Scale and offset by the photo's name without suffix."""
    places = [source / folder / PARAMETERS for folder in PARAMETER_FOLDERS]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"-d needs {places[0]}, which holds the scale and offset of every depth map")
    parameters = {}
    for name, entry in read_json(path).items():
        values = [entry.get(key) for key in ("scale", "offset")] if isinstance(entry, dict) else [None]
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
            raise ValueError(f"{path}: {name} needs a finite scale and offset, got {entry!r}")
        parameters[name] = (float(values[0]), float(values[1]))
    if not any(scale > 0 for scale, _ in parameters.values()):
        raise ValueError(f"{path} holds no depth map with a positive scale")
    return parameters
