"""Imports point one way: commands, training and evaluation, viewer, model and scene, utils, submodules."""

import ast
import sys

import pytest

COMMANDS = {"train", "render", "metrics", "convert", "full_eval", "export", "view", "report"}
# Each room may import from the rooms below it and from itself; arguments is below all of them.
ROOMS = [
    COMMANDS,
    {"training", "evaluation"},
    {"viewer"},
    {"subfunction", "gaussian_model", "scene"},
    {"utils"},
    {"arguments"},
]


def imported(path):
    """The top-level names of the absolute imports of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def files_of(project_dir, name):
    file = project_dir / f"{name}.py"
    return [file] if file.is_file() else sorted((project_dir / name).rglob("*.py"))


@pytest.mark.parametrize("level", range(len(ROOMS)))
def test_imports_point_one_way(project_dir, level):
    above = set().union(*ROOMS[:level])
    for name in sorted(ROOMS[level]):
        files = files_of(project_dir, name)
        assert files, name
        for path in files:
            assert not set(imported(path)) & (above | (ROOMS[level] & COMMANDS)), path


def test_training_and_evaluation_do_not_know_each_other(project_dir):
    for name, other in (("training", "evaluation"), ("evaluation", "training")):
        for path in files_of(project_dir, name):
            assert other not in set(imported(path)), path


def test_the_model_does_not_know_the_policy(project_dir):
    for path in files_of(project_dir, "gaussian_model") + files_of(project_dir, "scene"):
        assert not set(imported(path)) & {"subfunction"}, path


def test_the_kernels_know_nothing_of_the_project(project_dir):
    for path in (project_dir / "submodules").rglob("*.py"):
        assert not set(imported(path)) & set().union(*ROOMS), path


def test_every_python_file_of_the_top_level_is_in_a_room(project_dir):
    assert {path.stem for path in project_dir.glob("*.py")} <= set().union(*ROOMS)


def test_arguments_needs_the_standard_library_only(project_dir):
    for path in files_of(project_dir, "arguments"):
        assert set(imported(path)) <= sys.stdlib_module_names, path


def test_no_module_above_the_kernels_names_a_device(project_dir):
    for name in sorted(set().union(*ROOMS)):
        for path in files_of(project_dir, name):
            assert '"cuda' not in path.read_text(encoding="utf-8"), path
