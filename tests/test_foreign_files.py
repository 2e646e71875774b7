"""No command removes or overwrites what it did not write."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
from types import SimpleNamespace

import pytest
from commands import fails
from tiny_scene import write_tiny_scene

import convert
import view
from evaluation.child_processes import ChildProcesses
from scene_files import quantized_photo, write_photo

# Names close to ours, in every folder that a command writes into.
IN_A_RUN = """notes.txt .DS_Store .results.json.part my_report.html results_old.json events.out.tfevents.mine
    chkpnt-best.safetensors chkpnt007.safetensors chkpnt7.safetensors.bak
    point_cloud/notes.txt point_cloud/iteration_best/point_cloud.ply point_cloud/iteration_12/edited.ply
    point_cloud/iteration_012/point_cloud.ply train/mine.png train/ours_12/notes.txt
    train/ours_best/depth/00000.png
    train/ours_12/renders/mine.png train/ours_12/renders/7.png train/ours_12/gt/mine.png
    test/ours_12/renders/00000.jpg test/ours_12/gt/notes.txt
    train/ours_12/depth/mine.png train/ours_12/depth/notes.txt test/ours_12/depth/params.json
    video/mine.mp4 video/ours_12/mine.mp4 video/ours_best/orbit.mp4
    export/mine.spz export/ours_12/mine.spz export/ours_12/notes.json""".split()
IN_AN_EVALUATION = """notes.txt my_results.md plots/mine.png survey/mine.csv tiny/notes.txt
    tiny/3dgs/notes.log tiny/3dgs/seed_0/eval_old.json""".split()
IN_A_SCENE = """notes.txt convert_notes.json sparse/notes.txt sparse/0/notes.txt images/mine.png
    images_2/mine.png images_4/mine.png masks/mine.txt distorted/notes.txt distorted/database.db
    distorted/sparse/0/images.bin
    input/mine.txt input_masks/mine.txt""".split()
SHORT = "--iterations 12 --checkpoint_iterations 7".split()
FLAGS = [*SHORT, "--threads", 1, "--quiet"]


def plant(folder, names):
    """Foreign files, and the bytes of all files that `folder` holds then."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"mine: {name}")
    return contents(folder)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def scene(tmp_path):
    return write_tiny_scene(tmp_path / "tiny")


@pytest.fixture
def command(run_here, monkeypatch):
    """Any command in this process, also those of full_eval.py; view.py does not wait for a browser."""
    monkeypatch.setattr(view, "require_viser", lambda: None)
    monkeypatch.setattr(view, "WebViewer", lambda *_, **__: None)
    monkeypatch.setattr(view, "watch", lambda *_: None)
    monkeypatch.setattr(view.Source, "place_cameras", lambda *_: None)
    monkeypatch.setattr(convert.importlib.util, "find_spec", importlib.util.find_spec)
    call = lambda self, script, flags, log: run_here(script.name, *flags).returncode  # noqa: E731
    monkeypatch.setattr(ChildProcesses, "call", call)
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    yield run_here
    for name, handler in handlers.items():
        signal.signal(name, handler)


def succeeds(process):
    assert (process.returncode, process.stderr) == (0, "")


