"""Write videos (MP4, H.264) of rendered images by PyAV."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from utils.files import replacing

# H.264's constant rate factor: losses are hardly visible.
QUALITY = "18"


def require_video_writer() -> None:
    """Raise ValueError if PyAV is not installed. Callers check this before they render."""
    if importlib.util.find_spec("av") is None:
        raise ValueError("videos need PyAV, which is not installed: pip install av")


def write_video(path: Path, images: Iterable[np.ndarray], fps: int) -> None:
    """Write (H, W, 3) uint8 images of one size as a video with `fps` images per second.

    The file appears under its name when it is complete. H.264 needs even sides: an image with an odd one
    loses its last row or column.
    """
    import av

    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = None
        for image in images:
            height, width = (side - side % 2 for side in image.shape[:2])
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": QUALITY})
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            even = np.ascontiguousarray(image[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())
