"""The plots of full_eval.py, on fabricated results."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from evaluation import plots, tables
from matplotlib.backends.backend_agg import FigureCanvasAgg
from measured_runs import ITERATIONS, write_run
from utils.files import read_json, write_json
from utils.images import read_image, write_png

HEIGHT, WIDTH = 90, 120


def add_images(folder, values, patch, seed=0, split="test"):
    """Views of noise; the render of each lacks a patch (rows, columns) more or less, by `values` (LPIPS)."""
    per_view = {"PSNR": {}, "LPIPS": {}}
    for index, value in enumerate(values):
        name = f"{index:05d}.png"
        photo = np.random.default_rng(index).integers(60, 190, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        render = photo.copy()
        render[patch] = np.clip(render[patch] + 255 * value, 0, 255)
        for kind, image in (("gt", photo), ("renders", render)):
            write_png(folder / split / f"ours_{ITERATIONS}" / kind / name, image)
        per_view["LPIPS"][name], per_view["PSNR"][name] = value, 30 - 10 * value
    measured = per_view if split == "test" else {"train": per_view}
    write_json(folder / "per_view.json", {f"ours_{ITERATIONS}": measured})


@pytest.fixture
def evaluated(tmp_path):
    """Three rows, two of them with two seeds; views 1, 3 and 4 differ most between the rows."""
    patch = (slice(50, 80), slice(20, 50))
    for row, gain, seeds in (("3dgs", 0.0, (0, 1)), ("tag", 0.1, (0, 1)), ("small", 0.3, (0,))):
        for seed in seeds:
            size = int(4000 * (1 - 3 * gain)) + 10 * seed
            folder = write_run(tmp_path, row=row, seed=seed, psnr=27 - 5 * gain + seed / 9, gaussians=size)
            add_images(folder, [0.1, 0.1 + gain, 0.12, 0.1 + 2 * gain, 0.1 + 1.5 * gain], patch)
    return tmp_path


def colors(path):
    return len(np.unique(read_image(path).reshape(-1, 3), axis=0))


def test_every_scene_gets_its_plots(evaluated):
    rows = tables.read_rows(evaluated)
    drawn = plots.draw_all(evaluated, rows)
    names = ["fox_quality.png", "fox_test_00003.png", "fox_test_00004.png", "fox_test_00001.png"]
    assert drawn == [evaluated / "plots" / name for name in names]
    for path in drawn:
        height, width, _ = read_image(path).shape
        assert height > 400 and width > 800 and colors(path) > 50


def test_quality_shows_every_row_at_its_mean_with_its_range(evaluated):
    rows = tables.read_rows(evaluated)
    figure = plots.quality_against_size("fox", rows, ["3dgs", "small", "tag"])
    assert [axes.get_title().split()[0] for axes in figure.axes] == ["PSNR", "SSIM", "LPIPS"]
    axes = figure.axes[0]
    assert {text.get_text() for text in axes.texts} == {"3dgs", "tag", "small"}
    places = {(container[0].get_xdata()[0], container[0].get_ydata()[0]) for container in axes.containers}
    means = {(mean["size_bytes"] / 1e6, mean["test_PSNR"]) for mean in tables.over_seeds(rows)}
    assert places == means
    (_, _, bars) = axes.containers[0]
    ends = bars[1].get_segments()[0][:, 1]
    assert ends == pytest.approx([27, 27 + 1 / 9])


def test_labels_keep_clear_of_each_other(tmp_path):
    names = [f"a_long_name_{index}" for index in range(8)]
    for index, row in enumerate(names):
        write_run(tmp_path, row=row, psnr=25 + 0.02 * index, gaussians=1000 + 5 * index)
    figure = plots.quality_against_size("fox", tables.read_rows(tmp_path), names)
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) == 8
        for index, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_a_row_looks_the_same_in_every_scene():
    row = dict.fromkeys(tables.NUMBERS, 1.0) | dict.fromkeys(("commit", "machine", "command", "folder"), "")
    rows = [row | {"row": name, "seed": 0, "scene": "fox"} for name in ("3dgs", "tag")]
    both = plots.quality_against_size("fox", rows, ["3dgs", "tag"])
    one = plots.quality_against_size("fox", rows[1:], ["3dgs", "tag"])
    markers = [figure.axes[0].containers[-1][0] for figure in (both, one)]
    assert markers[0].get_color() == markers[1].get_color()
    assert markers[0].get_marker() == markers[1].get_marker()


def test_what_was_not_measured_is_not_drawn(tmp_path):
    write_run(tmp_path, row="3dgs", measures={"LPIPS": None})
    figure = plots.quality_against_size("fox", tables.read_rows(tmp_path), ["3dgs"])
    assert len(figure.axes) == 2
    (tmp_path / "fox" / "3dgs" / "seed_0" / "results.json").unlink()
    assert plots.draw_all(tmp_path, tables.read_rows(tmp_path)) == []


def test_views_are_chosen_by_psnr_or_from_training_if_need_be(tmp_path):
    patch = (slice(0, 9), slice(0, 9))
    for row, values in (("3dgs", [0.1, 0.1]), ("tag", [0.1, 0.3])):
        add_images(write_run(tmp_path, row=row), values, patch, split="train")
    rows = tables.read_rows(tmp_path)
    assert plots.most_different_views(tmp_path, rows, 1) == [("train", "00001.png")]
    assert plots.most_different_views(tmp_path, rows[:1]) == []
    for row in rows:
        path = tmp_path / row["folder"] / "per_view.json"
        values = read_json(path)
        values["ours_7000"]["train"]["LPIPS"] = dict.fromkeys(values["ours_7000"]["train"]["LPIPS"])
        write_json(path, values)
    assert plots.most_different_views(tmp_path, rows, 1) == [("train", "00001.png")]


def test_the_window_is_where_images_differ():
    images = np.zeros((3, 100, 200, 3), np.float32)
    images[1, 70:80, 150:160] = 1
    images[2, :20, :20] = 0.1
    rows, columns = plots.most_different_window(images)
    assert rows.start <= 70 and rows.stop >= 80 and columns.start <= 150 and columns.stop >= 160
    assert rows.stop - rows.start == columns.stop - columns.start == 40
    whole = plots.most_different_window(np.zeros((2, 10, 20, 3)))  # smaller than a window
    assert whole == (slice(0, 10), slice(0, 10))


def test_pictures_that_are_gone_or_of_another_size_are_left_out(evaluated):
    rows = tables.read_rows(evaluated)
    write_png(evaluated / rows[0]["folder"] / "test" / "ours_7000" / "renders" / "00001.png",
              np.zeros((9, 9, 3), np.uint8))  # fmt: skip
    firsts = [row for row in rows if row["seed"] == 0]
    (evaluated / "fox" / "small" / "seed_0" / "test" / "ours_7000" / "renders" / "00001.png").unlink()
    titles = [axes.get_title() for axes in plots.side_by_side(evaluated, firsts, "test", "00001.png").axes]
    assert "photo" in titles and "tag" in titles and not {"3dgs", "small"} & set(titles)
    assert plots.side_by_side(evaluated, firsts, "test", "00099.png") is None
