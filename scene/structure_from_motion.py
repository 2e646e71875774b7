"""From photos to a posed scene, by pycolmap: features, matches, cameras and points, straight photos.

    FOLDER/input/               the photos; of a video the frames that were picked
    FOLDER/input_masks/         masks of photos, NAME.png for the photo NAME, black where it does not count; may be absent
    FOLDER/distorted/           database.db, and sparse/N, the models with the photos' own distortion
    FOLDER/images/, sparse/0/   the scene for train.py: photos as pinhole cameras would have taken them
    FOLDER/images_2, _4, _8/    the same, smaller
    FOLDER/convert.json         what came of it

Every stage runs in a process of its own: COLMAP ends its process where it meets a defect of the data, and one that hangs
can be stopped. Its log is FOLDER/distorted/colmap.log. A stage whose result is there is not repeated.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import cv2
import numpy as np
from PIL import Image
from PIL.ExifTags import GPS, IFD

from utils.files import read_json, write_json
from utils.images import JPEG_QUALITY, read_image, resize_image, write_photo
from utils.progress import Counter, each

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MASKS = "input_masks"
SCALES = (2, 4, 8)
FEWEST_PHOTOS = 3
FEWEST_POINTS_PER_PHOTO = 30  # fewer are a weak start for Gaussians
LARGEST_ERROR = 1.5  # pixels of mean reprojection error: more means that the cameras are not right
MOST_EXHAUSTIVE = 150  # photos: beyond, matching every pair takes hours on a CPU
MATCHINGS = ("exhaustive", "sequential", "spatial")
# How far a stage is, in COLMAP's log.
DONE = re.compile(r"(?:Processed file|Processing block|Processing image|Undistorting image) \[(\d+)/(\d+)")
REGISTERED = re.compile(r"Registering image #\d+ \(num_reg_frames=(\d+)\)")


@dataclass(frozen=True)
class Choices:
    """How to convert; the flags of convert.py."""

    camera: str = "OPENCV"  # COLMAP's camera model
    single_camera: bool = False  # one camera took all photos, with one focal length
    matching: str = ""  # of MATCHINGS, empty: chosen by the photos
    features: int = 8192  # of a photo, at most
    gpu: bool = True  # where pycolmap was built for it


@dataclass
class Outcome:
    """What came of a conversion."""

    photos: int
    registered: int
    points: int
    error: float  # pixels, mean reprojection error
    models: list[int]  # photos of each model found, the largest first
    matching: str
    left_out: list[str]  # photos that no camera was found for
    warnings: list[str] = field(default_factory=list)


def convert(folder: Path, choices: Choices, from_video: bool, quiet: bool) -> Outcome:
    """Make the scene in `folder` of the photos in its input/. ValueError or OSError says what is in the way."""
    photos = find_photos(folder / "input")
    work = folder / "distorted"
    work.mkdir(parents=True, exist_ok=True)
    matching = choices.matching or choose_matching(folder / "input", photos, from_video)
    done = read_json(work / "stages.json")
    asked = {"camera": choices.camera, "single_camera": choices.single_camera, "features": choices.features}
    if done and done.get("asked") != asked | {"matching": matching, "photos": photos}:
        shutil.rmtree(work)
        work.mkdir()
        done = {}
    done = {"asked": asked | {"matching": matching, "photos": photos}, "stages": done.get("stages", [])}
    stages: list[tuple[str, str, Callable[..., None], int]] = [
        ("features", "Finding features", _extract, len(photos)),
        ("matches", f"Matching photos ({matching})", _match, 0),
        ("cameras", "Placing cameras", _map, len(photos)),
    ]
    for name, title, work_of, total in stages:
        if name not in done["stages"]:
            run_stage(title, work_of, (folder, choices, matching), work / "colmap.log", total, quiet)
            done["stages"].append(name)
            write_json(work / "stages.json", done)
    outcome = assess(folder, photos, matching)
    if not is_complete(folder):
        run_stage(
            "Straightening photos",
            _undistort,
            (folder, choices, matching),
            work / "colmap.log",
            outcome.registered,
            quiet,
        )
    write_smaller(folder, quiet)
    write_json(folder / "convert.json", vars(outcome))
    return outcome


# The stages, each in a process of its own


def run_stage(
    title: str, work: Callable[..., None], arguments: tuple, log: Path, total: int, quiet: bool
) -> None:
    """Call `work` in another process and show how far it is. ValueError with COLMAP's words if it fails."""
    start = log.stat().st_size if log.is_file() else 0
    process = multiprocessing.get_context("spawn").Process(target=_in_child, args=(work, arguments, log))
    process.start()
    try:
        with Counter(title, total, quiet) as counter, open(log, "ab"):
            while process.is_alive():
                process.join(1.0)
                counter.update(*progress_in(log, start, total))
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
    if process.exitcode:
        raise ValueError(f"{title.lower()} failed: {last_words(log, start)} (see {log})")


