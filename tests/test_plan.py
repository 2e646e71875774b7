"""evaluation/plan.py: the planned runs, and the steps that each of them still needs."""

from __future__ import annotations

import full_eval
import pytest
from tiny_scene import write_tiny_scene

from arguments import VARIANTS, make_settings
from evaluation import tables
from evaluation.plan import plan, steps_left
from utils.files import write_json
from utils.run_folder import images_path, point_cloud_path, write_cfg_args

ITERATIONS = 12
SHORT = f"-- --iterations {ITERATIONS} --densify_from_iter 2 --densification_interval 3".split()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_tiny_scene(tmp_path_factory.mktemp("scenes") / "tiny")


def planned(*arguments):
    """Options and runs."""
    options, passed_on = full_eval.parse(list(map(str, arguments)))
    return options, plan(options, passed_on)


# What is planned


def test_every_scene_row_and_seed_is_a_run(scene, tmp_path):
    arguments = ["--scenes", scene, "--variants", "3dgs", "wide=3dgs --percent_dense 0.02", "--seeds", 0, 1]
    _, runs = planned(*arguments, "--output_path", tmp_path / "out", *SHORT)
    names = [run.name for run in runs]
    assert names == [f"tiny/{row}/seed_{seed}" for row in ("3dgs", "wide") for seed in (0, 1)]
    assert runs[3].folder == tmp_path / "out" / "tiny" / "wide" / "seed_1"
    assert runs[3].log == tmp_path / "out" / "tiny" / "wide" / "seed_1.log"
    settings = runs[3].record["settings"]
    assert settings["percent_dense"] == 0.02 and settings["iterations"] == 12 and settings["seed"] == 1
    assert settings["eval"] and settings["variant"] == "3dgs" and settings["test_iterations"] == [-1]
    assert "percent_dense" not in runs[0].record["settings"]
    assert runs[3].record["command"].startswith(f"python train.py -s {scene} --eval")


def test_what_is_more_specific_wins(scene, tmp_path):
    arguments = ["--scenes", scene, "--scene_flags", "tiny=-w -r 2 --iterations 7", "--variants"]
    _, runs = planned(*arguments, "3dgs", "long=3dgs --iterations 9", "--", "-r", 4, "--iterations", 5)
    settings = [run.record["settings"] for run in runs]
    assert [values["iterations"] for values in settings] == [7, 9]
    assert all(values["white_background"] and values["resolution"] == 2 for values in settings)


def test_flags_for_several_scenes_may_be_given_one_by_one(scene, tmp_path):
    other = write_tiny_scene(tmp_path / "other")
    each = ["--scenes", scene, "--scene_flags", "tiny=-r 2", "--scenes", other, "--scene_flags", "other=-w"]
    _, runs = planned(*each, "--variants", "3dgs", *SHORT)
    settings = [run.record["settings"] for run in runs]
    assert [values.get("resolution", -1) for values in settings] == [2, -1]
    assert [values.get("white_background", False) for values in settings] == [False, True]


def test_several_processes_take_as_many_views_in_a_step(scene, tmp_path):
    arguments = [
        "--scenes",
        scene,
        "--output_path",
        tmp_path,
        "--variants",
        "3dgs",
        "b=3dgs --views_per_step 4",
    ]
    _, (run, given) = planned(*arguments, "--nproc_per_node", 2, *SHORT)
    assert run.record["command"].startswith("torchrun --standalone --nproc_per_node 2 train.py -s ")
    assert [each.record["settings"]["views_per_step"] for each in (run, given)] == [2, 4]
    for each in planned(*arguments, *SHORT)[1]:
        write_json(each.folder / tables.RECORD, each.record)
    options, (run, given) = planned(*arguments, "--nproc_per_node", 2, *SHORT)
    assert "--resume" in steps_left(given, options)["training"]
    with pytest.raises(ValueError, match="--views_per_step was not given, is 2"):
        steps_left(run, options)


def test_all_variants_by_default(scene):
    _, runs = planned("--scenes", scene)
    assert [run.record["row"] for run in runs] == list(VARIANTS)


def test_published_scenes_are_trained_by_their_protocol(tmp_path, capsys):
    for name, images in (("bicycle", "images_4"), ("room", "images_2"), ("truck", "images")):
        write_tiny_scene(tmp_path / name)
        (tmp_path / name / "images").rename(tmp_path / name / images)
    options, runs = planned("-m360", tmp_path, "-tat", tmp_path, "--variants", "3dgs")
    found = [(run.record["dataset"], run.record["scene"], run.record["settings"]["images"]) for run in runs]
    assert found == [("MipNeRF360", "bicycle", "images_4"), ("MipNeRF360", "room", "images_2"),
                     ("TanksAndTemples", "truck", "images")]  # fmt: skip
    assert all(run.record["settings"]["eval"] for run in runs)
    assert make_settings(runs[0].record["settings"]).optimization.iterations == 30_000
    out = capsys.readouterr().out
    absent = "flowers, garden, stump, treehill, counter, kitchen, bonsai"
    assert f"Not in {tmp_path}, left out: {absent}\n" in out and "left out: train\n" in out
    assert all("training" in steps_left(run, options) for run in runs)
    assert planned("--mipnerf360", tmp_path, "--variants", "3dgs")[1][0].name == "bicycle/3dgs/seed_0"


