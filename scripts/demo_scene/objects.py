"""The things on the table, each as parts: (material, mesh) pairs. They stand on z = 0 around the z axis."""

from __future__ import annotations

import numpy as np

from demo_scene.shapes import (
    Mesh,
    bezier,
    box,
    ellipsoid,
    join,
    lathe,
    petal,
    quad,
    ribbon,
    ring,
    rotation,
    sheet,
    srgb,
    tube,
)

Part = tuple[str, Mesh]


def moved(parts: list[Part], offset: tuple[float, float, float], degrees: float = 0.0) -> list[Part]:
    """Return the parts turned about z, then shifted by `offset`."""
    return [(material, mesh.turned(degrees).moved(offset)) for material, mesh in parts]


def wheel_spokes(rim: float, flange: float, width: float, count: int) -> Mesh:
    """Build a wheel's spokes around z, laced three-cross from two hub flanges at z = +-width/2."""
    spokes = []
    for k in range(count):
        side = 1 if k % 2 else -1
        lean = 62 if k % 4 < 2 else -62
        at_rim = 360.0 * k / count
        hub = rotation(at_rim + lean, "z") @ [flange, 0, side * width / 2]
        spokes.append(tube([hub, rotation(at_rim, "z") @ [rim, 0, side * 0.003]], 0.0013, srgb("#d5d9dd")))
    return join(spokes)


def wheel_stand(height: float) -> list[Part]:
    """Build an A-frame of rods on a wooden foot that carries an axle along y at the given height."""
    brass = srgb("#d6a548")
    rods = [tube([[0, -0.065, height], [0, 0.065, height]], 0.006, brass, 12)]
    for y in (-0.058, 0.058):
        rods += [tube([[x, 1.25 * y, 0.03], [0, y, height]], 0.0038, brass, 10) for x in (-0.12, 0.12)]
        rods.append(ellipsoid([0.011] * 3, brass).moved([0, y, height]))
    return [("metal", join(rods)), ("glossy", box([0, 0, 0.016], [0.32, 0.19, 0.032], srgb("#5b3a24")))]


def wheel() -> list[Part]:
    """Build a laced wire wheel of 0.23 m radius in the xz plane, on its stand."""
    radius, height = 0.23, 0.285
    tilt = [
        ("glossy", ring(radius, 0.0105, srgb("#c8102e"), 120, 12)),
        ("metal", ring(radius - 0.011, 0.005, srgb("#e3e6e8"), 120, 8)),
        ("metal", wheel_spokes(radius - 0.012, 0.027, 0.062, 36)),
        (
            "metal",
            lathe(
                [
                    (0, -0.036),
                    (0.031, -0.036),
                    (0.031, -0.028),
                    (0.014, -0.026),
                    (0.012, 0),
                    (0.014, 0.026),
                    (0.031, 0.028),
                    (0.031, 0.036),
                    (0, 0.036),
                ],
                srgb("#c9ccd1"),
            ),
        ),
    ]
    return [(m, mesh.turned(90, "x").moved([0, 0, height])) for m, mesh in tilt] + wheel_stand(height)


def pot(radius: float, height: float) -> list[Part]:
    """Build a clay pot with saucer and soil."""
    r, h = radius, height
    clay = lathe(
        [
            (0, 0),
            (0.66 * r, 0),
            (0.66 * r, 0),
            (0.92 * r, 0.78 * h),
            (0.92 * r, 0.78 * h),
            (1.05 * r, 0.78 * h),
            (1.05 * r, 0.78 * h),
            (1.08 * r, h),
            (1.08 * r, h),
            (0.95 * r, h),
            (0.95 * r, h),
            (0.9 * r, 0.85 * h),
        ],
        srgb("#c26a43"),
        64,
    )
    saucer = lathe(
        [(0, 0.002), (0.95 * r, 0.002), (1.05 * r, 0.02), (1.0 * r, 0.02), (0.9 * r, 0.008)],
        srgb("#b35f3c"),
        64,
    )
    angle = np.linspace(0, 2 * np.pi, 49)
    disc = 0.93 * r * np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    earth = sheet(np.stack([0 * disc, disc]) + [0, 0, 0.88 * h], [1, 1, 1])
    uv = earth.vertices[:, :2] / (2 * r) + 0.5
    return [("matte", clay), ("matte", saucer), ("soil", Mesh(earth.vertices, earth.faces, earth.colors, uv))]


