"""The table, the room around it, and the list of all parts of the scene. The table top is z = 0."""

from __future__ import annotations

import numpy as np

from demo_scene import objects
from demo_scene.objects import Part, moved
from demo_scene.shapes import Mesh, box, ellipsoid, join, lathe, quad, sheet, srgb

FLOOR = -0.75  # m
HALF = 3.0  # m, half the width of the square room
WALL_TOP = 2.7  # m; the room has no ceiling, so that light falls in from the sky

# The placement of the things on the table: x, y (m) and turn (degrees). Close-up cameras aim at these too.
PLACEMENTS = {
    "flowers": (-0.02, 0.10, 0.0),
    "wheel": (-0.40, -0.04, -18.0),
    "grass": (0.43, -0.02, 0.0),
    "glass": (0.20, 0.45, 20.0),
    "bowl": (0.07, -0.37, 0.0),
    "books": (-0.30, 0.44, 30.0),
}


def round_top(radius: float, z: float, segments: int = 96) -> Mesh:
    """Build a textured disc that faces up; its uv covers the square around it."""
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    edge = radius * np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    disc = sheet(np.stack([0 * edge, edge]) + [0, 0, z], [1, 1, 1])
    return Mesh(disc.vertices, disc.faces, disc.colors, disc.vertices[:, :2] / (2 * radius) + 0.5)


def table() -> list[Part]:
    """Build a round table with four legs and a tablecloth."""
    oak = srgb("#8a5a32")
    edge = lathe([(0.78, -0.001), (0.785, -0.006), (0.785, -0.030), (0.77, -0.036), (0, -0.036)], oak, 96)
    legs = []
    for k in range(4):
        leg = lathe([(0.022, FLOOR), (0.034, -0.1), (0.034, -0.036)], oak, 24)
        legs.append(leg.moved([0.5, 0, 0]).turned(45 + 90 * k))
    cloth = quad([-0.43, -0.43, 0.0022], [0.86, 0, 0], [0, 0.86, 0]).turned(38)
    return [("table", round_top(0.78, 0.0)), ("glossy", join([edge, *legs])), ("cloth", cloth)]


def framed_art(name: str, x: float, z: float, width: float) -> list[Part]:
    """Build a framed painting on the wall y = HALF."""
    height = 1.25 * width
    face = quad([x - width / 2, HALF - 0.032, z - height / 2], [width, 0, 0], [0, 0, height])
    mount = box([x, HALF - 0.014, z], [width + 0.14, 0.03, height + 0.14], srgb("#efe9dc"))
    frame = srgb("#4a3524")
    bars = [
        box([x + s * (width / 2 + 0.08), HALF - 0.02, z], [0.035, 0.05, height + 0.19], frame)
        for s in (-1, 1)
    ]
    bars += [
        box([x, HALF - 0.02, z + s * (height / 2 + 0.08)], [width + 0.19, 0.05, 0.035], frame)
        for s in (-1, 1)
    ]
    return [(name, face), ("matte", join([mount, *bars]))]


def bookshelf(rng: np.random.Generator) -> list[Part]:
    """Build shelves full of books along the wall y = HALF."""
    width, depth, shelves, pitch = 2.6, 0.30, 6, 0.40
    wood = srgb("#6f4a2e")
    y = HALF - depth / 2
    side = [0.035, depth, shelves * pitch + 0.03]
    meshes = [
        box([x, y, FLOOR + shelves * pitch / 2], side, wood) for x in np.linspace(-width / 2, width / 2, 4)
    ]
    meshes += [box([0, y, FLOOR + k * pitch + 0.02], [width, depth, 0.03], wood) for k in range(shelves + 1)]
    codes = "#9b3d34 #2f5068 #c49a45 #5d7a52 #d9cbb0 #6b4a63 #3d6b6b #b8683c #e3ddcf #40444f"
    palette = [srgb(code) for code in codes.split()]
    for k in range(shelves):
        x = -width / 2 + 0.03
        while x < width / 2 - 0.09:
            thick, tall = rng.uniform(0.03, 0.075), rng.uniform(0.22, 0.34)
            color = palette[rng.integers(len(palette))] * rng.uniform(0.8, 1.1)
            if rng.uniform() < 0.88:
                center = [x + thick / 2, y - 0.01, FLOOR + k * pitch + 0.035 + tall / 2]
                meshes.append(box(center, [0.92 * thick, 0.22, tall], color))
            x += thick
    return [("matte", join(meshes))]


