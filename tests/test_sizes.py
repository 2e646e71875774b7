"""The sizes that one run leaves with --save_shares, and what sizes.json says of them."""

import json

import pytest
from commands import fails

from arguments import make_settings
from gaussian_model import GaussianModel
from subfunction import phase, reaches_a_share
from utils import run_folder

FLAGS = """--iterations 120 --scale_schedule --densification_interval 5 --prune_interval 5 --tag_lifespan 5
    --tag_patience 1 --error_floor 6e-4 --thin_energy 0 --prune_energy 0 --importance none --eval
    --prune_by removal_energy --threads 1 --disable_viewer --save_shares 0.5 0.8""".split()


def sizes(folder):
    return json.loads((folder / "sizes.json").read_text())


def test_every_size_on_the_way_is_saved_measured_and_listed(run_here, scene, tmp_path):
    process = run_here("train.py", "-s", scene, "-m", tmp_path, *FLAGS)
    assert process.returncode == 0, process.stderr
    kept, record = sizes(tmp_path), run_folder.read_config(tmp_path)
    assert [size["iteration"] for size in kept] == run_folder.saved_iterations(tmp_path)
    assert len(kept) == 2 and kept[-1]["iteration"] == 120
    assert 0.5 < kept[0]["share"] <= 0.8 and kept[1]["share"] == pytest.approx(0.5, abs=0.02)
    for size in kept:
        model = GaussianModel.load_ply(tmp_path / size["file"], "cpu")
        assert len(model) == size["gaussians"]
        assert f"[ITER {size['iteration']}] Evaluating test: " in process.stdout
        assert size["test"]["views"] == record["views"]["test"] > 0 and 0 < size["test"]["SSIM"] < 1
    grown = {round(size["gaussians"] / size["share"]) for size in kept}
    history = json.loads((tmp_path / "history.json").read_text())["steps"]
    assert grown == {max(step["gaussians"] for step in history)}
    assert run_here("render.py", "-m", tmp_path, "--iteration", kept[0]["iteration"]).returncode == 0


def test_a_resumed_run_keeps_the_same_sizes(run_here, scene, tmp_path, stop_at):
    begin = ("train.py", "-s", scene, *FLAGS, "-m")
    assert run_here(*begin, tmp_path / "whole").returncode == 0
    kept = sizes(tmp_path / "whole")
    stop_at(kept[0]["iteration"] + 1)
    assert run_here(*begin, tmp_path / "run").returncode == 130
    stop_at(0)
    assert run_here("train.py", "--resume", "-m", tmp_path / "run").returncode == 0
    assert sizes(tmp_path / "run") == kept
    for size in kept:
        assert (tmp_path / "run" / size["file"]).read_bytes() == (
            tmp_path / "whole" / size["file"]
        ).read_bytes()


def test_a_new_run_in_the_folder_replaces_the_sizes(run_here, scene, tmp_path):
    (tmp_path / "cfg_args").write_text("Namespace()")
    (tmp_path / "sizes.json").write_text("[]")
    begin = ("train.py", "-s", scene, "-m", tmp_path, "--iterations", 2, "--overwrite", "--threads", 1)
    assert run_here(*begin).returncode == 0
    assert not (tmp_path / "sizes.json").exists()


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.1", "nan", "half"])
def test_shares_are_between_0_and_1(run_here, scene, tmp_path, value):
    process = run_here("train.py", "-s", scene, "-m", tmp_path / "run", "--save_shares", "0.5", value)
    complaint = "argument --save_shares: invalid float value: 'half'"
    assert fails(process, complaint if value == "half" else "--save_shares: expected ")


def test_a_run_that_does_not_thin_keeps_no_sizes(run_here, scene, tmp_path):
    begin = ("train.py", "-s", scene, "-m", tmp_path / "run", "--variant", "3dgs", "--save_shares", 0.5)
    assert fails(run_here(*begin), "--save_shares thins what has grown: pruning must go on")


def test_a_size_is_kept_once_before_more_goes_and_the_last_one_always():
    settings = make_settings({"save_shares": (0.5, 0.25)})
    may = {
        iteration: phase(iteration, settings).may_keep_size for iteration in (14_900, 20_000, 20_050, 30_000)
    }
    assert may == {14_900: False, 20_000: True, 20_050: False, 30_000: True}
    assert not phase(30_000, make_settings({})).may_keep_size

    def reaches(left, *kept):
        return reaches_a_share(left, list(kept), settings.pruning)

    assert not reaches(0.51) and reaches(0.45) and reaches(0.2)
    assert not reaches(0.4, 0.45) and reaches(0.2, 0.45) and not reaches(0.1, 0.45, 0.2)
