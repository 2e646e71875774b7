"""Everything that a machine with a GPU can tell, in about eight minutes: python scripts/gpu_check.py

Do the packages load or build; are all kernels right; does the bundled scene train as well as on the CPU; how
long does a step take, by kernel and beside gsplat; the method's other paths, the tests, compute-sanitizer and
ncu. The most valuable answers come first, each step has a limit, and after every step all that is known is
written to summary.md, gpu.json, kernels.json and logs.tar.gz in --output. Exit code 1 if a step failed or was
not run, or if a training is worse than on the CPU. No network is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from checking.record import doubts, read_figures, summary, without_machine, write_record
from checking.steps import Plan, all_steps
from checking.supervision import Step, obstacle, run
from training.interrupts import Interrupts
from utils.commands import run_command

ALWAYS = ("machine", "packages")  # parts that --only and --from leave in
PARTS = ("smoke", "demo", "step", "method", "tests", "sanitizers", "ncu", "scene")
SECONDS = 480.0
SECONDS_TO_WRITE = 5.0  # kept back of the time, for the last record


class Check:
    """Steps, and how far they have come."""

    def __init__(
        self, steps: list[Step], plan: Plan, output: Path, seconds: float, interrupts: Interrupts
    ) -> None:
        """seconds: for all of it."""
        self.steps, self.plan, self.output, self.interrupts = steps, plan, output, interrupts
        self.deadline = time.monotonic() + seconds - SECONDS_TO_WRITE
        self.logs = plan.work / "logs"
        self.logs.mkdir()
        paths = [*map(str, plan.paths), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def run(self) -> bool:
        """Run the steps one after the other; return whether all is well.

        Raises OSError, before the first, if the output cannot be written.
        """
        write_record(self.output, self.steps, self.plan.work, self.logs)
        try:
            for step in self.steps:
                self.do(step)
        finally:
            self.write()
            print(summary(self.steps, self.plan.work, self.logs))
        is_worse = doubts(read_figures(self.plan.work)["trained"])
        return not is_worse and not any(step.failed for step in without_machine(self.steps))

    def do(self, step: Step) -> None:
        outcomes = {done.name: done.outcome for done in self.steps}
        seconds_left = max(0.0, self.deadline - time.monotonic())
        print(f"{step.name} ...", flush=True)
        step.outcome = obstacle(step, outcomes, seconds_left)
        if not step.outcome:
            run(step, self.logs, self.environment, seconds_left, self.interrupts)
        print(f"{step.name}: {step.outcome} ({step.seconds:.0f} s)", flush=True)
        self.write()

    def write(self) -> None:
        """Write what is known. A full disk costs the record, but not the steps that are left."""
        with self.interrupts.held():
            try:
                write_record(self.output, self.steps, self.plan.work, self.logs)
            except (OSError, ValueError) as problem:
                print(f"error: {problem}", file=sys.stderr)


def chosen(steps: list[Step], only: list[str] | None, first: str | None) -> list[Step]:
    """Return the steps of the parts that were asked for."""
    parts = only or PARTS[PARTS.index(first) if first else 0 :]
    return [step for step in steps if step.part in (*ALWAYS, *parts)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("output/gpu_check"), help="folder of the four files"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all of it")
    parser.add_argument(
        "--packages", type=Path, help="folder with the packages built ahead; built if they fail"
    )
    parser.add_argument("--wheels", type=Path, help="folder of *.whl with what the machine lacks")
    parser.add_argument("--gsplat", type=Path, help="folder with the package gsplat, to compare with")
    parser.add_argument("--scene", type=Path, help="another scene to train in the end")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--from", dest="first", choices=PARTS, metavar="PART", help="leave out those before it"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="all steps in small form on a make-believe GPU"
    )
    return parser.parse_args()


def main() -> None:
    args = arguments()
    given = {name: getattr(args, name) for name in ("packages", "wheels", "gsplat", "scene")}
    folders = {name: path and path.resolve() for name, path in given.items()}
    for name, folder in folders.items():
        if folder is not None and not folder.is_dir():
            raise ValueError(f"--{name}: expected a folder, {folder} is none")
    with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="gpu_check_") as work:
        plan = Plan(Path(work), rehearses=args.rehearse, **folders)
        steps = chosen(all_steps(plan), args.only, args.first)
        done = Check(steps, plan, args.output.resolve(), args.seconds, interrupts).run()
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    run_command(main)
