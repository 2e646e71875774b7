"""full_eval.py: what it plans, resumes and says; with the real commands once, with fakes for the rest."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import full_eval
import pytest
from test_tables import read_csv
from tiny_scene import write_tiny_scene
from utils import tables
from utils.commands import run_command
from utils.files import write_json
from utils.run_folder import pictures_path, point_cloud_path

ITERATIONS = 12
SHORT = f"-- --iterations {ITERATIONS} --densify_from_iter 2 --densification_interval 3".split()

# Stands in for train.py, render.py and metrics.py; what the scene is called decides how it goes.
FAKE = """
import json, pathlib, sys, time
command, flags = pathlib.Path(__file__).stem, sys.argv[1:]
folder = pathlib.Path(flags[flags.index("-m") + 1])
def write(name, content):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
if command == "train":
    if "--detect_anomaly" in flags:
        write("started", "")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            sys.exit("interrupted at iteration 3")
    if "--random_background" in flags:
        print("reading photos")
        sys.exit("error: no photos here")
    write("point_cloud/iteration_12/point_cloud.ply", "Gaussians")
    write("config.json", json.dumps({"finished": True, "iteration": 12, "views": {"train": 2, "test": 1},
        "measures": {"12": {"gaussians": 5}}, "timing": {"training_seconds": 60}}))
elif command == "render":
    for split, count in (("train", 2), ("test", 1)):
        for index in range(count):
            for kind in ("renders", "gt"):
                write(f"{split}/ours_12/{kind}/{index:05d}.png", "")
else:
    measured = {"SSIM": 0.5, "PSNR": 20.0, "LPIPS": 0.3}
    missing = "left out" if "--skip_lpips" in flags else None
    write("results.json", json.dumps({"ours_12": {**measured, "train": measured, "lpips_missing": missing}}))
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_tiny_scene(tmp_path_factory.mktemp("scenes") / "tiny")


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    for name in ("train", "render", "metrics"):
        (tmp_path / "fakes").mkdir(exist_ok=True)
        (tmp_path / "fakes" / f"{name}.py").write_text(FAKE)
    monkeypatch.setattr(full_eval, "PROJECT", tmp_path / "fakes")
    monkeypatch.setattr(full_eval, "draw", lambda output, rows: None)


def call(monkeypatch, *arguments):
    """full_eval.py in this process; exit code, output, errors."""
    monkeypatch.setattr(sys, "argv", ["full_eval.py", *map(str, arguments)])
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_command(full_eval.main)
        except SystemExit as leaving:
            code = leaving.code
    for name, handler in handlers.items():
        signal.signal(name, handler)
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def planned(*arguments):
    """Options and runs."""
    options, passed_on = full_eval.parse(list(map(str, arguments)))
    return options, full_eval.plan(options, passed_on)


# What is planned


def test_every_scene_row_and_seed_is_a_run(scene, tmp_path):
    arguments = ["--scenes", scene, "--variants", "3dgs", "wide=3dgs --percent_dense 0.02", "--seeds", 0, 1]
    _, runs = planned(*arguments, "--output_path", tmp_path / "out", *SHORT)
    names = [run.name for run in runs]
    assert names == [f"tiny/{row}/seed_{seed}" for row in ("3dgs", "wide") for seed in (0, 1)]
    assert runs[3].folder == tmp_path / "out" / "tiny" / "wide" / "seed_1"
    assert runs[3].log == tmp_path / "out" / "tiny" / "wide" / "seed_1.log"
    settings = runs[3].record["settings"]
    assert settings["percent_dense"] == 0.02 and settings["iterations"] == 12 and settings["seed"] == 1
    assert settings["eval"] and settings["variant"] == "3dgs" and settings["test_iterations"] == [-1]
    assert "percent_dense" not in runs[0].record["settings"]
    assert runs[3].record["command"].startswith(f"python train.py -s {scene} --eval")


