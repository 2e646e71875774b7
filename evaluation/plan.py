"""The plan of full_eval.py: its runs, and the steps that each of them still needs."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple, Sequence

from arguments import VARIANTS, given_flags, make_settings, train_parser, without_aliases
from evaluation import tables
from scene.colmap import find_model
from scene.transforms import FILE, TRAIN_FILE
from utils import run_folder
from utils.files import read_json, refuse_foreign

# The published scenes by the image folder that they are trained on (Kerbl et al. 2023, section 7.2).
PUBLISHED = {
    "MipNeRF360": {
        "images_4": "bicycle flowers garden stump treehill",
        "images_2": "room counter kitchen bonsai",
    },
    "TanksAndTemples": {"images": "truck train"},
    "DeepBlending": {"images": "drjohnson playroom"},
}
# Flags that full_eval.py gives to train.py itself.
SET_HERE = (
    "source_path",
    "model_path",
    "variant",
    "seed",
    "threads",
    "start_checkpoint",
    "resume",
    "overwrite",
)
NAME = re.compile(r"\w[\w.+-]*")

# The steps that a run still needs: the command and its flags, by the step's name.
Steps = dict[str, list[str]]


class PlannedRun(NamedTuple):
    """The training of one variant on one scene with one seed, with its renders and metrics."""

    folder: Path
    flags: list[str]  # for train.py
    record: dict[str, Any]  # for eval.json in the run's folder

    @property
    def name(self) -> str:
        return "/".join(self.folder.parts[-3:])

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")


# Planning


def plan(options: argparse.Namespace, passed_on: list[str]) -> list[PlannedRun]:
    """Return all runs, with their flags checked.

    passed_on: flags of train.py for every run.
    Raise ValueError or OSError at the first run with bad flags.
    """
    scenes, rows = choose_scenes(options), split_named("--variants", options.variants)
    own_flags = split_named("--scene_flags", options.scene_flags)
    for name in own_flags.keys() - scenes.keys():
        raise ValueError(f"--scene_flags {name}: there is no such scene")
    runs = []
    for scene, (folder, dataset, protocol) in scenes.items():
        for row, words in rows.items():
            variant, *row_flags = words or [row]
            if variant not in VARIANTS:
                raise ValueError(f"--variants: expected one of {', '.join(VARIANTS)}, got {variant!r}")
            flags = [*passed_on, *own_flags.get(scene, []), *row_flags]
            for name in given_flags(train_parser(), flags).keys() & set(SET_HERE):
                raise ValueError(f"--{name}: full_eval.py gives this flag to train.py itself")
            flags = ["-s", str(folder), "--eval", "--test_iterations", "-1", *protocol, *flags]
            flags += ["--variant", variant]
            for seed in dict.fromkeys(options.seeds):
                names = {"dataset": dataset, "scene": scene, "row": row, "variant": variant, "seed": seed}
                runs.append(make_run(options, names, [*flags, "--seed", str(seed)]))
    return runs


def choose_scenes(options: argparse.Namespace) -> dict[str, tuple[Path, str, list[str]]]:
    """Return folder, dataset and flags of every scene, by its name.

    Published scenes that are absent are reported and left out. Raise ValueError if there is no scene, or if
    two have the same name.
    """
    found = [(folder.resolve().name, (folder, "", [])) for folder in options.scenes]
    for dataset in PUBLISHED:
        if top := getattr(options, dataset):
            found += published_scenes(dataset, top)
    scenes = dict(found)
    if len(scenes) < len(found):
        raise ValueError("two scenes have the same name, so their runs would share a folder")
    if not scenes:
        raise ValueError("which scenes? give -m360, -tat, -db or --scenes (see full_eval.py --help)")
    return scenes


def published_scenes(dataset: str, top: Path) -> list[tuple[str, tuple[Path, str, list[str]]]]:
    """Return the scenes of a dataset that are below `top`. Raise FileNotFoundError if none is."""
    images_of = {name: images for images, names in PUBLISHED[dataset].items() for name in names.split()}
    absent = [name for name in images_of if not (top / name).is_dir()]
    if len(absent) == len(images_of):
        raise FileNotFoundError(f"{top} holds no scene of {dataset}: looked for {', '.join(absent)}")
    if absent:
        print(f"Not in {top}, left out: {', '.join(absent)}")
    found = {name: images for name, images in images_of.items() if name not in absent}
    return [(name, (top / name, dataset, ["-i", images])) for name, images in found.items()]


def split_named(option: str, texts: Sequence[str]) -> dict[str, list[str]]:
    """Parse texts of the form `NAME="WORDS"` into words by name.

    The words are split as a shell splits them; a text without `=` has none. Raise ValueError if a text is
    malformed or a name is given twice.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        name, _, words = text.partition("=")
        if not NAME.fullmatch(name):
            raise ValueError(f'{option} {text}: expected NAME="...", the name of letters, digits and _ . + -')
        if name in found:
            raise ValueError(f"{option}: {name} is given twice")
        try:
            found[name] = shlex.split(words)
        except ValueError as problem:
            raise ValueError(f"{option} {text}: {problem}") from None
    return found


