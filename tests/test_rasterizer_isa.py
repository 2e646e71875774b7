"""The rasterizer on this machine's other instruction sets, each in a process of its own (GS_CPU_ISA)."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

import raster_scenes as scenes
from backends import backends

TESTS = Path(__file__).resolve().parent
NAMES = ("degree 3, antialiasing", "no extras", "covariances given", "one pixel", "tall")
SCRIPT = """
import sys
sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/helpers"]
import torch
import raster_scenes as scenes
from backends import backends
backend = backends()[0]
names, kinds = sys.argv[3].split("|"), (torch.float32, torch.float64)
runs = {
    f"{name}|{kind}": scenes.everything(scenes.run(backend, scenes.case_scene(name), kind))
    for name in names
    for kind in kinds
}
torch.save({"isa": backend.package.cpu_info()["isa"], "runs": runs}, sys.argv[2])
"""


def environment(isa: str) -> dict[str, str]:
    return {**os.environ, "GS_CPU_ISA": isa}


@cache
def supported() -> tuple[str, ...]:
    best = torch.backends.cpu.get_cpu_capability()
    return {"AVX512": ("scalar", "avx2", "avx512"), "AVX2": ("scalar", "avx2")}.get(best, ("scalar",))


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_the_other_instruction_sets_compute_the_same(isa: str, tmp_path: Path):
    if isa not in supported():
        pytest.skip(f"this machine has no {isa}")
    if isa == backends()[0].package.cpu_info()["isa"]:
        pytest.skip(f"{isa} is what all other tests run on")
    target = tmp_path / "results.pt"
    command = [sys.executable, "-c", SCRIPT, str(TESTS), str(target), "|".join(NAMES)]
    subprocess.run(command, env=environment(isa), check=True, timeout=300)
    results = torch.load(target, weights_only=True)
    assert results["isa"] == isa
    for name in NAMES:
        exact = scenes.everything(scenes.case(name).exact)
        scenes.assert_within_float32(results["runs"][f"{name}|torch.float32"], exact, scenes.case(name).slack)
        scenes.assert_exact(results["runs"][f"{name}|torch.float64"], exact)


def test_an_unknown_instruction_set_is_refused():
    command = [sys.executable, "-c", "import diff_gaussian_rasterization as d; print(d.cpu_info())"]
    done = subprocess.run(command, env=environment("mmx"), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "GS_CPU_ISA=mmx" in done.stderr and "scalar, avx2 or avx512" in done.stderr
