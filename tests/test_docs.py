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


def triple(rows):
    """Pattern and check of a cell such as `18,518: **29.74 dB** / **.9394** / **.0760**`."""
    assert rows

    def check(cell):
        numbers = re.fullmatch(r"([\d,]+): ([\d.]+)(?: dB)? / ([\d.]+) / ([\d.]+)", cell.replace("*", ""))
        names = ("gaussians", "test_PSNR", "test_SSIM", "test_LPIPS")
        for name, shown in zip(names, numbers.groups(), strict=True):
            assert_is_mean(shown, [Decimal(row[name]) for row in rows])

    return check


def tables_under(text, header):
    """The rows of every table with this header, as lists of cells."""
    for part in text.split(header)[1:]:
        lines = part.split("\n\n")[0].splitlines()[2:]
        yield [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def scene_of(cell):
    """The scene of results.csv that a table's first cell names."""
    name = cell.split(",")[0].replace("`", "")
    return re.sub("^chair", "chair_blender", name)


METHOD_HEADER = "| scene | `3dgs` | the method | of `3dgs` |"


@pytest.mark.parametrize(("page", "lengths"), [("README.md", [6]), ("docs/results.md", [6, 3, 2, 4])])
def test_the_tables_of_the_method_follow_from_the_rows(project_dir, page, lengths):
    text, rows = (project_dir / page).read_text(encoding="utf-8"), rows_of(project_dir, "results.csv")
    tables = list(tables_under(text, METHOD_HEADER))
    assert [len(table) for table in tables] == lengths
    for number, table in enumerate(tables):
        length = " 3000" if number == 1 else ""
        for scene, *cells, share in table:
            counts = []
            for variant, cell in zip(("3dgs", "tag_gradprune_decomp"), cells, strict=True):
                known = (scene_of(scene) + length, variant)
                found = [row for row in rows if (row["scene"], row["row"]) == known]
                triple(found)(cell)
                counts.append(sum(int(row["gaussians"]) for row in found) / len(found))
            assert share == f"{100 * counts[1] / counts[0]:.0f} %"


def test_bold_is_what_is_no_worse(project_dir):
    text = (project_dir / "docs" / "results.md").read_text(encoding="utf-8")
    for table in tables_under(text, METHOD_HEADER):
        for _, baseline, method, _ in table:
            theirs, ours = (re.findall(r"(?<=[:/] )\**([\d.]+)", cell) for cell in (baseline, method))
            bold = [f"**{number}" in method for number in ours]
            gains = [Decimal(own) - Decimal(other) for own, other in zip(ours, theirs, strict=True)]
            assert bold == [gains[0] >= 0, gains[1] >= 0, gains[2] <= 0], method


def test_the_tables_of_variants_follow_from_the_rows(project_dir):
    text, rows = (
        (project_dir / "docs" / "results.md").read_text(encoding="utf-8"),
        rows_of(project_dir, "results.csv"),
    )
    header = next(line for line in text.splitlines() if line.startswith("| row |"))
    scenes = [scene_of(cell.strip()) for cell in header.strip("|").split("|")[1:]]
    tables = list(tables_under(text, header))
    assert len(tables) == 1 and len(tables[0]) >= 6
    for name, *cells in tables[0]:
        for scene, cell in zip(scenes, cells, strict=True):
            known = (scene, name.replace("`", ""))
            found = [row for row in rows if (row["scene"], row["row"]) == known]
            assert bool(cell) == bool(found), (scene, name)
            if cell:
                triple(found)(cell)


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
    assert result.returncode == 2 and "expected a scene with rows of 3dgs, tag_gradprune" in result.stderr
    assert not (tmp_path / "plot.png").exists()
