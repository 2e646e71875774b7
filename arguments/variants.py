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
    "position_lr_final": 8e-6,  # few iterations are left then to fill the gaps of the pruned
    "scale_schedule": True,
    "scale_rates": True,
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
    | {"prune_by": "both", "importance": "full"}
    | {"importance_from_iter": 10_000, "importance_until_iter": 15_000}
    | {"prune_until_iter": 25_000, "prune_cap": 0.1, "thin_energy": 1.0},
}
