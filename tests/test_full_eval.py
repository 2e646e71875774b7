"""full_eval.py: what it does and says; with the real commands once, with fakes for the rest."""

from __future__ import annotations

import contextlib
import importlib.util
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
import torch
from measured_runs import read_csv
from plain_lpips import random_vgg16
from tiny_scene import write_tiny_scene

import metrics
from evaluation.child_processes import ChildProcesses
from utils.commands import run_command
from utils.run_folder import read_config

SHORT = "-- --iterations 12 --densify_from_iter 2 --densification_interval 3".split()

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
    write("cfg_args", "Namespace()")
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
    write("results.json", json.dumps({"ours_12": {**measured, "train": measured, "lpips_missing": missing,
        "views": {"train": 2, "test": 1}}}))
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
    monkeypatch.setattr(full_eval, "draw", lambda output, rows, quiet: None)


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
        ("--scenes {scene} --nproc_per_node 0", "--nproc_per_node: expected at least 1"),
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
    assert sorted(path.name for path in run.iterdir()) == ["cfg_args", "eval.json"]  # to begin with again


def test_several_runs_at_once_share_the_threads(monkeypatch, fakes, scene, tmp_path):
    calls = []
    monkeypatch.setattr(ChildProcesses, "__init__", lambda self, threads, _: calls.append(threads))
    for jobs, threads, each in ((1, 0, 1), (1, 3, 1), (2, 8, 1), (3, 8, 1), (8, 2, 1), (1, 8, 2), (2, 9, 2)):
        options = SimpleNamespace(jobs=jobs, threads=threads, nproc_per_node=each, output_path=tmp_path)
        full_eval.work_through([], options)
    assert calls == [0, 3, 4, 2, 1, 4, 2]
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
    assert errors.strip() == "interrupted runs resume with the same command"
    assert out.count(": interrupted") == 2 and "failed" not in out
    for row in "ab":
        assert "interrupted at iteration 3" in (tmp_path / "out" / "tiny" / row / "seed_0.log").read_text()
    assert not (tmp_path / "out" / "tiny" / "c").exists()


def test_more_processes_than_gpus_are_refused(monkeypatch, fakes, scene, tmp_path):
    monkeypatch.setattr(full_eval, "best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ended = call(monkeypatch, "--scenes", scene, "--output_path", tmp_path / "out", "--nproc_per_node", 3)
    assert (ended.code, ended.err) == (
        2,
        "error: --nproc_per_node: expected at most 2, the GPUs here, got 3\n",
    )


def test_the_complaint_of_several_processes_is_that_of_the_first_that_failed(tmp_path):
    log = tmp_path / "seed_0.log"
    lines = [
        "$ python -m torch.distributed.run train.py",
        "error: earlier",
        "$ python -m torch.distributed.run",
    ]
    lines += ["reading photos", "error: no photos here", "error: process 0 has lost another one", "=====", ""]
    log.write_text("\n".join(lines))
    assert full_eval.complaint(log) == "error: no photos here"
    log.write_text("$ python train.py\nRuntimeError: a defect\n")
    assert full_eval.complaint(log) == "RuntimeError: a defect"


def test_without_matplotlib_there_are_no_plots(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    full_eval.draw(tmp_path, [], quiet=False)
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
    plots = tmp_path / "out" / "plots"
    drawn = {path.name for path in plots.iterdir()}
    assert drawn == {"tiny_quality.png", "tiny_test_00000.png", "tiny_test_00001.png"}
    assert f"3 plots: {plots}\n" in process.stdout

    monkeypatch.setattr(ChildProcesses, "call", lambda *_: pytest.fail("there was nothing left to do"))
    monkeypatch.setattr(full_eval, "draw", lambda output, rows, quiet: None)
    again = call(monkeypatch, *arguments)
    assert again.code == 0 and "0 of 2 runs have something left to do" in again.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("tiny/**/*")} == before


def test_the_real_commands_with_two_processes_each(monkeypatch, scene, tmp_path):
    torch.save(random_vgg16(), tmp_path / "vgg16.pth")
    lpips = ["--lpips_weights", str(tmp_path / "vgg16.pth")]
    arguments = ["--scenes", scene, "--variants", "3dgs", "--nproc_per_node", 2, "--threads", 2, *lpips]
    ended = call(monkeypatch, *arguments, "--output_path", tmp_path / "out", *SHORT)
    folder = tmp_path / "out" / "tiny" / "3dgs" / "seed_0"
    assert ended.code == 0, folder.with_suffix(".log").read_text()
    assert read_config(folder)["settings"]["views_per_step"] == 2
    log = folder.with_suffix(".log").read_text()
    for command in ("train", "render", "metrics"):
        launched = "$ python -m torch.distributed.run --standalone --nproc_per_node 2"
        assert f"{launched} {command}.py" in log and log.count(f"{command}.py") == 1
    found = [json.loads((folder / name).read_text()) for name in ("results.json", "per_view.json")]
    metrics.main(["-m", str(folder), "--quiet", *lpips])
    assert found == [json.loads((folder / name).read_text()) for name in ("results.json", "per_view.json")]
    assert found[0]["ours_12"]["views"] == {"test": 2, "train": 7} and found[0]["ours_12"]["LPIPS"] > 0
