"""The CUDA kernels emulated on the CPU: all of them are run, and planted bugs are caught."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import raster_scenes as scenes
from backends import PACKAGES, backends, needs_emulation
from diff_gaussian_rasterization import SparseGaussianAdam, evaluate_importance
from fused_ssim import fused_ssim
from plain_importance import differentiate, make_gaussians, make_network
from simple_knn._C import distCUDA2

KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(")
EMULATED = next(backend for backend in backends() if backend.name == "cuda-emulated")


# Every kernel


def run_everything() -> None:
    for name in ("degree 3", "no extras", "covariances given"):
        scenes.run(EMULATED, scenes.case_scene(name))
    scene = scenes.case_scene("degree 3")
    rasterizer = EMULATED.package.GaussianRasterizer(scenes.settings(EMULATED, scene.view))
    splats = rasterizer.project(**scenes.leaves(scene, torch.float32))
    rasterizer.blend(splats)[0].sum().backward()
    generator = torch.Generator().manual_seed(0)
    network = make_network(torch.float32, generator)
    differentiate(evaluate_importance, network, make_gaussians(70, 16, torch.float32, generator))
    images = torch.rand(2, 1, 3, 20, 30)
    for padding in ("same", "valid"):
        fused_ssim(images[0].clone().requires_grad_(), images[1], padding=padding).backward()
    distCUDA2(torch.rand(100, 3))
    param = torch.nn.Parameter(torch.rand(5, 3))
    param.grad = torch.ones(5, 3)
    SparseGaussianAdam([param]).step(torch.ones(5, dtype=torch.bool), 5)


@needs_emulation
@pytest.mark.parametrize("package", PACKAGES)
def test_every_kernel_in_the_sources_was_executed(package: str, project_dir: Path):
    folder = project_dir / "submodules" / package.replace("_", "-") / "csrc" / "cuda"
    names = {name for source in folder.glob("*.cu") for name in KERNEL.findall(source.read_text())}
    assert len(names) == sum(source.read_text().count("__global__") for source in folder.glob("*.cu")) > 0
    with EMULATED.running():
        run_everything()
        executed = PACKAGES[package].on("", torch.device("cpu")).module.executed_kernels()
    assert names == executed


# Drivers: a few kernels in a program of their own


Run = Callable[..., subprocess.CompletedProcess]


def compile_emulated(project_dir: Path, folder: Path, driver: str, includes: list[Path], *flags: str) -> Path:
    """Compile a driver of this folder with the kernels in `folder`/kernels.cpp; return the program."""
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    common = project_dir / "submodules" / "common"
    sources = [Path(__file__).with_name(driver), folder / "kernels.cpp", common / "gpu" / "emulation.cpp"]
    program = folder / "program"
    command = [compiler, "-std=c++17", "-O1", "-DGS_EMULATED", *flags]
    command += [f"-I{path}" for path in (*includes, common)]
    subprocess.run([*command, *sources, "-o", program], check=True)
    return program


def run_program(program: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def list_tiles(project_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Bins one Gaussian, given how many tiles the projection is said to have counted."""
    csrc = project_dir / "submodules" / "diff-gaussian-rasterization" / "csrc"
    folder = tmp_path_factory.mktemp("binning")
    (folder / "kernels.cpp").write_text('#include "cuda/binning.cu"\n')
    program = compile_emulated(project_dir, folder, "binning_driver.cpp", [csrc], "-ffp-contract=off")

    def run(counted: int, **environment: str) -> subprocess.CompletedProcess:
        return run_program(program, str(counted), **environment)

    return run


def test_a_gaussian_is_listed_in_the_tiles_that_were_counted(list_tiles: Run):
    done = list_tiles(7)
    assert done.returncode == 0 and done.stdout.split() == ["0", "1", "3", "4", "5", "7", "8"], done.stderr


def test_more_tiles_counted_than_there_are_end_the_kernel(list_tiles: Run):
    done = list_tiles(8)
    problem = "kernel write_pairs, block 0: a Gaussian meets fewer tiles than were counted"
    assert done.returncode == 1
    assert re.fullmatch(problem + r", at \S+binning\.cu:\d+\n", done.stderr)


def test_waiting_for_each_kernel_changes_nothing(list_tiles: Run):
    assert list_tiles(7, GS_SYNCHRONIZE="1").stdout == list_tiles(7).stdout != ""


