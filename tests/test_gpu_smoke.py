"""scripts/gpu_smoke.py finds what is off. That nothing is, the make-believe GPU shows."""

import importlib
import json
import math
import sys

import pytest
import torch

import test_make_believe_gpu
from test_make_believe_gpu import run_there


def on_the_make_believe_gpu(test):
    """Skip a test where there is no such device, as the tests of the device itself."""
    for mark in test_make_believe_gpu.pytestmark:
        test = mark(test)
    return test


@pytest.fixture
def smoke(project_dir, monkeypatch):
    """The script as a module that runs one quick case on the CPU, of nearest neighbors."""
    monkeypatch.syspath_prepend(str(project_dir / "scripts"))
    module = importlib.import_module("gpu_smoke")
    flags = ["--small", "--device", "cpu", "--cases", "nearest neighbors, N = 5"]
    monkeypatch.setattr(sys, "argv", ["gpu_smoke.py", *flags])
    return module


@on_the_make_believe_gpu
def test_emulated_kernels_agree_with_those_of_the_cpu(project_dir, tmp_path):
    record = tmp_path / "smoke.json"
    done = run_there(project_dir / "scripts/gpu_smoke.py", "--small", "--json", record)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = json.loads(record.read_text())["cases"]
    assert f"{len(cases)} cases on gpu, 0 off" in done.stdout
    assert len(cases) > 25 and not any(case["problem"] for case in cases)
    assert max(case["worst"] for case in cases) > 0  # two back ends were compared


@on_the_make_believe_gpu
def test_probe_says_that_packages_load(project_dir):
    done = run_there(project_dir / "scripts/gpu_smoke.py", "--probe")
    assert (done.returncode, done.stdout) == (0, "packages load and run on gpu\n"), done.stderr


def test_equal_results_pass(smoke, capsys):
    assert smoke.main() == 0
    assert "N = 5" in capsys.readouterr().out


def test_other_numbers_and_other_bits_are_reported(smoke, monkeypatch, capsys):
    right, calls = smoke.distCUDA2, []
    monkeypatch.setattr(
        smoke, "distCUDA2", lambda points: calls.append(1) or right(points) + 0.1 * len(calls)
    )
    assert smoke.main() == 1
    out = capsys.readouterr().out
    assert "FAIL" in out and "mean squared distances, bits inf" in out
    assert "1 cases on cpu, 1 off: nearest neighbors, N = 5" in out


def test_an_error_of_a_kernel_is_the_case_s_outcome(smoke, monkeypatch, capsys):
    def broken(points):
        raise RuntimeError("find_nearest: an illegal memory access was encountered\nand more")

    monkeypatch.setattr(smoke, "distCUDA2", broken)
    assert smoke.main() == 1
    assert "s  find_nearest: an illegal memory access was encountered\n" in capsys.readouterr().out


def test_nan_is_infinitely_wrong(smoke):
    assert smoke.relative_error(torch.tensor([math.nan]), torch.ones(1)) == math.inf
    assert smoke.relative_error(torch.ones(2), torch.ones(1)) == math.inf
    assert smoke.relative_error(torch.zeros(0, 3), torch.zeros(0, 3)) == 0


def test_the_cpu_is_not_compared_with_itself_unasked(smoke, monkeypatch):
    monkeypatch.setattr(smoke, "best_device", lambda: torch.device("cpu"))
    with pytest.raises(SystemExit, match="a GPU is needed .* they only find the CPU"):
        smoke.chosen_device(None)


def test_unknown_cases_are_refused(smoke, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_smoke.py", "--device", "cpu", "--cases", "volumes"])
    with pytest.raises(SystemExit, match="--cases: no case has 'volumes' in its name"):
        smoke.main()


def test_every_variant_of_the_backward_pass_is_there(smoke):
    names = [case.name for case in smoke.cases(small=True) if case.name.startswith("backward")]
    assert len(set(names)) == 8