def grass_blade(root: np.ndarray, rng: np.random.Generator) -> Mesh:
    """Build a bent, tapering blade that leans away from the pot's axis."""
    length = rng.uniform(0.16, 0.36)
    heading = np.arctan2(root[1], root[0]) + rng.normal(0, 0.7)
    out = np.array([np.cos(heading), np.sin(heading), 0.0])
    lean = rng.uniform(0.1, 0.75)
    middle = root + length * (0.25 * lean * out + [0, 0, 0.6])
    tip = root + length * (lean * out + [0, 0, 1.0 - 0.55 * lean**1.5])
    path = bezier(root, middle, tip, 9)
    t = np.linspace(0, 1, 9)
    fresh = srgb("#5f9e36") + rng.uniform(0, 1) * (srgb("#a3bf4a") - srgb("#5f9e36"))
    color = srgb("#2f5a22") + t[:, None] ** 0.7 * (fresh - srgb("#2f5a22"))
    width = rng.uniform(0.004, 0.0068) * (1 - t**2.2) + 0.0004
    return ribbon(path, np.cross(out, [0, 0, 1]) + rng.normal(0, 0.35, 3) * [1, 1, 0], width, color)


def seed_stalk(root: np.ndarray, rng: np.random.Generator) -> list[Mesh]:
    """Build a thin straw-colored stalk with an ear of grains and their awns."""
    heading, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.36, 0.5)
    out = np.array([np.cos(heading), np.sin(heading), 0.0])
    path = bezier(
        root, root + [0, 0, 0.7 * height], root + rng.uniform(0.05, 0.14) * out + [0, 0, height], 12
    )
    straw = srgb("#d9b65d")
    meshes = [tube(path, np.linspace(0.0017, 0.0011, 12), straw)]
    along = (path[-1] - path[-2]) / np.linalg.norm(path[-1] - path[-2])
    for k in range(16):
        around = rotation(137.5 * k, "z") @ [1.0, 0.0, 0.0]
        base = path[-1] + along * 0.0048 * (k - 6)
        grain = ellipsoid([0.0028, 0.0028, 0.0068], srgb("#e0b450") * rng.uniform(0.8, 1.1), 8)
        direction = along + 0.45 * around
        meshes.append(grain.aligned(direction).moved(base + 0.0035 * around))
        awn = [base, base + 0.045 * (along + 0.3 * around)]
        meshes.append(tube(awn, [0.0006, 0.0002], straw, 4))
    return meshes


def grass_pot(rng: np.random.Generator) -> list[Part]:
    """Build a clay pot with a tuft of grass and some ears."""
    radius, height = 0.115, 0.165
    roots = []
    for _ in range(210):
        r, a = 0.085 * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
        roots.append(np.array([r * np.cos(a), r * np.sin(a), 0.88 * height]))
    blades = [grass_blade(root, rng) for root in roots[:195]]
    stalks = [mesh for root in roots[195:] for mesh in seed_stalk(0.7 * root + [0, 0, 0.26 * height], rng)]
    return pot(radius, height) + [("leaf", join(blades)), ("matte", join(stalks))]


def blossom(kind: str, rng: np.random.Generator) -> list[Part]:
    """Build a flower head at the origin that opens towards +z."""
    if kind == "daisy":
        white = petal(0.047, 0.013, 0.008, 0.012, srgb("#f3e9a8"), srgb("#fbfaf4"))
        petals = [white.turned(rng.uniform(-9, 9), "x").turned(360 / 19 * k) for k in range(19)]
        return [("leaf", join(petals)), ("matte", ellipsoid([0.0145, 0.0145, 0.008], srgb("#f0b323")))]
    if kind == "poppy":
        red = petal(0.056, 0.064, 0.036, 0.008, srgb("#5a1512"), srgb("#f4502f"), 1.5)
        petals = [red.turned(72 * k + rng.uniform(-8, 8)) for k in range(5)]
        stamens = [
            tube([[0, 0, 0], rotation(30 * k, "z") @ [0.013, 0, 0.021]], 0.0008, srgb("#2b1a2a"), 4)
            for k in range(12)
        ]
        return [
            ("leaf", join(petals)),
            ("matte", join([*stamens, ellipsoid([0.008, 0.008, 0.012], srgb("#9fb05a"))])),
        ]
    blue = petal(0.034, 0.018, 0.022, 0.004, srgb("#3b2a8c"), srgb("#6f7be8"))
    petals = [blue.turned(12 * (k % 2), "x").turned(360 / 14 * k) for k in range(14)]
    inner = petal(0.02, 0.01, 0.024, 0.0, srgb("#4a1f7a"), srgb("#a06be0"))
    petals += [inner.turned(360 / 9 * k + 10) for k in range(9)]
    return [("leaf", join(petals))]


