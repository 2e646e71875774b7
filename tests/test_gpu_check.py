"""scripts/gpu_check.py with stand-ins for its steps: whatever happens to them, four files say so."""

import csv
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from arguments import given_flags, train_parser
from training.interrupts import Interrupts

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
FILES = ["gpu.json", "kernels.json", "logs.tar.gz", "summary.md"]
HANGS = "sleep 300 & echo $! > {pid}; sleep 300"  # so does its child, whose number is written


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("gpu_check")


@pytest.fixture
def visit(gpu_check, tmp_path):
    """Run steps; return whether all is well, their outcomes by name, and the summary."""

    def run(steps, seconds=65.0):
        plan = gpu_check.Plan(tmp_path / "work")
        plan.work.mkdir()
        with Interrupts() as interrupts:
            check = gpu_check.Check(steps, plan, tmp_path / "output", seconds, interrupts)
            is_well = check.run()
        assert sorted(path.name for path in (tmp_path / "output").iterdir()) == FILES
        record = json.loads((tmp_path / "output/gpu.json").read_text())
        outcomes = {step["name"]: step["outcome"] for step in record["steps"]}
        return is_well, outcomes, (tmp_path / "output/summary.md").read_text()

    return run


@pytest.fixture
def step(gpu_check):
    """Make a step of shell commands that run at once."""

    def make(name, *commands, expected=5.0, **others):
        return gpu_check.Step(name, "smoke", [["sh", "-c", line] for line in commands], expected, **others)

    return make


