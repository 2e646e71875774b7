"""The data of a training run: a folder of photos, their cameras and points becomes a Scene."""

from .camera import Camera, CameraMatrices, viewer_entries
from .load import Scene, load_scene
from .photo_cache import Cameras
from .points import PointCloud

__all__ = ["Camera", "CameraMatrices", "Cameras", "PointCloud", "Scene", "load_scene", "viewer_entries"]
