"""The folder of a run, laid out as other 3DGS tools expect it, with this project's own records.

cfg_args                                        settings of scene and model, for other tools
config.json                                     own record: all settings, versions, machine, timing, results
history.json                                    own record: the course of training, for report.py
sizes.json                                      the sizes that --save_shares has kept, and their measures
cameras.json, input.ply                         what the run started from
point_cloud/iteration_N/point_cloud.ply         the Gaussians
exposure.json                                   exposures of the views, with --train_test_exp
chkpntN.safetensors, chkpnt-latest.safetensors  everything needed to train further
train|test/ours_N/{renders,gt,depth}/00000.png  images, by render.py
video/ours_N/orbit.mp4                          videos, by render.py
results.json, per_view.json                     metrics, by metrics.py
report.html                                     the run on one page, by report.py
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import torch

from utils.files import read_json, remove_empty_folders, remove_leftovers, write_json, write_text

IMAGE = "00000.png"  # or any number of at least five digits
POINT_CLOUD = "point_cloud/iteration_N/point_cloud.ply"
CHECKPOINTS = ("chkpntN.safetensors", "chkpnt-latest.safetensors")
SIZES = "sizes.json"
RECORDS = ("history.json", SIZES, "exposure.json", "results.json", "per_view.json", "report.html")
RENDERED = (
    *(f"{split}/ours_N/{kind}/{IMAGE}" for split in ("train", "test") for kind in ("renders", "gt", "depth")),
    *(f"{split}/ours_N/depth/depth_params.json" for split in ("train", "test")),
    *(f"video/ours_N/{kind}.mp4" for kind in ("orbit", "spiral", "interpolate")),
)
# The files that a run writes and that a new run in the same folder replaces (N: any number, *: any text).
# All other files in the folder are left alone.
RUN_FILES = (
    POINT_CLOUD,
    *CHECKPOINTS,
    *RENDERED,
    *RECORDS,
    "events.out.tfevents.N.*",
)


SPLITS = ("test", "train")  # held-out and training views
METRICS = ("SSIM", "PSNR", "LPIPS")  # of results.json
KERNEL_PACKAGES = ("diff-gaussian-rasterization", "fused-ssim", "simple-knn")


def point_cloud_path(folder: Path, iteration: int) -> Path:
    return folder / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply"


def checkpoint_path(folder: Path, iteration: int) -> Path:
    return folder / f"chkpnt{iteration}.safetensors"


def latest_checkpoint_path(folder: Path) -> Path:
    """Return the path of the checkpoint that is replaced every few minutes, and when the run ends."""
    return folder / "chkpnt-latest.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    return files_like(folder, *CHECKPOINTS)


def files_like(folder: Path, *patterns: str) -> list[Path]:
    """Return the files in `folder` whose whole relative paths match one of the patterns, sorted.

    In a pattern, as in RUN_FILES, N is any number, 00000 a number of at least five digits, * any text.
    """
    found = set()
    for pattern in patterns:
        exact = re.escape(pattern).replace("N", "(0|[1-9][0-9]*)").replace("00000", "[0-9]{5,}")
        exact = exact.replace(r"\*", ".+")
        for path in folder.glob(pattern.replace("N", "*").replace("00000", "*")):
            if re.fullmatch(exact, path.relative_to(folder).as_posix()):
                found.add(path)
    return sorted(found)


def images_path(folder: Path, split: str, iteration: int, kind: str) -> Path:
    """Return the folder of images. split: `train` or `test`; kind: `renders`, `gt` or `depth`."""
    return folder / split / f"ours_{iteration}" / kind


def saved_iterations(folder: Path) -> list[int]:
    """Return the iterations whose Gaussians are saved, ascending."""
    names = (path.parent.name for path in files_like(folder, POINT_CLOUD))
    return sorted(int(name.removeprefix("iteration_")) for name in names)


def choose_iteration(folder: Path, iteration: int = -1) -> int:
    """Return `iteration` if it is saved, or the newest saved one for -1.

    Raise FileNotFoundError otherwise; the message lists the saved iterations.
    """
    saved = saved_iterations(folder)
    if not saved:
        raise FileNotFoundError(
            f"{folder}: no trained model here (expected point_cloud/iteration_N/point_cloud.ply)"
        )
    if iteration == -1:
        return saved[-1]
    if iteration not in saved:
        raise FileNotFoundError(
            f"{folder}: iteration {iteration} is not saved, only {', '.join(map(str, saved))}"
        )
    return iteration


def holds_results(folder: Path) -> bool:
    """Return whether `folder` holds Gaussians or checkpoints of an earlier run."""
    return bool(saved_iterations(folder) or checkpoints(folder))


def require_run_or_room(folder: Path) -> None:
    """Raise ValueError if a file has a name that a run writes, but no run wrote it: there is no cfg_args."""
    if (folder / "cfg_args").exists():
        read_cfg_args(folder)
        return
    for name in ("config.json", "cameras.json", "input.ply", *RECORDS):
        if (folder / name).exists():
            raise ValueError(
                f"{folder / name} would be replaced, but no run wrote it (there is no cfg_args beside it): "
                "move it away, or give another folder"
            )


def require_replaceable(folder: Path) -> None:
    """Raise ValueError if no run wrote the files to be replaced, or if a symbolic link leads to them."""
    for path in files_like(folder, *RUN_FILES):
        if not (folder / "cfg_args").exists():
            raise ValueError(
                f"{path} would be deleted, but no run wrote it (there is no cfg_args in {folder}): "
                "move it away, or give another folder"
            )
        for parent in path.parents:
            if folder in parent.parents and parent.is_symlink():
                raise ValueError(
                    f"{path} would be deleted, but it lies elsewhere: {parent} is a symbolic link"
                )


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Create the folder and lock it against other runs while the block runs or until this process ends.

    Raise ValueError if another run holds the lock, and OSError if the folder is not writable.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"-m {folder}: another run is training into this folder") from None
        require_writable(folder)
        remove_run_leftovers(folder)
        yield
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()
        raise
    finally:
        os.close(handle)


def remove_run_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed run left in its folder."""
    for parent in (folder, *folder.glob("point_cloud/iteration_*")):
        remove_leftovers(parent)


