"""report.py on folders as train.py, render.py and metrics.py leave them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from report_folder import Page, config, histogram, history, made, write, write_finished_run

from utils.images import write_png

HOSTILE = '<script>alert("1")</script>\'&amp;'


@pytest.fixture
def run(tmp_path):
    return write_finished_run(tmp_path)


def check_is_self_contained(page):
    assert not {"script", "link", "iframe", "object", "use", "image"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("href", "xlink:href", "srcset")
            if name == "src":
                assert tag == "img" and value.startswith("data:image/jpeg;base64,")
            else:
                assert not re.search(r"https?:|//|url\(", value) or name in ("alt", "aria-label"), (
                    tag,
                    name,
                    value,
                )


# The whole page


def test_a_full_run(run):
    page = made(run)
    check_is_self_contained(page)
    for words in (
        "barn",
        "28.50 dB",
        "0.8100",
        "31.00 dB",
        "4,321",
        "1.2 MB",
        "2 min 05 s",
        "1.50 GB",
        "c0ffee",
        "Abacus 3",
        "1,000 of 1,000",
    ):
        assert words in page.text
    assert (
        "Not finished" not in page.text and "no images" not in page.text and "Not recorded" not in page.text
    )
    titles = " ".join(a["aria-label"] for a in page.all("svg"))
    for chart in (
        "Loss",
        "PSNR",
        "Number of Gaussians",
        "born and pruned",
        "Error E_k",
        "Importance s_k",
        "Correlation of s_k with s_k o_k",
        "floaters",
    ):
        assert chart in titles
    assert len(page.all("svg")) == 11 and all(a["role"] == "img" for a in page.all("svg"))


def test_the_page_is_small_for_large_noisy_pictures(run):
    random = np.random.default_rng(0)
    for path in run.glob("t*/ours_1000/*/*.png"):
        smooth = cv2.GaussianBlur(random.integers(0, 256, (600, 800, 3)).astype(np.float32), (0, 0), 1)
        write_png(path, np.clip(4 * (smooth - 128) + 128, 0, 255).astype(np.uint8))
    made(run)
    assert (run / "report.html").stat().st_size < 4.5e6  # noise; photos take half of this or less
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert max(int(a["width"]) for a in page.all("img")) == 500


def test_what_variant_and_person_set(run):
    page = made(run)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert re.search(
        r"Set by the variant: <s [^>]*><code>--growth_cap 0.05</code></s> <code>--tag_lifespan 300", html
    )
    assert "Given by hand: --growth_cap 0.1" in page.text


def test_sizes_that_were_kept_are_listed(run):
    assert "Sizes" not in made(run).text
    measures = {
        "1000": {"gaussians": 400, "share": 0.1, "test": {"PSNR": 26.5, "SSIM": 0.8, "views": 4}},
        "900": {"gaussians": 1990, "share": 0.4975, "test": {"PSNR": 27.25, "SSIM": 0.85, "views": 4}},
        "500": {"gaussians": 4000},
        "x": {"share": 0.3},
    }
    write(run / "config.json", config(measures=measures))
    page = made(run)
    check_is_self_contained(page)
    text = page.text[page.text.index("Sizes") : page.text.index("Curves")]
    rows = ["900 1,990 49.8 % 27.25 dB 0.8500", "1,000 400 10.0 % 26.50 dB 0.8000"]
    assert " ".join(rows) in re.sub(r"\s+", " ", text) and "held-out views" in text


def test_hostile_names_are_only_text(run):
    settings = {"source_path": f"/x/{HOSTILE}", "variant": HOSTILE, "iterations": 1000, HOSTILE: HOSTILE}
    bad = {
        "machine": {HOSTILE: HOSTILE},
        "given": [HOSTILE],
        "variant_values": {HOSTILE: HOSTILE},
        "seed": HOSTILE,
    }
    write(run / "config.json", config(settings=settings, **bad))
    write(run / "cameras.json", [{"img_name": f'{HOSTILE}" onload="x"'}] * 12)
    changed = history()
    changed["distributions"][0]["values"][HOSTILE] = histogram()
    write(run / "history.json", changed)
    page = made(run)
    check_is_self_contained(page)
    assert HOSTILE in page.text
    assert any(HOSTILE in a["alt"] for a in page.all("img"))
    assert any(HOSTILE in a["aria-label"] for a in page.all("svg"))


def test_text_that_utf8_cannot_hold(run):
    write(run / "config.json", json.dumps(config(seed="\ud800")))
    assert "Seed ?" in made(run).text


def test_values_of_the_wrong_type_are_left_out(run):
    odd = {
        "timing": 3,
        "views": [],
        "measures": {"1000": {"test": "no"}, "x": 1},
        "machine": "",
        "versions": None,
    }
    write(run / "config.json", config(**odd, given="growth_cap", peak_memory_bytes=True, iteration=None))
    write(run / "results.json", {"ours_1000": {"PSNR": "high", "train": [], "views": 7}})
    write(run / "per_view.json", {"ours_1000": [1]})
    write(run / "cameras.json", [1, None])
    page = made(run)
    assert "No measures of iteration 1,000" in page.text and "not recorded" in page.text


# Without some of it


def test_an_older_run_without_history_pictures_and_metrics(run):
    for name in ("history.json", "results.json", "per_view.json"):
        (run / name).unlink()
    for path in run.glob("t*/ours_1000/renders/*.png"):
        path.unlink()
    old = config()
    del old["given"], old["variant_values"]
    write(run / "config.json", old)
    page = made(run)
    assert "there is no history.json" in page.text and not page.all("svg")
    assert f"run python render.py -m {run} first" in page.text and not page.all("img")
    assert "Training views" not in page.text  # of which nothing was measured
    assert "27.25 dB" in page.text and "0.0321" in page.text and "train.py, while training" in page.text
    assert "not recorded in this run" in page.text


def test_a_run_of_another_program(tmp_path):
    write(tmp_path / "cfg_args", "Namespace(source_path='/scenes/shed', sh_degree=3)")
    page = made(tmp_path)
    assert "shed" in page.text and "of another program" in page.text
    assert f"run python metrics.py -m {tmp_path} first" in page.text


def test_an_interrupted_run_says_so(run):
    write(run / "config.json", config(finished=False, iteration=430))
    changed = history()
    changed["progress"] = changed["progress"][:43]
    write(run / "history.json", changed)
    for path in sorted(run.rglob("*1000*"), reverse=True):
        path.rename(path.with_name(path.name.replace("1000", "400")))
    page = made(run)
    assert "Not finished: this run stands at iteration 430 of 1,000" in page.text
    assert len(page.all("img")) == 3 * (4 + 3)


def test_the_command(run, project_dir):
    def call(*arguments):
        command = [sys.executable, str(project_dir / "report.py"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = call("-m", run)
    assert (
        done.returncode == 0
        and done.stdout.startswith(f"Report: {run / 'report.html'} (")
        and not done.stderr
    )
    write(run / "history.json", "{")
    done = call("-m", run, "-q")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list(run.glob(".*.part"))