def is_alive(pid):
    """Zombies, whom nobody may wait for in a container, are dead."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(found.strip()) and not found.startswith("Z")


def wait_for(path):
    while not path.is_file() or not path.read_text().strip():
        time.sleep(0.02)
    return int(path.read_text())


def test_all_is_well_where_every_step_passes(visit, step):
    is_well, outcomes, summary = visit([step("one", "echo hello"), step("two", "true", needs=("one",))])
    assert is_well and outcomes == {"one": "passed", "two": "passed"}
    assert "\n2 of 2 steps passed\n" in summary and "| one | passed | 0 |" in summary


def test_a_failed_step_is_told_of_and_the_others_run(visit, step, tmp_path):
    is_well, outcomes, summary = visit([step("bad", "echo what it said; exit 3"), step("next", "true")])
    assert not is_well and outcomes == {"bad": "exit code 3", "next": "passed"}
    assert "1 of 2 steps passed; failed: bad" in summary and "    what it said" in summary
    with tarfile.open(tmp_path / "output/logs.tar.gz") as logs:
        assert logs.extractfile("bad.log").read() == b"what it said\n"


def test_what_the_machine_does_not_say_of_itself_is_no_failure(visit, gpu_check):
    step = gpu_check.Step("commit", "machine", [["sh", "-c", "echo no repository; exit 128"]], 1)
    is_well, _, summary = visit([step])
    assert is_well and "\n- commit: exit code 128\n" in summary


def test_a_crash_is_named_by_its_signal(visit, step):
    assert visit([step("crash", "kill -SEGV $$")])[1] == {"crash": "ended by SIGSEGV"}


def test_a_step_that_hangs_is_stopped_with_its_children(visit, step, tmp_path):
    hangs = step("hangs", HANGS.format(pid=tmp_path / "pid"), expected=0.2)
    _, outcomes, _ = visit([hangs, step("next", "true")])
    assert outcomes == {"hangs": "stopped after 1 s", "next": "passed"}
    assert not is_alive(wait_for(tmp_path / "pid"))


def test_nothing_outlives_a_step_that_passes(visit, step, tmp_path):
    visit([step("leaves a child", f"sleep 300 & echo $! > {tmp_path / 'pid'}")])
    assert not is_alive(wait_for(tmp_path / "pid"))


def test_the_total_limit_stops_a_step_and_lets_none_begin(visit, step, gpu_check):
    seconds = gpu_check.SECONDS_TO_WRITE + 1
    steps = [step("long", "sleep 300", expected=0.5), step("late", "true", expected=5)]
    started = time.monotonic()
    is_well, outcomes, summary = visit(steps, seconds)
    assert time.monotonic() - started < 5
    assert outcomes == {"long": "stopped after 1 s", "late": "not run: 0 s were left, it takes about 5"}
    assert not is_well and "failed: long, late" in summary


def test_steps_are_skipped_for_what_they_need(visit, step, gpu_check):
    steps = [
        step("bad", "false"),
        step("after it", "true", needs=("bad",)),
        step("instead", "true", unless="bad"),
        step("needless", "true", unless="instead"),
        gpu_check.Step("tool", "smoke", [["no-such-program"]], 1),
    ]
    _, outcomes, summary = visit(steps)
    assert outcomes == {
        "bad": "exit code 1",
        "after it": "skipped: needs bad",
        "instead": "passed",
        "needless": "skipped: instead passed",
        "tool": "skipped: no-such-program not found",
    }
    assert "1 of 5 steps passed; failed: bad\n" in summary


def test_commands_of_a_step_run_at_once(visit, step, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    meet = "touch {}; while [ ! -f {} ]; do sleep 0.02; done"
    is_well, _, _ = visit([step("meeting", meet.format(one, two), meet.format(two, one))])
    assert is_well


def test_the_end_of_a_long_log_is_kept(visit, step, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("checking.record"), "LARGEST_LOG", 1000)
    visit([step("talks", "seq 1 10000")])
    with tarfile.open(tmp_path / "output/logs.tar.gz") as logs:
        log = logs.extractfile("talks.log").read()
    assert len(log) == 1000 and log.endswith(b"9999\n10000\n")


def test_a_full_disk_does_not_stop_the_steps(gpu_check, step, tmp_path, capsys):
    output, plan = tmp_path / "output", gpu_check.Plan(tmp_path / "work")
    plan.work.mkdir()
    steps = [step("breaks", f"rm -r {output}; touch {output}"), step("next", "true")]
    with Interrupts() as interrupts:
        assert gpu_check.Check(steps, plan, output, 65.0, interrupts).run()
    said = capsys.readouterr()
    assert "error: " in said.err and "2 of 2 steps passed" in said.out


# The command


COMMAND = """
import sys
sys.path.insert(0, {scripts!r})
import gpu_check
gpu_check.all_steps = lambda plan: [
    gpu_check.Step("first", "smoke", [["true"]], 1),
    gpu_check.Step("hangs", "smoke", [["sh", "-c", {hangs!r}]], 60),
    gpu_check.Step("next", "smoke", [["true"]], 1),
]
gpu_check.run_command(gpu_check.main)
"""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_record_and_no_process(tmp_path, number, code):
    pid, output = tmp_path / "pid", tmp_path / "output"
    text = COMMAND.format(scripts=str(SCRIPTS), hangs=HANGS.format(pid=pid))
    command = [sys.executable, "-c", text, "--output", str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        child = wait_for(pid)
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == code and b"| hangs | interrupted |" in out
    assert not is_alive(child)
    assert sorted(path.name for path in output.iterdir()) == FILES
    record = json.loads((output / "gpu.json").read_text())["steps"]
    assert [step["outcome"] for step in record] == ["passed", "interrupted", "not run"]


def run_main(*flags):
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_an_output_that_cannot_be_written_is_said_before_any_step(tmp_path):
    (tmp_path / "output").write_text("a file")
    done = run_main("--output", tmp_path / "output")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "output" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["packages", "wheels", "gsplat", "scene"])
def test_folders_must_be_there(tmp_path, name):
    done = run_main("--output", tmp_path, f"--{name}", tmp_path / "none")
    assert done.returncode == 2
    assert f"error: --{name}: expected a folder, {tmp_path / 'none'} is none" in done.stderr


# The steps


@pytest.fixture
def steps_of(gpu_check, tmp_path):
    def make(**options):
        return gpu_check.all_steps(gpu_check.Plan(tmp_path / "work", **options))

    return make


def test_a_folder_without_wheels_fails_with_its_name(visit, steps_of, tmp_path):
    (tmp_path / "empty").mkdir()
    steps = [step for step in steps_of(wheels=tmp_path / "empty") if step.name == "wheels"]
    is_well, outcomes, summary = visit(steps)
    assert not is_well and outcomes["wheels"].startswith("exit code")
    assert str(tmp_path / "empty") in summary


def test_names_are_unique_and_needs_come_before(steps_of, tmp_path):
    before = set()
    for step in steps_of(packages=tmp_path, wheels=tmp_path, scene=tmp_path):
        assert step.name not in before and {*step.needs, *filter(None, [step.unless])} <= before
        before.add(step.name)


def test_expected_times_fit_into_the_limit(steps_of, gpu_check):
    built = sum(step.expected for step in steps_of())
    assert built < 1.35 * gpu_check.SECONDS  # few take as long as is allowed for


def test_parts_are_chosen_by_name(steps_of, gpu_check):
    def parts(**options):
        found = dict.fromkeys(step.part for step in gpu_check.chosen(steps_of(), **options))
        return list(found)

    assert parts(only=None, first=None) == [*gpu_check.ALWAYS, *gpu_check.PARTS[:-1]]
    assert parts(only=["ncu", "demo"], first=None) == [*gpu_check.ALWAYS, "demo", "ncu"]
    assert parts(only=None, first="tests") == [*gpu_check.ALWAYS, "tests", "sanitizers", "ncu"]


@pytest.mark.parametrize("rehearses", [False, True])
def test_flags_of_the_commands_exist(steps_of, monkeypatch, tmp_path, rehearses):
    """Parse them as the commands do."""
    parsers = {
        "train.py": lambda: given_flags(train_parser()),
        "scripts/gpu_smoke.py": importlib.import_module("gpu_smoke").arguments,
        "benchmarks/gpu_step.py": importlib.import_module("benchmarks.gpu_step").arguments,
    }
    parsed = set()
    for step in steps_of(rehearses=rehearses, gsplat=tmp_path, scene=tmp_path):
        for command in step.commands:
            script = next((word for word in command if word in parsers), None)
            if script:
                monkeypatch.setattr(sys, "argv", command[command.index(script) :])
                parsers[script]()
                parsed.add(script)
    assert parsed == set(parsers)


def test_the_demo_is_trained_as_on_the_cpu(steps_of, gpu_check, project_dir):
    with open(project_dir / "docs/data/results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for variant in ("3dgs", "tag_gradprune_decomp"):
        (step,) = [step for step in steps_of() if step.name == f"demo {variant}"]
        (row,) = [r for r in rows if (r["scene"], r["row"], r["seed"]) == ("demo", variant, "0")]
        ours, theirs = step.commands[0][1:], shlex.split(row["command"])[1:]
        assert sorted(word for word in ours if variant not in word or word == variant) == sorted(
            word for word in theirs if variant not in word or word == variant
        )


# The tables


def write_training(work, variant, psnr):
    model = work / f"demo {variant}"
    model.mkdir(parents=True)
    record = {"iteration": 7000, "measures": {"7000": {"gaussians": 450123}}, "timing": {}}
    (model / "config.json").write_text(json.dumps(record))
    (model / "results.json").write_text(json.dumps({"ours_7000": {"PSNR": psnr, "SSIM": 0.8675}}))


def test_trainings_stand_beside_those_of_the_cpu_and_worse_ones_are_named(gpu_check, tmp_path):
    write_training(tmp_path, "3dgs", 26.7)
    write_training(tmp_path, "tag_gradprune_decomp", 25.1)
    text = gpu_check.summary([], tmp_path, tmp_path)
    assert "| demo 3dgs | 450,123 | 26.7 | 0.8675 |  |" in text
    assert "| the same on the CPU | 460,757 | 26.81 | 0.8672 |  |" in text
    trained = gpu_check.read_figures(tmp_path)["trained"]
    assert gpu_check.doubts(trained) == ["demo tag_gradprune_decomp: 25.10 dB, the CPU has 27.47"]


def test_a_step_s_times_and_kernels_become_tables(gpu_check, tmp_path):
    kernels = [{"kernel": "blend_tile<float>", "calls": 1.0, "microseconds": 812.3}]
    timed = {"milliseconds": {"gsplat, packed True": 11.5}, "peak_bytes": 1, "kernels": kernels}
    workload = {
        "gaussians": 3000000,
        "pairs": 7330000,
        "milliseconds": {"whole step": 8.25},
        "peak_bytes": 5500000000,
        "bytes_per_second": 8.6e11,
        "kernels": kernels,
        "gsplat": {"gsplat, packed True": timed},
    }
    (tmp_path / "step.json").write_text(json.dumps({"workloads": [workload]}))
    text = gpu_check.summary([], tmp_path, tmp_path)
    for line in (
        "| step, ms | 3,000,000 |",
        "| whole step | 8.25 |",
        "| gsplat, packed True | 11.5 |",
        "| kernel, step, 3,000,000 Gaussians | calls | us |",
        "| blend_tile<float> | 1 | 812 |",
    ):
        assert line in text


def test_masked_scenes_are_read_as_such(tmp_path, project_dir):
    from scene import load_scene

    command = [sys.executable, str(SCRIPTS / "checking/masked_scene.py"), str(project_dir / "data/demo")]
    subprocess.run([*command, str(tmp_path / "masked")], check=True, env=os.environ)
    camera = load_scene(tmp_path / "masked", resolution=8, quiet=True).train[0]
    assert not camera.mask[0].any() and camera.mask[camera.height // 2, camera.width // 2]