def _in_child(work: Callable[..., None], arguments: tuple, log: Path) -> None:
    with open(log, "ab", buffering=0) as file:
        for descriptor in (1, 2):  # also what C++ prints
            os.dup2(file.fileno(), descriptor)
        work(*arguments)


def progress_in(log: Path, start: int, total: int) -> tuple[int, int]:
    """Done and total, by the newest lines behind byte `start` of COLMAP's log."""
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    if registered := REGISTERED.findall(text):
        return int(registered[-1]) + 1, total
    if done := DONE.findall(text):
        return int(done[-1][0]), int(done[-1][1])
    return 0, total


def last_words(log: Path, start: int) -> str:
    """What the log says last before it ends or a stack is printed, without time and place in the source."""
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith((" ", "***", "PC:", "Traceback"))]
    return (
        re.sub(r"^[EWIF]\d{8} [\d:.]+ \d+ (\S+\] )?", "", lines[-1]).strip() if lines else "no reason given"
    )


def _extract(folder: Path, choices: Choices, matching: str) -> None:
    import pycolmap

    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = choices.camera
    if (folder / MASKS).is_dir():
        reader.mask_path = _complete_masks(folder)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = choices.features
    mode = pycolmap.CameraMode.SINGLE if choices.single_camera else pycolmap.CameraMode.AUTO
    pycolmap.extract_features(
        folder / "distorted/database.db",
        folder / "input",
        camera_mode=mode,
        reader_options=reader,
        extraction_options=extraction,
        device=_device(choices),
    )


def _complete_masks(folder: Path) -> Path:
    """A folder with a mask for every photo: COLMAP leaves photos out that have none."""
    complete = folder / "distorted/masks"
    for name in find_photos(folder / "input"):
        target = complete / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        given = folder / MASKS / f"{name}.png"
        if given.is_file():
            shutil.copyfile(given, target)
        else:
            photo = read_image(folder / "input" / name)
            cv2.imwrite(str(target), np.full(photo.shape[:2], 255, np.uint8))
    return complete


def _match(folder: Path, choices: Choices, matching: str) -> None:
    import pycolmap

    match = {
        "exhaustive": pycolmap.match_exhaustive,
        "sequential": pycolmap.match_sequential,
        "spatial": pycolmap.match_spatial,
    }[matching]
    more = {}
    if matching == "exhaustive":
        more["pairing_options"] = pycolmap.ExhaustivePairingOptions()
        more["pairing_options"].block_size = 10  # small blocks: one line of progress each
    match(folder / "distorted/database.db", device=_device(choices), **more)


def _map(folder: Path, choices: Choices, matching: str) -> None:
    import pycolmap

    models = folder / "distorted/sparse"
    shutil.rmtree(models, ignore_errors=True)
    models.mkdir(parents=True)
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = 0
    options.min_model_size = min(options.min_model_size, len(find_photos(folder / "input")))
    if not pycolmap.incremental_mapping(folder / "distorted/database.db", folder / "input", models, options):
        raise SystemExit("no two photos see enough of the same things to start from")


def _undistort(folder: Path, choices: Choices, matching: str) -> None:
    import pycolmap

    new = folder / "distorted/straight"
    shutil.rmtree(new, ignore_errors=True)
    model = largest_model(folder)
    pycolmap.undistort_images(new, model, folder / "input", output_type="COLMAP", jpeg_quality=JPEG_QUALITY)
    if (folder / MASKS).is_dir():
        _undistort_masks(folder, model, new / "masks")
    for name in ("masks", "images", "sparse/0"):  # sparse last: with it the scene is complete
        source = new / name.replace("/0", "")
        if source.is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, folder / name)
    shutil.rmtree(new)


def _undistort_masks(folder: Path, model: Path, masks: Path) -> None:
    import pycolmap

    reconstruction = pycolmap.Reconstruction(model)
    for image in reconstruction.images.values():
        mask = folder / MASKS / f"{image.name}.png"
        if mask.is_file():
            bitmap = pycolmap.Bitmap.from_array(read_image(mask)[..., :3])
            undistorted, _ = pycolmap.undistort_image(pycolmap.UndistortCameraOptions(), bitmap, image.camera)
            path = masks / f"{image.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(
                str(path), np.where(undistorted.to_array()[..., 0] == 255, np.uint8(255), np.uint8(0))
            )