def sideboard() -> list[Part]:
    """Build a low cupboard with two ceramic pots and a lamp-like globe along the wall y = HALF."""
    teal, top = srgb("#3f6f73"), FLOOR + 0.85
    y = HALF - 0.25
    meshes = [
        box([0, y, FLOOR + 0.46], [1.9, 0.44, 0.74], teal),
        box([0, y, top], [1.98, 0.48, 0.04], srgb("#a3743f")),
    ]
    for x in (-0.63, 0.0, 0.63):
        meshes.append(box([x, y - 0.225, FLOOR + 0.46], [0.56, 0.012, 0.62], srgb("#4c8085")))
        meshes.append(ellipsoid([0.022] * 3, srgb("#d9b25a")).moved([x + 0.2, y - 0.245, FLOOR + 0.5]))
    jar = lathe([(0.07, 0), (0.15, 0.12), (0.15, 0.22), (0.06, 0.34), (0.08, 0.4)], srgb("#d8cbb3"))
    bowl = lathe([(0.06, 0), (0.17, 0.1), (0.2, 0.16), (0.18, 0.15), (0, 0.04)], srgb("#b5563c"))
    meshes += [jar.moved([-0.6, y, top + 0.02]), bowl.moved([0.55, y, top + 0.02])]
    meshes.append(ellipsoid([0.13] * 3, srgb("#e8b84a"), 32).moved([0.05, y, top + 0.15]))
    return [("matte", join(meshes))]


def wainscot() -> Mesh:
    """Build painted paneling below the wallpaper of the wall y = HALF."""
    cream, top = srgb("#e9e2d0"), FLOOR + 1.0
    meshes = [box([0, HALF - 0.01, (FLOOR + top) / 2], [2 * HALF, 0.02, top - FLOOR], cream)]
    meshes.append(box([0, HALF - 0.02, top], [2 * HALF, 0.05, 0.05], cream))
    meshes.append(box([0, HALF - 0.02, FLOOR + 0.07], [2 * HALF, 0.04, 0.14], cream))
    for x in np.arange(-HALF + 0.25, HALF, 0.5):
        meshes.append(box([x, HALF - 0.025, (FLOOR + top) / 2 + 0.03], [0.36, 0.02, 0.58], srgb("#ded6c1")))
    return join(meshes)


def walls(rng: np.random.Generator) -> list[Part]:
    """Build the four walls: a bookshelf, a sideboard, and paintings on paneling and wallpaper."""
    furniture = [
        bookshelf(rng) + framed_art("art0", -2.2, 1.0, 0.6) + framed_art("art3", 2.2, 1.0, 0.6),
        framed_art("art1", -1.3, 0.95, 0.8) + framed_art("art2", 1.3, 0.95, 0.8),
        sideboard() + framed_art("art3", -0.6, 1.15, 0.62) + framed_art("art0", 0.6, 1.15, 0.62),
        framed_art("art2", -1.7, 0.95, 0.62)
        + framed_art("art0", 0, 1.0, 0.9)
        + framed_art("art1", 1.7, 0.95, 0.62),
    ]
    parts: list[Part] = []
    for k, things in enumerate(furniture):
        paper = quad([-HALF, HALF, FLOOR], [2 * HALF, 0, 0], [0, 0, WALL_TOP - FLOOR])
        parts += moved([("wall", paper), ("matte", wainscot()), *things], (0, 0, 0), 90.0 * k)
    return parts


def scene_parts(seed: int) -> list[Part]:
    """Build the whole scene, one mesh per material."""
    rng = np.random.default_rng(seed)
    floor = quad([-HALF, -HALF, FLOOR], [2 * HALF, 0, 0], [0, 2 * HALF, 0])
    parts = [("floor", floor), ("rug", round_top(1.75, FLOOR + 0.012)), *table(), *walls(rng)]
    things = {
        "flowers": objects.flower_vase(rng),
        "wheel": objects.wheel(),
        "grass": objects.grass_pot(rng),
        "glass": objects.stained_panel(),
        "bowl": objects.wire_bowl(rng),
        "books": objects.books(),
    }
    for name, (x, y, turn) in PLACEMENTS.items():
        parts += moved(things[name], (x, y, 0.003), turn)
    parts += moved(objects.fallen_petals(rng), (PLACEMENTS["flowers"][0], PLACEMENTS["flowers"][1], 0.0))
    materials = dict.fromkeys(material for material, _ in parts)
    return [(name, join([mesh for material, mesh in parts if material == name])) for name in materials]
