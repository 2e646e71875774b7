"""Show a training run on one HTML page: python report.py -m OUTPUT"""

from __future__ import annotations

import utils.before_torch  # noqa: F401  before torch

import re
from pathlib import Path
from typing import Sequence

from arguments.flags import Parser
from evaluation.report.html import BEGINNING
from evaluation.report.page import page
from evaluation.report.run import read_run
from utils.commands import run_command
from utils.files import refuse_foreign, write_text


EXAMPLES = """\
  python report.py -m output/garden       after render.py and metrics.py; the page needs no network
"""


def report_parser() -> Parser:
    parser = Parser(
        prog="report.py",
        usage="report.py -m OUTPUT [flags]",
        description="Write a run's numbers, curves, images and errors to one page, OUTPUT/report.html.",
        examples=EXAMPLES,
    )
    add = parser.add_argument
    add("-m", "--model_path", required=True, type=Path, metavar="OUTPUT", help="folder of the run")
    about = "rendered iteration to show, -1: the newest"
    add("--iteration", type=int, default=-1, metavar="N", help=about)
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    options = report_parser().parse_args(argv)
    path = options.model_path / "report.html"
    refuse_foreign(path, re.escape(BEGINNING.encode()))
    text = page(read_run(options.model_path, options.iteration))
    write_text(path, text)
    if not options.quiet:
        print(f"Report: {path} ({len(text.encode()) / 1e6:.1f} MB), for any browser")


if __name__ == "__main__":
    run_command(main)
