"""Make a posed scene of photos by pycolmap: features, matches, cameras and points, undistorted photos.

    FOLDER/input/               the photos, or the frames that were chosen from a video
    FOLDER/input_masks/         optional masks, black where pixels are ignored; also the alpha of photos
    FOLDER/distorted/           database.db, and sparse/N, the models with the distortion of the photos
    FOLDER/images/, sparse/0/   the scene for train.py, with undistorted photos
    FOLDER/images_2, _4, _8/    the same photos, scaled down by 2, 4 and 8
    FOLDER/convert.json         the outcome

A stage works in FOLDER/distorted/unfinished, which also holds the log. Its results are moved to their places
when they are complete. A stage whose results exist is skipped, unless a stage before it is repeated: then all
later stages are repeated too.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import GPS, IFD

from scene.masks import Masks, used_pixels
from scene.outcome import Outcome, assess, largest_model
from scene.photo_list import find_photos, names_for_colmap, photo_files, show_to_colmap
from scene.stage_process import run_stage
from scene.written_files import WrittenFiles, digest
from utils.files import read_json, write_json

# This imports cv2, which must come before pycolmap: in the other order its PNG writer crashes or hangs.
from utils.images import JPEG_QUALITY, read_image, resize_image, write_gray, write_photo

INPUT, MASKS = "input", "input_masks"
# convert.py owns everything in this folder.
SCRATCH = "distorted/unfinished"
DATABASE, MODELS = "distorted/database.db", "distorted/sparse"
STAGES_DONE = "distorted/stages.json"
SCALES = (2, 4, 8)
WITHOUT_ALPHA = (".jpg", ".jpeg")
# Largest number of photos of which every pair is matched. More take hours on a CPU.
MOST_EXHAUSTIVE = 150
MATCHINGS = ("exhaustive", "sequential", "spatial")


@dataclass(frozen=True)
class Choices:
    """The flags of convert.py that decide how photos are converted."""

    camera: str = "OPENCV"  # COLMAP's camera model
    single_camera: bool = False  # one camera with one focal length took all photos
    matching: str = ""  # one of MATCHINGS; empty: chosen by the photos
    features: int = 8192  # largest number per photo
    gpu: bool = True  # if pycolmap was built for it


@dataclass(frozen=True)
class Conversion:
    """The input of every stage: the photos and how they are converted."""

    folder: Path
    choices: Choices
    photos: dict[str, str]  # their names in input/, and in the scene
    masks: dict[str, Path | None]  # by names in input/
    matching: str

    @property
    def scratch(self) -> Path:
        """Return the folder in which stages work."""
        return self.folder / SCRATCH

    @property
    def asked(self) -> dict[str, Any]:
        """Return everything that the result depends on, with photos and masks by their content."""
        choices = {name: getattr(self.choices, name) for name in ("camera", "single_camera", "features")}
        photos = {name: digest(self.folder / INPUT / name) for name in self.photos}
        masks = {name: digest(path) for name, path in self.masks.items() if path}
        return choices | {"matching": self.matching, "photos": photos, "masks": masks}


class Stage(NamedTuple):
    """A part of the work.

    `results` maps names in the scratch folder to places below the scene's folder.
    """

    title: str
    work: Callable[[Conversion], None]
    results: dict[str, str]


def convert(folder: Path, choices: Choices, from_video: bool, quiet: bool) -> Outcome:
    """Make the scene in `folder` of the photos in its input/.

    Raise ValueError or OSError, naming the problem, if a stage fails or files of others are in the way.
    """
    photos = find_photos(folder / INPUT)
    if photos.others and not quiet:
        print(photos.about_others())
    matching = choices.matching or choose_matching(folder / INPUT, photos.names, from_video)
    masks = Masks(folder, (MASKS,))
    found = {name: masks.of(name) for name in photos.names}
    masks.report(found, quiet)
    names = names_for_colmap(folder / INPUT, photos.names)
    job, written = Conversion(folder, choices, names, found, matching), WrittenFiles(folder)
    asked = job.asked
    done = stages_done(job, asked, written)
    remaining = [name for name in STAGES if name not in done]
    require_room(folder, written, places_of(remaining))
    if read_json(folder / STAGES_DONE).get("asked") != asked:
        shutil.rmtree(job.scratch, ignore_errors=True)
    while remaining:
        written.write_json(STAGES_DONE, {"asked": asked, "stages": done})
        do(remaining[0], remaining[1:], job, written, quiet)
        done, remaining = [*done, remaining[0]], remaining[1:]
        written.write_json(STAGES_DONE, {"asked": asked, "stages": done})
    shutil.rmtree(job.scratch, ignore_errors=True)
    return assess(folder / MODELS, job.photos, matching)


def places_of(stages: Iterable[str]) -> list[str]:
    """Return the places of the stages' results."""
    return [place for name in stages for place in STAGES[name].results.values()]


