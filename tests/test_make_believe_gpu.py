"""The project on a make-believe GPU, in child processes: torch cannot forget a device again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

from backends import needs_emulation

pytestmark = [
    needs_emulation,
    pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this torch knows no devices that are written in Python",
    ),
]
HERE = Path(__file__).parent


def run_there(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, HERE / "make_believe_gpu.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)


def test_the_project_runs_and_waits_where_it_must():
    """All of gpu_checks.py."""
    done = run_there(HERE / "gpu_checks.py", "-x")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_script_keeps_its_exit_code_and_its_waits_are_printed_where_asked(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\nprint(sys.argv[1:], torch.ones(2, device='gpu').sum().item())\nsys.exit(7)\n"
    )
    done = run_there(script, "--flag")
    assert (done.returncode, done.stdout, done.stderr) == (7, "['--flag'] 2.0\n", "")
    done = run_there("--waits", script)
    assert done.returncode == 7 and "1  a number is read at a script" in done.stderr
    script.write_text("import torch\ntorch.ones(2, device='gpu') + torch.ones(2)\n")
    done = run_there(script)
    assert (
        done.returncode == 1 and "RuntimeError: Expected all tensors to be on the same device" in done.stderr
    )
