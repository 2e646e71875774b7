"""A run as train.py, render.py and metrics.py leave it, and the page that report.py makes of it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np

import report
from utils.images import write_png

VOID = {"meta", "img", "br", "hr"}
COLOR = (200, 60, 120)


class Page(HTMLParser):
    """Collects attributes and text; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag, css=None):
        return [
            a for name, a in self.tags if name == tag and (css is None or css in a.get("class", "").split())
        ]


# A run


def histogram(counts=(1, 2, 1), scale="linear"):
    edges = [0.0, 0.25, 0.5, 1.0] if scale == "linear" else [0.001, 0.1, 10, 1000]
    return {"edges": edges, "counts": list(counts), "scale": scale}


def history():
    return {
        "version": 1,
        "progress": [[10 * i, 0.5 / i, 20 + i / 10, 1000 + i, i] for i in range(1, 101)],
        "steps": [
            {"iteration": 600, "cloned": 300, "split": 100, "pruned": 200, "gaussians": 1200},
            {"iteration": 700, "cloned": 50, "split": 0, "pruned": 0, "gaussians": 1250},
        ],
        "distributions": [
            {
                "iteration": iteration,
                "values": {
                    "E_k": histogram(scale="log"),
                    "opacity": histogram(),
                    "s_k": histogram(),
                    "removal energy": histogram(),
                    "age": histogram(),
                },
                "floaters": {"low_opacity": 0.03, "near_camera": 0.01},
                "importance_correlation": 0.75,
            }
            for iteration in (400, 800)
        ],
    }


def config(**changes):
    return {
        "finished": True,
        "iteration": 1000,
        "timing": {"training_seconds": 125.0, "iterations_per_second": 8.0},
        "views": {"train": 8, "test": 4},
        "measures": {"1000": {"test": {"L1": 0.0321, "PSNR": 27.25, "views": 4}, "gaussians": 77}},
        "seed": 5,
        "versions": {"commit": "c0ffee", "torch": "2.9"},
        "machine": {"processor": "Abacus 3"},
        "settings": {"source_path": "/scenes/barn", "variant": "tag", "iterations": 1000, "growth_cap": 0.1},
        "given": ["growth_cap"],
        "variant_values": {"growth_cap": 0.05, "tag_lifespan": 300},
        "peak_memory_bytes": 1_500_000_000,
    } | changes


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def error_of(split, view):
    """Levels out of 255 by which a render of `add_pictures` is off everywhere."""
    return 5 * (view + 1) + (split == "train")


def add_images(folder, iteration=1000, counts=(4, 8), size=(30, 40)):
    for split, count in zip(("test", "train"), counts):
        for view in range(count):
            for kind, off in (("gt", 0), ("renders", error_of(split, view))):
                picture = np.full((*size, 3), COLOR, np.uint8) - np.uint8(off)
                write_png(folder / split / f"ours_{iteration}" / kind / f"{view:05d}.png", picture)


def write_finished_run(folder):
    """A finished run with everything; returns its folder."""
    write(folder / "cfg_args", "Namespace(source_path='/scenes/barn')")
    write(folder / "config.json", config())
    write(folder / "history.json", history())
    write(folder / "cameras.json", [{"img_name": f"photo_{i}.jpg"} for i in range(12)])
    results = {"SSIM": 0.81, "PSNR": 28.5, "LPIPS": None, "views": {"test": 4, "train": 8}}
    train = {"SSIM": 0.9, "PSNR": 31.0, "LPIPS": None}
    write(folder / "results.json", {"ours_1000": results | {"train": train}})
    psnr = {f"{view:05d}.png": value for view, value in enumerate((25.0, 35.0, 22.0, None))}  # None: infinite
    write(folder / "per_view.json", {"ours_1000": {"PSNR": psnr, "train": {}}})
    ply = folder / "point_cloud" / "iteration_1000" / "point_cloud.ply"
    ply.parent.mkdir(parents=True)
    header = b"ply\nformat binary_little_endian 1.0\nelement vertex 4321\nend_header\n"
    ply.write_bytes(header + bytes(1_199_932))
    add_images(folder)
    return folder


def made(folder, *arguments):
    report.main(["-m", str(folder), "--quiet", *arguments])
    return Page((folder / "report.html").read_text(encoding="utf-8"))
