"""report.py on folders as train.py, render.py and metrics.py leave them."""

from __future__ import annotations

import base64
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

import report
from utils import charts, report_page
from utils.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Chart
from utils.images import write_png

HOSTILE = '<script>alert("1")</script>\'&amp;'
VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects attributes and text; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag, css=None):
        return [
            a for name, a in self.tags if name == tag and (css is None or css in a.get("class", "").split())
        ]


# A run


def histogram(counts=(1, 2, 1), scale="linear"):
    edges = [0.0, 0.25, 0.5, 1.0] if scale == "linear" else [0.001, 0.1, 10, 1000]
    return {"edges": edges, "counts": list(counts), "scale": scale}


def history():
    return {
        "version": 1,
        "progress": [[10 * i, 0.5 / i, 20 + i / 10, 1000 + i, i] for i in range(1, 101)],
        "steps": [
            {"iteration": 600, "cloned": 300, "split": 100, "pruned": 200, "gaussians": 1200},
            {"iteration": 700, "cloned": 50, "split": 0, "pruned": 0, "gaussians": 1250},
        ],
        "distributions": [
            {
                "iteration": iteration,
                "values": {
                    "E_k": histogram(scale="log"),
                    "opacity": histogram(),
                    "s_k": histogram(),
                    "age": histogram(),
                },
                "floaters": {"low_opacity": 0.03, "near_camera": 0.01},
            }
            for iteration in (400, 800)
        ],
    }


def config(**changes):
    return {
        "finished": True,
        "iteration": 1000,
        "timing": {"training_seconds": 125.0, "iterations_per_second": 8.0},
        "views": {"train": 8, "test": 4},
        "measures": {"1000": {"test": {"L1": 0.0321, "PSNR": 27.25, "views": 4}, "gaussians": 77}},
        "seed": 5,
        "versions": {"commit": "c0ffee", "torch": "2.9"},
        "machine": {"processor": "Abacus 3"},
        "settings": {"source_path": "/scenes/barn", "variant": "tag", "iterations": 1000, "growth_cap": 0.1},
        "given": ["growth_cap"],
        "variant_values": {"growth_cap": 0.05, "tag_lifespan": 300},
        "peak_memory_bytes": 1_500_000_000,
    } | changes


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


COLOUR = (200, 60, 120)


def error_of(split, view):
    """Levels out of 255 by which a render of `add_pictures` is off everywhere."""
    return 5 * (view + 1) + (split == "train")


def add_pictures(folder, iteration=1000, counts=(4, 8), size=(30, 40)):
    for split, count in zip(("test", "train"), counts):
        for view in range(count):
            for kind, off in (("gt", 0), ("renders", error_of(split, view))):
                picture = np.full((*size, 3), COLOUR, np.uint8) - np.uint8(off)
                write_png(folder / split / f"ours_{iteration}" / kind / f"{view:05d}.png", picture)


@pytest.fixture
def run(tmp_path):
    """A finished run with everything."""
    write(tmp_path / "cfg_args", "Namespace(source_path='/scenes/barn')")
    write(tmp_path / "config.json", config())
    write(tmp_path / "history.json", history())
    write(tmp_path / "cameras.json", [{"img_name": f"photo_{i}.jpg"} for i in range(12)])
    results = {"SSIM": 0.81, "PSNR": 28.5, "LPIPS": None, "views": {"test": 4, "train": 8}}
    write(
        tmp_path / "results.json",
        {"ours_1000": results | {"train": {"SSIM": 0.9, "PSNR": 31.0, "LPIPS": None}}},
    )
    psnr = {f"{view:05d}.png": value for view, value in enumerate((25.0, 35.0, 22.0, None))}  # None: infinite
    write(tmp_path / "per_view.json", {"ours_1000": {"PSNR": psnr, "train": {}}})
    ply = tmp_path / "point_cloud" / "iteration_1000" / "point_cloud.ply"
    ply.parent.mkdir(parents=True)
    ply.write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement vertex 4321\nend_header\n" + bytes(1_199_932)
    )
    add_pictures(tmp_path)
    return tmp_path


def made(folder, *arguments):
    report.main(["-m", str(folder), "--quiet", *arguments])
    return Page((folder / "report.html").read_text(encoding="utf-8"))


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
        "Not finished" not in page.text and "no pictures" not in page.text and "Not recorded" not in page.text
    )
    titles = " ".join(a["aria-label"] for a in page.all("svg"))
    for chart in (
        "Loss",
        "PSNR",
        "Number of Gaussians",
        "born and pruned",
        "Error E_k",
        "Importance s_k",
        "floaters",
    ):
        assert chart in titles
    assert len(page.all("svg")) == 9 and all(a["role"] == "img" for a in page.all("svg"))


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