def flower(kind: str, foot: np.ndarray, head: np.ndarray, rng: np.random.Generator) -> list[Part]:
    """Build a thin bent stem with two narrow leaves and a blossom that nods outward."""
    out = head * [1, 1, 0]
    middle = np.array([*(0.12 * head[:2]), 0.72 * head[2]])
    path = bezier(foot, middle, head, 24)
    green = srgb("#4e7d35")
    stem = tube(path, 0.0021, green)
    leaves = []
    for k, side in ((11, 1), (15, -1)):
        turn = rotation(side * 75 + rng.uniform(-20, 20), "z") @ (out / np.linalg.norm(out))
        tip = path[k] + 0.085 * turn + [0, 0, 0.03]
        width = 0.018 * np.sin(np.pi * np.linspace(0.04, 0.98, 9)) + 0.0008
        curve = bezier(path[k], path[k] + 0.04 * turn + [0, 0, 0.05], tip, 9)
        leaves.append(ribbon(curve, np.cross(turn, [0, 0, 1]), width, srgb("#5c8f3f")))
    axis = (path[-1] - path[-2]) / np.linalg.norm(path[-1] - path[-2]) + 0.5 * out / np.linalg.norm(out)
    top = [(material, mesh.aligned(axis).moved(head)) for material, mesh in blossom(kind, rng)]
    return [("matte", stem), ("leaf", join(leaves)), *top]


def vase_glass(color: np.ndarray) -> Mesh:
    """Build a slim bellied vase as one thin sheet of tinted glass."""
    height = np.linspace(0, 1, 40)
    belly = 0.030 * np.sin(np.pi * np.clip(height / 0.72, 0, 1)) ** 1.5
    neck = 0.018 * np.exp(-(((height - 0.8) / 0.13) ** 2))
    profile = np.stack([0.052 + belly - neck, 0.005 + 0.23 * height], -1)
    return lathe(np.concatenate([[[0, 0.004]], profile]), color, 72)


def flower_vase(rng: np.random.Generator) -> list[Part]:
    """Build flowers of three kinds in a tinted glass vase with a thicker-looking lip."""
    kinds = "poppy daisy cornflower daisy poppy cornflower daisy poppy daisy cornflower".split()
    lip = ring(0.0505, 0.0022, srgb("#5fb3b3"), 72, 8).moved([0, 0, 0.235])
    parts: list[Part] = [("glass", vase_glass(srgb("#7fd0cf"))), ("glossy", lip)]
    for k, kind in enumerate(kinds):
        angle = np.radians(137.5 * k + 20)
        out = np.array([np.cos(angle), np.sin(angle), 0.0])
        spread = 0.045 + 0.017 * k
        head = spread * out + [0, 0, 0.56 - 0.021 * k + rng.uniform(-0.015, 0.015)]
        parts += flower(kind, -0.028 * out + [0, 0, 0.012], head, rng)
    return parts


def stained_panel() -> list[Part]:
    """Build a standing frame in the xz plane with colored panes between thin leads."""
    width, height, foot = 0.27, 0.33, 0.045
    palette = "#f7bd5a #6ea6dc #ec6a5e #93cf84 #f8e6a8 #a98bcf #7fd2cb #f79a6b #dcebf6".split()
    columns, rows = 3, 4
    panes, leads = [], []
    for i in range(rows):
        for j in range(columns):
            corner = [-width / 2 + j * width / columns, 0, foot + i * height / rows]
            color = srgb(palette[(4 * i + 5 * j) % len(palette)])
            panes.append(quad(corner, [width / columns, 0, 0], [0, 0, height / rows], color))
    lead = srgb("#3b3b40")
    across = np.linspace(-width / 2, width / 2, columns + 1)[1:-1]
    upward = np.linspace(foot, foot + height, rows + 1)[1:-1]
    leads += [tube([[x, 0, foot], [x, 0, foot + height]], 0.0024, lead) for x in across]
    leads += [tube([[-width / 2, 0, z], [width / 2, 0, z]], 0.0024, lead) for z in upward]
    frame, bar = srgb("#6a4528"), 0.018
    bars = [box([x, 0, foot + height / 2], [bar, bar, height + bar], frame) for x in (-width / 2, width / 2)]
    bars += [box([0, 0, z], [width + bar, bar, bar], frame) for z in (foot, foot + height)]
    bars += [
        box([x, 0, foot / 2 - bar / 4], [bar, 0.12, foot - bar / 2], frame)
        for x in (-0.4 * width, 0.4 * width)
    ]
    return [("glass", join(panes)), ("matte", join(leads)), ("glossy", join(bars))]


