"""The rasterizer built as on a machine without x86 instruction sets, and held against the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
BUILD = (
    "-m pip install --quiet --no-deps --no-build-isolation -Ccmake.define.GS_SCALAR_ONLY=ON --target".split()
)
CHECK = """
import diff_gaussian_rasterization, sys, pytest
assert diff_gaussian_rasterization.__file__.startswith(sys.argv[1])
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


@pytest.mark.long
def test_values_and_gradients_without_x86_intrinsics(project_dir, tmp_path):
    source = project_dir / "submodules" / "diff-gaussian-rasterization"
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]  # cmake and ninja of the venv
    subprocess.run([sys.executable, *BUILD, tmp_path, source], check=True, env={**os.environ, "PATH": path})
    tests = [str(TESTS / name) for name in ("test_rasterizer.py", "test_rasterizer_gradients.py")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("GS_CPU_ISA", None)
    command = [sys.executable, "-c", CHECK, str(tmp_path), *tests]
    done = subprocess.run(command, env=environment, cwd=project_dir, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
