"""scripts/compare_views.py: where every image lands, and what is refused."""

import sys

import cv2
import numpy as np
import pytest

from scripts import compare_views
from utils import run_folder


@pytest.fixture
def runs(tmp_path):
    """Two runs with two views of 8x6 pixels each; every image has a color of its own."""
    for number, name in enumerate(("first", "second")):
        folder = tmp_path / name
        run_folder.point_cloud_path(folder, 7).parent.mkdir(parents=True)
        run_folder.point_cloud_path(folder, 7).touch()
        for kind, base in (("renders", 40 + 20 * number), ("gt", 200)):
            path = run_folder.images_path(folder, "test", 7, kind)
            path.mkdir(parents=True)
            for view in range(2):
                cv2.imwrite(str(path / f"{view:05d}.png"), np.full((6, 8, 3), base + view, np.uint8))
    return tmp_path / "first", tmp_path / "second"


def compare(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare_views.py", *map(str, arguments)])
    compare_views.main()


def test_rows_of_renders_and_the_photo(monkeypatch, runs, tmp_path):
    compare(monkeypatch, runs[0], tmp_path / "new" / "x.png", 1, 0, "--beside", runs[1])
    picture = cv2.imread(str(tmp_path / "new" / "x.png"))
    assert picture.shape == (6 + 6 + 6, 8 + 6 + 8 + 6 + 8, 3)
    assert picture[0, [0, 9, 14, 23, 28], 0].tolist() == [41, 255, 61, 255, 201]
    assert picture[[7, 12], 0, 0].tolist() == [255, 40]


def test_crops_are_zoomed(monkeypatch, runs, tmp_path):
    compare(monkeypatch, runs[0], tmp_path / "x.png", 0, "--crops", "2,1,5,4")
    assert cv2.imread(str(tmp_path / "x.png")).shape == (8, 10 + 6 + 10, 3)
    with pytest.raises(ValueError, match=r"--crops 4,1,5,4: the image has \(8, 6\) pixels"):
        compare(monkeypatch, runs[0], tmp_path / "x.png", 0, "--crops", "4,1,5,4")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--crops", "1,2,3"], "expected LEFT,TOP,WIDTH,HEIGHT in pixels, got '1,2,3'"),
        (["--crops", "1,2,0,3"], "expected LEFT,TOP,WIDTH,HEIGHT"),
        (["--crops", "0,0,2,2", "0,0,2,2"], "--crops: expected 1, one for each view, got 2"),
    ],
)
def test_wrong_crops_are_explained(monkeypatch, capsys, runs, tmp_path, flags, message):
    with pytest.raises(SystemExit) as end:
        compare(monkeypatch, runs[0], tmp_path / "x.png", 0, *flags)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_a_missing_view_is_named(monkeypatch, runs, tmp_path):
    with pytest.raises(FileNotFoundError, match="00005.png: no such image; run render.py first"):
        compare(monkeypatch, runs[0], tmp_path / "x.png", 5)
