"""Scenes x variants -> train, render, measure, one table: python full_eval.py --scenes FOLDER [FOLDER ...]"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

import argparse
import functools
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple, Sequence

from arguments import VARIANTS, given_flags, make_settings, train_parser
from arguments.flags import Parser
from scene.blender import TRAIN_FILE
from scene.colmap import find_model
from utils import run_folder, tables
from utils.commands import EXIT_INTERRUPTED, run_command
from utils.files import write_json

PROJECT = Path(__file__).resolve().parent
# The published scenes by the folder of pictures they are trained on (Kerbl et al. 2023, section 7.2).
PUBLISHED = {
    "MipNeRF360": {
        "images_4": "bicycle flowers garden stump treehill",
        "images_2": "room counter kitchen bonsai",
    },
    "TanksAndTemples": {"images": "truck train"},
    "DeepBlending": {"images": "drjohnson playroom"},
}
SET_HERE = ("source_path", "model_path", "variant", "seed", "threads", "start_checkpoint", "overwrite")
NAME = re.compile(r"\w[\w.+-]*")

EXAMPLES = """
the published protocol: 30,000 iterations, every 8th view held out, images_4 outdoors and images_2 indoors
  python full_eval.py -m360 data/360 -tat data/tandt -db data/db --output_path eval

own scenes, two seeds, a short schedule; one scene on white; a variant beside a changed one
  python full_eval.py --scenes scenes/fox scenes/chair --scene_flags chair="-w -r 1" --seeds 0 1 \\
      --variants 3dgs tag_gradprune_decomp decomp_0.3="tag_gradprune_decomp --lambda_importance 0.3" \\
      -- -r 2 --iterations 7000 --scale_schedule

