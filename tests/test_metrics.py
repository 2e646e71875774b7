"""metrics.py on folders of pictures as render.py leaves them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_lpips import plain_lpips, plain_network, random_vgg16, waves
from safetensors.torch import load_file

import metrics
from evaluation.lpips import HEADS
from utils.images import write_png

NAMES = ("00000.png", "00001.png")


def to_pixels(picture):
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def add_views(folder, split, method="ours_7000", names=NAMES, size=(24, 34), phase=0.3):
    """Renders that differ from their photos and from each other; returns {name: (render, photo)}, uint8."""
    views = {}
    for index, name in enumerate(names):
        views[name] = tuple(to_pixels(waves(*size, phase=shift + index)) for shift in (phase, 0.0))
        for kind, pixels in zip(("renders", "gt"), views[name]):
            write_png(folder / split / method / kind / name, pixels)
    return views


def read(folder, name):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / name).read_text(encoding="utf-8"), parse_constant=refuse)


def plain_psnr(render, photo):
    return -10 * math.log10(np.mean((render / 255 - photo / 255) ** 2))


def plain_ssim(render, photo):
    """Wang et al. 2004 on zero-padded 11 x 11 Gaussian windows of sigma 1.5, in float64."""
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window = (window / window.sum()).view(1, 1, 11, 11)
    x, y = (torch.from_numpy(pixels / 255.0).permute(2, 0, 1)[:, None] for pixels in (render, photo))
    mean_x, mean_y, xx, yy, xy = (F.conv2d(value, window, padding=5) for value in (x, y, x * x, y * y, x * y))
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
    return (luminance * structure).mean().item()


@pytest.fixture(scope="module")
def random_state():
    return random_vgg16()


@pytest.fixture(scope="module")
def weights_file(random_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(random_state, path)
    return path


# What is measured


def test_every_view_and_its_mean(tmp_path):
    views = add_views(tmp_path, "test")
    metrics.main(["-m", str(tmp_path), "--skip_lpips", "--quiet"])
    per_view, results = (
        read(tmp_path, "per_view.json")["ours_7000"],
        read(tmp_path, "results.json")["ours_7000"],
    )
    for metric, plain, tolerance in (("PSNR", plain_psnr, 1e-3), ("SSIM", plain_ssim, 1e-5)):
        expected = {name: plain(*pair) for name, pair in views.items()}
        assert per_view[metric] == pytest.approx(expected, abs=tolerance)
        assert results[metric] == pytest.approx(sum(expected.values()) / 2, abs=tolerance)
        assert abs(expected[NAMES[0]] - expected[NAMES[1]]) > 10 * tolerance


def test_lpips_is_fed_pictures_from_0_to_1(tmp_path, random_state, weights_file):
    views = add_views(tmp_path, "test")
    metrics.main(["-m", str(tmp_path), "--lpips_weights", str(weights_file), "--quiet"])
    network, heads = plain_network(random_state), list(load_file(HEADS).values())
    expected = {
        name: plain_lpips(
            *(torch.from_numpy(pixels).permute(2, 0, 1) / 255 for pixels in pair), network, heads
        )
        for name, pair in views.items()
    }
    results = read(tmp_path, "results.json")["ours_7000"]
    assert read(tmp_path, "per_view.json")["ours_7000"]["LPIPS"] == pytest.approx(expected, rel=1e-4)
    assert results["LPIPS"] == pytest.approx(sum(expected.values()) / 2, rel=1e-4)
    assert results["lpips_missing"] is None and "[0, 1]" in results["conventions"]["LPIPS"]


def test_training_views_stand_beside_the_held_out_ones(tmp_path):
    add_views(tmp_path, "test", names=NAMES[:1], phase=0.1)
    trained = add_views(tmp_path, "train", phase=0.9)
    metrics.main(["-m", str(tmp_path), "--skip_lpips", "--quiet"])
    results = read(tmp_path, "results.json")["ours_7000"]
    assert results["views"] == {"test": 1, "train": 2}
    assert results["train"]["PSNR"] == pytest.approx(
        np.mean([plain_psnr(*pair) for pair in trained.values()]), abs=1e-3
    )
    assert results["PSNR"] > results["train"]["PSNR"] + 1
    assert set(read(tmp_path, "per_view.json")["ours_7000"]["train"]["SSIM"]) == set(NAMES)


@pytest.mark.parametrize(("wanted", "measured"), [(0, []), (2, [0, 2]), (3, [0, 1, 3]), (9, range(5))])
def test_some_training_views_evenly_spaced(tmp_path, wanted, measured):
    names = [f"{number:05}.png" for number in range(5)]
    add_views(tmp_path, "test")
    add_views(tmp_path, "train", names=names)
    metrics.main(["-m", str(tmp_path), "--skip_lpips", "--quiet", "--train_views", str(wanted)])
    assert list(read(tmp_path, "per_view.json")["ours_7000"]["train"]["SSIM"]) == [names[n] for n in measured]
    assert read(tmp_path, "results.json")["ours_7000"]["views"] == {"test": 2, "train": len(measured)}


def test_without_held_out_views_their_figures_are_null(tmp_path, capsys):
    add_views(tmp_path, "train")
    metrics.main(["-m", str(tmp_path), "--skip_lpips"])
    results = read(tmp_path, "results.json")["ours_7000"]
    assert [results[metric] for metric in metrics.METRICS] == [None, None, None]
    assert results["views"] == {"test": 0, "train": 2} and results["train"]["PSNR"] > 0
    said = capsys.readouterr().out
    assert "no images (views are held out by --eval in training)" in said
    assert f"PSNR {results['train']['PSNR']:.2f}" in said


def test_a_perfect_view_has_no_finite_psnr(tmp_path):
    add_views(tmp_path, "test", names=NAMES[:1], phase=0.0)
    metrics.main(["-m", str(tmp_path), "--skip_lpips", "--quiet"])
    results = read(tmp_path, "results.json")["ours_7000"]
    assert results["PSNR"] is None and results["SSIM"] == pytest.approx(1)


def test_every_method_of_every_run(tmp_path):
    for run in ("one", "two"):
        for method in ("ours_30000", "ours_7000"):
            add_views(tmp_path / run, "test", method)
    metrics.main(["-m", str(tmp_path / "one"), str(tmp_path / "two"), "--skip_lpips", "--quiet"])
    for run in ("one", "two"):
        assert list(read(tmp_path / run, "results.json")) == ["ours_7000", "ours_30000"]


def test_pixels_that_a_mask_leaves_out_do_not_count(tmp_path, random_state, weights_file):
    """The left half of the render is spoilt, and the photo transparent there."""
    photo, render = (to_pixels(waves(40, 40, phase=phase)) for phase in (0.0, 0.8))
    spoilt, alpha = render.copy(), np.full((40, 40), 255, np.uint8)
    spoilt[:, :20], alpha[:, :20] = 0, 0
    for kind, image in (("renders", spoilt), ("gt", np.dstack([photo, alpha]))):
        write_png(tmp_path / "test" / "ours_1" / kind / "00000.png", image)
    metrics.main(["-m", str(tmp_path), "--lpips_weights", str(weights_file), "--quiet"])
    results = read(tmp_path, "results.json")["ours_1"]
    assert results["PSNR"] == pytest.approx(plain_psnr(render[:, 20:], photo[:, 20:]), abs=1e-3)
    half = np.where(alpha[..., None] > 0, render, photo)
    tensors = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 for pixels in (half, photo))
    expected = plain_lpips(*tensors, plain_network(random_state), list(load_file(HEADS).values()))
    assert results["LPIPS"] == pytest.approx(expected, rel=1e-4)
    whole = plain_ssim(half, photo)  # its left half is nearly all ones
    assert results["SSIM"] == pytest.approx(1 - 2 * (1 - whole), abs=0.2 * (1 - whole))


def test_where_no_pixel_counts_there_are_no_figures(tmp_path):
    pixels = to_pixels(waves(20, 20))
    for kind, image in (("renders", pixels), ("gt", np.dstack([pixels, np.zeros((20, 20), np.uint8)]))):
        write_png(tmp_path / "test" / "ours_1" / kind / "00000.png", image)
    metrics.main(["-m", str(tmp_path), "--skip_lpips", "--quiet"])
    assert [read(tmp_path, "results.json")["ours_1"][name] for name in ("SSIM", "PSNR")] == [None, None]


# Without LPIPS


def test_skipped_lpips_is_null_with_the_reason(tmp_path, capsys):
    add_views(tmp_path, "test")
    metrics.main(["-m", str(tmp_path), "--skip_lpips"])
    results = read(tmp_path, "results.json")["ours_7000"]
    assert results["LPIPS"] is None and "--skip_lpips" in results["lpips_missing"]
    assert read(tmp_path, "per_view.json")["ours_7000"]["LPIPS"] == dict.fromkeys(NAMES)
    assert "LPIPS is not measured" in capsys.readouterr().out


def test_pictures_too_small_for_lpips_have_the_rest_measured(tmp_path, weights_file):
    for kind in ("renders", "gt"):
        write_png(tmp_path / "test" / "ours_7000" / kind / NAMES[0], np.full((12, 40, 3), 90, np.uint8))
    metrics.main(["-m", str(tmp_path), "--lpips_weights", str(weights_file), "--quiet"])
    results = read(tmp_path, "results.json")["ours_7000"]
    assert results["LPIPS"] is None and "less than 16 pixels" in results["lpips_missing"]
    assert results["SSIM"] == pytest.approx(1)


@pytest.mark.parametrize("cached", [False, True], ids=["no download", "damaged cache"])
def test_without_usable_weights_the_rest_is_measured(tmp_path, monkeypatch, cached):
    def download(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    if cached:
        (tmp_path / "hub/checkpoints").mkdir(parents=True)
        (tmp_path / "hub/checkpoints/vgg16-397923af.pth").write_bytes(b"cut short")
    add_views(tmp_path / "run", "test")
    metrics.main(["-m", str(tmp_path / "run"), "--quiet"])
    results = read(tmp_path / "run", "results.json")["ours_7000"]
    assert results["LPIPS"] is None and results["PSNR"] > 0
    assert ("vgg16-397923af.pth: not a state dict" if cached else "no route to host") in results[
        "lpips_missing"
    ]


# What is refused, before anything is measured or written


def refused(arguments, folder, message, kind=ValueError):
    with pytest.raises(kind, match=message):
        metrics.main([*arguments, "--quiet"])
    assert not list(folder.rglob("*.json"))


def test_weights_that_were_asked_for_must_be_right(tmp_path):
    add_views(tmp_path, "test")
    arguments = ["-m", str(tmp_path), "--lpips_weights"]
    refused(
        [*arguments, str(tmp_path / "nowhere.pth")], tmp_path, "not found: .*nowhere.pth", FileNotFoundError
    )
    (tmp_path / "damaged.pth").write_bytes(b"damaged")
    refused([*arguments, str(tmp_path / "damaged.pth")], tmp_path, "damaged.pth: not a state dict")


def test_a_missing_folder(tmp_path):
    refused(
        ["-m", str(tmp_path / "nowhere")],
        tmp_path,
        "-m .*nowhere: there is no such folder",
        FileNotFoundError,
    )


def test_a_run_that_was_not_rendered(tmp_path):
    (tmp_path / "test" / "ours_7000" / "renders").mkdir(parents=True)
    refused(["-m", str(tmp_path)], tmp_path, r"first run `python render.py -m .*`", FileNotFoundError)


@pytest.mark.parametrize(("kind", "other"), [("renders", "gt"), ("gt", "renders")])
def test_a_picture_without_counterpart(tmp_path, kind, other):
    add_views(tmp_path, "test")
    (tmp_path / "test" / "ours_7000" / other / NAMES[1]).unlink()
    refused(["-m", str(tmp_path)], tmp_path, f"{kind}/00001.png has no counterpart in {other}/")


def test_pictures_of_two_sizes(tmp_path):
    add_views(tmp_path, "test")
    write_png(tmp_path / "test" / "ours_7000" / "gt" / NAMES[1], to_pixels(waves(24, 35)))
    refused(["-m", str(tmp_path)], tmp_path, r"00001.png is 34 x 24 pixels, but .*gt.00001.png is 35 x 24")


def test_a_damaged_picture(tmp_path):
    add_views(tmp_path, "test")
    (tmp_path / "test" / "ours_7000" / "renders" / NAMES[0]).write_bytes(b"half a pict")
    refused(["-m", str(tmp_path)], tmp_path, "renders.00000.png is damaged or not a PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "x", "--train_views", "-1"], "--train_views: expected at least 0, got -1"),
        ([], "-m/--model_paths"),
        (["-m"], "expected at least one argument"),
        (["-m", "x", "--unknown"], "unrecognized arguments: --unknown"),
        (["-m", "x", "--skip_lpips", "--lpips_weights", "y"], "not allowed with"),
    ],
)
def test_flags_that_make_no_sense(tmp_path, arguments, message):
    refused(arguments, tmp_path, message)


def test_quiet_prints_nothing(tmp_path, capsys):
    add_views(tmp_path, "test")
    metrics.main(["-m", str(tmp_path), "--skip_lpips", "--quiet"])
    assert capsys.readouterr() == ("", "")
