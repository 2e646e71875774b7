"""Every benchmark runs, for two iterations, and prints what it promises."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from benchmarks import densification_twin, error_carrier, importance_kinds, time_to_quality, train_step


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