def test_the_switch_to_wait_for_each_kernel_takes_0_or_1(list_tiles: Run):
    done = list_tiles(7, GS_SYNCHRONIZE="yes")
    assert done.returncode == 1 and done.stderr == "GS_SYNCHRONIZE=yes: expected 0 or 1\n"


@pytest.mark.parametrize("wish, message", [
    ("0", ""),
    ("1", "CUDA: cudaMemsetAsync: an illegal memory access"),
])  # fmt: skip
def test_the_call_that_failed_is_named_once(project_dir: Path, tmp_path: Path, wish: str, message: str):
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    folders = (Path(__file__).with_name("fake_cuda"), project_dir / "submodules" / "common")
    source, program = Path(__file__).with_name("synchronize_driver.cpp"), tmp_path / "program"
    subprocess.run(
        [compiler, "-std=c++17", *(f"-I{path}" for path in folders), source, "-o", program], check=True
    )
    done = run_program(program, GS_SYNCHRONIZE=wish)
    assert (done.stdout, done.stderr) == ("left for the next launch: 0\n", message)


# What the emulation catches: bugs planted in a copy of simple-knn's kernels


@pytest.fixture(scope="module")
def run_with_bug(project_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Compiles the driver with (right, wrong) put into the kernels, runs it."""
    knn = project_dir / "submodules" / "simple-knn" / "csrc"
    source = (knn / "cuda" / "knn.cu").read_text()

    def run(right: str = "", wrong: str = "", *flags: str, seed: int = 1) -> subprocess.CompletedProcess:
        folder = tmp_path_factory.mktemp("kernels")
        assert source.count(right) == 1 or not right
        (folder / "kernels.cpp").write_text(source.replace(right, wrong) if right else source)
        program = compile_emulated(project_dir, folder, "emulation_driver.cpp", [knn], *flags)
        return run_program(program, GS_EMULATION_SEED=str(seed))

    return run


@pytest.fixture(scope="module")
def whole(run_with_bug: Run) -> str:
    done = run_with_bug()
    assert done.returncode == 0 and len(done.stdout.split()) == 5000, done.stderr
    return done.stdout


@pytest.mark.parametrize("seed", [2, 3])
def test_the_order_of_threads_does_not_matter(run_with_bug: Run, whole: str, seed: int):
    assert run_with_bug(seed=seed).stdout == whole


def test_a_missing_barrier_shows(run_with_bug: Run, whole: str):
    done = run_with_bug("    __syncthreads();\n", "")
    assert done.returncode == 0 and done.stdout != whole


def test_a_barrier_that_some_threads_miss_is_found(run_with_bug: Run, whole: str):
    right = "    __syncthreads();\n    if (threadIdx.x > 0) return;\n"
    done = run_with_bug(right, "    if (threadIdx.x % 2) __syncthreads();\n    else __syncthreads();\n")
    assert done.returncode == 1 and "wait at different barriers" in done.stderr


def test_a_write_out_of_range_is_found(run_with_bug: Run):
    right = "places[i] = uint32_t(i);"
    done = run_with_bug(right, "places[i + 1] = uint32_t(i);", "-fsanitize=address", "-g")
    assert done.returncode not in (0, 1) or "AddressSanitizer" in done.stderr
    assert "heap-buffer-overflow" in done.stderr and "make_keys" in done.stderr


def test_the_kernels_are_clean_under_the_address_sanitizer(run_with_bug: Run, whole: str):
    done = run_with_bug("", "", "-fsanitize=address", "-g")
    assert done.returncode == 0 and done.stdout == whole, done.stderr[-2000:]


def test_a_shuffle_that_some_lanes_miss_is_found(run_with_bug: Run):
    right = "        const float of_warp = warp_smallest(bounds[b]);\n"
    wrong = "        const float of_warp = lane_index() > 3 ? warp_smallest(bounds[b]) : bounds[b];\n"
    done = run_with_bug(right, wrong)
    assert done.returncode == 1 and "kernel bound_nodes" in done.stderr, done.stderr


def test_a_shuffle_over_too_few_lanes_shows(run_with_bug: Run, whole: str):
    right = "    for (int other = kWarp / 2; other > 0; other /= 2)\n        value = smaller"
    done = run_with_bug(right, right.replace("kWarp / 2", "kWarp / 4"))
    assert done.returncode == 0 and done.stdout != whole