def make_run(options: argparse.Namespace, names: dict[str, Any], flags: list[str]) -> PlannedRun:
    given, processes = given_flags(train_parser(), flags), options.nproc_per_node
    if processes > 1:
        given = {"views_per_step": processes} | given
    make_settings(given)  # raises if a value is out of bounds
    settings = VARIANTS[names["variant"]] | given | {"source_path": str(Path(given["source_path"]).resolve())}
    settings = json.loads(json.dumps(settings))  # comparable with the settings read back from eval.json
    folder = options.output_path / names["scene"] / names["row"] / f"seed_{names['seed']}"
    launcher = (
        ["torchrun", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else ["python"]
    )
    command = shlex.join([*launcher, "train.py", *flags, "-m", str(folder)])
    return PlannedRun(folder, flags, names | {"command": command, "settings": settings})


# Steps of a run


def steps_left(run: PlannedRun, options: argparse.Namespace) -> Steps:
    """Return the steps that complete `run`, in order.

    Raise ValueError if a file of another run or program is in its place, and OSError if the scene is missing.
    """
    steps: Steps = {}
    run_folder.require_run_or_room(run.folder)
    refuse_foreign(run.folder / tables.RECORD, rb'\{\s*"dataset":')
    refuse_foreign(run.log, rb"\$ python ")
    config = run_folder.read_config(run.folder)
    start = None if options.skip_training else start_flags(run, config, options.overwrite)
    if start is not None:
        if "--overwrite" in start:
            run_folder.require_replaceable(run.folder)
        check_scene(run)
        steps["training"] = ["train.py", *run.flags, "-m", str(run.folder), *start]
        config = {}
    images = has_images(run.folder, config)
    if not (options.skip_rendering or images) and (steps or config.get("finished")):
        steps["rendering"] = ["render.py", "-m", str(run.folder)]
    lpips = ["--lpips_weights", str(options.lpips_weights)] if options.lpips_weights else []
    measured = images and is_measured(run.folder, config, bool(lpips), options.train_views)
    unmeasured = "rendering" in steps or (images and not measured)
    if unmeasured and not options.skip_metrics:
        flags = ["--skip_lpips"] if options.skip_lpips else lpips
        if options.train_views is not None:
            flags += ["--train_views", str(options.train_views)]
        steps["measuring"] = ["metrics.py", "-m", str(run.folder), *flags]
    return steps


def start_flags(run: PlannedRun, config: dict[str, Any], overwrite: bool) -> list[str] | None:
    """Return the flag that starts or resumes the training, or None if it is finished.

    Raise ValueError if the run was trained with other flags and `overwrite` is not set.
    """
    before = read_json(run.folder / tables.RECORD)
    changes = differences(before["settings"], run.record["settings"]) if before else ""
    if not before and run_folder.holds_results(run.folder):
        changes = "no eval.json says which"
    if changes and not overwrite:
        raise ValueError(
            f"{run.folder} was trained with other flags ({changes}); "
            "give another --output_path, or --overwrite to train it anew"
        )
    if changes or not before:
        return ["--overwrite"]
    if config.get("finished"):
        return None
    return ["--resume"]


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Describe changed settings, as in `--iterations was 7000, is 30000`; empty if none changed."""
    before, now = without_aliases(before), without_aliases(now)
    names = [name for name in before | now if before.get(name) != now.get(name)]
    absent = "not given"
    return ", ".join(f"--{name} was {before.get(name, absent)}, is {now.get(name, absent)}" for name in names)


def check_scene(run: PlannedRun) -> None:
    """Raise FileNotFoundError if the run's scene is incomplete, before the first run trains for hours."""
    folder = Path(run.record["settings"]["source_path"])
    images = folder / run.record["settings"].get("images", "images")
    if not folder.is_dir():
        raise FileNotFoundError(f"scene folder not found: {folder}")
    if find_model(folder) is None and not any((folder / name).is_file() for name in (TRAIN_FILE, FILE)):
        raise FileNotFoundError(
            f"no scene in {folder}: neither a COLMAP model (sparse/0) nor {TRAIN_FILE} or {FILE}"
        )
    if find_model(folder) is not None and not images.is_dir():
        raise FileNotFoundError(f"image folder not found: {images} (-i names it inside the scene)")


def has_images(folder: Path, config: dict[str, Any]) -> bool:
    """Return whether the final Gaussians of a finished run were rendered in every view."""
    if not config.get("finished"):
        return False
    return all(
        len(run_folder.numbered_images(run_folder.images_path(folder, split, config["iteration"], kind)))
        == views
        for split, views in config["views"].items()
        for kind in ("renders", "gt")
    )


def is_measured(folder: Path, config: dict[str, Any], lpips_too: bool, train_views: int | None) -> bool:
    """Return whether the renders of a finished run were measured as the options ask.

    lpips_too: whether LPIPS is needed. train_views: the number of training views needed, None for all.
    """
    results = read_json(folder / "results.json").get(f"ours_{config['iteration']}")
    if not results or (lpips_too and results["lpips_missing"]):
        return False
    needed = config["views"]["train"] if train_views is None else train_views
    return results["views"]["train"] >= min(needed, config["views"]["train"])
