"""Everything that wants a real GPU, in about eight minutes: python scripts/gpu_check.py [--output FOLDER]

Builds the packages with CUDA into FOLDER, runs the tests on the GPU, compute-sanitizer on one small render,
the benchmark at 1 and 3 million Gaussians, and trains the bundled scene. Uses what is installed, no network:
torch with CUDA, nvcc, cmake, ninja, nanobind, scikit-build-core and what requirements.txt names. Writes
FOLDER/gpu.json, FOLDER/summary.md and a log for each step; exit code 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("diff-gaussian-rasterization", "fused-ssim", "simple-knn")
BUILD = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
BUILD += ["-Ccmake.define.GS_CUDA=REQUIRED", "-Ccmake.define.GS_EMULATED_CUDA=ON", "--target"]
SMALL_RENDER = """
import torch
from fused_ssim import fused_ssim
from simple_knn._C import distCUDA2
import raster_scenes as scenes
backend = next(backend for backend in scenes.backends() if backend.name == "cuda")
scenes.run(backend, scenes.case_scene("degree 3"))
images = torch.rand(2, 1, 3, 40, 50, device="cuda")
fused_ssim(images[0].clone().requires_grad_(), images[1]).backward()
distCUDA2(torch.rand(500, 3, device="cuda"))
"""


@dataclass
class Step:
    name: str
    command: list[str]
    limit: float  # seconds
    outcome: str = "not run"
    seconds: float = 0.0
    last_lines: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return self.outcome not in ("passed", "skipped")


def steps(output: Path, packages: Path) -> list[Step]:
    python, model = sys.executable, output / "demo"
    found = [
        Step(f"build {name}", [python, *BUILD, str(packages), str(PROJECT / "submodules" / name)], 150)
        for name in PACKAGES
    ]
    found.append(Step("tests", [python, "-m", "pytest", "-q", "-k", "cuda and not emulated", "tests"], 150))
    for tool in ("memcheck", "racecheck"):
        watched = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", python, "-c", SMALL_RENDER]
        found.append(Step(tool, watched, 60))
    bench = [python, "benchmarks/gpu_step.py", "--json", str(output / "step.json")]
    found.append(Step("benchmark", bench, 60))
    train = [python, "train.py", "-s", "data/demo", "-m", str(model), "--eval", "--overwrite"]
    found.append(Step("train", [*train, "--iterations", "7000", "--scale_schedule"], 120))
    found.append(Step("render", [python, "render.py", "-m", str(model)], 60))
    found.append(Step("metrics", [python, "metrics.py", "-m", str(model), "--skip_lpips"], 60))
    return found


def run(step: Step, output: Path, packages: Path) -> None:
    """Sets what came of it. The log is FOLDER/STEP.log."""
    if step.command[0] == "compute-sanitizer" and not shutil.which(step.command[0]):
        step.outcome = "skipped"
        return
    log = output / f"{step.name.replace(' ', '_')}.log"
    paths = [str(packages), str(PROJECT), str(PROJECT / "tests")]
    start = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
        try:
            code = subprocess.run(
                step.command,
                cwd=PROJECT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                timeout=step.limit,
            ).returncode
            step.outcome = "passed" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            step.outcome = f"stopped after {step.limit:.0f} s"
    step.seconds = time.monotonic() - start
    step.last_lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]


def machine() -> dict[str, str]:
    """What it all ran on."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    compiler = ["nvcc", "--version"]
    torch = [sys.executable, "-c", "import torch; print(torch.__version__)"]
    commit = ["git", "-C", str(PROJECT), "rev-parse", "HEAD"]
    commands = {"gpu": query, "nvcc": compiler, "torch": torch, "commit": commit}
    return {name: last_line(command) for name, command in commands.items()}


def last_line(command: list[str]) -> str:
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"none ({problem})"
    return (text.strip().splitlines() or ["none"])[-1]


def write_record(output: Path, done: list[Step]) -> None:
    record = {"machine": machine(), "steps": [asdict(step) for step in done]}
    step_file = output / "step.json"
    record["benchmark"] = json.loads(step_file.read_text()) if step_file.is_file() else None
    (output / "gpu.json").write_text(json.dumps(record, indent=1))
    lines = [f"{name}: {value}" for name, value in record["machine"].items()]
    lines += ["", "| step | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {step.name} | {step.outcome} | {step.seconds:.0f} |" for step in done]
    for step in done:
        if step.failed or step.name in ("tests", "benchmark", "train", "metrics"):
            lines += ["", f"{step.name}:", ""] + [f"    {line}" for line in step.last_lines]
    (output / "summary.md").write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output/gpu_check"), help="folder for everything")
    output = parser.parse_args().output.resolve()
    for tool in ("nvidia-smi", "nvcc"):
        if not shutil.which(tool):
            print(f"{tool}: not found; this wants a machine with a GPU and the CUDA toolkit", file=sys.stderr)
            return 1
    packages = output / "packages"
    output.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(packages, ignore_errors=True)  # pip installs beside what is there, not over it
    done = steps(output, packages)
    for step in done:
        print(f"{step.name} ...", flush=True)
        run(step, output, packages)
        print(f"{step.name}: {step.outcome} in {step.seconds:.0f} s", flush=True)
        write_record(output, done)
        if step.failed and step.name.startswith("build"):
            break
    print(f"{output / 'summary.md'} and gpu.json beside it")
    return int(any(step.failed for step in done))


if __name__ == "__main__":
    sys.exit(main())