def require_writable(folder: Path) -> None:
    """Raise OSError, before hours of training, if the folder is not writable."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"?")
    except OSError as problem:
        raise OSError(
            problem.errno, f"nothing can be written there: {problem.strerror}", str(folder)
        ) from None


def remove_results(folder: Path) -> None:
    """Delete the files of an earlier run, and the folders that become empty."""
    for path in files_like(folder, *RUN_FILES):
        path.unlink()
        remove_empty_folders(path.parent, folder)


def numbered_images(folder: Path) -> list[Path]:
    """Return the numbered images in a folder, in order."""
    return files_like(folder, IMAGE)


def remove_images(folder: Path) -> None:
    """Delete the numbered images of an earlier rendering, which may have had more views."""
    remove_leftovers(folder)
    for path in numbered_images(folder):
        path.unlink()


# cfg_args


def write_cfg_args(folder: Path, settings: dict[str, Any]) -> None:
    """Write `settings` as text `Namespace(name=value, ...)`, which other 3DGS tools read."""
    write_text(
        folder / "cfg_args",
        f"Namespace({', '.join(f'{name}={value!r}' for name, value in settings.items())})",
    )


def recorded_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the run in `folder`; for another 3DGS program's run, those in cfg_args."""
    return read_cfg_args(folder) | read_config(folder).get("settings", {})


def read_cfg_args(folder: Path) -> dict[str, Any]:
    """Read `cfg_args` without executing it.

    Raise FileNotFoundError without the file, and ValueError unless it is `Namespace` with literal values.
    """
    path = folder / "cfg_args"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no cfg_args here, so this is not the folder of a run")
    malformed = ValueError(f"{path}: expected Namespace(name=value, ...) with plain values")
    try:
        call = ast.parse(path.read_text(encoding="utf-8").strip(), mode="eval").body
        is_namespace = (
            isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Namespace"
        )
        if not is_namespace or call.args or any(word.arg is None for word in call.keywords):
            raise malformed
        return {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, RecursionError) as problem:
        raise malformed from problem


# config.json


def write_config(folder: Path, config: dict[str, Any]) -> None:
    write_json(folder / "config.json", config)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json; empty for a run of another program. Raise ValueError if the file is damaged."""
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config.get("settings", {}), dict):
        raise ValueError(f"{path}: expected 'settings' to be a JSON object, got {config['settings']!r}")
    return config


def versions() -> dict[str, str]:
    """Return the versions of the packages in use, and the project's commit (empty outside a git checkout)."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    found |= {name: metadata.version(name) for name in ("numpy", "plyfile", "safetensors") + KERNEL_PACKAGES}
    return found | {"opencv": cv2.__version__, "commit": _commit()}


def machine(kernels: dict[str, Any]) -> dict[str, Any]:
    """Describe the machine. kernels: instruction set, threads and build, as the rasterizer reports them."""
    system = {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}
    names = {"instruction_set": "isa", "threads": "threads", "kernel_build": "build"}
    return system | {ours: kernels.get(theirs) for ours, theirs in names.items()}


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _commit() -> str:
    project = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(project), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return ""


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
