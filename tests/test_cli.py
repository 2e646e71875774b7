"""The commands as a user runs them, on a scene of nine tiny pictures."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from arguments import VARIANTS
from commands import FLAGS, ITERATIONS, fails, run
from plyfile import PlyData
from tiny_scene import HEIGHT, VIEWS, WIDTH
from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.commands import run_command
from utils.run_folder import read_cfg_args


def ply(folder, iteration=ITERATIONS):
    return folder / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply"


def test_training_leaves_the_folder_everyones_tools_expect(trained, scene):
    folder, _ = trained
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = [name for name in files if "tfevents" not in name]
    assert files == ["cameras.json", "cfg_args", "chkpnt-latest.safetensors", "chkpnt7.safetensors",
                     "config.json", "history.json", "input.ply",
                     "point_cloud/iteration_12/point_cloud.ply",
                     "point_cloud/iteration_7/point_cloud.ply"]  # fmt: skip
    assert read_cfg_args(folder)["source_path"] == str(scene)
    cameras = json.loads((folder / "cameras.json").read_text())
    assert [camera["id"] for camera in cameras] == list(range(VIEWS))
    assert [camera["img_name"] for camera in cameras[:3]] == ["view_0.png", "view_8.png", "view_1.png"]
    assert len(PlyData.read(folder / "input.ply")["vertex"]["red"]) == 60


def test_gaussians_are_finite_and_grew(trained):
    folder, _ = trained
    vertices = PlyData.read(ply(folder))["vertex"].data
    assert len(vertices.dtype.names) == 62
    assert len(vertices) != 60
    assert all(np.isfinite(vertices[name]).all() for name in vertices.dtype.names)


def test_the_run_is_recorded(trained):
    config = json.loads((trained[0] / "config.json").read_text())
    assert config["finished"] and config["iteration"] == ITERATIONS and config["seed"] == 0
    assert config["settings"]["densification_interval"] == 3 and config["settings"]["antialiasing"]
    assert config["views"] == {"train": 7, "test": 2}
    assert config["timing"]["training_seconds"] > 0
    assert config["measures"]["12"]["gaussians"] == len(PlyData.read(ply(trained[0]))["vertex"].data)
    assert config["measures"]["12"]["train"]["PSNR"] > 5
    assert config["machine"]["instruction_set"] and config["machine"]["threads"] == 1
    assert config["versions"]["torch"]


def test_training_says_how_it_goes(trained):
    text = trained[1]
    assert "[ITER 6] Evaluating test: L1 " in text and "[ITER 12] Evaluating train: L1 " in text
    assert "[12/12] loss " in text and "PSNR " in text and "it/s" in text
    assert text.count("\r") == 0


def test_one_seed_gives_the_same_bytes_another_does_not(project_dir, run_here, scene, trained, tmp_path):
    arguments = ("train.py", "-s", scene, "--eval", "--antialiasing", "--quiet", *FLAGS)
    process = run(project_dir, *arguments, "-m", tmp_path / "again")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    for iteration in (7, ITERATIONS):
        assert ply(tmp_path / "again", iteration).read_bytes() == ply(trained[0], iteration).read_bytes()
    assert run_here(*arguments, "-m", tmp_path / "other", "--seed", "1").returncode == 0
    assert ply(tmp_path / "other").read_bytes() != ply(trained[0]).read_bytes()


def test_a_resumed_run_ends_in_the_same_bytes(run_here, trained, tmp_path):
    checkpoint = trained[0] / "chkpnt7.safetensors"
    process = run_here("train.py", "--start_checkpoint", checkpoint, "-m", tmp_path / "resumed", "--quiet")
    assert process.returncode == 0, process.stderr
    assert ply(tmp_path / "resumed").read_bytes() == ply(trained[0]).read_bytes()


def test_a_checkpoint_of_an_earlier_version_is_gone_on_with(run_here, trained, tmp_path):
    """It lacks what that version did not have."""
    tensors, record = load_checkpoint(trained[0] / "chkpnt7.safetensors")
    del tensors["totals.thinned"]
    for name in ("thin_energy", "energy_contrast"):
        del record["settings"][name]
    record["settings"]["error_floor"] = 28.0  # pixels
    save_checkpoint(tmp_path / "earlier.safetensors", tensors, record)
    process = run_here(
        "train.py", "--start_checkpoint", tmp_path / "earlier.safetensors", "-m", tmp_path / "x"
    )
    assert process.returncode == 0, process.stderr
    settings = json.loads((tmp_path / "x" / "config.json").read_text())["settings"]
    assert (settings["thin_energy"], settings["energy_contrast"]) == (0, 0)
    assert settings["error_floor"] == pytest.approx(28 / 150_000)


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"3dgs"}))
def test_every_variant_resumes_to_the_same_bytes_and_says_what_it_is(run_here, scene, tmp_path, variant):
    flags = """--iterations 60 --scale_schedule --densification_interval 5 --prune_interval 5
        --tag_lifespan 10 --prune_energy 0.05 --prune_opacity 0.09 --error_floor 6e-4
        --checkpoint_iterations 23 44 --save_iterations 60 --threads 1"""
    process = run_here("train.py", "-s", scene, "-m", tmp_path / "a", "--variant", variant, *flags.split())
    assert process.returncode == 0, process.stderr
    said = process.stdout
    assert f"Variant {variant}: densify_by error" in process.stdout
    assert "; by hand: source_path" in process.stdout and "tag_lifespan 10" in process.stdout
    for iteration in (23, 44):
        checkpoint, folder = tmp_path / "a" / f"chkpnt{iteration}.safetensors", tmp_path / str(iteration)
        process = run_here("train.py", "--start_checkpoint", checkpoint, "-m", folder, "--quiet")
        assert process.returncode == 0, process.stderr
        assert ply(folder, 60).read_bytes() == ply(tmp_path / "a", 60).read_bytes()
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert "tag_lifespan" in config["given"] and set(config["variant_values"]) == set(VARIANTS[variant])
    values = config["variant_values"]  # the lifespan as if none were given, milestones as scaled
    assert values.get("tag_lifespan", 300) == 300 and values.get("prune_until_iter", 50) == 50
    assert values["growth_cap"] == config["settings"]["growth_cap"] > 1
    assert "growth_cap" in said.split("; by hand")[0]
    gaps = {iteration for iteration, measured in config["measures"].items() if "export_gap" in measured}
    assert gaps == ({"29"} if variant == "tag_gradprune_decomp" else set())
    history = json.loads((tmp_path / "a" / "history.json").read_text())
    resumed = json.loads((folder / "history.json").read_text())
    assert [row[:4] for row in history["progress"]] == [row[:4] for row in resumed["progress"]]
    assert history["steps"] == resumed["steps"] and len(history["steps"]) >= 5
    assert history["distributions"] == resumed["distributions"]
    assert sum(step["pruned"] for step in history["steps"]) > 0
    kinds = {"opacity", "age", "E_k"}
    kinds |= {"removal energy"} if "gradprune" in variant else set()
    kinds |= {"s_k"} if "decomp" in variant else set()
    assert set().union(*(moment["values"] for moment in history["distributions"])) == kinds
    last = history["distributions"][-1]
    assert set(last["floaters"]) == {"low_opacity", "near_camera"}
    assert all(sum(shown["counts"]) == history["steps"][-1]["gaussians"] for shown in last["values"].values())


def test_resuming_refuses_what_does_not_fit(run_here, scene, trained, tmp_path):
    resume = ("train.py", "--start_checkpoint", trained[0] / "chkpnt7.safetensors", "-m", tmp_path / "x")
    assert fails(run_here(*resume, "--sh_degree", "2"), "--sh_degree: the checkpoint has 3, got 2")
    assert fails(run_here(*resume, "--iterations", "7"), "at iteration 7 already")
    assert fails(run_here(*resume, "-s", scene / "images"), "no scene in")
    complaint = "Gaussians, more than the budget of 5, and pruning is not sure to come down to it"
    assert fails(run_here(*resume, "--max_gaussians", "5"), complaint)
    other = ("train.py", "-m", tmp_path / "x", "--start_checkpoint")
    assert fails(run_here(*other, tmp_path / "none.safetensors"), "no such checkpoint")
    assert fails(run_here(*other, ply(trained[0])), "not a checkpoint written by train.py")
    assert not (tmp_path / "x").exists()


def test_sparse_adam_torch_paths_and_random_background(run_here, scene, tmp_path):
    flags = "--optimizer_type sparse_adam --convert_SHs_python --compute_cov3D_python --random_background -w"
    flags = flags.split()
    process = run_here("train.py", "-s", scene, "-m", tmp_path / "run", "--quiet", *flags, *FLAGS)
    assert (process.returncode, process.stderr) == (0, "")
    assert len(PlyData.read(ply(tmp_path / "run"))["vertex"].data) > 0


def test_rendering_writes_pictures_and_their_photos(run_here, scene, trained):
    folder, _ = trained
    process = run_here("render.py", "-m", folder)
    assert (process.returncode, process.stderr) == (0, "")
    for split, count in (("train", 7), ("test", 2)):
        for kind in ("renders", "gt"):
            pictures = sorted((folder / split / "ours_12" / kind).iterdir())
            assert [path.name for path in pictures] == [f"{index:05d}.png" for index in range(count)]
            assert all(cv2.imread(str(path)).shape == (HEIGHT, WIDTH, 3) for path in pictures)
    gt_image = cv2.imread(str(folder / "test" / "ours_12" / "gt" / "00001.png"))
    assert np.array_equal(gt_image, cv2.imread(str(scene / "images" / "view_8.png")))
    shown = cv2.imread(str(folder / "test" / "ours_12" / "renders" / "00001.png"))
    assert 0 < np.abs(shown.astype(int) - gt_image).mean() < 100


def test_rendering_flags_win_over_the_record_and_old_pictures_go(run_here, trained):
    folder, _ = trained
    stale = folder / "train" / "ours_7" / "renders" / "00099.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    process = run_here("render.py", "-m", folder, "--iteration", "7", "--skip_test", "-r", "2", "--quiet")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert not stale.exists() and not (folder / "test" / "ours_7").exists()
    assert cv2.imread(str(stale.with_name("00000.png"))).shape == (HEIGHT // 2, WIDTH // 2, 3)


def test_runs_of_other_3dgs_programs_can_be_rendered(run_here, scene, trained, tmp_path):
    target = tmp_path / "point_cloud" / "iteration_3" / "point_cloud.ply"
    target.parent.mkdir(parents=True)
    target.write_bytes(ply(trained[0]).read_bytes())
    cfg = "Namespace(data_device='cuda', depths='', eval=True, images='images', model_path='elsewhere', "
    cfg += f"resolution=-1, sh_degree=3, source_path={str(scene)!r}, white_background=True, of_a_fork=7)"
    (tmp_path / "cfg_args").write_text(cfg)
    process = run_here("render.py", "-m", tmp_path, "--skip_train", "--antialiasing", "--quiet")
    assert (process.returncode, process.stderr) == (0, "")
    assert len(list((tmp_path / "test" / "ours_3" / "renders").iterdir())) == 2


def test_an_earlier_run_is_replaced_only_when_asked(run_here, scene, tmp_path):
    folder = tmp_path / "run"
    ply(folder, 500).parent.mkdir(parents=True)
    ply(folder, 500).write_bytes(b"precious")
    (folder / "notes.txt").write_text("mine")
    train = ("train.py", "-s", scene, "-m", folder, "--iterations", "2", "--quiet")
    assert fails(run_here(*train), "holds an earlier run")
    assert fails(run_here(*train, "--overwrite"), "no run wrote it")
    assert ply(folder, 500).read_bytes() == b"precious"
    (folder / "cfg_args").write_text("Namespace()")
    assert run_here(*train, "--overwrite").returncode == 0
    assert not ply(folder, 500).exists() and ply(folder, 2).exists() and (folder / "notes.txt").exists()


def test_default_output_folder(run_here, scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_here("train.py", "-s", scene, "--iterations", "1").returncode == 0
    (folder,) = (tmp_path / "output").iterdir()
    assert len(folder.name) == 10 and int(folder.name, 16) >= 0


def test_mistakes_are_one_line_and_leave_nothing_behind(run_here, scene, trained, tmp_path):
    out = ("-m", tmp_path / "out")
    assert fails(run_here("train.py"), "which scene?")
    assert fails(run_here("train.py", "-s", tmp_path / "none", *out), "none")
    assert fails(run_here("train.py", "-s", scene, *out, "--no_such_flag"), "--no_such_flag")
    assert fails(
        run_here("train.py", "-s", scene, *out, "--data_device", "tpu"), "--data_device: expected auto, cpu"
    )
    assert fails(run_here("render.py"), "which run?")
    assert fails(run_here("render.py", *out), "not the folder of a run")
    assert fails(run_here("render.py", "-m", trained[0], "--iteration", "8"), "not saved, only 7, 12")
    assert fails(run_here("render.py", "-m", trained[0], "--skip_train", "--skip_test"), "nothing to render")
    assert not (tmp_path / "out").exists()


def test_a_mistake_ends_the_process_with_2(project_dir):
    assert fails(
        run(project_dir, "train.py", "--iterations", "0"), "--iterations: expected at least 1, got 0"
    )


def test_ctrl_c_while_torch_is_imported_prints_no_traceback(project_dir, tmp_path):
    fake_torch = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / "torch.py").write_text(fake_torch)
    process = subprocess.run(
        [sys.executable, str(project_dir / "train.py"), "-s", "scene"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (process.returncode, process.stdout, process.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_says_where_things_stand(project_dir, scene, tmp_path):
    command = [sys.executable, str(project_dir / "train.py"), "-s", str(scene), "-m", str(tmp_path / "run")]
    command += "--save_iterations 5 --checkpoint_iterations 5 --iterations 1000000 --threads 1".split()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=project_dir,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "chkpnt5.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted at iteration " in errors and "of 1000000" in errors and "Traceback" not in errors
    assert "the Gaussians of iterations 5; go on with: python train.py --resume -m" in errors
    assert not list((tmp_path / "run").rglob("*.part"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["finished"] is False


def test_settings_that_cannot_go_together_leave_an_old_run_alone(run_here, trained, scene):
    before = ply(trained[0]).read_bytes()
    flags = ("--overwrite", "--position_lr_final", 0, *FLAGS)
    assert fails(run_here("train.py", "-s", scene, "-m", trained[0], *flags), "log-linear schedule")
    assert ply(trained[0]).read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--threads", "100000"), "--threads: expected 0 to 1024"),
        (("--data_device", "cpu:xyz"), "--data_device: expected auto, cpu"),
        (("--data_device", "meta"), "--data_device: expected auto, cpu"),
        (("--seed", "99999999999999999999"), "--seed: expected 0 to"),
    ],
)
def test_a_flag_out_of_its_bound_is_one_line(run_here, scene, tmp_path, flags, complaint):
    assert fails(run_here("train.py", "-s", scene, "-m", tmp_path / "x", *flags), complaint)
    assert not (tmp_path / "x").exists()


def test_render_checks_its_data_device(run_here, trained):
    assert fails(
        run_here("render.py", "-m", trained[0], "--data_device", "meta"), "--data_device: expected auto, cpu"
    )


def test_what_a_checkpoint_fixed_cannot_be_changed(run_here, trained, tmp_path):
    resume = ("train.py", "--start_checkpoint", trained[0] / "chkpnt7.safetensors", "-m", tmp_path / "x")
    assert fails(run_here(*resume, "--seed", 7), "--seed: the checkpoint has 0, got 7")
    assert fails(run_here(*resume, "--initial_opacity", 0.5), "--initial_opacity: the checkpoint has 0.1")
    assert fails(run_here(*resume, "--importance", "none"), "--importance: the checkpoint has full, got none")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda tensors, record: record.pop("training_views"), "no valid 'training_views'"),
        (lambda tensors, record: record.update(settings=[1]), "no valid 'settings'"),
        (lambda tensors, record: tensors.pop("generator"), "random state is damaged"),
        (lambda tensors, record: tensors.update(views=torch.tensor([99])), "expected views 0 to"),
        (lambda tensors, record: tensors["raw.means"].fill_(float("nan")), "raw.means"),
        (lambda tensors, record: tensors.update({"raw.quats": tensors["raw.quats"][:3]}), "raw.quats"),
    ],
)
def test_a_damaged_checkpoint_is_refused(run_here, trained, tmp_path, damage, complaint):
    tensors, record = load_checkpoint(trained[0] / "chkpnt7.safetensors")
    damage(tensors, record)
    save_checkpoint(tmp_path / "damaged.safetensors", tensors, record)
    resume = ("train.py", "--start_checkpoint", tmp_path / "damaged.safetensors", "-m", tmp_path / "x")
    assert fails(run_here(*resume), complaint)
    assert not (tmp_path / "x").exists()


def test_a_mistake_under_debug_shows_where_and_is_still_a_mistake(project_dir, tmp_path):
    process = run(project_dir, "train.py", "-s", tmp_path / "none", "-m", tmp_path / "x", "--debug")
    assert process.returncode == 2
    assert "Traceback" in process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: ")


def test_config_records_what_the_bits_depend_on(trained, scene):
    config = json.loads((trained[0] / "config.json").read_text())
    assert {"torch", "numpy", "opencv", "diff-gaussian-rasterization", "commit"} <= config["versions"].keys()
    assert config["machine"]["instruction_set"] in ("scalar", "avx2", "avx512")
    assert len(config["machine"]["kernel_build"].split()) == 3  # compiler, version, hash of the sources
    assert config["started"]


def raise_of_torch():
    torch.empty(10**15)


def raise_of_python():
    raise MemoryError


@pytest.mark.parametrize(
    "main, said",
    [(raise_of_torch, "error: out of memory: can't allocate"), (raise_of_python, "error: out of memory\n")],
)
def test_a_command_that_runs_out_of_memory_says_so(main, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(main)
    assert capsys.readouterr().err.startswith(said)


def test_a_defect_keeps_its_traceback():
    def fail():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run_command(fail)
