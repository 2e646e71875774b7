"""From photos to a posed scene, by pycolmap: features, matches, cameras and points, undistorted photos.

    FOLDER/input/               the photos; of a video the frames that were picked
    FOLDER/input_masks/         masks of photos, NAME.png for the photo NAME, black where it does not count; optional
    FOLDER/distorted/           database.db, and sparse/N, the models with the photos' own distortion
    FOLDER/images/, sparse/0/   the scene for train.py: photos as pinhole cameras would have taken them
    FOLDER/images_2, _4, _8/    the same, smaller
    FOLDER/convert.json         what came of it

Every stage runs in a process of its own: COLMAP ends its process where it meets a defect of the data, and one
that hangs can be stopped. Its log is FOLDER/distorted/colmap.log. A stage whose result is there is not repeated;
if one is, so are all behind it. Only files that an earlier conversion wrote are replaced (written_files.py). What
was being written when a conversion was killed lies in FOLDER/distorted/part.
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

from scene.written_files import WrittenFiles, files_in, is_clutter
from utils.files import read_json, write_json
from utils.images import JPEG_QUALITY, read_image, resize_image, write_photo
from utils.progress import Counter

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MASKS = "input_masks"
SCALES = (2, 4, 8)
STAGES = "distorted/stages.json"  # what was asked for, and which stages are done
LOG = "distorted/colmap.log"
SCRATCH = "distorted/part"  # what a stage writes until it is complete
MODELS_PLACE = "distorted/sparse"
SCENE_PLACES = ("sparse/0", "images", "masks")
SMALLER_PLACES = tuple(f"images_{scale}" for scale in SCALES)
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


@dataclass(frozen=True)
class Stage:
    """A step of a conversion."""

    name: str
    title: str
    work: Callable[..., None]
    total: int  # things that it goes through, 0: unknown
    places: tuple[str, ...]  # folders that it replaces


def convert(folder: Path, choices: Choices, from_video: bool, quiet: bool) -> Outcome:
    """Make the scene in `folder` of the photos in its input/. ValueError or OSError says what is in the way."""
    photos = find_photos(folder / "input")
    matching = choices.matching or choose_matching(folder / "input", photos, from_video)
    asked = what_is_asked(folder, photos, choices, matching)
    pending = pending_stages(folder, asked)
    require_own_files(folder, photos, pending)
    if read_stages(folder).get("asked") != asked:
        remove_database(folder)
    for stage in pending:
        done = [other.name for other in stages(len(photos), matching)]
        write_json(folder / STAGES, {"asked": asked, "stages": done[: done.index(stage.name)]})
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        (folder / SCRATCH).mkdir(parents=True)
        run_stage(stage.title, stage.work, (folder, choices, matching), folder / LOG, stage.total, quiet)
        write_json(folder / STAGES, {"asked": asked, "stages": done[: done.index(stage.name) + 1]})
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    outcome = assess(folder, photos, matching)
    write_json(folder / "convert.json", vars(outcome))
    return outcome


def what_is_asked(folder: Path, photos: list[str], choices: Choices, matching: str) -> dict[str, Any]:
    """Return all that a scene depends on: where it differs from an earlier conversion's, that one's is not kept."""
    asked = {name: value for name, value in vars(choices).items() if name != "gpu"} | {"matching": matching}
    masks = stamps(folder / MASKS, mask_names(folder, photos))
    return asked | {"photos": stamps(folder / "input", photos), "masks": masks}


def stages(photos: int, matching: str) -> list[Stage]:
    """Return all steps of a conversion, in order."""
    return [
        Stage("features", "Finding features", _extract, photos, ()),
        Stage("matches", f"Matching photos ({matching})", _match, 0, ()),
        Stage("cameras", "Placing cameras", _map, photos, (MODELS_PLACE,)),
        Stage("photos", "Undistorting photos", _undistort, photos, SCENE_PLACES),
        Stage("smaller", "Making smaller photos", _write_smaller, photos * len(SCALES), SMALLER_PLACES),
    ]


def pending_stages(folder: Path, asked: dict[str, Any]) -> list[Stage]:
    """Return the stages to run: all from the first whose result is not there, or of something else."""
    record, written = read_stages(folder), WrittenFiles(folder)
    every = stages(len(asked["photos"]), asked["matching"])
    if record.get("asked") != asked:
        return every
    results = {"cameras": (MODELS_PLACE,), "photos": ("images", "sparse/0"), "smaller": SMALLER_PLACES}
    for index, stage in enumerate(every):
        there = all(map(written.is_whole, results.get(stage.name, ())))
        if stage.name not in record.get("stages", []) or not there:
            return every[index:]
    return []


def read_stages(folder: Path) -> dict[str, Any]:
    return read_json(folder / STAGES)


def stamps(folder: Path, names: list[str]) -> dict[str, list[int]]:
    """Return size and time of change of files by name: a file of the same name with another stamp is another."""
    states = {name: (folder / name).stat() for name in names}
    return {name: [state.st_size, state.st_mtime_ns] for name, state in states.items()}


def mask_names(folder: Path, photos: list[str]) -> list[str]:
    return [f"{name}.png" for name in photos if (folder / MASKS / f"{name}.png").is_file()]


def require_own_files(folder: Path, photos: list[str], pending: list[Stage]) -> None:
    """Raise ValueError if a stage to come would replace a file that convert.py did not write, or reads."""
    if not read_stages(folder) and any(map(is_foreign_work, files_in(folder / "distorted"))):
        raise ValueError(
            f"{folder / 'distorted'} holds the work of another program; move it away, or use another folder"
        )
    places = [place for stage in pending for place in stage.places]
    targets = {
        (folder / place).resolve() for place in [*places, "distorted"] if not (folder / place).is_symlink()
    }
    for name in [Path(MASKS), *(Path("input") / photo for photo in photos)]:
        path = (folder / name).resolve()
        if targets & {path, *path.parents}:
            raise ValueError(
                f"{folder / name} is a link into a folder that convert.py replaces ({path}); put the photos "
                "themselves into input/"
            )
    if foreign := WrittenFiles(folder).foreign(places):
        raise ValueError(
            f"{foreign[0]} was not written by convert.py, which would replace it ({len(foreign)} such files); "
            "move it away, or use another folder"
        )


def is_foreign_work(path: Path) -> bool:
    """Return whether a file in distorted/, where no stages are recorded, is more than a video's record and a log."""
    return not (
        is_clutter(path) or path.name in ("video.json", "written.json", "colmap.log") or "part" in path.parts
    )


