"""The outcome of a conversion: how many photos were registered, and which numbers look doubtful."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

# Fewer points are a weak start for Gaussians.
FEWEST_POINTS_PER_PHOTO = 30
# Largest mean reprojection error in pixels of cameras that can be right.
LARGEST_ERROR = 1.5


@dataclass
class Outcome:
    """The counts, the error and the warnings of a conversion."""

    photos: int
    registered: int  # photos with a camera
    points: int
    error: float  # mean reprojection error in pixels
    models: list[int]  # number of photos of each model, the largest first
    matching: str
    left_out: list[str]  # photos without a camera
    warnings: list[str] = field(default_factory=list)


def largest_model(models: Path) -> Path:
    """Return the folder of the model with the most photos, of those below `models`."""
    import pycolmap

    paths = [path.parent for path in models.glob("*/images.bin")]
    sizes = {path: pycolmap.Reconstruction(path).num_reg_images() for path in paths}
    return max(sizes, key=lambda path: (sizes[path], path.name))


def assess(folder: Path, photos: dict[str, str], matching: str) -> Outcome:
    """Return the outcome of a conversion with the models in `folder`.

    `photos`: their names, and those in the models. The largest model becomes the scene.
    """
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
        left_out=[photo for photo, name in photos.items() if name not in names],
    )
    outcome.warnings = doubts(outcome)
    return outcome


def doubts(outcome: Outcome) -> list[str]:
    """Return a sentence for everything that makes the scene look doubtful."""
    found = []
    if len(outcome.models) > 1 and outcome.left_out:
        sizes = ", ".join(map(str, outcome.models))
        found.append(f"the photos fell into {len(outcome.models)} parts ({sizes} photos); the first is used")
    if outcome.left_out:
        names = ", ".join(outcome.left_out[:5]) + (", ..." if len(outcome.left_out) > 5 else "")
        found.append(
            f"{len(outcome.left_out)} of {outcome.photos} photos have no place in the scene: {names}"
        )
    if outcome.points < FEWEST_POINTS_PER_PHOTO * outcome.registered:
        found.append(f"only {outcome.points} points: take more photos, closer to each other")
    if outcome.error > LARGEST_ERROR:
        found.append(f"points are off by {outcome.error:.2f} pixels on average; did something move?")
    return found