def fruit(color: str, radii: tuple[float, float, float], rng: np.random.Generator) -> Mesh:
    """Build a fruit with a slightly mottled skin."""
    mesh = ellipsoid(radii, srgb(color), 64)
    mottled = mesh.colors * rng.uniform(0.88, 1.08, (len(mesh.colors), 1))
    return Mesh(mesh.vertices, mesh.faces, mottled, mesh.uv)


def wire_bowl(rng: np.random.Generator) -> list[Part]:
    """Build a bowl of copper wires with fruit in it."""
    copper = srgb("#c77b4f")
    polar = np.linspace(0.42, 1.45, 14)
    radius = 0.145 * np.sin(polar) / np.sin(1.45)
    height = 0.012 + 0.105 * (np.cos(0.42) - np.cos(polar)) / (np.cos(0.42) - np.cos(1.45))
    rib = np.stack([radius, 0 * radius, height], -1)
    wires = [tube(rib, 0.0014, copper).turned(360 / 30 * k) for k in range(30)]
    rings = [(0, 0.0030), (6, 0.0016), (13, 0.0030)]
    wires += [ring(radius[k], wire, copper).moved([0, 0, height[k]]) for k, wire in rings]
    oranges = [
        ("#f08a1d", 0.040, (0.058, 0.018, 0.062)),
        ("#ee7d18", 0.042, (-0.048, 0.045, 0.064)),
        ("#f29a2e", 0.039, (-0.022, -0.056, 0.060)),
        ("#f08a1d", 0.038, (0.0, 0.006, 0.116)),
    ]
    fruits = [fruit(color, (r, r, 0.96 * r), rng).turned(20, "x").moved(at) for color, r, at in oranges]
    lemon = fruit("#f2d22e", (0.043, 0.030, 0.030), rng).turned(35).moved([0.055, -0.062, 0.090])
    return [("metal", join(wires)), ("glossy", join([*fruits, lemon]))]


def books() -> list[Part]:
    """Build a stack of three books."""
    parts, z = [], 0.0
    stack = [
        ("#31506b", (0.22, 0.155, 0.032), 8),
        ("#b8892f", (0.2, 0.14, 0.026), -7),
        ("#7c2f3a", (0.18, 0.125, 0.022), 17),
    ]
    for code, (w, d, h), turn in stack:
        color = srgb(code)
        cover = [
            box([0, 0, z + 0.002], [w, d, 0.004], color),
            box([0, 0, z + h - 0.002], [w, d, 0.004], color),
            box([-w / 2 + 0.002, 0, z + h / 2], [0.004, d, h], color),
            box([-w / 2 - 0.0003, 0, z + h / 2], [0.001, 0.5 * d, 0.35 * h], srgb("#e9d9a8")),
        ]
        pages = box([0, 0, z + h / 2], [w - 0.012, d - 0.01, h - 0.008], srgb("#efe6cf"))
        parts += [("glossy", join(cover).turned(turn)), ("matte", pages.turned(turn))]
        z += h
    return parts


def fallen_petals(rng: np.random.Generator) -> list[Part]:
    """Build some petals that lie on the table around the vase."""
    petals = []
    for k in range(9):
        color = srgb("#f4502f") if k % 3 else srgb("#6f7be8")
        angle, r = rng.uniform(0, 2 * np.pi), rng.uniform(0.12, 0.3)
        shape = petal(0.035, 0.03, 0.004, 0.002, 0.6 * color, color).turned(rng.uniform(0, 360))
        petals.append(shape.moved([r * np.cos(angle), r * np.sin(angle), 0.006]))
    return [("leaf", join(petals))]
