"""What comes in: a folder with photos, their cameras and some points becomes a Scene."""

from .camera import Camera, CameraMatrices, viewer_entries
from .load import Scene, load_scene
from .photo_cache import Cameras
from .points import PointCloud

__all__ = ["Camera", "CameraMatrices", "Cameras", "PointCloud", "Scene", "load_scene", "viewer_entries"]