def stages_done(job: Conversion, asked: dict[str, Any], written: WrittenFiles) -> list[str]:
    """Return the first stages that need not be repeated.

    They were done with the same photos and choices, and their results still exist.
    """
    recorded = read_json(job.folder / STAGES_DONE)
    databases = (job.folder / DATABASE, job.scratch / "database.db")
    if recorded.get("asked") != asked or not any(path.is_file() for path in databases):
        return []

    def is_done(name: str) -> bool:
        return name in recorded["stages"] and written.is_whole(places_of([name]))

    return list(itertools.takewhile(is_done, STAGES))


def do(name: str, later: list[str], job: Conversion, written: WrittenFiles, quiet: bool) -> None:
    """Do a stage and replace its earlier results. Discard the results of later stages."""
    stage = STAGES[name]
    job.scratch.mkdir(parents=True, exist_ok=True)
    title = stage.title.format(matching=job.matching)
    run_stage(title, stage.work, job, job.scratch / "colmap.log", len(job.photos), quiet)
    if stage.results:
        results = {job.scratch / name: place for name, place in stage.results.items()}
        written.put(results, places_of(later))


def require_room(folder: Path, written: WrittenFiles, places: list[str]) -> None:
    """Raise ValueError if replacing `places` would lose photos, masks or files of others."""
    written.require_own(places)
    written.refuse_links(SCRATCH)
    replaced = [(folder / place).resolve() for place in (*places, "distorted")]
    for source in (folder / INPUT, folder / MASKS):
        for path in (source, *source.rglob("*")):
            if path.is_symlink() and {path.resolve(), *path.resolve().parents} & set(replaced):
                raise ValueError(
                    f"{path} is a link to {path.resolve()}, where convert.py replaces files: "
                    f"put the files themselves into {source}"
                )


# The stages. Each runs in a child process and works in the scratch folder.


def _extract(job: Conversion) -> None:
    """Write the features of all photos into the database."""
    import pycolmap

    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = job.choices.camera
    if masks := _write_masks(job):
        reader.mask_path = masks
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.sift.max_num_features = job.choices.features
    mode = pycolmap.CameraMode.SINGLE if job.choices.single_camera else pycolmap.CameraMode.AUTO
    pycolmap.extract_features(
        job.scratch / "database.db",
        _shown_photos(job),
        image_names=list(job.photos.values()),
        camera_mode=mode,
        reader_options=reader,
        extraction_options=extraction,
        device=_device(job.choices),
    )


def _shown_photos(job: Conversion) -> Path:
    """Return the folder in which COLMAP finds the photos."""
    return show_to_colmap(job.folder / INPUT, job.photos, job.scratch / "photos")


def _mask_of(job: Conversion, photo: str) -> np.ndarray | None:
    """Return the (H, W) uint8 mask of a photo, 255 where a pixel counts; None if all do."""
    path = job.folder / INPUT / photo
    if job.masks[photo] is None and path.suffix.lower() in WITHOUT_ALPHA:
        return None
    used = used_pixels(read_image(path), path, job.masks[photo], alpha_is_mask=True)
    return None if used.all() else used.astype(np.uint8) * 255


def _write_masks(job: Conversion) -> Path | None:
    """Write a mask for every photo, and return their folder: COLMAP ignores photos without one.

    Return None if all pixels of all photos count.
    """
    masks = {photo: mask for photo in job.photos if (mask := _mask_of(job, photo)) is not None}
    folder = job.scratch / "complete_masks"
    for photo in job.photos if masks else ():
        mask = masks.get(photo)
        if mask is None:
            mask = np.full(read_image(job.folder / INPUT / photo).shape[:2], 255, np.uint8)
        write_gray(folder / f"{job.photos[photo]}.png", mask)
    return folder if masks else None


def _match(job: Conversion) -> None:
    """Write the matches between photos into the database."""
    import pycolmap

    match = {
        "exhaustive": pycolmap.match_exhaustive,
        "sequential": pycolmap.match_sequential,
        "spatial": pycolmap.match_spatial,
    }[job.matching]
    options = {}
    if job.matching == "exhaustive":
        options["pairing_options"] = pycolmap.ExhaustivePairingOptions()
        # The log gets one line per block: small ones show progress.
        options["pairing_options"].block_size = 10
    match(job.scratch / "database.db", device=_device(job.choices), **options)


