"""Train, render and measure scenes x variants: python full_eval.py --scenes FOLDER [FOLDER ...]"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

import argparse
import importlib.util
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Sequence

import torch
from diff_gaussian_rasterization import best_device

from arguments import VARIANTS
from arguments.flags import Parser
from evaluation import tables
from evaluation.child_processes import ChildProcesses, interrupt_on_signals
from evaluation.plan import PUBLISHED, PlannedRun, Steps, plan, steps_left
from utils import run_folder
from utils.commands import run_command
from utils.files import write_json

PROJECT = Path(__file__).resolve().parent

EXAMPLES = """\
the published protocol: 30,000 iterations, every 8th view held out, images_4 outdoors and images_2 indoors
  python full_eval.py -m360 data/360 -tat data/tandt -db data/db --output_path eval

own scenes, two seeds, a short schedule; one scene on white; a variant beside a changed one
  python full_eval.py --scenes scenes/fox scenes/chair --scene_flags chair="-w -r 1" --seeds 0 1 \\
      --variants 3dgs tag_gradprune_decomp decomp_0.3="tag_gradprune_decomp --lambda_importance 0.3" \\
      -- -r 2 --iterations 7000 --scale_schedule

Each run goes into OUTPUT_PATH/SCENE/ROW/seed_S, and its output into seed_S.log beside it. If interrupted, the
same command resumes. After every run the table is written from all finished runs, those of earlier commands
included: OUTPUT_PATH/results.md, .csv and .json, and in the columns of the 3DGS compression survey
survey/[DATASET/]SCENE.csv, survey/DATASET.csv (mean over its scenes) and survey.csv (mean over all scenes).
Plots are drawn into plots/ at the end. Exit code 1: a run failed.
"""


def full_eval_parser() -> Parser:
    parser = Parser(
        prog="full_eval.py",
        usage="full_eval.py {-m360 | -tat | -db | --scenes} FOLDER [flags] [-- flags of train.py]",
        description="Train (with --eval), render and measure every variant on every scene; write one table.",
        examples=EXAMPLES,
    )
    add = parser.add_argument_group("Scenes").add_argument
    published = ("-m360 --mipnerf360", "-tat --tanksandtemples", "-db --deepblending")
    for flags, dataset in zip(published, PUBLISHED):
        about = f"holds {' '.join(PUBLISHED[dataset].values())}, or some of them"
        add(*flags.split(), dest=dataset, type=Path, metavar="FOLDER", help=about)
    add("--scenes", nargs="+", action="extend", type=Path, default=[], metavar="FOLDER", help="other scenes")
    about = 'flags of train.py for one scene, such as chair="-w -r 1"; they win over those after --'
    add("--scene_flags", nargs="+", action="extend", default=[], metavar='SCENE="FLAGS"', help=about)
    add = parser.add_argument_group("Rows of the table").add_argument
    about = f'of {", ".join(VARIANTS)} (default: all); ROW="VARIANT FLAGS" is a row with flags of its own'
    add("--variants", nargs="+", default=list(VARIANTS), metavar="VARIANT", help=about)
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="a run for each (default 0)")
    add = parser.add_argument_group("Work").add_argument
    add("--output_path", type=Path, default="eval", metavar="FOLDER", help="for everything (default eval)")
    add("--skip_training", action="store_true", help="only render and measure trained runs")
    add("--skip_rendering", action="store_true", help="render no images")
    add("--skip_metrics", action="store_true", help="measure nothing")
    add(
        "--overwrite", action="store_true", help="train runs anew that were trained with other flags than now"
    )
    add("--jobs", type=int, default=1, metavar="N", help="runs at the same time (default 1)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads of all together, 0: all cores")
    about = (
        "processes that share each run, which torchrun starts on this machine (default 1); each takes a GPU"
    )
    add("--nproc_per_node", type=int, default=1, metavar="N", help=about)
    about = "VGG16's weights for metrics.py; adds LPIPS to runs that were measured without it"
    add("--lpips_weights", type=Path, metavar="FILE", help=about)
    add("--skip_lpips", action="store_true", help="leave LPIPS out")
    about = "measure N evenly spaced training views (default: all)"
    add("--train_views", type=int, metavar="N", help=about)
    add("--quiet", action="store_true", help="print nothing but errors")
    return parser


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command's own flags, and return them with the flags after `--`.

    Raise ValueError or FileNotFoundError if a flag is out of bounds or names a wrong path.
    """
    ours, rest = list(arguments), []
    if "--" in ours:
        ours, rest = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    options = full_eval_parser().parse_args(ours)
    for name, least in (("jobs", 1), ("threads", 0), ("nproc_per_node", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name}: expected at least {least}, got {getattr(options, name)}")
    gpus = torch.cuda.device_count()
    if best_device().type != "cpu" and options.nproc_per_node > max(gpus, 1):
        raise ValueError(
            f"--nproc_per_node: expected at most {gpus}, the GPUs here, got {options.nproc_per_node}"
        )
    if options.train_views is not None and options.train_views < 0:
        raise ValueError(f"--train_views: expected at least 0, got {options.train_views}")
    if options.lpips_weights and not options.lpips_weights.is_file():
        raise FileNotFoundError(f"--lpips_weights {options.lpips_weights}: there is no such file")
    if options.output_path.exists() and not options.output_path.is_dir():
        raise ValueError(f"--output_path {options.output_path}: expected a folder, this is a file")
    return options, rest


# Execution


def do(step: str, command: list[str], run: PlannedRun, children: ChildProcesses) -> str:
    """Execute one step of a run; return the error, empty if there was none."""
    if step == "training":
        # Results are removed now, so that none of an earlier training is mistaken for one of this training.
        if "--overwrite" in command:
            run_folder.remove_results(run.folder)
            (run.folder / "config.json").unlink(missing_ok=True)
        write_json(run.folder / tables.RECORD, run.record)
    code = children.call(PROJECT / command[0], command[1:], run.log)
    if children.stopping:
        return "interrupted"
    if code == 0:
        if step == "training":  # nobody trains these further, and a checkpoint is three times the PLY
            run_folder.latest_checkpoint_path(run.folder).unlink(missing_ok=True)
        return ""
    return f"{step} failed with exit code {code}: {complaint(run.log)[:300]} (see {run.log})"


def complaint(log: Path) -> str:
    """Return the error of the last command in a log, else its last line.

    Of several processes it is the error of the first that failed; those of the others and torchrun's follow.
    """
    text = log.read_text(encoding="utf-8", errors="replace").rstrip()
    lines = text[text.rfind("$ python ") :].splitlines()
    return next((line for line in lines if line.startswith("error: ")), lines[-1])


def work_through(todo: list[tuple[PlannedRun, Steps]], options: argparse.Namespace) -> list[str]:
    """Complete all runs and write the table after each; return the errors of those that failed."""
    processes = options.jobs * options.nproc_per_node
    divided = options.threads or processes > 1
    threads = max(1, (options.threads or os.cpu_count() or 1) // processes) if divided else 0
    children = ChildProcesses(threads, options.nproc_per_node)
    lock = threading.Lock()

    def complete(number: int, run: PlannedRun, steps: Steps) -> str:
        label, problem = f"[{number}/{len(todo)}] {run.name}:", ""
        for step, command in steps.items():
            say(f"{time.strftime('%H:%M:%S')} {label} {step}", options.quiet)
            if problem := do(step, command, run, children):
                break
        with lock:
            rows = {row["folder"]: row for row in tables.write_tables(options.output_path)}
            outcome = problem or tables.summary(rows[run.name])
            say(f"{time.strftime('%H:%M:%S')} {label} {outcome}", options.quiet)
        return f"{run.name}: {problem}" if problem else ""

    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(complete, number, *item) for number, item in enumerate(todo, 1)]
        try:
            return [problem for future in as_completed(futures) if (problem := future.result())]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise


def draw(output: Path, rows: list[tables.Row], quiet: bool) -> None:
    """Draw the plots of all rows, if matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        say("No plots: matplotlib is not installed (pip install matplotlib)", quiet)
        return
    from evaluation import plots  # the only part that needs matplotlib

    say(f"{len(plots.draw_all(output, rows))} plots: {output / 'plots'}", quiet)


def say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text, flush=True)


def main() -> None:
    interrupt_on_signals()
    options, passed_on = parse(sys.argv[1:])
    output, runs = options.output_path, plan(options, passed_on)
    tables.refuse_foreign_tables(output, [run.record for run in runs])
    todo = [(run, steps) for run in runs if (steps := steps_left(run, options))]
    tables.read_rows(output)  # raises now, instead of after hours, if a record is damaged
    say(f"{len(todo)} of {len(runs)} runs have something left to do; into {output}", options.quiet)
    try:
        failed = work_through(todo, options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("runs resume with the same command") from None
    draw(output, tables.write_tables(output), options.quiet)
    say(f"The table: {output / 'results.md'}", options.quiet)
    if failed:
        sys.exit("\n".join([f"{len(failed)} of {len(runs)} runs failed:", *failed]))  # with exit code 1


if __name__ == "__main__":
    run_command(main)
