"""Depth maps of small scenes, and their parameters."""

from __future__ import annotations

import json

import cv2
import numpy as np
from tiny_scene import HEIGHT, WIDTH


def write_depth(path, values, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0])
    assert cv2.imwrite(str(path), np.broadcast_to(np.asarray(values, np.uint16), shape).copy())


def write_parameters(source, **entries):
    (source / "sparse/0/depth_params.json").write_text(json.dumps(entries))


def entry(scale=1.0, offset=0.0):
    return {"scale": scale, "offset": offset}
