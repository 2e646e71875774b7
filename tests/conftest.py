"""What all tests share: the project on the import path, and the real scenes where they are present."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))


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