def test_what_is_more_specific_wins(scene, tmp_path):
    arguments = ["--scenes", scene, "--scene_flags", "tiny=-w -r 2 --iterations 7", "--variants"]
    _, runs = planned(*arguments, "3dgs", "long=3dgs --iterations 9", "--", "-r", 4, "--iterations", 5)
    settings = [run.record["settings"] for run in runs]
    assert [values["iterations"] for values in settings] == [7, 9]
    assert all(values["white_background"] and values["resolution"] == 2 for values in settings)


def test_all_variants_by_default(scene):
    _, runs = planned("--scenes", scene)
    assert [run.record["row"] for run in runs] == list(full_eval.VARIANTS)


def test_published_scenes_are_trained_by_their_protocol(tmp_path, capsys):
    for name, images in (("bicycle", "images_4"), ("room", "images_2"), ("truck", "images")):
        write_tiny_scene(tmp_path / name)
        (tmp_path / name / "images").rename(tmp_path / name / images)
    options, runs = planned("-m360", tmp_path, "-tat", tmp_path, "--variants", "3dgs")
    found = [(run.record["dataset"], run.record["scene"], run.record["settings"]["images"]) for run in runs]
    assert found == [("MipNeRF360", "bicycle", "images_4"), ("MipNeRF360", "room", "images_2"),
                     ("TanksAndTemples", "truck", "images")]  # fmt: skip
    assert all(run.record["settings"]["eval"] for run in runs)
    assert make_iterations(runs[0]) == 30_000
    out = capsys.readouterr().out
    absent = "flowers, garden, stump, treehill, counter, kitchen, bonsai"
    assert f"Not in {tmp_path}, left out: {absent}\n" in out and "left out: train\n" in out
    assert all("training" in full_eval.steps_left(run, options) for run in runs)
    assert planned("--mipnerf360", tmp_path, "--variants", "3dgs")[1][0].name == "bicycle/3dgs/seed_0"


def make_iterations(run):
    return full_eval.make_settings(full_eval.given_flags(full_eval.train_parser(), run.flags)).flat()[
        "iterations"
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "which scenes?"),
        ("--scenes {none}", "scene folder not found: {none}"),
        ("--scenes {empty}", "no scene in {empty}"),
        ("--scenes {scene} -- -i images_4", "image folder not found: {scene}/images_4"),
        ("-m360 {empty}", "{empty} holds no scene of MipNeRF360: looked for bicycle, flowers"),
        ("--scenes {scene} {scene}", "two scenes have the same name"),
        ("--scenes {scene} --variants 4dgs", "--variants: expected one of 3dgs"),
        ("--scenes {scene} --variants a/b=3dgs", "--variants a/b=3dgs: expected NAME="),
        ("--scenes {scene} --variants 3dgs 3dgs", "--variants: 3dgs is given twice"),
        ("--scenes {scene} --variants a=3dgs'", "No closing quotation"),
        ("--scenes {scene} --scene_flags chair=-w", "--scene_flags chair: there is no such scene"),
        ("--scenes {scene} -- --no_such_flag", "--no_such_flag"),
        ("--scenes {scene} -- --iterations 0", "--iterations: expected at least 1"),
        ("--scenes {scene} -- --seed 3", "--seed: full_eval.py gives this flag"),
        ("--scenes {scene} --scene_flags tiny=-m{empty}", "--model_path: full_eval.py gives this flag"),
        ("--scenes {scene} --seeds -1", "--seed: expected 0 to"),
        ("--scenes {scene} --jobs 0", "--jobs: expected at least 1"),
        ("--scenes {scene} --threads -1", "--threads: expected at least 0"),
        ("--scenes {scene} --lpips_weights {none}", "--lpips_weights {none}: there is no such file"),
        ("--scenes {scene} --output_path {scene}/images/view_0.png", "expected a folder, this is a file"),
        ("--scene {scene}", "--scene"),
    ],
)
def test_mistakes_are_one_line_before_any_training(monkeypatch, fakes, scene, tmp_path, arguments, complaint):
    (tmp_path / "empty").mkdir()
    places = {"scene": scene, "none": tmp_path / "none", "empty": tmp_path / "empty"}
    words = arguments.format(**places).split()
    output = [] if "--output_path" in words else ["--output_path", tmp_path / "out"]
    ended = call(monkeypatch, *output, *words)
    assert ended.code == 2 and ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err
    assert complaint.format(**places) in ended.err
    assert not (tmp_path / "out").exists()