def _map(job: Conversion) -> None:
    """Write models with the cameras and points that follow from the matches."""
    import pycolmap

    database, models = job.scratch / "database.db", job.scratch / "models"
    # An earlier run moved the database to its place.
    if not database.is_file():
        shutil.copyfile(job.folder / DATABASE, database)
    _empty(models)
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = 0
    options.min_model_size = min(options.min_model_size, len(job.photos))
    if not pycolmap.incremental_mapping(database, _shown_photos(job), models, options):
        raise SystemExit("no two photos see enough of the same things to start from")


def _undistort(job: Conversion) -> None:
    """Write the undistorted photos, masks and model of the largest model."""
    import pycolmap

    for name in ("images", "masks", "sparse"):
        _empty(job.scratch / name)
    model = largest_model(job.folder / MODELS)
    pycolmap.undistort_images(
        job.scratch, model, _shown_photos(job), output_type="COLMAP", jpeg_quality=JPEG_QUALITY
    )
    photos = {name: photo for photo, name in job.photos.items()}
    for image in pycolmap.Reconstruction(model).images.values():
        mask = _mask_of(job, photos[image.name])
        if mask is not None:
            bitmap = pycolmap.Bitmap.from_array(np.dstack([mask] * 3))
            undistorted, _ = pycolmap.undistort_image(pycolmap.UndistortCameraOptions(), bitmap, image.camera)
            whole = np.where(undistorted.to_array()[..., 0] == 255, np.uint8(255), np.uint8(0))
            write_gray(job.scratch / "masks" / f"{image.name}.png", whole)


def _make_smaller(job: Conversion) -> None:
    """Write the photos of images_2, images_4 and images_8, and the outcome."""
    for scale in SCALES:
        _empty(job.scratch / f"images_{scale}")
    images = job.folder / "images"
    photos = photo_files(images)
    for number, path in enumerate(photos, 1):
        image = read_image(path)
        for scale in SCALES:
            size = (max(1, round(side / scale)) for side in image.shape[1::-1])
            target = job.scratch / f"images_{scale}" / path.relative_to(images)
            write_photo(target, resize_image(image, *size))
        print(f"Processing image [{number}/{len(photos)}]", flush=True)
    write_json(job.scratch / "convert.json", vars(assess(job.folder / MODELS, job.photos, job.matching)))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _device(choices: Choices) -> Any:
    import pycolmap

    return pycolmap.Device.auto if choices.gpu else pycolmap.Device.cpu


STAGES = {
    "features": Stage("Finding features", _extract, {}),
    "matches": Stage("Matching photos ({matching})", _match, {}),
    "cameras": Stage("Placing cameras", _map, {"database.db": DATABASE, "models": MODELS}),
    "undistortion": Stage(
        "Undistorting photos",
        _undistort,
        # The model comes last: with it the scene is complete.
        {"masks": "masks", "images": "images", "sparse": "sparse/0"},
    ),
    "smaller": Stage(
        "Making smaller photos",
        _make_smaller,
        {f"images_{scale}": f"images_{scale}" for scale in SCALES}
        | {"convert.json": "convert.json", "colmap.log": "distorted/colmap.log"},
    ),
}


# Decisions about the photos


def choose_matching(folder: Path, photos: list[str], from_video: bool) -> str:
    """Return which pairs of photos to match.

    Frames of a video are matched with their neighbors in time, few photos all with each other. Many photos
    are matched with their neighbors on the map if all have a position, else with those in time if they are
    numbered.
    """
    if from_video:
        return "sequential"
    if len(photos) <= MOST_EXHAUSTIVE:
        return "exhaustive"
    if all(has_position(folder / name) for name in photos):
        return "spatial"
    return "sequential" if are_numbered(photos) else "exhaustive"


def are_numbered(photos: list[str]) -> bool:
    """Return whether the names differ in the last number only, as those of a series do."""
    return len({re.sub(r"\d+(?=\D*$)", "#", name) for name in photos}) == 1


def has_position(photo: Path) -> bool:
    """Return whether the photo's EXIF holds a position on earth."""
    try:
        image = Image.open(photo)
    except UnidentifiedImageError:  # of a format that this Pillow does not know
        return False
    with image:
        return {GPS.GPSLatitude, GPS.GPSLongitude} <= image.getexif().get_ifd(IFD.GPSInfo).keys()
