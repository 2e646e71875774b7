"""The folder of a run, laid out as everyone's 3DGS tools expect it, with our own record beside that.

cfg_args                                        settings of scene and model, for others' tools
config.json                                     ours: all settings, versions, machine, timing, results
history.json                                    ours: what happened on the way, for report.py
cameras.json, input.ply                         what the run started from
point_cloud/iteration_N/point_cloud.ply         the Gaussians
exposure.json                                   exposures of the views, with --train_test_exp
chkpntN.safetensors, chkpnt-latest.safetensors  everything needed to train further
train|test/ours_N/{renders,gt,depth}/00000.png  pictures, by render.py
video/ours_N/orbit.mp4                          films, by render.py
results.json, per_view.json                     measures, by metrics.py
report.html                                     all of it on a page, by report.py
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

PICTURE = "00000.png"  # or any number of at least five digits
POINT_CLOUD = "point_cloud/iteration_N/point_cloud.ply"
CHECKPOINTS = ("chkpntN.safetensors", "chkpnt-latest.safetensors")
RECORDS = ("history.json", "exposure.json", "results.json", "per_view.json", "report.html")
RENDERED = (
    *(
        f"{split}/ours_N/{kind}/{PICTURE}"
        for split in ("train", "test")
        for kind in ("renders", "gt", "depth")
    ),
    *(f"{split}/ours_N/depth/depth_params.json" for split in ("train", "test")),
    *(f"video/ours_N/{kind}.mp4" for kind in ("orbit", "spiral", "interpolate")),
)
# What a run writes and a new run in the same folder replaces (N: any number, *: anything); all else in the
# folder is not ours to touch.
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
    """Return the path of the checkpoint that is replaced every few minutes, and last when the run is finished."""
    return folder / "chkpnt-latest.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    return files_like(folder, *CHECKPOINTS)


def files_like(folder: Path, *patterns: str) -> list[Path]:
    """The files in `folder` whose paths are exactly as one of the patterns of RUN_FILES says, sorted."""
    found = set()
    for pattern in patterns:
        exact = re.escape(pattern).replace("N", "(0|[1-9][0-9]*)").replace("00000", "[0-9]{5,}")
        exact = exact.replace(r"\*", ".+")
        for path in folder.glob(pattern.replace("N", "*").replace("00000", "*")):
            if re.fullmatch(exact, path.relative_to(folder).as_posix()):
                found.add(path)
    return sorted(found)


def images_path(folder: Path, split: str, iteration: int, kind: str) -> Path:
    """Folder of pictures; split: `train` or `test`; kind: `renders` or `gt`."""
    return folder / split / f"ours_{iteration}" / kind


def saved_iterations(folder: Path) -> list[int]:
    """Iterations whose Gaussians are saved, ascending."""
    names = (path.parent.name for path in files_like(folder, POINT_CLOUD))
    return sorted(int(name.removeprefix("iteration_")) for name in names)


def choose_iteration(folder: Path, iteration: int = -1) -> int:
    """`iteration` if it is saved, the newest one for -1. FileNotFoundError tells what there is instead."""
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
    """Whether an earlier run left Gaussians or checkpoints here."""
    return bool(saved_iterations(folder) or checkpoints(folder))


def require_run_or_room(folder: Path) -> None:
    """ValueError if there are files of names that a run writes but no cfg_args, so that no run wrote them."""
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
    """Raise ValueError if files that a new run replaces are of no run, or lie elsewhere, behind a link."""
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
    """Make the folder, and keep it from other runs for as long as this process lives.

    ValueError if another run has it, OSError if nothing can be written there.
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
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()
        raise
    finally:
        os.close(handle)


def remove_run_leftovers(folder: Path) -> None:
    """Delete what a run was writing when it was killed, where it writes."""
    for parent in (folder, *folder.glob("point_cloud/iteration_*")):
        remove_leftovers(parent)


def require_writable(folder: Path) -> None:
    """OSError, before hours of training, if nothing can be written there."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"?")
    except OSError as problem:
        raise OSError(
            problem.errno, f"nothing can be written there: {problem.strerror}", str(folder)
        ) from None


def remove_results(folder: Path) -> None:
    """Delete what an earlier run wrote, and folders that this leaves empty."""
    for path in files_like(folder, *RUN_FILES):
        path.unlink()
        remove_empty_folders(path.parent, folder)


def numbered_images(folder: Path) -> list[Path]:
    """The numbered pictures in a folder of them, in order."""
    return files_like(folder, PICTURE)


def remove_images(folder: Path) -> None:
    """Delete the numbered images of an earlier rendering: it may have had more views."""
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
    """The settings of the run in `folder`; of a run of another 3DGS program those in cfg_args."""
    return read_cfg_args(folder) | read_config(folder).get("settings", {})


def read_cfg_args(folder: Path) -> dict[str, Any]:
    """Read `cfg_args` without running it. ValueError if it is more than `Namespace` with literal values."""
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
    """The run's own record; empty for a run of another program. ValueError if the file is damaged."""
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config.get("settings", {}), dict):
        raise ValueError(f"{path}: expected 'settings' to be a JSON object, got {config['settings']!r}")
    return config


def versions() -> dict[str, str]:
    """Versions of what takes part in a run, and the project's commit (empty outside a git checkout)."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    found |= {name: metadata.version(name) for name in ("numpy", "plyfile", "safetensors") + KERNEL_PACKAGES}
    return found | {"opencv": cv2.__version__, "commit": _commit()}


def machine(kernels: dict[str, Any]) -> dict[str, Any]:
    """What a run ran on; `kernels`: instruction set and threads, as the rasterizer reports them."""
    system = {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}
    names = {"instruction_set": "isa", "threads": "threads", "kernel_build": "build"}
    return system | {ours: kernels.get(theirs) for ours, theirs in names.items()}


def peak_memory() -> int:
    """Bytes of memory that this process has held at most."""
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