# What is resumed


@pytest.fixture
def run(scene, tmp_path):
    """A planned run that was not begun yet, and the options."""
    arguments = ["--scenes", scene, "--variants", "3dgs", "--skip_lpips", "--output_path", tmp_path / "out"]
    options, (run,) = planned(*arguments, *SHORT)
    return run, options


def leave(run, finished=True, pictures=True, measured=True, lpips_missing="left out by --skip_lpips"):
    """What an earlier call left in the folder of `run`."""
    write_json(run.folder / tables.RECORD, run.record)
    config = {"finished": finished, "iteration": ITERATIONS, "views": {"train": 2, "test": 1}}
    write_json(run.folder / "config.json", config)
    path = point_cloud_path(run.folder, ITERATIONS)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    for split, views in config["views"].items() if pictures else ():
        for place in (pictures_path(run.folder, split, ITERATIONS, kind) for kind in ("renders", "gt")):
            place.mkdir(parents=True)
            for index in range(views):
                (place / f"{index:05d}.png").write_bytes(b"")
    if measured:
        write_json(run.folder / "results.json", {f"ours_{ITERATIONS}": {"lpips_missing": lpips_missing}})


def test_a_new_run_takes_all_steps(run):
    run, options = run
    steps = full_eval.steps_left(run, options)
    assert list(steps) == ["training", "rendering", "measuring"]
    assert steps["training"][0] == "train.py" and steps["training"][-3:] == [
        "-m",
        str(run.folder),
        "--overwrite",
    ]
    assert steps["rendering"] == ["render.py", "-m", str(run.folder)]
    assert steps["measuring"] == ["metrics.py", "-m", str(run.folder), "--skip_lpips"]


def test_what_is_done_is_not_repeated(run):
    run, options = run
    leave(run)
    assert full_eval.steps_left(run, options) == {}
    (pictures_path(run.folder, "test", ITERATIONS, "renders") / "00000.png").unlink()
    assert list(full_eval.steps_left(run, options)) == ["rendering", "measuring"]


def test_measures_of_another_iteration_or_without_lpips_are_not_enough(run, tmp_path):
    run, options = run
    leave(run)
    options.skip_lpips, options.lpips_weights = False, tmp_path / "vgg16.pth"
    weights = ["--lpips_weights", str(tmp_path / "vgg16.pth")]
    assert full_eval.steps_left(run, options) == {
        "measuring": ["metrics.py", "-m", str(run.folder), *weights]
    }
    write_json(run.folder / "results.json", {"ours_12": {"lpips_missing": None}})
    assert full_eval.steps_left(run, options) == {}
    write_json(run.folder / "results.json", {"ours_7": {"lpips_missing": None}})
    assert list(full_eval.steps_left(run, options)) == ["measuring"]


def test_skipping(run):
    run, options = run
    options.skip_training = True
    assert full_eval.steps_left(run, options) == {}
    leave(run, pictures=False, measured=False)
    assert list(full_eval.steps_left(run, options)) == ["rendering", "measuring"]
    options.skip_rendering = True
    assert full_eval.steps_left(run, options) == {}  # nothing to measure
    options.skip_rendering, options.skip_metrics = False, True
    assert list(full_eval.steps_left(run, options)) == ["rendering"]


def test_a_half_finished_run_goes_on_from_its_newest_checkpoint(run):
    run, options = run
    leave(run, finished=False)
    assert full_eval.steps_left(run, options)["training"][-1] == "--overwrite"
    for iteration in (3, 9, 10, ITERATIONS):  # the last leaves nothing to train
        (run.folder / f"chkpnt{iteration}.safetensors").write_bytes(b"")
    steps = full_eval.steps_left(run, options)
    assert steps["training"][-2:] == ["--start_checkpoint", str(run.folder / "chkpnt10.safetensors")]
    assert list(steps) == ["training", "rendering", "measuring"]


