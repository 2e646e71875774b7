"""evaluation/tables.py on folders as finished runs leave them, without having trained anything."""

from __future__ import annotations

import json

import pytest
from evaluation import tables
from measured_runs import COMMIT, read_csv, write_run
from utils.files import write_json


def test_a_row_says_what_was_measured_and_how_it_came_about(tmp_path):
    folder = write_run(tmp_path, gaussians=100)
    row = tables.read_row(folder, tmp_path)
    assert row["scene"] == "fox" and row["row"] == "3dgs" and row["seed"] == 0
    assert (row["test_PSNR"], row["train_PSNR"]) == (25.0, 26.0)
    assert (row["test_views"], row["train_views"]) == (7, 43)
    assert (row["size_bytes"], row["gaussians"]) == (25_800, 100)
    assert row["training_minutes"] == 1.5 and row["peak_memory_bytes"] == 3_000_000_000
    assert row["commit"] == COMMIT and row["command"].startswith("python train.py -s fox")
    assert row["folder"] == "fox/3dgs/seed_0" and "Z80" in row["machine"]


def test_only_finished_runs_are_rows_and_unmeasured_ones_have_gaps(tmp_path):
    write_run(tmp_path, row="tag", finished=False)
    folder = write_run(tmp_path, row="3dgs")
    (folder / "results.json").unlink()
    (row,) = tables.write_tables(tmp_path)
    assert row["row"] == "3dgs" and row["test_PSNR"] is None and row["gaussians"] == 100
    assert "| 3dgs | 0 | - | - | - | 7 |" in (tmp_path / "results.md").read_text()
    assert read_csv(tmp_path / "results.csv")[0]["test_PSNR"] == ""
    assert read_csv(tmp_path / "survey.csv")[0]["LPIPS"] == ""


def test_results_of_other_iterations_do_not_count(tmp_path):
    folder = write_run(tmp_path)
    results = json.loads((folder / "results.json").read_text())
    write_json(folder / "results.json", {"ours_30000": results["ours_7000"]})
    assert tables.read_row(folder, tmp_path)["test_PSNR"] is None


def test_rows_come_in_the_order_of_the_variants(tmp_path):
    for row, variant in (("decomp", "3dgs"), ("zz", "gone"), ("3dgs", "3dgs")):
        write_run(tmp_path, row=row, variant=variant)
    write_run(tmp_path, scene="chair", seed=1)
    write_run(tmp_path, scene="chair", seed=0)
    names = [(row["scene"], row["row"], row["seed"]) for row in tables.read_rows(tmp_path)]
    expected = [("chair", "3dgs", 0), ("chair", "3dgs", 1)]
    assert names == expected + [("fox", "3dgs", 0), ("fox", "decomp", 0), ("fox", "zz", 0)]


def test_seeds_are_averaged_with_their_spread(tmp_path):
    for seed, psnr, gaussians in ((0, 25.0, 100), (1, 26.0, 104), (2, 27.5, 120)):
        write_run(tmp_path, seed=seed, psnr=psnr, gaussians=gaussians)
    (mean,) = tables.over_seeds(tables.read_rows(tmp_path))
    assert mean["seed"] == "mean of 3" and mean["gaussians"] == 108
    assert mean["test_PSNR"] == pytest.approx(78.5 / 3) and mean["spread"]["test_PSNR"] == 2.5
    assert mean["command"] == "python train.py -s fox --seed SEED -m eval/fox/3dgs/seed_SEED"
    assert mean["commit"] == COMMIT


def test_a_mean_needs_every_seed(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, measures={"LPIPS": None})
    (mean,) = tables.over_seeds(tables.read_rows(tmp_path))
    assert mean["test_LPIPS"] is None and "test_LPIPS" not in mean["spread"] and mean["test_PSNR"] == 25


