"""Fixtures of all tests: commands in this process, a small scene, a trained run, and the real scenes."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from commands import FLAGS, run
from scene import load_scene
from tiny_scene import write_tiny_scene
from training.interrupts import Interrupted
from training.viewers import Viewers
from utils.commands import run_command

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def running_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Has the back end of a test that takes one running."""
    if "backend" not in request.fixturenames:
        yield
        return
    with request.getfixturevalue("backend").running():
        yield


@pytest.fixture(scope="session")
def project_dir() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def scenes_dir() -> Path:
    """The folder of real scenes: $SCENES, or ../shared/scenes beside the project; skips without one."""
    folder = Path(os.environ.get("SCENES", PROJECT.parent / "shared" / "scenes"))
    if not folder.is_dir():
        pytest.skip(f"no real scenes at {folder} (set SCENES)")
    return folder


@pytest.fixture
def run_here(monkeypatch):
    """The command in this process, which is faster; with the same result."""

    def run_main(*arguments):
        main = importlib.import_module(arguments[0].removesuffix(".py")).main
        monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run_command(main)
            except SystemExit as leaving:
                code = leaving.code
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    threads = torch.get_num_threads()
    yield run_main
    torch.set_num_threads(threads)


@pytest.fixture
def stop_at(monkeypatch):
    """Has training interrupted after an iteration, as a signal would."""

    def stop(iteration):
        def show(self, run, interrupts):
            if run.iteration == iteration:
                raise Interrupted

        monkeypatch.setattr(Viewers, "show", show)

    return stop


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The folder of a small COLMAP scene."""
    return write_tiny_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def trained(project_dir, scene, tmp_path_factory):
    """A finished run and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    process = run(project_dir, "train.py", "-s", scene, "-m", folder, "--eval", "--antialiasing", *FLAGS)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return folder, process.stdout


@pytest.fixture(scope="module")
def loaded_scene(tmp_path_factory):
    """The same, loaded, with views held out."""
    return load_scene(write_tiny_scene(tmp_path_factory.mktemp("scene")), eval=True, quiet=True)