def test_empty_lists_are_explained(run):
    write(run / "history.json", {"version": 1, "progress": [], "steps": [], "distributions": []})
    page = made(run)
    for words in ("No iteration was recorded", "no densification or pruning step", "None were recorded"):
        assert words in page.text
    assert not page.all("svg")


def test_a_variant_without_some_distributions(run):
    changed = history()
    for moment in changed["distributions"]:
        del moment["values"]["s_k"], moment["values"]["E_k"], moment["floaters"]
        moment["values"]["extra"] = histogram()
        moment["values"]["age"]["counts"] = [0, 0, 0]
    write(run / "history.json", changed)
    page = made(run)
    labels = [a["aria-label"] for a in page.all("svg")][4:]
    assert labels == ["Distribution of Opacity over iterations", "Distribution of extra over iterations"]
    assert "Not recorded in this run: Error E_k, Importance s_k." in page.text


def test_nothing_measured_is_a_gap(run):
    changed = history()
    for row in changed["progress"]:
        row[1] = None
    changed["progress"][3][2] = None
    changed["progress"][4] = [50, math.nan, math.nan, None, None]  # Python's json writes and reads NaN
    write(run / "history.json", json.dumps(changed).replace("NaN", "null"))
    labels = [a["aria-label"] for a in made(run).all("svg")]
    assert not any("Loss" in label for label in labels) and any("PSNR" in label for label in labels)


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


def test_only_training_views(run):
    for path in run.glob("test/ours_1000/*/*.png"):
        path.unlink()
    page = made(run)
    assert "There are no pictures of these views" in page.text
    assert len(page.all("img")) == 3 * 6


# Pictures


def decode(uri):
    return cv2.imdecode(np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)[
        ..., ::-1
    ]


