"""The variants: the defaults that each one changes. A flag on the command line overrides the variant."""

from __future__ import annotations

from typing import Any

ERROR_DRIVEN = {
    "densify_by": "error",
    "growth_cap": 0.03,
    "split": "long_axis",
    "percent_dense": 0.0,
    "clone_opacity": "corrected",
    "resolution_schedule": 15_000,  # photos reach their full size when nothing grows any more
    # Few iterations are left then to learn what full size shows, and to fill the gaps of the pruned.
    "position_lr_final": 1.6e-5,
    "feature_lr": 0.005,
    "scaling_lr": 0.01,
    "scale_schedule": True,
}
TAGGED = ERROR_DRIVEN | {"tag_lifespan": 300, "tag_patience": 2}
GRADPRUNE = TAGGED | {"prune_by": "removal_energy"}

VARIANTS: dict[str, dict[str, Any]] = {
    "3dgs": {},
    "no_tag": ERROR_DRIVEN,
    "tag": TAGGED,
    "tag_25k": TAGGED | {"prune_until_iter": 25_000},
    "tag_gradprune": GRADPRUNE,
    "tag_gradprune_decomp": GRADPRUNE
    | {"prune_by": "both", "importance": "full", "importance_until_iter": 15_000}
    | {"prune_until_iter": 25_000, "prune_cap": 0.1, "thin_energy": 1.0},
}