def test_every_command_leaves_the_files_of_others_alone(command, scene, tmp_path):
    run, table = tmp_path / "run", tmp_path / "table"
    foreign = plant(run, IN_A_RUN) | plant(table, IN_AN_EVALUATION) | plant(scene, IN_A_SCENE)
    plant(table / "tiny/3dgs/seed_0", IN_A_RUN)
    foreign |= contents(table)

    def all_are_there():
        assert {path: path.read_bytes() if path.exists() else None for path in foreign} == foreign

    def measure(flags=()):
        succeeds(command("render.py", "-m", run, "--depth", "--quiet"))
        if importlib.util.find_spec("av"):
            succeeds(command("render.py", "-m", run, "--video", "orbit", "--frames", 2, "--quiet"))
        succeeds(command("metrics.py", "-m", run, "--skip_lpips", "--quiet"))
        succeeds(command("export.py", "-m", run, "--formats", "sog", "splat", "--quiet"))
        succeeds(command("report.py", "-m", run, "--quiet"))
        succeeds(command("view.py", "-m", run, "--quiet"))
        all_are_there()

    train = ("train.py", "-s", scene, "-m", run, "--eval", *FLAGS)
    succeeds(command(*train))
    all_are_there()
    measure()
    measure()
    succeeds(command(*train, "--overwrite"))
    all_are_there()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"finished": False}))
    succeeds(command("train.py", "--resume", "-m", run, "--quiet"))
    succeeds(command("train.py", "--start_checkpoint", run / "chkpnt7.safetensors", "--quiet"))
    measure()

    evaluate = ("full_eval.py", "--scenes", scene, "--variants", "3dgs", "--skip_lpips", "--quiet")
    evaluate += ("--output_path", table)
    for changed in ([], ["--random_background"]):
        succeeds(command(*evaluate, "--overwrite", "--", *SHORT, *changed))
        all_are_there()
    for index in range(3):
        write_photo(scene / f"input/{index}.png", quantized_photo(index))
    assert fails(command("convert.py", "-s", scene), "was not written by convert.py")
    all_are_there()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A scene and its finished run, measured."""
    scene = write_tiny_scene(tmp_path_factory.mktemp("scenes") / "tiny")
    return SimpleNamespace(scene=scene, folder=tmp_path_factory.mktemp("runs") / "run", is_made=False)


@pytest.fixture
def measured(finished, command, tmp_path):
    """A copy of it."""
    if not finished.is_made:
        succeeds(command("train.py", "-s", finished.scene, "-m", finished.folder, "--eval", *FLAGS))
        succeeds(command("render.py", "-m", finished.folder, "--quiet"))
        finished.is_made = True
    return shutil.copytree(finished.folder, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("results.json", "metrics.py --skip_lpips"),
        ("per_view.json", "metrics.py --skip_lpips"),
        ("report.html", "report.py"),
        ("export/ours_12/point_cloud.compressed.ply", "export.py --formats compressed_ply"),
        ("export/ours_12/point_cloud.sog", "export.py --formats sog"),
        ("export/ours_12/point_cloud.splat", "export.py --formats splat"),
        ("export/ours_12/point_cloud.spz", "export.py --formats spz"),
        ("export/ours_12/export.json", "export.py --formats splat"),
        ("test/ours_12/depth/depth_params.json", "render.py --depth"),
        ("video/ours_12/orbit.mp4", "render.py --video orbit"),
    ],
)
def test_a_file_of_another_kind_is_not_overwritten(command, measured, monkeypatch, name, flags):
    monkeypatch.setattr("render.require_video_writer", lambda: None)
    monkeypatch.setattr("export.require_gsply", lambda: None)
    before = plant(measured, [name])
    script, *flags = flags.split()
    assert fails(command(script, "-m", measured, *flags), f"{name} is not a file that this command writes")
    assert contents(measured) == before


@pytest.mark.parametrize("name", ["config.json", "cameras.json", "input.ply", "results.json", "report.html"])
@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_a_folder_with_files_that_no_run_wrote_is_no_place_for_one(command, scene, name, flags):
    before = plant(scene, [name])
    train = ("train.py", "-s", scene, "-m", scene, *FLAGS, *flags)
    assert fails(command(*train), f"{name} would be replaced, but no run wrote it")
    assert contents(scene) == before


@pytest.mark.parametrize(
    "name",
    """point_cloud/iteration_12/point_cloud.ply chkpnt7.safetensors train/ours_12/renders/00000.png
    events.out.tfevents.1.host""".split(),
)
def test_results_that_no_run_wrote_are_not_overwritten(command, scene, tmp_path, name):
    folder = tmp_path / "table/tiny/3dgs/seed_0"
    before = plant(folder, [name])
    train = ("train.py", "-s", scene, "-m", folder, *FLAGS, "--overwrite")
    assert fails(command(*train), f"{name} would be deleted, but no run wrote it")
    evaluate = ("full_eval.py", "--scenes", scene, "--variants", "3dgs", "--output_path", tmp_path / "table")
    assert fails(command(*evaluate, "--overwrite", "--", *SHORT), f"{name} would be deleted, but no run")
    assert contents(folder) == before


def test_nothing_is_overwritten_through_a_link(command, scene, tmp_path):
    before = plant(tmp_path / "theirs", ["iteration_12/point_cloud.ply"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/cfg_args").write_text("Namespace()")
    (tmp_path / "run/point_cloud").symlink_to(tmp_path / "theirs")
    train = ("train.py", "-s", scene, "-m", tmp_path / "run", *FLAGS, "--overwrite")
    assert fails(command(*train), f"lies elsewhere: {tmp_path}/run/point_cloud is a symbolic link")
    assert contents(tmp_path / "theirs") == before


def test_cfg_args_of_others_is_no_run(command, scene):
    before = plant(scene, ["cfg_args"])
    assert fails(command("train.py", "-s", scene, "-m", scene, *FLAGS), "cfg_args: expected Namespace")
    assert contents(scene) == before


@pytest.mark.parametrize("name", ["input.ply", "point_cloud/iteration_12/point_cloud.ply"])
def test_training_does_not_replace_what_it_starts_from(command, finished, measured, name):
    before = contents(measured)
    train = ("train.py", "-s", finished.scene, "-m", measured, "--overwrite", *FLAGS)
    assert fails(command(*train, "--init_points", measured / name), f"{name} is read by this command")
    assert contents(measured) == before


def test_pictures_that_are_the_scenes_photos_are_not_replaced(command, scene, tmp_path):
    photos = scene / "train/ours_12/gt"
    photos.mkdir(parents=True)
    for path in (scene / "images").iterdir():
        path.rename(photos / path.name.replace("view_", "0000"))
    views = scene / "sparse/0/images.txt"
    views.write_text(views.read_text().replace("view_", "0000"))
    train = ("train.py", "-s", scene, "-i", "train/ours_12/gt", *FLAGS)
    succeeds(command(*train, "-m", tmp_path / "run"))
    shutil.copytree(tmp_path / "run", scene, dirs_exist_ok=True)
    before = contents(scene)
    assert fails(command("render.py", "-m", scene), "gt/00000.png is read by this command")
    assert fails(command(*train, "-m", scene, "--overwrite"), "gt/00000.png is read by this command")
    assert contents(scene) == before


def test_export_does_not_replace_the_ply_that_it_reads(command, measured):
    target = measured / "export/ours_0/point_cloud.compressed.ply"
    target.parent.mkdir(parents=True)
    shutil.copy(measured / "point_cloud/iteration_12/point_cloud.ply", target)
    before = contents(measured)
    export = ("export.py", "--ply", target, "-m", measured, "--formats", "compressed_ply")
    assert fails(command(*export), "is read by this command")
    assert contents(measured) == before


@pytest.mark.parametrize(
    "name",
    """results.md results.csv results.json survey.csv survey/tiny.csv plots/tiny_quality.png
    plots/tiny_test_00000.png tiny/3dgs/seed_0.log tiny/3dgs/seed_0/eval.json
    tiny/3dgs/seed_0/config.json""".split(),
)
def test_full_eval_refuses_files_of_others_before_any_training(command, scene, tmp_path, name):
    before = plant(tmp_path / "table", [name])
    evaluate = ("full_eval.py", "--scenes", scene, "--variants", "3dgs", "--output_path", tmp_path / "table")
    assert fails(command(*evaluate, "--overwrite", "--", *SHORT), name)
    assert contents(tmp_path / "table") == before
