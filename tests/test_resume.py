"""Runs that are stopped or killed: their files are whole, and a resumed run ends in the same bytes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from commands import fails

import train
from arguments import VARIANTS
from gaussian_model import GaussianModel
from training.interrupts import Interrupted, Interrupts
from utils import checkpoints, files, run_folder
from utils.ranks import Ranks

ITERATIONS = 60
FLAGS = f"""--iterations {ITERATIONS} --scale_schedule --densification_interval 5 --prune_interval 5
    --tag_lifespan 10 --prune_energy 0.05 --prune_opacity 0.09 --error_floor 6e-4
    --save_iterations 30 {ITERATIONS} --threads 1 --disable_viewer""".split()


def ply(folder, iteration=ITERATIONS):
    return run_folder.point_cloud_path(folder, iteration).read_bytes()


# Going on


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_variant_that_was_stopped_goes_on_to_the_same_bytes(
    run_here, scene, tmp_path, stop_at, variant
):  # fmt: skip
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    begin = ("train.py", "-s", scene, "--variant", variant, *FLAGS)
    assert run_here(*begin, "-m", whole).returncode == 0
    for iteration in (17, 41):
        stop_at(iteration)
        more = ["--resume", "-m", stopped] if stopped.exists() else begin[1:] + ("-m", stopped)
        process = run_here("train.py", *more)
        assert process.returncode == 130
        assert f"interrupted at iteration {iteration} of {ITERATIONS}" in process.stderr
        assert f"python train.py --resume -m {stopped}" in process.stderr
        assert run_folder.latest_checkpoint_path(stopped).is_file()
    stop_at(0)
    process = run_here("train.py", "--resume", "-m", stopped)
    assert process.returncode == 0, process.stderr
    assert ply(stopped) == ply(whole) and ply(stopped, 30) == ply(whole, 30)
    _, record = checkpoints.load_checkpoint(run_folder.latest_checkpoint_path(stopped))
    assert record["iteration"] == run_folder.read_config(stopped)["iteration"]
    records = [json.loads((folder / "config.json").read_text()) for folder in (whole, stopped)]
    assert all(record["finished"] for record in records)
    assert set(records[0]["given"]) - {"source_path"} <= set(records[1]["given"])


def test_without_a_checkpoint_a_run_begins_anew_with_its_settings(run_here, scene, tmp_path, stop_at):
    begin = ("train.py", "-s", scene, *FLAGS, "--seed", 5)
    assert run_here(*begin, "-m", tmp_path / "whole").returncode == 0
    stop_at(3)
    assert run_here(*begin, "-m", tmp_path / "run").returncode == 130
    run_folder.latest_checkpoint_path(tmp_path / "run").unlink()
    stop_at(0)
    assert run_here("train.py", "--resume", "-m", tmp_path / "run").returncode == 0
    assert ply(tmp_path / "run") == ply(tmp_path / "whole")


def test_resuming_a_folder_that_holds_nothing_begins_the_run(run_here, scene, tmp_path):
    begin = ("train.py", "-s", scene, "--iterations", 3, "-m", tmp_path / "run", "--resume", "--threads", 1)
    assert run_here(*begin).returncode == 0
    assert fails(run_here(*begin), "this run is finished")


def test_a_finished_run_is_trained_further(run_here, scene, tmp_path):
    flags = ("-s", scene, "--variant", "3dgs", "--threads", 1)
    flags += ("--densify_from_iter", 2, "--densification_interval", 3)
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert run_here("train.py", *flags, "-m", whole, "--iterations", 15).returncode == 0
    assert run_here("train.py", *flags, "-m", run, "--iterations", 9).returncode == 0
    assert fails(run_here("train.py", "--resume", "-m", run), "give --iterations above 9 to train it further")
    assert fails(run_here("train.py", "--resume", "-m", run, "--iterations", 9), "give --iterations above 9")
    process = run_here("train.py", "--resume", "-m", run, "--iterations", 15)
    assert process.returncode == 0, process.stderr
    assert ply(run, 15) == ply(whole, 15) and ply(run, 9)
    assert run_folder.read_config(run)["finished"]


def test_a_finished_run_without_its_checkpoint_says_what_is_left(run_here, scene, tmp_path):
    begin = ("train.py", "-s", scene, "--iterations", 3, "-m", tmp_path, "--threads", 1)
    assert run_here(*begin, "--checkpoint_every", 0).returncode == 0
    assert not run_folder.latest_checkpoint_path(tmp_path).exists()
    further = run_here("train.py", "--resume", "-m", tmp_path, "--iterations", 5)
    assert fails(further, "its last checkpoint is gone; train it anew with --overwrite")


def test_the_newest_checkpoint_is_gone_on_with(tmp_path):
    record = {
        "active_sh_degree": 0,
        "training_views": 1,
        "seconds": 0,
        "settings": {},
        "measures": {},
        "history": {},
    }
    for name, iteration in (("chkpnt9", 9), ("chkpnt-latest", 12), ("chkpnt10", 10)):
        path = tmp_path / f"{name}.safetensors"
        checkpoints.save_checkpoint(path, {}, record | {"iteration": iteration})
    newest = checkpoints.newest_checkpoint(run_folder.checkpoints(tmp_path))
    assert newest == run_folder.latest_checkpoint_path(tmp_path)
    assert checkpoints.newest_checkpoint([]) is None


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--lambda_dssim", "0.3"], "--lambda_dssim 0.3 (the run has 0.2)"),
        (
            ["--variant", "tag", "--seed", "4"],
            "--variant tag (the run has tag_gradprune_decomp), --seed 4 (the run has 0)",
        ),
        (["--iterations", "90"], f"--iterations 90 (the run has {ITERATIONS})"),
        (["--overwrite"], "--resume and --overwrite exclude each other"),
        (["--start_checkpoint", "x"], "--resume and --start_checkpoint exclude each other"),
    ],
)
def test_what_would_change_the_run_is_refused_by_name(run_here, scene, tmp_path, stop_at, flags, complaint):
    stop_at(2)
    assert run_here("train.py", "-s", scene, "-m", tmp_path / "run", *FLAGS).returncode == 130
    assert fails(run_here("train.py", "-m", tmp_path / "run", "--resume", *flags), complaint)


def test_what_changes_nothing_may_be_told_anew(run_here, scene, tmp_path, stop_at):
    stop_at(2)
    assert run_here("train.py", "-s", scene, "-m", tmp_path / "run", *FLAGS).returncode == 130
    stop_at(0)
    flags = ("--quiet", "--threads", "2", "--test_iterations", "-1", "--checkpoint_every", "1", "-s", scene)
    process = run_here("train.py", "-m", tmp_path / "run", "--resume", *flags)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_resuming_needs_to_know_which_run(run_here, tmp_path):
    assert fails(run_here("train.py", "--resume"), "give its folder with -m")
    assert fails(run_here("train.py", "--resume", "-m", tmp_path / "none"), "which scene?")


def test_a_folder_with_a_run_asks_what_to_do(run_here, scene, tmp_path, stop_at):
    stop_at(2)
    begin = ("train.py", "-s", scene, "-m", tmp_path / "run", *FLAGS)
    assert run_here(*begin).returncode == 130
    assert fails(run_here(*begin), "--resume to go on with that run, or --overwrite to replace it")


# Two at once, and folders that cannot be written


def test_a_second_run_into_the_same_folder_is_refused(run_here, scene, tmp_path):
    with run_folder.claimed(tmp_path / "run"):
        begin = ("train.py", "-s", scene, "-m", tmp_path / "run", *FLAGS)
        assert fails(run_here(*begin), "another run is training into this folder")
    assert run_here(*begin).returncode == 0


def test_a_folder_that_cannot_be_written_is_said_before_the_scene_is_read(run_here, tmp_path):
    assert fails(run_here("train.py", "-s", tmp_path / "none", "-m", "/proc/run"), "/proc/run")


def test_only_what_a_killed_run_was_writing_is_cleared_away(tmp_path):
    kept = [".notes.part", ".a.0123456.part", "mine/.x.0123abcd.part", ".probe"]
    gone = [".config.json.0123abcd.part", "point_cloud/iteration_7/.point_cloud.ply.89abcdef.part"]
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    with run_folder.claimed(tmp_path):
        pass
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted(kept) and (tmp_path / ".probe").read_bytes() == b"mine"


def test_a_failed_start_leaves_no_empty_folder(run_here, tmp_path):
    assert fails(
        run_here("train.py", "-s", tmp_path / "none", "-m", tmp_path / "run"), "scene folder not found"
    )
    assert not (tmp_path / "run").exists()


def test_a_full_disk_does_not_end_training_at_a_checkpoint(run_here, scene, tmp_path, monkeypatch):
    def full(path, *_):
        raise OSError(errno.ENOSPC, "could not be written: No space left on device", str(path))

    monkeypatch.setattr("training.saving.save_checkpoint", full)
    process = run_here("train.py", "-s", scene, "-m", tmp_path / "run", *FLAGS, "--checkpoint_every", "1e-9")
    assert process.returncode == 0 and "No checkpoint: [Errno 28] could not be written" in process.stdout
    assert ply(tmp_path / "run")


def test_a_full_disk_leaves_old_files_whole(tmp_path, monkeypatch):
    path = tmp_path / "chkpnt3.safetensors"
    record = {"iteration": 3, "active_sh_degree": 0, "training_views": 1, "seconds": 0}
    record |= {"settings": {}, "measures": {}, "history": {}}
    checkpoints.save_checkpoint(path, {}, record)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        checkpoints.save_checkpoint(path, {}, record | {"iteration": 4})
    assert checkpoints.load_checkpoint(path)[1]["iteration"] == 3
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB; skips where none may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], capture_output=True)
    if mount.returncode:
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_ends_with_a_sentence_and_whole_files(run_here, scene, small_disk):
    flags = [*FLAGS, "--save_iterations", *map(str, range(10, 60, 2)), "--checkpoint_iterations", "9"]
    process = run_here("train.py", "-s", scene, "-m", small_disk / "run", *flags)
    assert fails(process, "No space left on device")
    assert check_whole(small_disk / "run") >= 2


# Signals


def test_what_is_held_is_done_before_a_signal_ends_it():
    done = []
    with Interrupts() as interrupts, pytest.raises(Interrupted) as stopped:
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("all of it")
        done.append("not this")
    assert done == ["all of it"] and stopped.value.number == signal.SIGTERM and not interrupts.is_forced


def test_a_second_signal_does_not_wait():
    done = []
    with Interrupts() as interrupts, pytest.raises(Interrupted):
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("not this")
    assert done == [] and interrupts.is_forced


def test_a_second_signal_ends_one_of_several_ranks_without_the_others():
    with Interrupts(Ranks(0, 2)) as interrupts, pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts.is_forced


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        usual = signal.getsignal(signal.SIGTERM)
        with Interrupts():
            assert signal.getsignal(signal.SIGTERM) != usual
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGTERM) == usual
    finally:
        signal.signal(signal.SIGHUP, before)


def command_of(*arguments):
    return [sys.executable, train.__file__, *map(str, arguments)]


def test_sigterm_keeps_what_is_done(scene, tmp_path):
    flags = ("-s", scene, "-m", tmp_path / "run", "--iterations", 10**6, "--threads", 1, "--disable_viewer")
    process = subprocess.Popen(command_of(*flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("Training ")
    time.sleep(1)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "go on with: python train.py --resume" in errors
    _, record = checkpoints.load_checkpoint(run_folder.latest_checkpoint_path(tmp_path / "run"))
    assert f"at iteration {record['iteration']} of" in errors


# Killed


def check_whole(folder):
    """How many files there are, each of which can be read to its end.

    What was being written does not count.
    """
    count = 0
    for path in filter(lambda path: path.is_file() and not path.match(files.LEFTOVERS), folder.rglob("*")):
        count += 1
        if path.suffix == ".json":
            assert json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            assert checkpoints.load_checkpoint(path)
        elif path.name == "point_cloud.ply":
            assert len(GaussianModel.load_ply(path, "cpu"))
        elif path.name == "cfg_args":
            assert run_folder.read_cfg_args(folder)
    return count


def kill_again_and_again(scene, tmp_path, times, seed):
    """Kill a run at random moments, each time gone on with.

    Whenever it is finished, it has to begin again.
    """
    begin = ("-s", scene, "--variant", "tag_gradprune_decomp", *FLAGS, "--checkpoint_every", "1e-9")
    begin += ("--checkpoint_iterations", *range(5, ITERATIONS, 10))
    assert subprocess.run(command_of(*begin, "-m", tmp_path / "whole", "--quiet")).returncode == 0
    chance, kills, folder = random.Random(seed), 0, tmp_path / "run"
    while kills < times:
        process = subprocess.Popen(
            command_of(*begin, "-m", folder, "--resume"), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline().startswith("Training ")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, 0.5))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        assert check_whole(folder) >= 1
        if run_folder.read_config(folder).get("finished"):
            assert ply(folder) == ply(tmp_path / "whole")
            run_folder.remove_results(folder)
            (folder / "config.json").unlink()
    assert subprocess.run(command_of(*begin, "-m", folder, "--resume", "--quiet")).returncode == 0
    assert ply(folder) == ply(tmp_path / "whole")
    assert not list(folder.rglob(files.LEFTOVERS))


def test_a_run_killed_five_times_ends_in_the_same_bytes(scene, tmp_path):
    kill_again_and_again(scene, tmp_path, 5, seed=0)


@pytest.mark.long
def test_a_run_killed_fifty_times_ends_in_the_same_bytes(scene, tmp_path):
    kill_again_and_again(scene, tmp_path, 50, seed=1)
