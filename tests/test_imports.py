"""Imports point one way: commands -> subfunction, gaussian_model, scene -> utils -> submodules."""

import ast
import sys

COMMANDS = {"train", "render", "metrics", "full_eval", "report", "convert", "view", "export"}
RUNS = {"training_run", "density_control", "monitoring", "viewing", "run_origin", "evaluation_plan"}  # what commands are made of
UPPER = COMMANDS | RUNS | {"subfunction", "gaussian_model", "scene"}
PROJECT = UPPER | {"utils", "arguments"}
FORBIDDEN = {"scene": UPPER - {"scene"}, "utils": UPPER, "submodules": PROJECT,
             "subfunction.py": COMMANDS | RUNS, "gaussian_model.py": COMMANDS | RUNS | {"subfunction"},
             **dict.fromkeys([f"{name}.py" for name in sorted(RUNS)], COMMANDS)}  # fmt: skip


def imported(path):
    """Top-level names of the absolute imports of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def test_imports_point_one_way(project_dir):
    for room, forbidden in FORBIDDEN.items():
        place = project_dir / room
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            assert not set(imported(path)) & forbidden, path


def test_arguments_needs_the_standard_library_only(project_dir):
    for path in (project_dir / "arguments").glob("*.py"):
        assert set(imported(path)) <= sys.stdlib_module_names, path


def test_no_module_above_the_kernels_names_a_device(project_dir):
    for path in [*project_dir.glob("*.py"), *project_dir.glob("utils/*.py"), *project_dir.glob("scene/*.py")]:
        assert '"cuda' not in path.read_text(encoding="utf-8"), path