def test_changed_flags_are_an_error_unless_overwritten(run, scene):
    run, options = run
    leave(run)
    run.record["settings"]["iterations"] = 30
    run.record["settings"]["opacity_lr"] = 0.1
    complaint = r"other flags \(--iterations was 12, is 30, --opacity_lr was not given, is 0.1\)"
    with pytest.raises(ValueError, match=complaint):
        full_eval.steps_left(run, options)
    options.overwrite = True
    assert full_eval.steps_left(run, options)["training"][-1] == "--overwrite"
    options.overwrite, options.skip_training = False, True
    assert full_eval.steps_left(run, options) == {}


def test_a_changed_variant_is_a_changed_command(run, monkeypatch, scene, tmp_path):
    leave(run[0])
    monkeypatch.setitem(full_eval.VARIANTS, "3dgs", {"percent_dense": 0.5})
    arguments = ["--scenes", scene, "--variants", "3dgs", "--output_path", tmp_path / "out"]
    options, (now,) = planned(*arguments, *SHORT)
    with pytest.raises(ValueError, match="--percent_dense was not given, is 0.5"):
        full_eval.steps_left(now, options)


def test_somebody_elses_run_is_not_replaced(run):
    run, options = run
    leave(run)
    (run.folder / tables.RECORD).unlink()
    with pytest.raises(ValueError, match="no eval.json"):
        full_eval.steps_left(run, options)
    options.overwrite = True
    assert len(full_eval.steps_left(run, options)) == 3


# The work


def test_a_failed_run_is_reported_and_the_others_go_on(monkeypatch, fakes, scene, tmp_path):
    rows = ["bad=3dgs --random_background", "3dgs"]
    arguments = ["--scenes", scene, "--variants", *rows, "--output_path", tmp_path / "out", *SHORT]
    ended = call(monkeypatch, *arguments)
    assert isinstance(ended.code, str)  # sys.exit(text): exit code 1
    log = tmp_path / "out" / "tiny" / "bad" / "seed_0.log"
    assert ended.code.splitlines() == [
        "1 of 2 runs failed:",
        f"tiny/bad/seed_0: training failed with exit code 1: error: no photos here (see {log})",
    ]
    assert log.read_text().startswith("$ python train.py -s ") and "reading photos" in log.read_text()
    assert [row["Submethod"] for row in read_csv(tmp_path / "out" / "survey.csv")] == ["3dgs"]
    lines = [line.split(" ", 1)[1] for line in ended.out.splitlines() if "tiny/3dgs" in line]
    assert lines[:3] == [f"[2/2] tiny/3dgs/seed_0: {step}" for step in ("training", "rendering", "measuring")]
    assert lines[3].startswith("[2/2] tiny/3dgs/seed_0: done, SSIM test 0.5000, PSNR test 20.00")

    again = call(monkeypatch, *arguments)
    assert "1 of 2 runs have something left to do" in again.out and "[1/1] tiny/bad" in again.out


def test_overwriting_leaves_nothing_of_the_earlier_training(monkeypatch, fakes, scene, tmp_path):
    arguments = ["--scenes", scene, "--variants", "3dgs", "--output_path", tmp_path / "out"]
    assert call(monkeypatch, *arguments, *SHORT).code == 0
    (run,) = (tmp_path / "out").glob("*/*/seed_0")
    (run / "chkpnt7.safetensors").write_bytes(b"")
    refused = call(monkeypatch, *arguments, *SHORT, "--random_background")
    assert refused.code == 2 and "--random_background was not given, is True" in refused.err
    failed = call(monkeypatch, *arguments, "--overwrite", *SHORT, "--random_background")
    assert "no photos here" in failed.code
    assert sorted(path.name for path in run.iterdir()) == ["eval.json"]  # to begin with again


