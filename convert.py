"""Make a posed scene of photos or a video: python convert.py -s FOLDER [--video FILE]"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Sequence

from arguments.flags import Parser
from scene import video_frames
from scene.lenses import MODELS
from scene.outcome import Outcome
from scene.structure_from_motion import INPUT, MATCHINGS, SCRATCH, STAGES, Choices
from scene.structure_from_motion import convert, places_of, require_room
from scene.written_files import WrittenFiles, digest, files_in
from utils.commands import run_command
from utils.files import read_json
from utils.progress import Counter

# The record of the frames in input/: SHA-256 and name of their video, and how many were asked for.
TAKEN = "distorted/video.json"
WHOLE = 0.95  # least share of a video's frames that can be decoded, by a header that may be off a little

EXAMPLES = """\
  python convert.py -s scenes/desk                     use the photos in scenes/desk/input
  python convert.py -s scenes/walk --video walk.mp4    use 150 sharp frames of a video
  python train.py -s scenes/desk                       train on the scene

The same command continues an interrupted run. Files that convert.py did not write are never removed or
overwritten. Needs pycolmap: pip install pycolmap
"""


def convert_parser() -> Parser:
    """Return the parser of convert.py."""
    parser = Parser(
        prog="convert.py",
        usage="convert.py -s FOLDER [--video FILE] [flags]",
        description="Make a scene of photos: COLMAP's structure from motion finds their cameras.",
        examples=EXAMPLES,
    )
    add = parser.add_argument
    about = "folder whose input/ holds the photos"
    add("-s", "--source_path", type=Path, required=True, metavar="FOLDER", help=about)
    add("--video", type=Path, metavar="FILE", help="a video: its sharpest frames are written into input/")
    add("--frames", type=int, default=150, metavar="N", help="frames to take from the video (default 150)")
    add(
        "--camera",
        default="OPENCV",
        metavar="MODEL",
        help="COLMAP's camera model of the photos (default OPENCV)",
    )
    add("--single_camera", action="store_true", help="one camera with one focal length took all photos")
    about = "pairs of photos to match: exhaustive, sequential or spatial (default: chosen by the photos)"
    add("--matching", choices=MATCHINGS, metavar="HOW", help=about)
    add("--features", type=int, default=8192, metavar="N", help="most features per photo (default 8192)")
    add("--no_gpu", action="store_true", help="do not use the GPU, even if pycolmap can")
    add("--quiet", action="store_true", help="print nothing but errors")
    other = parser.add_argument_group("Flags of 3DGS's convert.py without effect").add_argument
    other("--resize", action="store_true", help="images_2, _4 and _8 are always made")
    other("--colmap_executable", metavar="FILE", help="pycolmap is used instead")
    other("--magick_executable", metavar="FILE", help="OpenCV is used instead")
    return parser


def parse(argv: Sequence[str] | None):
    """Return the flags of the command line. Raise ValueError if one is out of range."""
    options = convert_parser().parse_args(argv)
    if options.camera not in MODELS:
        raise ValueError(f"--camera: expected one of {', '.join(MODELS)}, got {options.camera!r}")
    for name in ("frames", "features"):
        if getattr(options, name) < 3:
            raise ValueError(f"--{name}: expected at least 3, got {getattr(options, name)}")
    return options


def take_frames(folder: Path, video: Path, count: int, quiet: bool) -> None:
    """Write `count` frames of the video into input/, unless an earlier command did.

    Raise ValueError if input/ holds other files.
    """
    total, written = video_frames.frame_count(video), WrittenFiles(folder)
    written.require_own([TAKEN])
    recorded, asked = read_json(folder / TAKEN), {"video": digest(video), "frames": count}
    foreign = list(written.foreign(INPUT))
    has_frames = len(files_in(folder / INPUT)) > len(foreign)
    if has_frames and asked.items() <= recorded.items():
        return
    if foreign or (has_frames and recorded):
        found = foreign[0].name if foreign else f"{recorded['frames']} frames of {recorded['name']}"
        raise ValueError(
            f"{folder / INPUT} holds {found}, so no {count} frames of {video} are taken: move it away, "
            "or give another folder with -s"
        )
    require_room(folder, written, [*places_of(STAGES), INPUT])
    frames = folder / SCRATCH / "frames"
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    frames.mkdir(parents=True)
    decoded = 0
    with Counter("Looking through the video", total, quiet) as counter:

        def report(done: int) -> None:
            nonlocal decoded
            decoded = done
            counter.update(done, total)

        video_frames.extract_frames(video, frames, count, report)
    written.put({frames: INPUT}, [TAKEN])
    written.write_json(TAKEN, asked | {"name": video.name})
    if not quiet:
        print(f"{len(files_in(folder / INPUT))} frames of {video}: {folder / INPUT}")
        if decoded < WHOLE * total:
            print(f"Warning: {video} says {total} frames, {decoded} could be decoded: is it damaged?")


def holds_frames(folder: Path) -> bool:
    """Return whether input/ holds frames of a video that an earlier command wrote, and nothing else."""
    return (folder / TAKEN).is_file() and not any(WrittenFiles(folder).foreign(INPUT))


def print_outcome(folder: Path, outcome: Outcome) -> None:
    """Print the counts of a conversion and its warnings."""
    print(
        f"{outcome.registered} of {outcome.photos} photos registered, {outcome.points:,} points, "
        f"reprojection error {outcome.error:.2f} pixels"
    )
    for warning in outcome.warnings:
        print(f"Warning: {warning}")
    print(f"The scene is ready: python train.py -s {folder}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command. Raise ValueError or OSError, with one clear sentence, for bad input."""
    options = parse(argv)
    if importlib.util.find_spec("pycolmap") is None:
        raise ValueError("convert.py needs pycolmap, which is not installed: pip install pycolmap")
    folder = options.source_path
    if options.video:
        take_frames(folder, options.video, options.frames, options.quiet)
    from_video = bool(options.video) or holds_frames(folder)
    choices = Choices(
        camera=options.camera,
        single_camera=options.single_camera or from_video,
        matching=options.matching or "",
        features=options.features,
        gpu=not options.no_gpu,
    )
    outcome = convert(folder, choices, from_video, options.quiet)
    if not options.quiet:
        print_outcome(folder, outcome)


if __name__ == "__main__":
    run_command(main)
