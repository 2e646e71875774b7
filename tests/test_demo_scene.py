"""The bundled scene: that it is what its README says, and the main road on it from photos to metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from plyfile import PlyData

from scene import load_scene

MEGABYTES = 10**6


@pytest.fixture(scope="module")
def demo(project_dir: Path) -> Path:
    return project_dir / "data" / "demo"


def command(project_dir: Path, name: str, *arguments) -> str:
    line = [sys.executable, str(project_dir / name), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def held_out_psnr(project_dir: Path, demo: Path, folder: Path, *flags) -> float:
    """dB after train.py, render.py and metrics.py."""
    command(project_dir, "train.py", "-s", demo, "-m", folder, "--eval", "--threads", 2, *flags)
    command(project_dir, "render.py", "-m", folder, "--skip_train")
    command(project_dir, "metrics.py", "-m", folder, "--skip_lpips")
    (figures,) = json.loads((folder / "results.json").read_text()).values()
    assert figures["views"] == {"test": 8, "train": 0}
    return figures["PSNR"]


def test_it_is_as_described(demo):
    scene = load_scene(demo, eval=True, quiet=True)
    assert (len(scene.train), len(scene.test), len(scene.points.xyz)) == (52, 8, 6000)
    assert {(camera.width, camera.height) for camera in scene.train + scene.test} == {(480, 360)}
    assert sum(path.stat().st_size for path in demo.rglob("*") if path.is_file()) <= 5 * MEGABYTES


def test_from_photos_to_metrics(project_dir, demo, tmp_path):
    flags = ("-r", 8, "--iterations", 100)
    assert held_out_psnr(project_dir, demo, tmp_path, *flags) > 16  # 17.3 dB; 13.2 after 20 iterations
    vertices = PlyData.read(tmp_path / "point_cloud" / "iteration_100" / "point_cloud.ply")["vertex"]
    assert len(vertices) == 6000
    assert len(vertices.properties) == 62


@pytest.mark.long
def test_it_learns(project_dir, demo, tmp_path):
    psnr = held_out_psnr(project_dir, demo, tmp_path, "-r", 4, "--iterations", 3000)
    assert psnr > 25  # 24.3 dB after 1,000 iterations
