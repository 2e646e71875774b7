import json
import os

import pytest
from utils.files import remove_leftovers, replacing, write_atomically, write_json, write_text


def test_content_arrives_and_parents_are_made(tmp_path):
    write_atomically(tmp_path / "a" / "b.bin", lambda file: file.write(b"\0\1"))
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"\0\1"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def fails(file):
        file.write(b"half")
        raise error

    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(error):
        write_atomically(tmp_path / "a.txt", fails)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_target_is_whole_at_every_moment(tmp_path):
    def looks(file):
        file.write(b"new")
        file.flush()
        assert (tmp_path / "a.txt").read_text() == "old"

    write_text(tmp_path / "a.txt", "old")
    write_atomically(tmp_path / "a.txt", looks)
    assert (tmp_path / "a.txt").read_text() == "new"


def test_what_a_killed_writer_leaves_is_known_by_its_name(tmp_path):
    with replacing(tmp_path / "x.compressed.ply", ".compressed.ply") as temporary:
        (tmp_path / temporary.name.replace("x.", "killed.")).touch()
        assert temporary.name.endswith(".part.compressed.ply")
        temporary.write_bytes(b"whole")
    mine = [".x.part", ".x.0123abcd.party", "x.0123abcd.part"]
    for name in mine:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(["x.compressed.ply", *mine])


def test_files_are_readable_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_json_without_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1.5, float("nan"), (float("inf"), "é")]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"x": [1.5, None, [None, "é"]]}