def test_several_runs_at_once_share_the_threads(monkeypatch, fakes, scene, tmp_path):
    calls = []
    monkeypatch.setattr(full_eval.Crew, "__init__", lambda self, threads: calls.append(threads))
    for jobs, threads in ((1, 0), (1, 3), (2, 8), (3, 8), (8, 2)):
        full_eval.work_through([], SimpleNamespace(jobs=jobs, threads=threads, output_path=tmp_path))
    assert calls == [0, 3, 4, 2, 1]
    monkeypatch.undo()


@pytest.mark.parametrize(("ending", "in_background"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_ctrl_c_stops_the_children_and_says_how_to_go_on(fakes, scene, tmp_path, ending, in_background):
    folder = os.path.dirname(full_eval.__file__)
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " if in_background else ""
    code = f"{ignored}import sys; sys.path.insert(0, {folder!r}); import full_eval; "
    code += f"full_eval.PROJECT = full_eval.Path({str(tmp_path / 'fakes')!r}); "
    code += "full_eval.run_command(full_eval.main)"
    arguments = ["--scenes", scene, "--variants", "a=3dgs", "b=3dgs", "c=3dgs", "--jobs", 2]
    arguments += ["--output_path", tmp_path / "out", *SHORT, "--detect_anomaly"]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    begun = [tmp_path / "out" / "tiny" / row / "seed_0" / "started" for row in "ab"]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in begun) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, ending)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "interrupted runs go on with the same command"
    assert out.count(": interrupted") == 2 and "failed" not in out
    for row in "ab":
        assert "interrupted at iteration 3" in (tmp_path / "out" / "tiny" / row / "seed_0.log").read_text()
    assert not (tmp_path / "out" / "tiny" / "c").exists()


def test_without_matplotlib_there_are_no_plots(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(full_eval.importlib.util, "find_spec", lambda name: None)
    full_eval.draw(tmp_path, [])
    assert capsys.readouterr().out == "No plots: matplotlib is not installed (pip install matplotlib)\n"


def test_help_shows_the_published_protocol(monkeypatch):
    ended = call(monkeypatch, "--help")
    assert ended.code == 0
    assert "python full_eval.py -m360 data/360 -tat data/tandt -db data/db" in ended.out
    for flag in (
        "-m360",
        "--mipnerf360",
        "-tat",
        "-db",
        "--skip_training",
        "--skip_rendering",
        "--skip_metrics",
    ):
        assert flag in ended.out
    assert max(map(len, ended.out.splitlines())) <= 112


def test_the_real_commands(monkeypatch, project_dir, scene, tmp_path):
    arguments = ["--scenes", scene, "--variants", "3dgs", "few=3dgs --densify_from_iter 100", "--skip_lpips"]
    arguments += ["--jobs", 2, "--threads", 2, "--output_path", tmp_path / "out", *SHORT]
    arguments += ["--densify_grad_threshold", 0.001]
    command = [sys.executable, project_dir / "full_eval.py", *arguments]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert (process.returncode, process.stderr) == (0, "")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("tiny/**/*")}
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["row"] for row in rows] == ["3dgs", "few"]
    assert rows[0]["gaussians"] > rows[1]["gaussians"] == 60
    for row in rows:
        assert (row["test_views"], row["train_views"]) == (2, 7)
        assert 5 < row["test_PSNR"] < 40 and 0 < row["train_SSIM"] < 1 and row["test_LPIPS"] is None
        assert row["size_bytes"] > 200 * row["gaussians"] and row["training_minutes"] > 0

    monkeypatch.setattr(full_eval.Crew, "call", lambda *_: pytest.fail("there was nothing left to do"))
    monkeypatch.setattr(full_eval, "draw", lambda output, rows: None)
    again = call(monkeypatch, *arguments)
    assert again.code == 0 and "0 of 2 runs have something left to do" in again.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("tiny/**/*")} == before