def remove_database(folder: Path) -> None:
    """Delete COLMAP's database, so that features are found anew. The photos may have changed under their names."""
    for path in (folder / "distorted").glob("database.db*"):
        path.unlink()


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
    photos = find_photos(folder / "input")
    if mask_names(folder, photos):
        reader.mask_path = _complete_masks(folder, photos)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = choices.features
    mode = pycolmap.CameraMode.SINGLE if choices.single_camera else pycolmap.CameraMode.AUTO
    pycolmap.extract_features(
        folder / "distorted/database.db",
        folder / "input",
        image_names=photos,
        camera_mode=mode,
        reader_options=reader,
        extraction_options=extraction,
        device=_device(choices),
    )


def _complete_masks(folder: Path, photos: list[str]) -> Path:
    """Return a folder with a mask for every photo: COLMAP leaves photos out that have none."""
    complete = folder / SCRATCH / "masks"
    for name in photos:
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

    models = folder / SCRATCH / "sparse"
    models.mkdir(parents=True)
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = 0
    options.min_model_size = min(options.min_model_size, len(find_photos(folder / "input")))
    if not pycolmap.incremental_mapping(folder / "distorted/database.db", folder / "input", models, options):
        raise SystemExit("no two photos see enough of the same things to start from")
    WrittenFiles(folder).put(models, MODELS_PLACE)


def _undistort(folder: Path, choices: Choices, matching: str) -> None:
    import pycolmap

    new, model, written = folder / SCRATCH, largest_model(folder), WrittenFiles(folder)
    pycolmap.undistort_images(new, model, folder / "input", output_type="COLMAP", jpeg_quality=JPEG_QUALITY)
    if (folder / MASKS).is_dir():
        _undistort_masks(folder, model, new / "masks")
    for place in SCENE_PLACES:
        written.discard(place)
    for place in reversed(SCENE_PLACES):  # sparse last: with it the scene is complete
        written.put(new / place.removesuffix("/0"), place)


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


def _write_smaller(folder: Path, choices: Choices, matching: str) -> None:
    photos = sorted(path for path in (folder / "images").rglob("*") if is_photo(path))
    for done, path in enumerate(photos, 1):
        image = read_image(path)
        for scale, place in zip(SCALES, SMALLER_PLACES):
            size = (max(1, round(side / scale)) for side in image.shape[1::-1])
            write_photo(
                folder / SCRATCH / place / path.relative_to(folder / "images"), resize_image(image, *size)
            )
        print(f"Processed file [{done * len(SCALES)}/{len(photos) * len(SCALES)}]", flush=True)
    for place in SMALLER_PLACES:
        WrittenFiles(folder).put(folder / SCRATCH / place, place)


def _device(choices: Choices) -> Any:
    import pycolmap

    return pycolmap.Device.auto if choices.gpu else pycolmap.Device.cpu


# What is decided


def find_photos(folder: Path) -> list[str]:
    """Names of the photos in `folder` and below. FileNotFoundError or ValueError if there are too few."""
    if not folder.is_dir():
        raise FileNotFoundError(f"photos are expected in {folder}, which does not exist")
    photos = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if is_photo(path))
    if len(photos) < FEWEST_PHOTOS:
        raise ValueError(
            f"{folder} holds {len(photos)} photos ({', '.join(PHOTO_SUFFIXES)}); at least {FEWEST_PHOTOS} are needed"
        )
    return photos


def is_photo(path: Path) -> bool:
    """Return whether a file is a photo by its name; hidden ones, such as macOS leaves on USB sticks, are none."""
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".") and path.is_file()


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
