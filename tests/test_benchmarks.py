"""Every benchmark runs, for two iterations, and prints what it promises."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import (
    densification_twin,
    error_carrier,
    importance_kinds,
    importance_step,
    scaling,
    time_to_quality,
)
from benchmarks import train_step
from utils.ranks import Ranks


@pytest.fixture
def run_benchmark(monkeypatch, capsys):
    threads = torch.get_num_threads()

    def run(module, *flags):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, flags)])
        module.main()
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(threads)


def test_train_step(run_benchmark, scene):
    text = run_benchmark(train_step, "-s", scene, "--threads", 1, "--iterations", 2)
    for words in ("60 Gaussians on cpu", "update", "kernel blend", "tile-Gaussian pairs", "total:"):
        assert words in text
    text = run_benchmark(
        train_step, "-s", scene, "--iterations", 2, "--gaussians", 500, "--variant", "tag_gradprune_decomp"
    )
    assert "500 Gaussians on cpu" in text and "page faults an iteration, peak memory" in text


def test_error_carrier(run_benchmark, scene):
    text = run_benchmark(error_carrier, "-s", scene, "--pairs", 2, "--gaussians", 50, 80)
    assert re.findall(r"^(\d+) Gaussians: [\d.]+ ms without, [\d.]+ ms with carrier; ratio", text, re.M) == [
        "50",
        "80",
    ]


class Strategy:
    """A stand-in for gsplat's: it grows nothing, and sees that it is given what it needs."""

    def initialize_state(self, extent):
        return {"extent": extent}

    def step_post_backward(self, params, optimizers, state, step, info):
        assert set(optimizers) == set(params) and info["means2d"].grad.shape == (1, len(params["means"]), 2)
        assert info["radii"].shape == (1, len(params["means"]), 2)


def test_densification_twin(run_benchmark, scene, monkeypatch):
    """gsplat takes no part: it is not needed for anything else here."""
    monkeypatch.setattr(densification_twin, "DefaultStrategy", Strategy)
    monkeypatch.setattr(densification_twin, "REPORT_EVERY", 1)
    text = run_benchmark(densification_twin, "-s", scene, "--until", 2, "--threads", 1)
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["1", "60", "60", "1.000"],
        ["2", "60", "60", "1.000"],
    ]


def test_without_gsplat_its_twin_says_what_to_install(run_benchmark, scene, monkeypatch):
    monkeypatch.setattr(densification_twin, "DefaultStrategy", None)
    with pytest.raises(ValueError, match="pip install gsplat"):
        run_benchmark(densification_twin, "-s", scene)


def test_importance_step(run_benchmark):
    text = run_benchmark(importance_step, "--gaussians", 70, 90, "--runs", 2)
    line = r"^(\d+) Gaussians: values [\d.]+ ms, step of the network [\d.]+ ms$"
    assert re.findall(line, text, re.M) == ["70", "90"]


def test_importance_kinds(run_benchmark):
    text = run_benchmark(importance_kinds, "--seeds", 1, "--iterations", 2)
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == [
        "`full`",
        "`mlp`",
        "`latent`",
        "`constant`",
    ]


def test_time_to_quality(run_benchmark, scene, tmp_path):
    flags = ("--iterations", 40, "--points", 3, "--variants", "3dgs", "tag_gradprune", "--output", tmp_path)
    text = run_benchmark(time_to_quality, "-s", scene, *flags, "--", "--scale_schedule")
    rows = [line.split(",") for line in (tmp_path / "curves.csv").read_text().splitlines()]
    assert [row[3] for row in rows[1:4]] == ["10", "20", "40"] and len(rows) == 7
    assert rows[0][:6] == ["checkout", "variant", "seed", "iteration", "seconds", "gaussians"]
    seconds, psnr = ([float(row[column]) for row in rows[1:4]] for column in (4, 6))
    assert seconds == sorted(seconds) and psnr[2] > psnr[0] > 5
    assert text.splitlines()[2].startswith("| now 3dgs seed 0 |") and "tag_gradprune" in text
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_when_a_curve_reaches_a_quality():
    points = [
        time_to_quality.Point("now", "3dgs", 0, 10 * k, 2.0 * k, 9, psnr, 0.5, None)
        for k, psnr in enumerate((20.0, 21.0, 20.5, 23.5))
    ]
    reached = [time_to_quality.seconds_to(points, psnr) for psnr in (19.0, 20.5, 21.0, 22.0, 24.0)]
    assert reached == [0.0, 1.0, 2.0, pytest.approx(5.0), None]
    assert time_to_quality.saved_iterations(7000, 12)[-1] == 7000
    assert all(at % 10 == 0 for at in time_to_quality.saved_iterations(7000, 12))