Each run goes into OUTPUT_PATH/SCENE/ROW/seed_S, what it prints into seed_S.log beside it. The same command
goes on where it stopped. After every run the table is written from all that are finished, those of earlier
commands too: OUTPUT_PATH/results.md, .csv and .json, and in the columns of the 3DGS compression survey
survey/[DATASET/]SCENE.csv, survey/DATASET.csv (mean over its scenes) and survey.csv (mean over all scenes).
At the end plots/ is drawn. Exit code 1: a run failed.
"""


class Run(NamedTuple):
    """One training with its pictures and measures."""

    folder: Path
    flags: list[str]  # for train.py
    record: dict[str, Any]  # for eval.json in the run's folder

    @property
    def name(self) -> str:
        return "/".join(self.folder.parts[-3:])

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")


Steps = dict[str, list[str]]  # what is left to do for a run, and the command that does it


# What is asked for


def full_eval_parser() -> Parser:
    parser = Parser(
        prog="full_eval.py",
        usage="full_eval.py {-m360 | -tat | -db | --scenes} FOLDER [flags] [-- flags of train.py]",
        description="Train (with --eval), render and measure every variant on every scene; write one table.",
        epilog=EXAMPLES,
    )
    parser.formatter_class = functools.partial(
        argparse.RawDescriptionHelpFormatter, max_help_position=36, width=110
    )
    add = parser.add_argument_group("Scenes").add_argument
    for flags, dataset in zip(
        ("-m360 --mipnerf360", "-tat --tanksandtemples", "-db --deepblending"), PUBLISHED
    ):
        about = f"holds {' '.join(PUBLISHED[dataset].values())}, or some of them"
        add(*flags.split(), dest=dataset, type=Path, metavar="FOLDER", help=about)
    add("--scenes", nargs="+", type=Path, default=[], metavar="FOLDER", help="other scenes")
    about = 'flags of train.py for one scene, such as chair="-w -r 1"; they win over those after --'
    add("--scene_flags", nargs="+", default=[], metavar='SCENE="FLAGS"', help=about)
    add = parser.add_argument_group("Rows of the table").add_argument
    about = f'of {", ".join(VARIANTS)} (default: all); ROW="VARIANT FLAGS" is a row with flags of its own'
    add("--variants", nargs="+", default=list(VARIANTS), metavar="VARIANT", help=about)
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="a run for each (default 0)")
    add = parser.add_argument_group("Work").add_argument
    add("--output_path", type=Path, default="eval", metavar="FOLDER", help="for everything (default eval)")
    add("--skip_training", action="store_true", help="only render and measure what is trained")
    add("--skip_rendering", action="store_true", help="make no pictures")
    add("--skip_metrics", action="store_true", help="measure nothing")
    add("--overwrite", action="store_true", help="train anew what was trained with other flags than now")
    add("--jobs", type=int, default=1, metavar="N", help="runs at the same time (default 1)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads of all together, 0: all cores")
    about = "VGG16's weights for metrics.py; brings LPIPS to measured runs without it"
    add("--lpips_weights", type=Path, metavar="FILE", help=about)
    add("--skip_lpips", action="store_true", help="leave LPIPS out")
    return parser


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own flags, and those after `--`."""
    ours, rest = list(arguments), []
    if "--" in ours:
        ours, rest = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    options = full_eval_parser().parse_args(ours)
    for name, least in (("jobs", 1), ("threads", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name}: expected at least {least}, got {getattr(options, name)}")
    if options.lpips_weights and not options.lpips_weights.is_file():
        raise FileNotFoundError(f"--lpips_weights {options.lpips_weights}: there is no such file")
    if options.output_path.exists() and not options.output_path.is_dir():
        raise ValueError(f"--output_path {options.output_path}: expected a folder, this is a file")
    return options, rest


def choose_scenes(options: argparse.Namespace) -> dict[str, tuple[Path, str, list[str]]]:
    """Folder, dataset and flags of every scene; absent published ones are reported and left out."""
    found = [(folder.resolve().name, (folder, "", [])) for folder in options.scenes]
    for dataset, protocol in PUBLISHED.items():
        top, absent, count = getattr(options, dataset), [], len(found)
        for images, name in ((images, name) for images, names in protocol.items() for name in names.split()):
            if top and (top / name).is_dir():
                found.append((name, (top / name, dataset, ["-i", images])))
            elif top:
                absent.append(name)
        if top and count == len(found):
            raise FileNotFoundError(f"{top} holds no scene of {dataset}: looked for {', '.join(absent)}")
        if absent:
            print(f"Not in {top}, left out: {', '.join(absent)}")
    scenes = dict(found)
    if len(scenes) < len(found):
        raise ValueError("two scenes have the same name, so their runs would share a folder")
    if not scenes:
        raise ValueError("which scenes? give -m360, -tat, -db or --scenes (see full_eval.py --help)")
    return scenes


def split_named(option: str, texts: Sequence[str]) -> dict[str, list[str]]:
    """`NAME="WORDS"` by name, the words taken apart as a shell does; no words where there is no `=`."""
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


def plan(options: argparse.Namespace, passed_on: list[str]) -> list[Run]:
    """All runs, whose flags are known to be good. ValueError or OSError for the first that are not."""
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
                runs.append(make_run(options.output_path, names, [*flags, "--seed", str(seed)]))
    return runs


def make_run(output: Path, names: dict[str, Any], flags: list[str]) -> Run:
    given = given_flags(train_parser(), flags)
    make_settings(given)  # refuses values out of their bounds
    settings = VARIANTS[names["variant"]] | given | {"source_path": str(Path(given["source_path"]).resolve())}
    settings = json.loads(json.dumps(settings))  # as they will be read again
    folder = output / names["scene"] / names["row"] / f"seed_{names['seed']}"
    command = shlex.join(["python", "train.py", *flags, "-m", str(folder)])
    return Run(folder, flags, names | {"command": command, "settings": settings})


def check_scene(run: Run) -> None:
    """A cheap look at it, before hours of training on the scenes before it."""
    folder = Path(run.record["settings"]["source_path"])
    images = folder / run.record["settings"].get("images", "images")
    if not folder.is_dir():
        raise FileNotFoundError(f"scene folder not found: {folder}")
    if find_model(folder) is None and not (folder / TRAIN_FILE).is_file():
        raise FileNotFoundError(f"no scene in {folder}: neither a COLMAP model (sparse/0) nor {TRAIN_FILE}")
    if find_model(folder) is not None and not images.is_dir():
        raise FileNotFoundError(f"image folder not found: {images} (-i names it inside the scene)")


# What is left to do


def steps_left(run: Run, options: argparse.Namespace) -> Steps:
    """What completes `run`, in order. ValueError or OSError if another run is in its place, or no scene."""
    steps: Steps = {}
    config = run_folder.read_config(run.folder)
    how = None if options.skip_training else how_to_train(run, options.overwrite)
    if how is not None:
        check_scene(run)
        steps["training"] = ["train.py", *run.flags, "-m", str(run.folder), *how]
        config = {}
    pictures = has_pictures(run.folder, config)
    if not (options.skip_rendering or pictures) and (steps or config.get("finished")):
        steps["rendering"] = ["render.py", "-m", str(run.folder)]
    lpips = ["--lpips_weights", str(options.lpips_weights)] if options.lpips_weights else []
    unmeasured = "rendering" in steps or (pictures and not is_measured(run.folder, config, bool(lpips)))
    if unmeasured and not options.skip_metrics:
        flags = ["--skip_lpips"] if options.skip_lpips else lpips
        steps["measuring"] = ["metrics.py", "-m", str(run.folder), *flags]
    return steps


def how_to_train(run: Run, overwrite: bool) -> list[str] | None:
    """None: it is trained. Else what train.py is given besides the run's flags."""
    before = tables.read_json(run.folder / tables.RECORD)
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
    if run_folder.read_config(run.folder).get("finished"):
        return None
    checkpoint = newest_checkpoint(run)
    return ["--start_checkpoint", str(checkpoint)] if checkpoint else ["--overwrite"]


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Such as `--iterations was 7000 and is 30000`; empty if there are none."""
    names = [name for name in before | now if before.get(name) != now.get(name)]
    absent = "not given"
    return ", ".join(f"--{name} was {before.get(name, absent)}, is {now.get(name, absent)}" for name in names)


def newest_checkpoint(run: Run) -> Path | None:
    """That of most iterations which leaves something to train."""
    iterations = make_settings(given_flags(train_parser(), run.flags)).optimization.iterations
    found = {int(path.stem.removeprefix("chkpnt")): path for path in run.folder.glob("chkpnt*.safetensors")}
    return max(((done, path) for done, path in found.items() if done < iterations), default=(0, None))[1]


def has_pictures(folder: Path, config: dict[str, Any]) -> bool:
    """Whether the last Gaussians of a finished run were rendered in every view."""
    if not config.get("finished"):
        return False
    for split, views in config["views"].items():
        for kind in ("renders", "gt"):
            place = run_folder.pictures_path(folder, split, config["iteration"], kind)
            if len(list(place.glob("*.png"))) != views:
                return False
    return True


def is_measured(folder: Path, config: dict[str, Any], lpips_too: bool) -> bool:
    results = tables.read_json(folder / "results.json").get(f"ours_{config['iteration']}")
    return bool(results) and not (lpips_too and results["lpips_missing"])


# Doing it


class Crew:
    """The commands at work, so that all of them can be stopped."""

    def __init__(self, threads: int) -> None:
        """threads: of each command, 0: as many as it likes."""
        self._environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        self._children: set[subprocess.Popen] = set()
        self._lock, self.stopping = threading.Lock(), False

    def call(self, command: list[str], log: Path) -> int:
        """Exit code of one of our commands, whose output is added to `log`."""
        with self._lock, open(log, "ab") as file:
            if self.stopping:
                return EXIT_INTERRUPTED
            file.write(f"$ python {shlex.join(command)}\n".encode())
            file.flush()
            child = subprocess.Popen(
                [sys.executable, str(PROJECT / command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # so that Ctrl-C reaches it through `stop` only, and once
            )
            self._children.add(child)
        code = child.wait()
        with self._lock:
            self._children.remove(child)
        return code

    def stop(self) -> None:
        """Interrupt what is at work, which then says in its log where it stands; start nothing more."""
        with self._lock:
            self.stopping = True
            for child in self._children:
                child.send_signal(signal.SIGINT)


def do(step: str, command: list[str], run: Run, crew: Crew) -> str:
    """What went wrong, empty if nothing did."""
    if step == "training":
        if "--overwrite" in command:  # now, so that nothing of an earlier training is taken for this one's
            run_folder.remove_results(run.folder)
            (run.folder / "config.json").unlink(missing_ok=True)
        write_json(run.folder / tables.RECORD, run.record)
    code = crew.call(command, run.log)
    if code == 0 or crew.stopping:
        return "interrupted" if crew.stopping else ""
    last = run.log.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]
    return f"{step} failed with exit code {code}: {last[:300]} (see {run.log})"


def work_through(todo: list[tuple[Run, Steps]], options: argparse.Namespace) -> list[str]:
    """Complete all runs; what failed. The table is written anew after each."""
    divided = options.threads or options.jobs > 1
    crew = Crew(max(1, (options.threads or os.cpu_count() or 1) // options.jobs) if divided else 0)
    failed, lock = [], threading.Lock()

    def complete(number: int, run: Run, steps: Steps) -> None:
        label = f"[{number}/{len(todo)}] {run.name}:"
        for step, command in steps.items():
            print(time.strftime("%H:%M:%S"), label, step, flush=True)
            problem = do(step, command, run, crew)
            if problem:
                break
        with lock:
            rows = {row["folder"]: row for row in tables.write_tables(options.output_path)}
            outcome = problem or tables.summary(rows[run.name])
            print(time.strftime("%H:%M:%S"), label, outcome, flush=True)
            failed.extend([f"{run.name}: {problem}"] if problem else [])

    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(complete, number, *item) for number, item in enumerate(todo, 1)]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            crew.stop()
            raise
    return failed


def draw(output: Path, rows: list[tables.Row]) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        print("No plots: matplotlib is not installed (pip install matplotlib)")
        return
    from utils import plots  # the only part that needs matplotlib

    print(f"{len(plots.draw_all(output, rows))} plots: {output / 'plots'}")


def listen_to_signals() -> None:
    """Whatever ends this process has to stop the commands at work, too."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) == signal.SIG_DFL:
            signal.signal(ending, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a job in the background
        signal.signal(
            signal.SIGINT, lambda *_: None
        )  # not inherited by the commands, which `stop` interrupts


def main() -> None:
    listen_to_signals()
    options, passed_on = parse(sys.argv[1:])
    runs = plan(options, passed_on)
    todo = [(run, steps) for run in runs if (steps := steps_left(run, options))]
    tables.read_rows(options.output_path)  # a damaged record is found now, not after hours
    print(
        f"{len(todo)} of {len(runs)} runs have something left to do; into {options.output_path}", flush=True
    )
    try:
        failed = work_through(todo, options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("runs go on with the same command") from None
    draw(options.output_path, tables.write_tables(options.output_path))
    print(f"The table: {options.output_path / 'results.md'}")
    if failed:
        sys.exit("\n".join([f"{len(failed)} of {len(runs)} runs failed:", *failed]))  # with exit code 1


if __name__ == "__main__":
    run_command(main)
