"""Which views are held out: every 8th, or those in the lists of transforms.json, however they write names."""

from __future__ import annotations

import json

import pytest

from commands import FLAGS, fails
from scene import load_scene
from scene_files import SIZE, blender_pose, quantized_photo, write_photo

NAMES = [f"images/frame_{index:03d}.png" for index in range(9)]
TEST = NAMES[2:5]


def write_scene(source, names=NAMES, **lists):
    """A transforms.json with photos and lists of names; returns `source`."""
    frames = [
        {"file_path": name, "transform_matrix": blender_pose(index)} for index, name in enumerate(names)
    ]
    content = {"w": SIZE[0], "h": SIZE[1], "fl_x": 20.0, "frames": frames, **lists}
    source.mkdir(exist_ok=True)
    (source / "transforms.json").write_text(json.dumps(content))
    for index, name in enumerate(NAMES):
        write_photo(source / name, quantized_photo(index))
    return source


def split(source, **options):
    scene = load_scene(source, **{"eval": True, "quiet": True} | options)
    return [[camera.image_name for camera in part] for part in (scene.train, scene.test)]


def rest(names):
    return [name for name in NAMES if name not in names]


FORMS = {
    "as they are": TEST,
    "with ./": [f"./{name}" for name in TEST],
    "without suffix": [name.removesuffix(".png") for name in TEST],
    "with another suffix": [name.replace(".png", ".jpg") for name in TEST],
    "with backslashes": [name.replace("/", "\\") for name in TEST],
    "without folder": [name.removeprefix("images/") for name in TEST],
    "number alone": [name.removeprefix("images/").removesuffix(".png") for name in TEST],
    "absolute": [f"/home/someone/scene/{name}" for name in TEST],
    "absolute on Windows": [f"C:\\scene\\{name}".replace("/", "\\") for name in TEST],
}


@pytest.mark.parametrize("names", FORMS.values(), ids=FORMS)
def test_names_are_understood_in_every_form(tmp_path, names):
    assert split(write_scene(tmp_path, test_filenames=names)) == [rest(TEST), TEST]
    assert split(write_scene(tmp_path, val_filenames=names)) == [rest(TEST), TEST]
    assert split(write_scene(tmp_path, train_filenames=names)) == [TEST, rest(TEST)]


def test_frames_with_backslashes_or_without_suffix(tmp_path):
    for change in (lambda name: name.replace("/", "\\"), lambda name: name.removesuffix(".png")):
        source = write_scene(tmp_path, list(map(change, NAMES)), test_filenames=list(map(change, TEST)))
        assert split(source) == [rest(TEST), TEST]


def test_a_view_in_no_list_is_left_out_and_said(tmp_path, capsys):
    source = write_scene(tmp_path, train_filenames=NAMES[:4], test_filenames=NAMES[6:])
    assert split(source, quiet=False) == [NAMES[:4], NAMES[6:]]
    said = f"2 of 9 views are in no list of {source}/transforms.json and are left out: {NAMES[4]}\n"
    assert said in capsys.readouterr().out
    assert split(source, eval=False) == [NAMES[:4] + NAMES[6:], []]


def test_unknown_names_are_counted(tmp_path, capsys):
    source = write_scene(tmp_path, test_filenames=[*TEST, "images/none.png", "left/frame_001.png"])
    assert split(source, quiet=False) == [rest(TEST), TEST]
    said = "2 of 5 names in test_filenames of .*transforms.json are no view's: images/none.png, left/frame"
    assert said.split(" of .*")[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    "lists, complaint",
    [
        ({"test_filenames": ["images/no.png"]}, "test_filenames of .* names no view: its first name is i"),
        ({"train_filenames": ["a", "b"]}, "names no view: its first name is a, the first view's is images/f"),
        ({"train_filenames": NAMES}, "--eval holds out nothing: train_filenames names all 9 views"),
        ({"train_filenames": NAMES[:3], "val_filenames": NAMES[2:]}, f"1 views are both .*: {NAMES[2]}"),
        ({"test_filenames": "images/1.png"}, "test_filenames must be a list of image names, got images"),
        ({"test_filenames": [1, 2]}, "test_filenames must be a list of image names"),
        ({"test_filenames": NAMES}, "all of its 9 views are held out"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_meant(tmp_path, lists, complaint):
    with pytest.raises(ValueError, match=complaint):
        split(write_scene(tmp_path, **lists))


def test_a_name_of_two_views_is_of_none(tmp_path):
    names = ["left/1.png", "right/1.png", "right/2.png", "left/3.png"]
    source = write_scene(tmp_path, names, test_filenames=["2.png", "1.png"])
    for index, name in enumerate(names):
        write_photo(source / name, quantized_photo(index))
    assert split(source) == [["left/1.png", "left/3.png", "right/1.png"], ["right/2.png"]]


def test_the_command_ends_before_any_work(tmp_path, run_here):
    source = write_scene(tmp_path / "scene", test_filenames=["typo.png"])
    process = run_here("train.py", "-s", source, "-m", tmp_path / "out", "--eval", *FLAGS)
    assert fails(process, "names no view") and not (tmp_path / "out").exists()
