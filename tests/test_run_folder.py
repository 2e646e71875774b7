import json

import pytest
from scene import camera_paths
from utils import run_folder


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_cfg_args_is_what_others_read_and_comes_back(tmp_path):
    settings = {
        "sh_degree": 3,
        "source_path": "/a b/it's",
        "white_background": False,
        "resolution": -1,
        "lr": 1e-05,
    }
    run_folder.write_cfg_args(tmp_path, settings)
    text = (tmp_path / "cfg_args").read_text()
    assert text.startswith("Namespace(sh_degree=3, source_path=") and text.endswith(")")
    assert run_folder.read_cfg_args(tmp_path) == settings


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Namespace(a=__import__('os').system('touch harm'))",
        "Namespace(a=open('x'))",
        "Namespace(**{'a': 1})",
        "Namespace(1)",
        "print(a=1)",
        "Namespace(a=1",
        "Namespace(a=1); x = 2",
        "os.Namespace(a=1)",
    ],
)
def test_cfg_args_that_is_more_than_values_is_refused(tmp_path, text):
    touch(tmp_path / "cfg_args", text.encode())
    with pytest.raises(ValueError, match="cfg_args: expected Namespace"):
        run_folder.read_cfg_args(tmp_path)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        run_folder.read_cfg_args(tmp_path)
    with pytest.raises(FileNotFoundError, match="no trained model here"):
        run_folder.choose_iteration(tmp_path)


def test_newest_iteration_is_by_number_not_by_name(tmp_path):
    for iteration in (7, 30, 100, 9):
        touch(run_folder.point_cloud_path(tmp_path, iteration))
    (tmp_path / "point_cloud" / "iteration_500").mkdir()  # empty: its file never arrived
    touch(tmp_path / "point_cloud" / "iteration_old" / "point_cloud.ply")
    assert run_folder.saved_iterations(tmp_path) == [7, 9, 30, 100]
    assert run_folder.choose_iteration(tmp_path) == 100
    assert run_folder.choose_iteration(tmp_path, 9) == 9
    with pytest.raises(FileNotFoundError, match="iteration 8 is not saved, only 7, 9, 30, 100"):
        run_folder.choose_iteration(tmp_path, 8)


def test_removing_results_touches_nothing_else(tmp_path):
    ours = [
        run_folder.point_cloud_path(tmp_path, 7),
        run_folder.checkpoint_path(tmp_path, 5),
        run_folder.images_path(tmp_path, "test", 7, "renders") / "00000.png",
        run_folder.images_path(tmp_path, "train", 7, "gt") / "00001.png",
        tmp_path / "results.json",
    ]
    users = [
        tmp_path / "notes.txt",
        tmp_path / "point_cloud" / "iteration_7" / "edited.ply",
        tmp_path / "train" / "a.png",
    ]
    for path in ours + users:
        touch(path)
    assert run_folder.holds_results(tmp_path)
    run_folder.remove_results(tmp_path)
    assert not any(path.exists() for path in ours) and all(path.exists() for path in users)
    assert not (tmp_path / "test").exists()
    assert not run_folder.holds_results(tmp_path)


def test_films_of_every_kind_are_a_runs_files(tmp_path):
    films = [touch(tmp_path / f"video/ours_7/{kind}.mp4") for kind in camera_paths.KINDS]
    assert run_folder.files_like(tmp_path, *run_folder.RUN_FILES) == sorted(films)


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        ("chkpnt7.safetensors", True),
        ("chkpnt-latest.safetensors", True),
        ("chkpnt07.safetensors", False),
        ("chkpnt-best.safetensors", False),
        ("train/ours_7/renders/00000.png", True),
        ("train/ours_7/renders/123456.png", True),
        ("train/ours_7/renders/7.png", False),
        ("train/ours_best/renders/00000.png", False),
        ("test/ours_7/depth/depth_params.json", True),
        ("test/ours_7/depth/notes.txt", False),
        ("events.out.tfevents.1700000000.host.12.0", True),
        ("events.out.tfevents.mine", False),
    ],
)
def test_only_exact_names_are_a_runs_files(tmp_path, name, is_ours):
    path = touch(tmp_path / name)
    assert run_folder.files_like(tmp_path, *run_folder.RUN_FILES) == [path] * is_ours


def test_a_checkpoint_alone_counts_as_a_result(tmp_path):
    assert not run_folder.holds_results(tmp_path)
    touch(run_folder.checkpoint_path(tmp_path, 5))
    assert run_folder.holds_results(tmp_path)


def test_pictures_of_an_earlier_rendering_go_others_stay(tmp_path):
    touch(tmp_path / "00012.png")
    touch(tmp_path / "mine.png")
    run_folder.remove_images(tmp_path)
    run_folder.remove_images(tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def test_config(tmp_path):
    assert run_folder.read_config(tmp_path) == {}
    run_folder.write_config(tmp_path, {"seed": 3})
    assert run_folder.read_config(tmp_path) == {"seed": 3}
    for broken in ("{", "[]"):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(ValueError, match="config.json"):
            run_folder.read_config(tmp_path)


def test_record_of_machine_and_versions_is_json():
    record = run_folder.machine({"isa": "avx2", "threads": 2}) | run_folder.versions()
    assert (
        record["instruction_set"] == "avx2"
        and record["threads"] == 2
        and record["torch"]
        and record["processor"]
    )
    json.dumps(record)