def test_pictures_errors_and_captions(run):
    page = made(run)
    images = page.all("img")
    assert len(images) == 3 * (4 + 3)  # fewer of the training views
    order = [a["alt"] for a in images if a["alt"].startswith("render")]
    held_out = [f"render of {view:05d} (photo_{view}.jpg)" for view in (2, 0, 1, 3)]  # by PSNR, worst first
    training = [f"render of {view:05d} (photo_{view + 4}.jpg)" for view in (0, 4, 7)]
    assert order == held_out + training
    render, photo, error = (decode(a["src"]) for a in images[:3])  # of held-out view 2
    for picture, off in ((render, error_of("test", 2)), (photo, 0)):
        assert np.abs(picture.reshape(-1, 3).mean(0) - (np.array(COLOUR) - off)).max() < 3
    level = round(error_of("test", 2) / 255 / 0.2 * 255)  # 41 / 255 is the largest error: 0.2 is full scale
    expected = cv2.applyColorMap(np.full((1, 1), level, np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
    assert np.abs(error.reshape(-1, 3).mean(0) - expected).max() < 6
    assert "0.2 or more. Error: difference" in page.text
    assert "00002 (photo_2.jpg) PSNR 22.00 dB · error 0.0588" in page.text


def test_views_are_evenly_spaced_by_psnr():
    numbers = {view: -float(view) for view in range(11)}
    assert report_page.choose_views(list(range(11)), numbers, 6) == [10, 8, 6, 4, 2, 0]
    assert report_page.choose_views(list(range(11)), {0: 1.0}, 6) == [0, 2, 4, 6, 8, 10]
    assert report_page.choose_views([3], {}, 6) == [3]
    assert report_page.choose_views([], {}, 6) == []


def test_the_newest_rendered_iteration_unless_another_is_asked_for(run):
    add_pictures(run, 400, counts=(1, 0))
    assert len(made(run).all("img")) == 21
    assert len(made(run, "--iteration", "400").all("img")) == 3


def test_large_pictures_shrink_and_small_ones_stay(run):
    assert (made(run).all("img")[0]["width"], made(run).all("img")[0]["height"]) == ("40", "30")
    add_pictures(run, 2000, counts=(1, 0), size=(1200, 900))
    assert (made(run).all("img")[0]["width"], made(run).all("img")[0]["height"]) == ("375", "500")


# Charts


def test_known_points_lie_where_they_should():
    chart = Chart("test", Axis(0, 1000), Axis(0.01, 100, log=True))
    chart.line([(0, 0.01), (500, 1.0), (1000, 100)], "c1")
    middle = (LEFT + (WIDTH - LEFT - RIGHT) / 2, TOP + (HEIGHT - TOP - BOTTOM) / 2)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    expected = f"M{LEFT:.1f} {bottom:.1f}L{middle[0]:.1f} {middle[1]:.1f}L{right:.1f} {TOP:.1f}"
    assert f'd="{expected}"' in chart.svg()


def boxes(page, css):
    """(left, top, width, height) of all rectangles of a class."""
    return [tuple(float(a[name]) for name in ("x", "y", "width", "height")) for a in page.all("rect", css)]


def test_bars_of_births_and_prunings(run):
    page = made(run)
    scale = (HEIGHT - TOP - BOTTOM) / 600  # the axis goes from -200 to 400
    bars = {css: boxes(page, css) for css in ("c1", "c2", "c3")}
    zero = HEIGHT - BOTTOM - 200 * scale
    cloned, split, pruned = bars["c1"][0], bars["c2"][0], bars["c3"][0]
    assert [len(those) for those in bars.values()] == [2, 1, 1]  # nothing is drawn for none
    assert cloned[1] + cloned[3] == pytest.approx(zero, abs=0.1) and cloned[3] == pytest.approx(
        300 * scale, abs=0.1
    )
    assert split[1] == pytest.approx(TOP, abs=0.1) and split[3] == pytest.approx(100 * scale, abs=0.1)
    assert pruned[1] == pytest.approx(zero, abs=0.1) and pruned[3] == pytest.approx(200 * scale, abs=0.1)
    assert cloned[0] + cloned[2] / 2 == pytest.approx(LEFT + 0.6 * (WIDTH - LEFT - RIGHT), abs=0.1)
    assert "iteration 600: 300 cloned, 100 split, 200 pruned; then 1,200 Gaussians" in page.text


def test_heat_strip_shows_shares(run):
    changed = history()
    for moment, counts in zip(changed["distributions"], ((4, 0, 0), (0, 3, 1))):
        moment["values"] = {"opacity": histogram(counts)}
    changed["distributions"][0]["iteration"] = 600
    write(run / "history.json", changed)
    page = made(run)
    cells = page.all("rect", "cell")
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    lefts, tops, widths, heights = zip(*boxes(page, "cell"))
    starts = (LEFT + 0.5 * wide, LEFT + 0.7 * wide, LEFT + 0.7 * wide)
    assert lefts == pytest.approx(starts, abs=0.1)
    assert widths == pytest.approx((0.2 * wide, 0.3 * wide, 0.3 * wide), abs=0.11)  # from 500, 700 to 1000
    assert tops == pytest.approx((TOP + 0.75 * high, TOP + 0.5 * high, TOP), abs=0.1)
    assert heights == pytest.approx((0.25 * high, 0.25 * high, 0.5 * high), abs=0.11)
    full = float(np.quantile([1, 0.75, 0.25], 0.98))
    strengths = [min(1, math.sqrt(share / full)) for share in (1, 0.75, 0.25)]
    assert [float(a["opacity"]) for a in cells] == pytest.approx(strengths, abs=0.006)
    assert "iteration 800: median 0.417, eight in ten between 0.283 and 0.8" in page.text


@pytest.mark.parametrize(
    "axis, labels",
    [
        (Axis(0, 7000), ["0", "2k", "4k", "6k"]),
        (Axis(0, 2_500_000), ["0", "500k", "1M", "1.5M", "2M", "2.5M"]),
        (Axis(-200, 400), ["−200", "0", "200", "400"]),
        (Axis(0, 0.1, percent=True), ["0 %", "2 %", "4 %", "6 %", "8 %", "10 %"]),
        (Axis(0.018, 0.55, log=True), ["0.02", "0.05", "0.1", "0.2", "0.5"]),
        (Axis(2e-7, 3e-4, log=True), ["10⁻⁶", "10⁻⁵", "10⁻⁴"]),
        (Axis(1e-10, 1e10, log=True), ["10⁻⁹", "10⁻⁶", "0.001", "1", "1k", "1M", "1000M"]),
        (Axis(0.0212, 0.0244, log=True), ["0.022", "0.023", "0.024"]),
    ],
)
def test_ticks_are_round(axis, labels):
    assert [axis.label(value) for value in axis.ticks()] == labels


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values", [[0.0], [5.0], [-3.0], [7.0, 7.0], [1e-12, 1e12], [-1e290, 1e290], [5e-324], [0, 0.3]]
)
def test_axes_hold_their_values(values, log, zero):
    axis = Axis.over(values, zero, log)
    assert axis.low < axis.high
    assert all(0 <= axis.share(value) <= 1 for value in values)
    assert len(axis.ticks()) <= 12 and all(map(math.isfinite, axis.ticks()))
    if zero and not axis.log:
        assert axis.low <= 0 <= axis.high
    for value in values if not axis.log else ():
        assert axis.low <= value <= axis.high


def test_small_numbers_read_well():
    assert [charts.short(value) for value in (0, 5e-6, 1e-4, 0.02, 999, 1500, -20_000)] == [
        "0", "5·10⁻⁶", "10⁻⁴", "0.02", "999", "1.5k", "−20k",
    ]  # fmt: skip


def test_running_mean_shortens_at_the_ends():
    assert charts.running_mean([1, 2, 6, 3], 3).tolist() == [1.5, 3, 11 / 3, 4.5]
    assert charts.running_mean([4], 5).tolist() == [4]


def test_quantiles_of_a_histogram():
    edges, counts = [0, 1, 2, 4, 8], [0, 2, 2, 0]
    assert [charts.quantile(edges, counts, q) for q in (0, 0.25, 0.5, 0.75, 1)] == [1, 1.5, 2, 3, 4]


def test_bins_without_width_are_drawn(run):
    changed = history()
    for moment in changed["distributions"]:  # edges as they are when rounding makes them equal
        moment["values"] = {"opacity": {"edges": [0.1, 0.1, 0.1], "counts": [3, 5], "scale": "linear"}}
    write(run / "history.json", changed)
    assert "iteration 400: median 0.1, eight in ten between 0.1 and 0.1" in made(run).text


def test_many_points_are_thinned_but_keep_their_ends():
    chart = Chart("test", Axis(0, 1e5), Axis(0, 1))
    chart.dots([(x, 0.5) for x in range(100_001)], "c1")
    path = re.search(r'd="([^"]+)"', chart.marks[0]).group(1)
    assert path.count("h") == charts.MOST_DOTS
    assert path.startswith(f"M{LEFT:.1f} ") and f"M{WIDTH - RIGHT:.1f} " in path


# Bad input


def damaged(part, index, **changes):
    bad = history()
    bad[part][index] |= changes
    return bad


BAD_HISTORIES = {
    "not JSON": ("{", "not readable as JSON"),
    "nested too deeply": ("[" * 200_000, "not readable as JSON"),
    "no object": ("[]", "expected a JSON object"),
    "another version": ({"version": 2}, "expected version 1, got 2"),
    "no list": ({"version": 1, "steps": {}}, "expected 'steps' to be a list"),
    "short row": ({"version": 1, "progress": [[1, 2, 3]]}, r"progress\[0\] is damaged"),
    "text in a row": ({"version": 1, "progress": [[1, "x", 2, 3, 4]]}, r"progress\[0\] is damaged"),
    "no iteration": ({"version": 1, "progress": [[None, 1, 2, 3, 4]]}, r"progress\[0\] is damaged"),
    "text in a step": (damaged("steps", 1, pruned="many"), r"steps\[1\] is damaged"),
    "huge number": (damaged("steps", 0, pruned=10**400), r"steps\[0\] is damaged"),
    "values no object": (damaged("distributions", 1, values=[1]), r"distributions\[1\] is damaged"),
    "edges and counts": (damaged("distributions", 0, values={"age": histogram((1, 2))}), "is damaged"),
    "negative count": (damaged("distributions", 0, values={"age": histogram((1, -2, 5))}), "is damaged"),
    "edges fall": (
        damaged("distributions", 0, values={"age": {"edges": [1, 0], "counts": [1]}}),
        r"distributions\[0\] is damaged",
    ),
    "floaters": (damaged("distributions", 0, floaters={"low_opacity": "all"}), r"distributions\[0\]"),
}


@pytest.mark.parametrize("bad, message", BAD_HISTORIES.values(), ids=BAD_HISTORIES.keys())
def test_damaged_histories_are_refused(run, bad, message):
    write(run / "history.json", bad)
    with pytest.raises(ValueError, match=message):
        made(run)
    assert not (run / "report.html").exists()


def test_bad_folders_pictures_and_flags_are_refused(run, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        made(run / "nowhere")
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        made(tmp_path_factory.mktemp("empty"))
    with pytest.raises(FileNotFoundError, match="iteration 5 is neither rendered nor saved, only 1000"):
        made(run, "--iteration", "5")
    with pytest.raises(ValueError, match="results.json: expected a JSON object"):
        write(run / "results.json", [])
        made(run)
    (run / "results.json").unlink()
    picture = run / "test" / "ours_1000" / "gt" / "00002.png"
    write_png(picture, np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(ValueError, match="00002.png differ in size"):
        made(run)
    picture.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="00002.png"):
        made(run)
    assert not (run / "report.html").exists()


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
