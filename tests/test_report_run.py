"""Folders of runs that report.py refuses."""

from __future__ import annotations

import numpy as np
import pytest
from report_folder import histogram, history, made, write, write_finished_run

from utils.images import write_png


@pytest.fixture
def run(tmp_path):
    return write_finished_run(tmp_path)


def damaged(part, index, **changes):
    bad = history()
    bad[part][index] |= changes
    return bad


BAD_HISTORIES = {
    "not JSON": ("{", "not readable as JSON"),
    "nested too deeply": ("[" * 200_000, "not readable as JSON"),
    "no object": ("[]", "expected a JSON object"),
    "another version": ({"version": 2}, "expected version 1, got 2"),
    "no list": ({"version": 1, "steps": {}}, "expected 'steps' to be a list"),
    "short row": ({"version": 1, "progress": [[1, 2, 3]]}, r"progress\[0\] is damaged"),
    "text in a row": ({"version": 1, "progress": [[1, "x", 2, 3, 4]]}, r"progress\[0\] is damaged"),
    "no iteration": ({"version": 1, "progress": [[None, 1, 2, 3, 4]]}, r"progress\[0\] is damaged"),
    "text in a step": (damaged("steps", 1, pruned="many"), r"steps\[1\] is damaged"),
    "huge number": (damaged("steps", 0, pruned=10**400), r"steps\[0\] is damaged"),
    "values no object": (damaged("distributions", 1, values=[1]), r"distributions\[1\] is damaged"),
    "edges and counts": (damaged("distributions", 0, values={"age": histogram((1, 2))}), "is damaged"),
    "negative count": (damaged("distributions", 0, values={"age": histogram((1, -2, 5))}), "is damaged"),
    "edges fall": (
        damaged("distributions", 0, values={"age": {"edges": [1, 0], "counts": [1]}}),
        r"distributions\[0\] is damaged",
    ),
    "correlation": (damaged("distributions", 1, importance_correlation=[1]), r"distributions\[1\]"),
    "floaters": (damaged("distributions", 0, floaters={"low_opacity": "all"}), r"distributions\[0\]"),
}


@pytest.mark.parametrize("bad, message", BAD_HISTORIES.values(), ids=BAD_HISTORIES.keys())
def test_damaged_histories_are_refused(run, bad, message):
    write(run / "history.json", bad)
    with pytest.raises(ValueError, match=message):
        made(run)
    assert not (run / "report.html").exists()


def test_bad_folders_pictures_and_flags_are_refused(run, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        made(run / "nowhere")
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        made(tmp_path_factory.mktemp("empty"))
    with pytest.raises(FileNotFoundError, match="iteration 5 is neither rendered nor saved, only 1000"):
        made(run, "--iteration", "5")
    with pytest.raises(ValueError, match="results.json: expected a JSON object"):
        write(run / "results.json", [])
        made(run)
    (run / "results.json").unlink()
    picture = run / "test" / "ours_1000" / "gt" / "00002.png"
    write_png(picture, np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(ValueError, match="00002.png differ in size"):
        made(run)
    picture.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="00002.png"):
        made(run)
    assert not (run / "report.html").exists()
