"""The command lines of train.py and render.py, built from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .flags import Parser, add_flags
from .settings import DensificationSettings, ImportanceSettings, ModelSettings, OptimizationSettings
from .settings import PipelineSettings, PruningSettings, RunSettings

# The flags of train.py that --help shows: those that people set.
COMMON = (
    *("source_path", "model_path", "images", "depths", "resolution", "white_background", "eval"),
    *("train_test_exp", "max_memory_gb", "init_points", "variant", "iterations", "scale_schedule"),
    *("lambda_dssim", "random_background", "antialiasing", "max_gaussians", "target_size_mb"),
    *("densify_by", "densify_until_iter", "densify_grad_threshold", "error_floor", "error_quantile"),
    *("opacity_reset_interval", "prune_by", "thin_energy", "save_shares", "prune_until_iter", "tag_lifespan"),
    *("importance", "lambda_importance", "test_iterations", "save_iterations", "checkpoint_iterations"),
    *("start_checkpoint", "checkpoint_every", "resume", "overwrite", "seed", "threads", "quiet"),
    *("viewer", "viewer_port", "disable_viewer"),
)

TRAIN_EXAMPLES = """\
  python train.py -s scenes/garden                             30,000 iterations into output/<10 hex digits>
  python train.py -s scenes/garden -m output/garden --eval -r 4 --iterations 7000
  python train.py -s scenes/garden -m output/small --target_size_mb 10
  python train.py -s scenes/garden -m output/baseline --variant 3dgs
  python train.py -m output/garden --resume                    continues an interrupted run
  python train.py --start_checkpoint output/garden/chkpnt7000.safetensors -m output/other --lambda_dssim 0.3
"""


def train_parser() -> Parser:
    """Return the parser of train.py."""
    parser = Parser(
        prog="train.py",
        usage="train.py -s SCENE [-m OUTPUT] [flags]",
        description="Fit 3D Gaussians to the photos of a scene. Flags of 3DGS keep their meaning.",
        examples=TRAIN_EXAMPLES,
        common=COMMON,
    )
    for group in (ModelSettings, RunSettings, OptimizationSettings, DensificationSettings, PruningSettings):
        add_flags(parser, group)
    for group in (ImportanceSettings, PipelineSettings):
        add_flags(parser, group)
    return parser


RENDER_EXAMPLES = """\
  python render.py -m output/mine                              all views beside their photos
  python render.py -m output/mine --video orbit --frames 300   a video of ten seconds
  python render.py --ply theirs.ply --cameras scenes/garden -m output/theirs
"""


def render_parser() -> Parser:
    """Return the parser of render.py."""
    parser = Parser(
        prog="render.py",
        usage="render.py -m OUTPUT [flags]",
        description="Render the views of a trained model to PNG files. Flags override the run's settings.",
        examples=RENDER_EXAMPLES,
    )
    which = parser.add_argument_group("Images to render")
    which.add_argument(
        "--iteration", type=int, default=-1, metavar="N", help="saved iteration; -1: the newest"
    )
    which.add_argument("--skip_train", action="store_true", help="do not render the training views")
    which.add_argument("--skip_test", action="store_true", help="do not render the held-out views")
    which.add_argument(
        "--depth", action="store_true", help="write inverse depths too, as 16-bit PNGs that -d reads"
    )
    about = "render an MP4 video instead of the views: orbit, spiral or interpolate (from view to view)"
    which.add_argument("--video", metavar="PATH", default="", help=about)
    which.add_argument(
        "--frames", type=int, default=240, metavar="N", help="frames of the video (default 240)"
    )
    which.add_argument(
        "--fps", type=int, default=30, metavar="N", help="frames per second of the video (default 30)"
    )
    about = "render a trained PLY of any 3DGS program with the cameras of --cameras; images go to -m"
    which.add_argument("--ply", metavar="FILE", default="", help=about)
    which.add_argument("--cameras", metavar="SCENE", default="", help="scene whose cameras render --ply")
    for group in (ModelSettings, PipelineSettings):
        add_flags(parser, group)
    add_flags(parser, RunSettings, only=("seed", "threads", "quiet"))
    return parser


def given_flags(parser: Parser, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the flags that the command line gives, and no others. Raise ValueError for bad ones."""
    return vars(parser.parse_args(arguments))
