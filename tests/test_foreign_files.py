"""No command removes or overwrites a file that it did not write. (convert.py: test_structure_from_motion.py)"""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
from test_cli import FLAGS, fails, run_here, scene  # noqa: F401  a small scene

from scene.camera_paths import KINDS
from utils.run_folder import RUN_FILES

# Names near to those that commands write, and the folders that they write to.
NAMES = (
    "notes.txt",
    "mine.png",
    "7.png",
    "chkpnt-best.safetensors",
    "best.mp4",
    "point_cloud.ply.bak",
    "my.json",
)
PLACES = (
    ".",
    "point_cloud",
    "point_cloud/iteration_12",
    "train",
    "test",
    "train/ours_12",
    "train/ours_12/renders",
)
PLACES += (
    "train/ours_12/gt",
    "train/ours_12/depth",
    "test/ours_12/renders",
    "test/ours_12/gt",
    "test/ours_12/depth",
)
PLACES += ("video", "video/ours_12", "export", "export/ours_12")


def put_foreign_files(folder, places):
    """Their contents by path."""
    image = cv2.imencode(".png", np.full((36, 48, 3), 90, np.uint8))[1].tobytes()
    text = b"mine"
    paths = [folder / place / name for place in places for name in NAMES]
    files = {path: image if path.suffix == ".png" else text for path in paths}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return files


def test_every_command_leaves_the_files_of_others_alone(run_here, scene, tmp_path):  # noqa: F811
    own, folder, output = tmp_path / "scene", tmp_path / "run", tmp_path / "eval"
    shutil.copytree(scene, own)
    train = ("train.py", "-s", own, "-m", folder, "--eval", *FLAGS)
    assert run_here(*train).returncode == 0
    files = put_foreign_files(own, (".", "images", "sparse", "sparse/0"))
    files |= put_foreign_files(folder, PLACES)
    files |= put_foreign_files(output, (".", "plots", "survey", "scene", "scene/3dgs", "scene/3dgs/seed_0"))
    table = ("full_eval.py", "--scenes", own, "--variants", "3dgs", "--output_path", output, "--skip_lpips")
    commands = [
        (*train, "--overwrite"),
        ("train.py", "-m", folder, "--resume", "--iterations", 12),  # which is refused
        ("render.py", "-m", folder, "--depth"),
        ("render.py", "-m", folder),
        ("render.py", "-m", folder, "--video", "orbit", "--frames", 2),
        ("metrics.py", "-m", folder, "--skip_lpips"),
        ("export.py", "-m", folder, "--formats", "sog", "splat"),
        ("report.py", "-m", folder),
        (*table, "--", *FLAGS[:-2]),  # without --threads
        (*table, "--overwrite", "--", *FLAGS[:-2], "--lambda_dssim", 0.3),
        (*train, "--overwrite"),
    ]
    for command in commands:
        assert run_here(*command).returncode == (2 if "--resume" in command else 0), command
        assert {path: path.read_bytes() for path in files if path.is_file()} == files, command
    assert (folder / "point_cloud/iteration_12/point_cloud.ply").is_file()
    assert (output / "results.md").is_file() and (output / "scene/3dgs/seed_0/results.json").is_file()


def test_the_videos_of_a_run_are_those_of_its_camera_paths():
    pattern = dict(RUN_FILES)["video/ours_*"]
    assert pattern == rf"({'|'.join(KINDS)})\.mp4"


@pytest.mark.parametrize(
    "name", ["cameras.json", "config.json", "input.ply", "results.json", "chkpnt7.safetensors"]
)
@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_training_into_a_folder_with_files_that_no_run_wrote_is_refused(
    run_here, scene, tmp_path, name, flags
):  # noqa: F811
    (tmp_path / name).write_bytes(b"mine")
    process = run_here("train.py", "-s", scene, "-m", tmp_path, *FLAGS, *flags)
    assert fails(process, f"-m {tmp_path}: {name} is in the way, and no run wrote it")
    assert (tmp_path / name).read_bytes() == b"mine" and len(list(tmp_path.iterdir())) == 1


def test_results_that_are_not_ours_are_not_replaced(run_here, scene, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    assert run_here("train.py", "-s", scene, "-m", folder, "--eval", *FLAGS).returncode == 0
    assert run_here("render.py", "-m", folder).returncode == 0
    for name, command in (
        ("results.json", "metrics.py"),
        ("per_view.json", "metrics.py"),
        ("report.html", "report.py"),
    ):
        (folder / name).write_text('{"fox": "my own results"}')
        assert fails(run_here(command, "-m", folder), f"{name} is in the way")
        assert (folder / name).read_text() == '{"fox": "my own results"}'
        (folder / name).unlink()
    for name in ("results.csv", "results.json", "survey.csv"):
        (tmp_path / name).write_text('{"fox": "my own results"}')
        assert fails(
            run_here("full_eval.py", "--scenes", scene, "--output_path", tmp_path), f"{name} is in the way"
        )
        (tmp_path / name).unlink()
