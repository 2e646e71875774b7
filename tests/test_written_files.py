"""convert.py removes and overwrites nothing that it did not write."""

from __future__ import annotations

import json
import os

import pytest

import convert
from scene import structure_from_motion
from scene.structure_from_motion import DATABASE, STAGES, Choices, places_of
from scene.written_files import RECORD, WrittenFiles, files_in
from scene_files import quantized_photo, write_photo, write_video
from utils.files import read_json

PLACES = "images masks sparse/0 images_2 images_4 images_8 distorted/sparse".split()


def write(path, content="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def contents(folder):
    """Bytes of every file, links by where they point."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {path: path.readlink() if path.is_symlink() else path.read_bytes() for path in found}


# The record


def test_what_is_put_is_own_until_it_changes(tmp_path):
    written = WrittenFiles(tmp_path)
    write(tmp_path / "new/a/1.png"), write(tmp_path / "new/2.png")
    written.put({tmp_path / "new": "images"})
    assert [path.name for path in files_in(tmp_path / "images")] == ["2.png", "1.png"]
    again = WrittenFiles(tmp_path)
    again.require_own(["images"])
    assert again.is_whole(["images"]) and json.loads((tmp_path / RECORD).read_text()).keys() == {
        "images/2.png",
        "images/a/1.png",
    }
    write(tmp_path / "images/2.png", "retouched")
    with pytest.raises(
        ValueError, match=r"images/2.png was not written by convert.py .*, or has changed since"
    ):
        again.require_own(["images"])
    again.discard(["images"])
    assert [path.name for path in files_in(tmp_path)] == ["written.json", "2.png"]


def test_new_results_take_the_place_of_own_ones_only(tmp_path):
    written = WrittenFiles(tmp_path)
    write(tmp_path / "first/1.png"), write(tmp_path / "first/2.png")
    written.put({tmp_path / "first": "images"})
    hidden = write(tmp_path / "images/.DS_Store"), write(tmp_path / "images/Thumbs.db")
    write(tmp_path / "second/1.png", "y")
    written.put({tmp_path / "second": "images"})
    assert files_in(tmp_path / "images") == [tmp_path / "images/1.png"]
    assert (tmp_path / "images/1.png").read_text() == "y" and all(path.exists() for path in hidden)
    write(tmp_path / "images/mine.png"), write(tmp_path / "third/3.png")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="mine.png was not written by convert.py"):
        written.put({tmp_path / "third": "images"})
    assert contents(tmp_path) == before


def test_a_file_that_is_gone_makes_its_place_incomplete(tmp_path):
    written = WrittenFiles(tmp_path)
    write(tmp_path / "new/1.png")
    written.put({tmp_path / "new": "images_2"})
    (tmp_path / "images_2/1.png").unlink()
    assert not written.is_whole(["images_2"]) and written.is_whole(["images"])


def test_a_record_of_others_is_refused(tmp_path):
    write(tmp_path / RECORD, '{"a": 1}')
    with pytest.raises(ValueError, match="written.json is no record of convert.py"):
        WrittenFiles(tmp_path)


# What is in the way


@pytest.fixture
def photos(tmp_path):
    for index in range(3):
        write_photo(tmp_path / f"input/{index}.png", quantized_photo(index))
    return tmp_path


@pytest.fixture
def stages(monkeypatch):
    """The stages with stand-ins for COLMAP, which tell what was done."""
    done = []

    def stand_in(title, work, job, log, total, quiet):
        (name,) = (name for name, stage in STAGES.items() if stage.work is work)
        done.append(name)
        write(job.scratch / "colmap.log")
        if name == "features":
            write(job.scratch / "database.db")
        for result in STAGES[name].results:
            if result.endswith((".json", ".log", ".db")):
                write(job.scratch / result, f"{name} {len(done)}")
            else:
                write(job.scratch / result / "1.png", f"{name} {len(done)}")

    monkeypatch.setattr(structure_from_motion, "run_stage", stand_in)
    monkeypatch.setattr(structure_from_motion, "assess", lambda *_: None)
    return done


def run(folder, **changes):
    return structure_from_motion.convert(folder, Choices(**changes), from_video=False, quiet=True)


@pytest.mark.parametrize("place", PLACES)
def test_files_of_others_are_refused_before_any_work(photos, stages, place):
    write(photos / place / "theirs.bin")
    before = contents(photos)
    with pytest.raises(ValueError, match=f"{place}/theirs.bin was not written by convert.py.*move it away"):
        run(photos)
    assert contents(photos) == before and stages == []


@pytest.mark.parametrize("name", ["distorted/database.db", "distorted/colmap.log", "convert.json", "masks"])
def test_so_are_single_files(photos, stages, name):
    write(photos / name)
    with pytest.raises(ValueError, match=f"{name} was not written by convert.py"):
        run(photos)
    assert stages == []


@pytest.mark.parametrize("name", ["images", "sparse", "distorted", "images_8", "distorted/unfinished"])
def test_nothing_is_replaced_through_a_link(photos, stages, name):
    theirs = write(photos / "elsewhere/0/theirs.bin")
    (photos / name).parent.mkdir(exist_ok=True)
    (photos / name).symlink_to(photos / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
        run(photos)
    assert theirs.exists() and stages == []


def test_a_file_in_the_place_of_a_folder(photos, stages):
    write(photos / "sparse")
    with pytest.raises(ValueError, match="sparse is a file, where convert.py makes a folder: move it away"):
        run(photos)
    assert stages == []


def test_input_that_links_to_what_is_replaced(photos, stages):
    run(photos)
    written = contents(photos / "images")
    for index in range(3):
        (photos / f"input/{index}.png").unlink()
        (photos / f"input/{index}.png").symlink_to(photos / "images/1.png")
    with pytest.raises(
        ValueError, match=r"input/0.png is a link to .*images/1.png, where convert.py replaces"
    ):
        run(photos)
    (photos / "input").rename(photos / "before")
    for index in range(3):
        write(photos / f"images/{index}.png", (photos / "images/1.png").read_text())
    (photos / "input").symlink_to(photos / "images")
    with pytest.raises(ValueError, match="images/0.png was not written by convert.py"):
        run(photos)
    assert contents(photos / "images").items() >= written.items()


def test_input_as_a_link_to_own_images(photos, stages):
    run(photos)
    (photos / "input").rename(photos / "before")
    for index in range(3):
        (photos / "new").mkdir(exist_ok=True)
        write(photos / f"new/{index}.png")
    WrittenFiles(photos).put({photos / "new": "images"})
    (photos / "input").symlink_to(photos / "images")
    with pytest.raises(ValueError, match="input is a link to .*images, where convert.py replaces files"):
        run(photos)


def test_what_systems_leave_is_no_reason_and_stays(photos, stages):
    left = [write(photos / name) for name in ("images/.DS_Store", "images/Thumbs.db", "masks/._0.png")]
    run(photos)
    run(photos, camera="PINHOLE")
    assert all(path.exists() for path in left) and (photos / "images/1.png").exists()


# What is repeated


def test_the_same_again_is_nothing_to_do(photos, stages):
    run(photos)
    assert stages == list(STAGES) and not (photos / "distorted/unfinished").exists()
    before = contents(photos)
    run(photos)
    assert stages == list(STAGES) and contents(photos) == before


def replace_a_photo(folder):
    write_photo(folder / "input/1.png", quantized_photo(9))


def add_a_photo(folder):
    write_photo(folder / "input/3.png", quantized_photo(3))


def add_a_mask(folder):
    write_photo(folder / "input_masks/1.png.png", quantized_photo(3))


@pytest.mark.parametrize("change", [replace_a_photo, add_a_photo, add_a_mask])
def test_other_photos_and_masks_repeat_everything(photos, stages, change):
    run(photos)
    change(photos)
    run(photos)
    assert stages == 2 * list(STAGES)
    assert (photos / "images/1.png").read_text() == "undistortion 9"


@pytest.mark.parametrize(
    "choice", [{"camera": "PINHOLE"}, {"features": 99}, {"matching": "sequential"}, {"single_camera": True}]
)
def test_other_choices_repeat_everything(photos, stages, choice):
    run(photos)
    run(photos, **choice)
    assert stages == 2 * list(STAGES)
    run(photos, **choice)
    assert stages == 2 * list(STAGES)


@pytest.mark.parametrize(
    ("gone", "first"), [("distorted/sparse/1.png", 2), ("images/1.png", 3), ("images_4/1.png", 4)]
)
def test_a_result_that_is_gone_is_made_again_with_all_behind_it(photos, stages, gone, first):
    run(photos)
    (photos / gone).unlink()
    run(photos)
    assert stages == [*STAGES, *list(STAGES)[first:]] and (photos / gone).exists()


def test_a_killed_run_is_no_obstacle(photos, stages, monkeypatch):
    """Wherever it was killed: in a stage, or while results were put in place."""
    work = structure_from_motion.run_stage

    def killed_in_a_stage(title, *arguments):
        work(title, *arguments)
        if title.startswith("Undistorting"):
            raise KeyboardInterrupt

    monkeypatch.setattr(structure_from_motion, "run_stage", killed_in_a_stage)
    with pytest.raises(KeyboardInterrupt):
        run(photos)
    monkeypatch.setattr(structure_from_motion, "run_stage", work)
    replace = os.replace

    def killed_while_moving(source, target):
        if "sparse" in str(target) and "unfinished" in str(source):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", killed_while_moving)
    with pytest.raises(KeyboardInterrupt):
        run(photos)
    monkeypatch.setattr("os.replace", replace)
    run(photos)
    assert stages == ["features", "matches", "cameras"] + 3 * ["undistortion"] + ["smaller"]
    WrittenFiles(photos).require_own(places_of(STAGES))


def test_a_scene_of_an_earlier_time_goes_when_its_cameras_do(photos, stages, monkeypatch):
    run(photos)
    work = structure_from_motion.run_stage

    def fails(title, *arguments):
        if title.startswith("Undistorting"):
            raise ValueError("no")
        work(title, *arguments)

    monkeypatch.setattr(structure_from_motion, "run_stage", fails)
    with pytest.raises(ValueError, match="no"):
        run(photos, features=99)
    assert (photos / DATABASE).exists()
    assert not any((photos / name).exists() for name in ("images", "images_2", "sparse", "convert.json"))


# Frames of a video


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "walk.avi", [quantized_photo(index, 64, 48) for index in range(6)])


def take(folder, video, count=3):
    convert.take_frames(folder, video, count, quiet=True)


def test_the_same_video_again_is_nothing_to_do(tmp_path, video):
    scene = tmp_path / "scene"
    take(scene, video)
    before = contents(scene)
    take(scene, video)
    take(scene, video.rename(tmp_path / "moved.avi"))
    assert contents(scene) == before and len(files_in(scene / "input")) == 3
    assert convert.holds_frames(scene) and not (scene / "distorted/unfinished/frames/0").exists()
    files_in(scene / "input")[0].unlink()  # a bad frame
    take(scene, tmp_path / "moved.avi")
    assert len(files_in(scene / "input")) == 2


def test_other_frames_are_refused(tmp_path, video):
    scene, other = tmp_path / "scene", write_video(tmp_path / "b.avi", [quantized_photo(9, 64, 48)] * 4)
    take(scene, video)
    before = contents(scene)
    for film, count in ((other, 3), (video, 4)):
        with pytest.raises(
            ValueError, match=rf"input holds 3 frames of walk.avi, so no {count} frames of .*avi"
        ):
            take(scene, film, count)
    with pytest.raises(FileNotFoundError, match="video not found: nowhere.mp4"):
        take(scene, tmp_path.relative_to(tmp_path) / "nowhere.mp4")
    assert contents(scene) == before
    (scene / "input").rename(scene / "input_before")
    take(scene, other, 4)
    assert read_json(scene / convert.TAKEN)["name"] == "b.avi"


def test_photos_in_input_are_no_frames(photos, video):
    before = contents(photos)
    with pytest.raises(
        ValueError, match="input holds 0.png, so no 3 frames of .*walk.avi are taken: move it away"
    ):
        take(photos, video)
    assert contents(photos).items() >= before.items() and not convert.holds_frames(photos)


def test_hidden_files_do_not_keep_a_video_from_being_read(tmp_path, video):
    hidden = write(tmp_path / "input/.DS_Store")
    take(tmp_path, video)
    assert len(files_in(tmp_path / "input")) == 3 and hidden.exists()


def test_frames_of_a_killed_run_are_taken_again(tmp_path, video):
    take(tmp_path, video)
    (tmp_path / convert.TAKEN).unlink()
    files_in(tmp_path / "input")[0].unlink()
    take(tmp_path, video)
    assert len(files_in(tmp_path / "input")) == 3


def test_a_video_is_not_looked_through_where_a_scene_is_in_the_way(tmp_path, video, monkeypatch):
    write(tmp_path / "images/theirs.png")
    monkeypatch.setattr(convert.video_frames, "extract_frames", lambda *_: pytest.fail("long work"))
    with pytest.raises(ValueError, match="images/theirs.png was not written by convert.py"):
        take(tmp_path, video)


def test_a_video_that_breaks_off_is_told(tmp_path, capsys):
    whole = write_video(tmp_path / "whole.avi", [quantized_photo(k, 64, 48) for k in range(20)])
    (tmp_path / "half.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for video, is_told in ((whole, False), (tmp_path / "half.avi", True)):
        folder = tmp_path / video.stem
        convert.take_frames(folder, video, 3, quiet=False)
        assert (" could be decoded: is it damaged?" in capsys.readouterr().out) is is_told
