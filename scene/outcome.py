"""What came of a conversion: how many photos have a place, and what looks doubtful."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

FEWEST_POINTS_PER_PHOTO = 30  # fewer are a weak start for Gaussians
LARGEST_ERROR = 1.5  # pixels of mean reprojection error: more means that the cameras are not right


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


def largest_model(models: Path) -> Path:
    """The model with the most photos, of those in the folder `models`."""
    import pycolmap

    paths = [path.parent for path in models.glob("*/images.bin")]
    sizes = {path: pycolmap.Reconstruction(path).num_reg_images() for path in paths}
    return max(sizes, key=lambda path: (sizes[path], path.name))


def assess(folder: Path, photos: list[str], matching: str) -> Outcome:
    """The outcome by the models in `folder`, of which the largest is the scene's."""
    import pycolmap

    paths = sorted(path.parent for path in folder.glob("*/images.bin"))
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
