"""What the documents say can be done can be done: their flags and links are there."""

import re

import pytest
from test_help import COMMANDS, parser_of

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/conventions.md", "docs/experiments.md", "docs/formats.md")
DOCUMENTS += ("docs/from-3dgs.md", "docs/method.md", "docs/photos-to-browser.md", "docs/results.md")
DOCUMENTS += ("docs/scenes.md",)


def flags_of(command):
    return {flag for action in parser_of(command)._actions for flag in action.option_strings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(project_dir, name):
    document = project_dir / name
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert target.startswith("http") or (document.parent / target).exists(), target


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
