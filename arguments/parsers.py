"""The command lines of train.py and render.py, made of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .flags import Parser, add_flags
from .settings import DensificationSettings, ImportanceSettings, ModelSettings, OptimizationSettings
from .settings import PipelineSettings, PruningSettings, RunSettings

COMMON = (  # flags of train.py that --help shows: those that people set
    *("source_path", "model_path", "images", "depths", "resolution", "white_background", "eval"),
    *("train_test_exp", "max_memory_gb", "init_points", "variant", "iterations", "scale_schedule"),
    *("lambda_dssim", "random_background", "antialiasing", "max_gaussians", "target_size_mb"),
    *("densify_by", "densify_until_iter", "densify_grad_threshold", "error_floor", "error_quantile"),
    *("opacity_reset_interval", "prune_by", "prune_keep", "prune_until_iter", "tag_lifespan"),
    *("importance", "lambda_importance", "test_iterations", "save_iterations", "checkpoint_iterations"),
    *("start_checkpoint", "checkpoint_every", "resume", "overwrite", "seed", "threads", "quiet"),
    *("viewer", "viewer_port", "disable_viewer"),
)

TRAIN_EXAMPLES = """\
  python train.py -s scenes/garden                                      30,000 iterations into output/<10 hex digits>
  python train.py -s scenes/garden -m output/garden --eval -r 4 --iterations 7000 --scale_schedule
  python train.py -s scenes/garden -m output/few --variant tag_gradprune_decomp
  python train.py -s scenes/garden -m output/small --variant tag_gradprune_decomp --target_size_mb 10
  python train.py -m output/garden --resume                             goes on where it was stopped
  python train.py --start_checkpoint output/garden/chkpnt7000.safetensors -m output/other --lambda_dssim 0.3
"""


def train_parser() -> Parser:
    parser = Parser(
        prog="train.py",
        usage="train.py -s SCENE [-m OUTPUT] [flags]",
        description="Fit 3D Gaussians to the photos of a scene. Flags mean what they mean in 3DGS.",
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
  python render.py -m output/mine --video orbit --frames 300   a film of ten seconds
  python render.py --ply theirs.ply --cameras scenes/garden -m output/theirs
"""


def render_parser() -> Parser:
    parser = Parser(
        prog="render.py",
        usage="render.py -m OUTPUT [flags]",
        description="Render the views of a trained model to PNG files. Settings are the run's; flags win.",
        examples=RENDER_EXAMPLES,
    )
    which = parser.add_argument_group("Which pictures")
    which.add_argument(
        "--iteration", type=int, default=-1, metavar="N", help="saved iteration, -1: the newest"
    )
    which.add_argument("--skip_train", action="store_true", help="leave the training views out")
    which.add_argument("--skip_test", action="store_true", help="leave the held-out views out")
    which.add_argument(
        "--depth", action="store_true", help="inverse depths too, as 16-bit PNGs that -d reads"
    )
    about = "a film instead of the views: orbit, spiral or interpolate (from view to view), as MP4"
    which.add_argument("--video", metavar="PATH", default="", help=about)
    which.add_argument("--frames", type=int, default=240, metavar="N", help="of the film (default 240)")
    which.add_argument("--fps", type=int, default=30, metavar="N", help="its frames a second (default 30)")
    about = "a trained PLY of any 3DGS program, seen by the cameras of --cameras; pictures go to -m"
    which.add_argument("--ply", metavar="FILE", default="", help=about)
    which.add_argument("--cameras", metavar="SCENE", default="", help="scene whose cameras look at --ply")
    for group in (ModelSettings, PipelineSettings):
        add_flags(parser, group)
    add_flags(parser, RunSettings, only=("seed", "threads", "quiet"))
    return parser


def given_flags(parser: Parser, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The flags given on the command line, and no others. ValueError for unknown ones."""
    return vars(parser.parse_args(arguments))