def test_the_table_in_three_forms(tmp_path):
    write_run(tmp_path, seed=0, psnr=25.0)
    write_run(tmp_path, seed=1, psnr=25.5)
    write_run(tmp_path, row="tag", psnr=24.0, gaussians=50)
    tables.write_tables(tmp_path)

    text = (tmp_path / "results.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| 3dgs | 0 | 0.2500 | 25.00 | 0.7500 | 7 | 0.2500 | 26.00 | 0.7500 | 43 |")
    assert lines[2].endswith("| 0.03 | 100 | 3,000 | 1.5 | 01234567 |")
    assert "| 3dgs | mean of 2 | 0.2525 [0.0050] | 25.25 [0.50] |" in lines[4] + "|"
    assert "python train.py -s fox --seed SEED" in text and "--seed 0 -m eval/fox/tag/seed_0" in text

    table = read_csv(tmp_path / "results.csv")
    assert [line["seed"] for line in table] == ["0", "1", "0", "mean of 2"]
    assert float(table[3]["test_PSNR"]) == 25.25 and float(table[3]["test_PSNR_spread"]) == 0.5
    assert table[0]["test_PSNR_spread"] == ""

    content = json.loads((tmp_path / "results.json").read_text())
    assert [row["row"] for row in content["rows"]] == ["3dgs", "3dgs", "tag"]
    assert content["means"][0]["spread"]["test_SSIM"] == pytest.approx(0.005)
    assert content["spread"] == "max - min over the seeds"


def test_the_surveys_files(tmp_path):
    for scene, psnr in (("bicycle", 25.0), ("garden", 27.0)):
        for seed in (0, 1):
            write_run(
                tmp_path, scene, seed=seed, psnr=psnr + seed, gaussians=101 + seed, dataset="MipNeRF360"
            )
    write_run(tmp_path, "bicycle", "tag", psnr=20.0, dataset="MipNeRF360")  # without garden: in no mean
    write_run(tmp_path, "fox", psnr=30.0, gaussians=10)
    tables.write_tables(tmp_path)

    of_scene = (tmp_path / "survey" / "MipNeRF360" / "bicycle.csv").read_text().splitlines()
    assert of_scene[0] == "Submethod,PSNR,SSIM,LPIPS,Size [Bytes],#Gaussians"
    assert of_scene[1].startswith("3dgs,25.5,0.255,0.745,") and of_scene[2].startswith("tag,20.0,0.2,0.8,")
    (mean,) = read_csv(tmp_path / "survey" / "MipNeRF360.csv")
    assert float(mean["PSNR"]) == 26.5 and mean["#Gaussians"] == "102"  # 101.5, whole
    assert mean["Size [Bytes]"] == "26172"
    (of_all,) = read_csv(tmp_path / "survey.csv")
    assert float(of_all["PSNR"]) == pytest.approx((25.5 + 27.5 + 30) / 3)
    assert float(read_csv(tmp_path / "survey" / "fox.csv")[0]["PSNR"]) == 30


def test_several_scenes_get_a_mean(tmp_path):
    write_run(tmp_path, "fox", psnr=30.0)
    write_run(tmp_path, "plant", psnr=20.0)
    write_run(tmp_path, "plant", "tag", psnr=10.0)
    text = tables.to_markdown(tables.read_rows(tmp_path))
    overall = text[text.index("## Mean of 2 scenes") : text.index("## fox")]
    assert "| 3dgs | 0.2500 | 25.00 |" in overall and "tag" not in overall


def test_an_empty_folder_makes_an_empty_table(tmp_path):
    assert tables.write_tables(tmp_path) == []
    assert (tmp_path / "survey.csv").read_text() == "Submethod,PSNR,SSIM,LPIPS,Size [Bytes],#Gaussians\n"


def test_a_damaged_record_is_named(tmp_path):
    folder = write_run(tmp_path)
    (folder / tables.RECORD).write_text("{")
    with pytest.raises(ValueError, match=r"eval\.json: not readable as JSON"):
        tables.read_rows(tmp_path)
    (folder / tables.RECORD).write_text("[]")
    with pytest.raises(ValueError, match=r"eval\.json: expected a JSON object"):
        tables.read_rows(tmp_path)