def test_scaling(run_benchmark, scene):
    text = run_benchmark(
        scaling, "-s", scene, "--width", 40, "--gaussians", 5000, "--ranks", 1, 2, "--steps", 2
    )
    assert "5,000 Gaussians, 40 pixels wide, tag_gradprune_decomp" in text and "'threads': 1" in text
    rows = re.findall(r"^(\d) process(?:es)?, (\d) views? a step: [\d.]+ ms", text, re.M)
    assert rows == [("1", "1"), ("1", "2"), ("2", "2")]
    splats, counted = map(float, re.search(r"MB of splats ([\d.]+) \(([\d.]+)\)", text).groups())
    assert counted == pytest.approx(splats, rel=0.1) and splats > 0.1
    sent, of_it = map(float, re.search(r"([\d.]+) MB sent by each \(([\d.]+) splats\)", text).groups())
    assert sent >= of_it == counted
    assert re.search(r"^ 64 processes: [\d.]+ times as fast", text, re.M)


def test_scaling_counts_every_way_to_talk(project_dir):
    source = (project_dir / "utils" / "ranks.py").read_text(encoding="utf-8")
    connecting = {"rendezvous", "init_process_group", "destroy_process_group", "is_initialized"}
    connecting |= {"get_rank", "get_world_size"}
    assert set(re.findall(r"\bdist\.([a-z_]+)\(", source)) - connecting == set(scaling.BYTES_SENT)


def test_scaling_counts_bytes():
    ranks, rows = Ranks(1, 4), torch.zeros(10, 3)
    sent = scaling.BYTES_SENT
    assert sent["all_to_all_single"](ranks, rows, rows, [10, 0, 0, 0], [1, 2, 3, 4]) == 8 * 12
    assert sent["all_gather"](ranks, [rows] * 4, rows) == 3 * 120
    assert sent["all_reduce"](ranks, rows) == 180
    assert sent["send"](ranks, rows, 0) == 120


def test_scaling_waits_for_a_gpu_where_it_reads_a_clock(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    watch = scaling.Watch(torch.device("cuda", 0))
    watch.add(owner := SimpleNamespace(work=lambda number: number + 1), "work", lambda number: 4 * number)
    assert owner.work(2) == 3 and watch.calls["work"][0].sent == 8 and len(waited) == 2


def test_scaling_model():
    alone = {"view": 2.0, "shared": 2.5, "empty": 0.25, "update": 1.5, "collecting": 0.25}
    alone |= {"views_per_step": 2, "blended": [1.0, 3.0], "numbers": 33, "visible": 100.0}
    model = scaling.Model(alone, calls=5)
    assert [model.uneven(ranks) for ranks in (1, 2)] == [1.0, 1.25]
    assert model.sent(4) == 33 * 4 * 100 * 3 / 4
    assert model.computing(4) == 2.5 + 3 * 0.25 + 1.0 / 4
    assert model.exchange(2, 660.0, 0.1) == pytest.approx(0.5 + 10 + 0.5)
    assert model.times_as_fast(1, 1.0, 1.0) == 1
    assert model.times_as_fast(2, 660.0, 0.1) == pytest.approx(5 / (3.25 + 11))