# Steps of a run


@pytest.fixture
def run(scene, tmp_path):
    """A planned run that was not begun yet, and the options."""
    arguments = ["--scenes", scene, "--variants", "3dgs", "--skip_lpips", "--output_path", tmp_path / "out"]
    options, (run,) = planned(*arguments, *SHORT)
    return run, options


def leave(run, finished=True, pictures=True, measured=True, lpips_missing="left out by --skip_lpips"):
    """What an earlier call left in the folder of `run`."""
    write_json(run.folder / tables.RECORD, run.record)
    write_cfg_args(run.folder, {})
    config = {"finished": finished, "iteration": ITERATIONS, "views": {"train": 2, "test": 1}}
    write_json(run.folder / "config.json", config)
    path = point_cloud_path(run.folder, ITERATIONS)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    for split, views in config["views"].items() if pictures else ():
        for place in (images_path(run.folder, split, ITERATIONS, kind) for kind in ("renders", "gt")):
            place.mkdir(parents=True)
            for index in range(views):
                (place / f"{index:05d}.png").write_bytes(b"")
    if measured:
        leave_measures(run, lpips_missing)


def leave_measures(run, lpips_missing=None, iteration=ITERATIONS, train_views=2):
    figures = {"lpips_missing": lpips_missing, "views": {"test": 1, "train": train_views}}
    write_json(run.folder / "results.json", {f"ours_{iteration}": figures})


def test_a_new_run_takes_all_steps(run):
    run, options = run
    steps = steps_left(run, options)
    assert list(steps) == ["training", "rendering", "measuring"]
    assert steps["training"][0] == "train.py"
    assert steps["training"][-3:] == ["-m", str(run.folder), "--overwrite"]
    assert steps["rendering"] == ["render.py", "-m", str(run.folder)]
    assert steps["measuring"] == ["metrics.py", "-m", str(run.folder), "--skip_lpips"]


def test_what_is_done_is_not_repeated(run):
    run, options = run
    leave(run)
    assert steps_left(run, options) == {}
    (images_path(run.folder, "test", ITERATIONS, "renders") / "00000.png").unlink()
    assert list(steps_left(run, options)) == ["rendering", "measuring"]


def test_measures_of_another_iteration_or_without_lpips_are_not_enough(run, tmp_path):
    run, options = run
    leave(run)
    options.skip_lpips, options.lpips_weights = False, tmp_path / "vgg16.pth"
    weights = ["--lpips_weights", str(tmp_path / "vgg16.pth")]
    assert steps_left(run, options) == {"measuring": ["metrics.py", "-m", str(run.folder), *weights]}
    leave_measures(run)
    assert steps_left(run, options) == {}
    leave_measures(run, iteration=7)
    assert list(steps_left(run, options)) == ["measuring"]


def test_training_views_are_measured_when_more_are_wanted_than_were(run):
    run, options = run
    leave(run)
    leave_measures(run, train_views=1)
    assert steps_left(run, options)["measuring"][-1] == "--skip_lpips"
    options.train_views = 1
    assert steps_left(run, options) == {}
    options.train_views = 7  # than there are
    assert steps_left(run, options)["measuring"][-2:] == ["--train_views", "7"]
    leave_measures(run)
    assert steps_left(run, options) == {}


def test_skipping(run):
    run, options = run
    options.skip_training = True
    assert steps_left(run, options) == {}
    leave(run, pictures=False, measured=False)
    assert list(steps_left(run, options)) == ["rendering", "measuring"]
    options.skip_rendering = True
    assert steps_left(run, options) == {}  # nothing to measure
    options.skip_rendering, options.skip_metrics = False, True
    assert list(steps_left(run, options)) == ["rendering"]


def test_a_half_finished_run_is_resumed(run):
    run, options = run
    leave(run, finished=False)
    steps = steps_left(run, options)
    assert steps["training"][-1] == "--resume"
    assert list(steps) == ["training", "rendering", "measuring"]


def test_changed_flags_are_an_error_unless_overwritten(run, scene):
    run, options = run
    leave(run)
    run.record["settings"]["iterations"] = 30
    run.record["settings"]["opacity_lr"] = 0.1
    complaint = r"other flags \(--iterations was 12, is 30, --opacity_lr was not given, is 0.1\)"
    with pytest.raises(ValueError, match=complaint):
        steps_left(run, options)
    options.overwrite = True
    assert steps_left(run, options)["training"][-1] == "--overwrite"
    options.overwrite, options.skip_training = False, True
    assert steps_left(run, options) == {}


def test_a_changed_variant_is_a_changed_command(run, monkeypatch, scene, tmp_path):
    leave(run[0])
    monkeypatch.setitem(VARIANTS, "3dgs", {"percent_dense": 0.5})
    arguments = ["--scenes", scene, "--variants", "3dgs", "--output_path", tmp_path / "out"]
    options, (now,) = planned(*arguments, *SHORT)
    with pytest.raises(ValueError, match="--percent_dense was not given, is 0.5"):
        steps_left(now, options)


def test_somebody_elses_run_is_not_replaced(run):
    run, options = run
    leave(run)
    (run.folder / tables.RECORD).unlink()
    with pytest.raises(ValueError, match="no eval.json"):
        steps_left(run, options)
    options.overwrite = True
    assert len(steps_left(run, options)) == 3
