"""The documents' flags and links exist, their lines wrap, and their means follow from docs/data."""

import csv
import re
import subprocess
import sys
from decimal import Decimal

import pytest
from test_help import COMMANDS, parser_of

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/conventions.md", "docs/experiments.md", "docs/formats.md")
DOCUMENTS += (
    "docs/from-3dgs.md",
    "docs/gpu.md",
    "docs/method.md",
    "docs/photos-to-browser.md",
    "docs/results.md",
)
DOCUMENTS += ("docs/scenes.md", "benchmarks/RESULTS.md")
COLUMNS = 100  # of a line of prose


def flags_of(command):
    return {flag for action in parser_of(command)._actions for flag in action.option_strings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(project_dir, name):
    document = project_dir / name
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert target.startswith("http") or (document.parent / target).exists(), target


def anchors_of(text):
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_anchors_are_headings(project_dir, name):
    document = project_dir / name
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text(encoding="utf-8")):
        linked = document.parent / target if target else document
        assert anchor in anchors_of(linked.read_text(encoding="utf-8")), f"{target}#{anchor}"


def prose_of(text):
    """Return the lines of a document without its tables, code blocks and lines that are one link."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    link = re.compile(r"[-* ]*!?\[[^\]]*\]\([^)]*\)[.,;:]?")
    lines = text.splitlines()
    return [line for line in lines if not line.startswith(("|", "    ")) and not link.fullmatch(line)]


def test_prose_wraps(project_dir):
    folders = ("*.md", "benchmarks/*.md", "data/*/*.md", "docs/*.md", "submodules/*/*.md")
    documents = [path for folder in folders for path in project_dir.glob(folder)]
    assert {"README.md", "RESULTS.md", "method.md"} <= {path.name for path in documents}
    for path in documents:
        long = [line for line in prose_of(path.read_text(encoding="utf-8")) if len(line) > COLUMNS]
        assert not long, (path, long)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_called_commands_know_their_flags(project_dir, name):
    text = (project_dir / name).read_text(encoding="utf-8").replace("\\\n", " ")
    for command, arguments in re.findall(r"python (\w+)\.py +([^\n`#]*)", text):
        if command in COMMANDS:
            ours, _, of_train = arguments.partition(" -- ")
            of_train += " ".join(["", *re.findall(r'="([^"]*)"', ours)])  # SCENE="FLAGS", ROW="VARIANT FLAGS"
            for part, of in ((re.sub(r'="[^"]*"', "", ours), command), (of_train, "train")):
                found = {flag for flag in re.findall(r"(?<=\s)-{1,2}[a-zA-Z]\w*", f" {part}")}
                assert found <= flags_of(of) | {"--variants"}, (command, found - flags_of(of))


def test_the_table_of_flags_beside_3dgs_is_right(project_dir):
    text = (project_dir / "docs" / "from-3dgs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)\.py` \| (.*?) \| (.*?) \|$", text, re.M)
    assert {row[0] for row in rows} == {"train", "render", "metrics", "full_eval", "convert"}
    for command, *cells in rows:
        named = set(re.findall(r"(?<![\w`])-{1,2}[a-zA-Z]\w*|(?<=`)-{1,2}[a-zA-Z]\w*", " ".join(cells)))
        assert named and named <= flags_of(command), (command, named - flags_of(command))


def rows_of(project_dir, name):
    with (project_dir / "docs" / "data" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assert_is_mean(shown, values):
    """The shown number, such as "153,930", ".9165" or "19.9 %", is the mean of `values` to its last digit."""
    shown = Decimal(shown.replace(",", "").replace(" %", ""))
    half = Decimal(5).scaleb(shown.as_tuple().exponent - 1)
    assert abs(sum(values) / len(values) - shown) <= half, (shown, values)


class Means:
    """The rows of two seeds by scene and variant; `column` returns their numbers."""

    def __init__(self, project_dir):
        self.rows = rows_of(project_dir, "results.csv")

    def column(self, scene, variant, name):
        found = [row for row in self.rows if (row["scene"], row["row"]) == (scene, variant)]
        assert [row["seed"] for row in found] == ["0", "1"], (scene, variant)
        return [Decimal(row[name]) for row in found]

    def shares(self, scene, variant):
        whole = self.column(scene, "3dgs", "gaussians")
        return [200 * count / sum(whole) for count in self.column(scene, variant, "gaussians")]


def test_the_table_of_means_follows_from_the_rows(project_dir):
    text, means = (project_dir / "docs" / "results.md").read_text(encoding="utf-8"), Means(project_dir)
    table = text[text.index("| scene | variant | Gaussians |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 4 * 3
    for line in table:
        scene, variant, gaussians, share, psnr, ssim, lpips, minutes = line.strip("| ").split(" | ")
        columns = {"gaussians": gaussians, "test_PSNR": psnr, "test_SSIM": ssim, "test_LPIPS": lpips}
        for name, shown in (columns | {"training_minutes": minutes}).items():
            assert_is_mean(shown, means.column(scene, variant.strip("`"), name))
        assert_is_mean(share, means.shares(scene, variant.strip("`")))


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_table_of_the_method_follows_from_the_rows(project_dir, page):
    text, rows = (project_dir / page).read_text(encoding="utf-8"), rows_of(project_dir, "method_and_3dgs.csv")
    lines = text[text.index("| scene | `3dgs` |") :].split("\n\n")[0].splitlines()[2:]
    assert len(lines) == 6
    for line in lines:
        scene, *cells, share = line.strip("| ").split(" | ")
        scene = {"chair": "chair_blender"}.get(scene, scene.split(",")[0])
        counts = []
        for variant, cell in zip(("3dgs", "tag_gradprune_decomp"), cells, strict=True):
            found = [row for row in rows if (row["scene"], row["row"]) == (scene, variant)]
            numbers = re.fullmatch(r"([\d,]+): ([\d.]+)(?: dB)? / ([\d.]+) / ([\d.]+)", cell.replace("*", ""))
            names = ("gaussians", "test_PSNR", "test_SSIM", "test_LPIPS")
            for name, shown in zip(names, numbers.groups(), strict=True):
                assert_is_mean(shown, [Decimal(row[name]) for row in found])
            counts.append(sum(int(row["gaussians"]) for row in found) / len(found))
        assert share == f"{100 * counts[1] / counts[0]:.0f} %"


def test_differences_at_equal_count_follow_from_the_rows(project_dir):
    text = (project_dir / "docs" / "results.md").read_text(encoding="utf-8")
    rows = rows_of(project_dir, "equal_count_differences.csv")
    table = text[text.index("| scene | `tag_gradprune`, E_k") :].split("\n\n")[0].splitlines()[2:]
    kinds = ("tag_gradprune", *(f"tag_gradprune_decomp{kind}" for kind in ("", "_budget", "_fineness")))
    assert len(table) == 4
    for line in table:
        scene, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        scene = {"chair": "chair_blender"}.get(scene, scene)
        for kind, cell in zip(kinds, cells, strict=True):
            seeds = [row for row in rows if (row["scene"], row["row"]) == (scene, kind)]
            assert len(seeds) == (2 if cell else 0)
            for name, shown in zip(("PSNR", "SSIM", "LPIPS"), cell.split(" / ") if cell else ()):
                assert_is_mean(shown, [Decimal(row[name]) for row in seeds])


def plot_results(project_dir, rows, plot):
    pytest.importorskip("matplotlib")
    command = [sys.executable, "scripts/plot_results.py", str(rows), str(plot)]
    return subprocess.run(command, cwd=project_dir, capture_output=True, text=True)


def test_the_plot_of_the_results_can_be_drawn(project_dir, tmp_path):
    result = plot_results(project_dir, "docs/data/results.csv", tmp_path / "plot.png")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_does_not_replace_its_rows(project_dir, tmp_path):
    (tmp_path / "rows.csv").write_text("scene,row\n")
    result = plot_results(project_dir, tmp_path / "rows.csv", tmp_path / "rows.csv")
    assert result.returncode == 2 and "rows.csv: expected the name of a PNG" in result.stderr
    assert (tmp_path / "rows.csv").read_text() == "scene,row\n"


def test_a_plot_needs_the_baseline(project_dir, tmp_path):
    (tmp_path / "rows.csv").write_text("scene,row,gaussians,test_PSNR\nfox,tag,9,30\n")
    result = plot_results(project_dir, tmp_path / "rows.csv", tmp_path / "plot.png")
    assert result.returncode == 2 and "scene fox: expected rows of 3dgs, got none" in result.stderr
    assert not (tmp_path / "plot.png").exists()
