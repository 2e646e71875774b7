"""The demo scene's rendering with Mitsuba 3: materials, light, camera and a fixed tone curve."""

from __future__ import annotations

from pathlib import Path

import cv2
import mitsuba as mi
import numpy as np
import pyoidn
from numpy.typing import NDArray

from demo_scene.cameras import DemoView, intrinsics
from demo_scene.objects import Part
from demo_scene.shapes import Array, Mesh

EXPOSURE = 1.75
PASS_SPP = 32
SURFACE_SPP = 16  # samples per pixel for the albedo and normals that guide the denoiser
CLAMP = 6.0  # maximal radiance of a pixel in one pass of PASS_SPP samples; suppresses fireflies
MAX_DEPTH = 8
GLASS = "glass"


def bitmap(image: NDArray[np.uint8]) -> dict:
    return {"type": "bitmap", "bitmap": mi.Bitmap(np.ascontiguousarray(image[::-1])), "wrap_mode": "mirror"}


def material(name: str, textures: dict[str, NDArray[np.uint8]]) -> dict:
    """Return the BSDF of a material, with colors from the texture of that name or else from the vertices."""
    color = bitmap(textures[name]) if name in textures else {"type": "mesh_attribute", "name": "vertex_color"}
    if name == GLASS:
        return {"type": "thindielectric", "int_ior": 1.5, "specular_transmittance": color}
    if name == "leaf":
        return {
            "type": "principledthin",
            "base_color": color,
            "roughness": 0.6,
            "diff_trans": 0.7,
            "spec_trans": 0.0,
        }
    surface: dict = {"type": "diffuse", "reflectance": color}
    if name == "metal":
        surface = {"type": "principled", "base_color": color, "metallic": 0.9, "roughness": 0.35}
    elif name == "glossy":
        surface = {"type": "principled", "base_color": color, "roughness": 0.38, "specular": 0.5}
    elif name == "table":
        surface = {"type": "principled", "base_color": color, "roughness": 0.5, "specular": 0.35}
    return {"type": "twosided", "bsdf": surface}


def to_mitsuba(mesh: Mesh, bsdf: dict, name: str) -> mi.Mesh:
    """Convert a mesh to Mitsuba's."""
    props = mi.Properties()
    props["bsdf"] = mi.load_dict(bsdf)
    result = mi.Mesh(
        name, len(mesh.vertices), len(mesh.faces), props, has_vertex_normals=True, has_vertex_texcoords=True
    )
    result.add_attribute("vertex_color", 3, mesh.colors.astype(np.float32).ravel())
    params = mi.traverse(result)
    params["vertex_positions"] = mesh.vertices.astype(np.float32).ravel()
    params["vertex_normals"] = mesh.normals().astype(np.float32).ravel()
    params["vertex_texcoords"] = mesh.uv.astype(np.float32).ravel()
    params["faces"] = mesh.faces.astype(np.uint32).ravel()
    params.update()
    return result


def sky() -> mi.Bitmap:
    """Return a bright sky as an environment map (y up), with a wide warm glow that casts soft shadows."""
    height, width = 128, 256
    v, u = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    polar, around = np.pi * v, 2 * np.pi * u
    direction = np.stack([np.sin(polar) * np.cos(around), np.cos(polar), np.sin(polar) * np.sin(around)], -1)
    a, e = np.radians([35.0, 52.0])
    sun = np.array([np.cos(e) * np.cos(a), np.sin(e), np.cos(e) * np.sin(a)])
    angle = np.degrees(np.arccos(np.clip(direction @ sun, -1, 1)))
    up = np.clip(direction[..., 1:2], 0, 1)
    radiance = 1.15 * np.array([0.86, 0.95, 1.08]) * (up > 0.3)  # the walls hide the lower part
    radiance = radiance + 13.0 * np.exp(-0.5 * (angle / 11.0) ** 2)[..., None] * np.array([1.0, 0.86, 0.66])
    return mi.Bitmap(radiance.astype(np.float32))


def build_scene(parts: list[Part], textures: dict[str, NDArray[np.uint8]]) -> mi.Scene:
    """Build the Mitsuba scene of the parts under the sky."""
    up = mi.ScalarTransform4f().rotate([1, 0, 0], 90)
    scene: dict = {
        "type": "scene",
        "sky": {"type": "envmap", "bitmap": sky(), "to_world": up},
    }
    for name, mesh in parts:
        scene[f"part_{name}"] = to_mitsuba(mesh, material(name, textures), f"part_{name}")
    return mi.load_dict(scene)


def sensor(view: DemoView, width: int) -> mi.Sensor:
    """Return Mitsuba's camera of a view, for images of `width` pixels."""
    width, height, focal = intrinsics(width)
    pose = np.eye(4)
    # Mitsuba's camera looks along +z with x to the left and y up.
    pose[:3, :3] = view.rotation.T @ np.diag([-1.0, -1.0, 1.0])
    pose[:3, 3] = view.center
    film = {
        "type": "hdrfilm",
        "width": width,
        "height": height,
        "rfilter": {"type": "box"},
        "pixel_format": "rgb",
    }
    return mi.load_dict(
        {
            "type": "perspective",
            "fov_axis": "x",
            "fov": float(np.degrees(2 * np.arctan(width / (2 * focal)))),
            "near_clip": 0.01,
            "to_world": mi.ScalarTransform4f(pose),
            "film": film,
            "sampler": {"type": "independent"},
        }
    )


def tone_map(radiance: Array) -> NDArray[np.uint8]:
    """Map linear radiance to 8-bit sRGB by a fixed filmic curve (Narkowicz 2015, ACES approximation)."""
    x = EXPOSURE * 0.6 * radiance
    x = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)


def mean_of_passes(
    scene: mi.Scene, camera: mi.Sensor, integrator: dict, spp: int, seed: int
) -> NDArray[np.float32]:
    """Return the mean (H, W, C) over about `spp` samples per pixel, in passes that are clamped one by one."""
    passes = max(1, round(spp / PASS_SPP))
    loaded, total = mi.load_dict(integrator), 0.0
    for k in range(passes):
        image = mi.render(
            scene, sensor=camera, integrator=loaded, spp=min(spp, PASS_SPP), seed=seed * 1000 + k
        )
        total = total + np.minimum(np.array(image), CLAMP) / passes
    return np.ascontiguousarray(total, dtype=np.float32)


def render_view(scene: mi.Scene, view: DemoView, width: int, spp: int, seed: int) -> NDArray[np.uint8]:
    """Render a view as (H, W, 3) uint8 sRGB, denoised with the help of albedo and normals."""
    camera = sensor(view, width)
    color = mean_of_passes(scene, camera, {"type": "path", "max_depth": MAX_DEPTH}, spp, seed)
    surface = {"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"}
    guides = mean_of_passes(scene, camera, surface, SURFACE_SPP, seed)
    albedo, normal = (np.ascontiguousarray(guides[..., k : k + 3]) for k in (0, 3))
    return tone_map(pyoidn.denoise(color, albedo=albedo, normal=normal, hdr=True))


def write_jpeg(path: Path, image: NDArray[np.uint8], quality: int) -> None:
    """Write an image atomically, so that an existing file is complete. Raise OSError if that fails."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        cv2.IMWRITE_JPEG_OPTIMIZE,
        1,
    ]
    temporary = path.with_name(f".part-{path.name}")
    if not cv2.imwrite(str(temporary), image[..., ::-1], options):
        raise OSError(f"cannot write {temporary}")
    temporary.replace(path)
