"""The commands as a user runs them, on a scene of nine tiny images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ITERATIONS = 12
# Everything that happens in a long run happens in these 12 iterations too.
FLAGS = f"""--iterations {ITERATIONS} --densify_from_iter 2 --densification_interval 3
    --opacity_reset_interval 5 --densify_grad_threshold 0.001 --sh_degree_interval 3
    --save_iterations 7 --checkpoint_iterations 7 --test_iterations 6 12 --threads 1""".split()


def run(project_dir: Path, *arguments: object) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    command = [sys.executable, *map(str, (project_dir / arguments[0], *arguments[1:]))]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def fails(process: subprocess.CompletedProcess, complaint: str) -> bool:
    """Assert that a command ended with one sentence that holds `complaint`."""
    assert process.returncode == 2, process.stderr
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1, process.stderr
    assert complaint in process.stderr
    return True
