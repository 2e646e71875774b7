"""Maps of inverse depth beside the photos: monocular networks make them, and 3DGS supervises depth with them.

DEPTHS/NAME.png, 16 bit, belongs to the photo NAME.*. depth_params.json lies beside the COLMAP model or in the
scene's folder. It holds {NAME: {"scale": a, "offset": b}}, and a * value / 2^16 + b is 1 / depth in the
scene's units.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.files import read_json
from utils.similar_names import hint

PARAMETERS = "depth_params.json"
PARAMETER_FOLDERS = ("sparse/0", "sparse", ".")
FULL_RANGE = 2**16
# Smallest and largest scale of a map that is used, as factors of the median scale. As in 3DGS, maps beyond
# these bounds are ignored: they were not aligned well.
TRUSTED = (0.2, 5.0)


@dataclass(frozen=True)
class DepthMap:
    """The depth map of a photo, with the scale and offset that convert it to the scene's units."""

    path: Path
    scale: float
    offset: float

    def read(self) -> np.ndarray:
        """Return the (H, W) float32 inverse depths, at least 0, in 1 / world units.

        Raise ValueError, naming the file, if it is damaged or not a 16-bit image of one channel.
        """
        data = np.frombuffer(self.path.read_bytes(), np.uint8)
        stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
        if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
            found = "not an image" if stored is None else f"{stored.dtype} {stored.shape}"
            raise ValueError(f"{self.path}: depth maps are 16-bit PNGs of one channel, this is {found}")
        values = stored.astype(np.float32) / FULL_RANGE
        return np.maximum(values * np.float32(self.scale) + np.float32(self.offset), 0)


def find_depth_maps(source: Path, folder: str, image_names: list[str], quiet: bool) -> dict[str, DepthMap]:
    """Return the depth maps by image name. Print how many images have no usable one, unless `quiet`.

    Raise FileNotFoundError or ValueError if the folder, its parameters or a map for any image is missing.
    """
    if not (source / folder).is_dir():
        raise FileNotFoundError(
            f"folder of depth maps not found: {source / folder} (-d names it inside the scene)"
            f"{hint(source / folder)}"
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
    missing = len(image_names) - len(maps)
    if missing and not quiet:
        print(f"{missing} of {len(image_names)} views have no usable depth map in {source / folder}")
    return maps


def _stem(image_name: str) -> str:
    """Return the name of an image in depth_params.json: `left/1` for `images/left/1.jpg` and `left/1.jpg`."""
    name = Path(image_name).with_suffix("")
    return str(Path(*name.parts[1:]) if name.parts[0] == "images" else name)


def _read_parameters(source: Path) -> dict[str, tuple[float, float]]:
    """Return scale and offset by the photo's name without suffix.

    Raise FileNotFoundError if there is no such file, ValueError if a number in it is missing or not finite.
    """
    candidates = [source / folder / PARAMETERS for folder in PARAMETER_FOLDERS]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"-d needs {candidates[0]}, which holds the scale and offset of every depth map"
        )
    parameters = {}
    for name, entry in read_json(path).items():
        values = [entry.get(key) for key in ("scale", "offset")] if isinstance(entry, dict) else [None]
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
            raise ValueError(f"{path}: {name} needs a finite scale and offset, got {entry!r}")
        parameters[name] = (float(values[0]), float(values[1]))
    if not any(scale > 0 for scale, _ in parameters.values()):
        raise ValueError(f"{path} holds no depth map with a positive scale")
    return parameters