def _device(choices: Choices) -> Any:
    import pycolmap

    return pycolmap.Device.auto if choices.gpu else pycolmap.Device.cpu


# What is decided


def find_photos(folder: Path) -> list[str]:
    """Names of the photos in `folder` and below. FileNotFoundError or ValueError if there are too few."""
    if not folder.is_dir():
        raise FileNotFoundError(f"photos are expected in {folder}, which does not exist")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file())
    photos = sorted(path.relative_to(folder).as_posix() for path in found)
    if len(photos) < FEWEST_PHOTOS:
        raise ValueError(
            f"{folder} holds {len(photos)} photos ({', '.join(PHOTO_SUFFIXES)}); at least {FEWEST_PHOTOS} are needed"
        )
    return photos


def choose_matching(folder: Path, photos: list[str], from_video: bool) -> str:
    """Which pairs of photos to compare: neighbours of a video, neighbours on the map if there are many, or all."""
    if from_video:
        return "sequential"
    if len(photos) <= MOST_EXHAUSTIVE:
        return "exhaustive"
    if all(has_position(folder / name) for name in photos):
        return "spatial"
    return "sequential" if are_numbered(photos) else "exhaustive"


def are_numbered(photos: list[str]) -> bool:
    """Whether the names differ in one number only, as those of a series do."""
    return len({re.sub(r"\d+(?=\D*$)", "#", name) for name in photos}) == 1


def has_position(photo: Path) -> bool:
    """Whether the photo's EXIF holds a place on earth."""
    with Image.open(photo) as image:
        return {GPS.GPSLatitude, GPS.GPSLongitude} <= image.getexif().get_ifd(IFD.GPSInfo).keys()


# What came of it


def largest_model(folder: Path) -> Path:
    """Of those in distorted/sparse, the one with the most photos."""
    import pycolmap

    models = (folder / "distorted/sparse").glob("*/images.bin")
    sizes = {path.parent: pycolmap.Reconstruction(path.parent).num_reg_images() for path in models}
    return max(sizes, key=lambda path: (sizes[path], path.name))


def assess(folder: Path, photos: list[str], matching: str) -> Outcome:
    import pycolmap

    paths = sorted(path.parent for path in (folder / "distorted/sparse").glob("*/images.bin"))
    models = sorted(
        (pycolmap.Reconstruction(path) for path in paths), key=lambda model: -model.num_reg_images()
    )
    best = models[0]
    names = {image.name for image in best.images.values()}
    outcome = Outcome(
        photos=len(photos),
        registered=best.num_reg_images(),
        points=best.num_points3D(),
        error=best.compute_mean_reprojection_error(),
        models=[model.num_reg_images() for model in models],
        matching=matching,
        left_out=[name for name in photos if name not in names],
    )
    outcome.warnings = doubts(outcome)
    return outcome


def doubts(outcome: Outcome) -> list[str]:
    """What makes the scene look doubtful, in sentences."""
    found = []
    if len(outcome.models) > 1 and outcome.left_out:
        sizes = ", ".join(map(str, outcome.models))
        found.append(f"the photos fell into {len(outcome.models)} parts ({sizes} photos); the first is used")
    if outcome.registered < 0.9 * outcome.photos:
        found.append(f"{len(outcome.left_out)} of {outcome.photos} photos have no place in the scene")
    if outcome.points < FEWEST_POINTS_PER_PHOTO * outcome.registered:
        found.append(f"only {outcome.points} points: take more photos, closer to each other")
    if outcome.error > LARGEST_ERROR:
        found.append(f"points are off by {outcome.error:.2f} pixels on average; did something move?")
    return found


def is_complete(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "sparse/0/images.bin").is_file()


def write_smaller(folder: Path, quiet: bool) -> None:
    """images_2, images_4 and images_8, of which what is there already is kept."""
    photos = sorted(path for path in (folder / "images").rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    wanted = [(path, scale, folder / f"images_{scale}" / path.relative_to(folder / "images"))
              for path in photos for scale in SCALES]  # fmt: skip
    missing = [item for item in wanted if not item[2].is_file()]
    for path, scale, target in each(missing, "Making smaller photos", quiet):
        image = read_image(path)
        size = (max(1, round(side / scale)) for side in image.shape[1::-1])
        write_photo(target, resize_image(image, *size))
