"""Renders the bundled scene data/demo with Mitsuba 3 and writes it as a COLMAP scene: images and sparse/0.

Needs `pip install mitsuba==3.9.1 pyoidn==2.5.1.0 opencv-python-headless` and LLVM 19 (Debian: libllvm19).
Where several are installed, the environment variable DRJIT_LIBLLVM_PATH names the library to use: an old one
aborts on "Cannot select". The same seed gives the same scene and the same cameras.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

DEFAULT_OUTPUT = Path(__file__).resolve().parent.parent / "data" / "demo"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, help="folder to write (default: data/demo)"
    )
    parser.add_argument("--spp", type=int, default=32, help="light paths per pixel (default: 32)")
    parser.add_argument(
        "--width", type=int, default=480, help="image width in pixels, 3/4 of it high (default: 480)"
    )
    parser.add_argument("--points", type=int, default=6000, help="number of sparse points (default: 6000)")
    parser.add_argument("--quality", type=int, default=88, help="JPEG quality (default: 88)")
    parser.add_argument("--seed", type=int, default=7, help="seed of shapes, textures and noise (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--keep", action="store_true", help="keep images that exist: go on after a break")
    arguments = parser.parse_args()
    for name in ("spp", "width", "points", "quality", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    return arguments


def prepare_mitsuba(threads: int) -> None:
    """Choose Mitsuba's CPU variant; must come before the modules that use it."""
    try:
        import drjit
        import mitsuba

        mitsuba.set_variant("llvm_ad_rgb")
        import pyoidn  # noqa: F401
    except ImportError as error:
        print(f"error: mitsuba and pyoidn are needed (see --help): {error}", file=sys.stderr)
        raise SystemExit(2) from error
    drjit.set_thread_count(threads)


def main() -> None:
    arguments = parse_arguments()
    prepare_mitsuba(arguments.threads)
    import cv2

    from demo_scene import cameras, colmap, points, rendering, room, textures

    scene = rendering.build_scene(room.scene_parts(arguments.seed), textures.all_textures(arguments.seed))
    views = cameras.all_views()
    folder = arguments.output / "images"
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for k, view in enumerate(views):
        if arguments.keep and (folder / view.name).exists():
            continue
        image = rendering.render_view(scene, view, arguments.width, arguments.spp, arguments.seed * 1000 + k)
        rendering.write_jpeg(folder / view.name, image, arguments.quality)
        print(f"{view.name}  {k + 1}/{len(views)}  {time.monotonic() - start:.0f} s", flush=True)

    images = [cv2.cvtColor(cv2.imread(str(folder / view.name)), cv2.COLOR_BGR2RGB) for view in views]
    sparse = points.sparse_points(scene, views, images, arguments.points, arguments.seed)
    colmap.write_model(arguments.output / "sparse" / "0", views, sparse, arguments.width)
    print(
        f"{len(sparse.positions)} points; they differ from the pixels that they project to by "
        f"{points.color_disagreement(sparse, views, images):.1f} of 255 on average"
    )


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
