"""Make the settings of a run from defaults, variant, recorded run and command line."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .flags import check_bounds
from .settings import DensificationSettings, ImportanceSettings, ModelSettings, OptimizationSettings
from .settings import PipelineSettings, PruningSettings, RunSettings
from .variants import VARIANTS

# The default milestones are iterations of a run of this length.
FULL_RUN = OptimizationSettings.iterations
# Flags of earlier versions, and the constants that replace them.
DROPPED = {
    "split_length": 0.6,
    "reset_opacity": 0.01,
    "prune_scale": 0.1,
    "latent_size": 4,
    "importance_width": 32,
    "importance_frequencies": 4,
}
# Settings that earlier versions did not have, as these versions behaved.
ADDED = {"resolution_schedule": 0, "importance_interval": 1, "energy_contrast": 0.0, "thin_energy": 0.0}
ADDED |= {"variant": "3dgs", "scale_schedule": False, "scale_rates": False}
# Pixels that --error_floor was meant for in versions that counted it in pixels.
PIXELS_OF_FLOOR = 150_000
LARGEST_EXPONENT = 20.0  # of growth by one densification; beyond it there is no limit in any case
PROCESSES = int(os.environ.get("WORLD_SIZE", 1))  # of the run, as torchrun says
# Other names of values, by setting.
ALIASES = {"prune_by": {"gradient": "removal_energy"}}

# Settings of one command: a later command that uses the recorded settings of a run does not use these.
OF_ONE_COMMAND = ("model_path", "start_checkpoint", "resume", "overwrite", "quiet", "data_device")

# Settings that may change when a run is resumed: they decide how it is watched, saved and sped up, not its
# result.
OF_NO_CONSEQUENCE = OF_ONE_COMMAND + (
    "source_path",
    "max_memory_gb",
    "threads",
    "ip",
    "port",
    "disable_viewer",
    "viewer",
)
OF_NO_CONSEQUENCE += ("viewer_port", "debug", "debug_from", "detect_anomaly", "checkpoint_every")
OF_NO_CONSEQUENCE += ("test_iterations", "save_iterations", "checkpoint_iterations")


@dataclass
class Settings:
    """All settings of a run, by group. A field name occurs in one group only."""

    model: ModelSettings = field(default_factory=ModelSettings)
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    densification: DensificationSettings = field(default_factory=DensificationSettings)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    importance: ImportanceSettings = field(default_factory=ImportanceSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def flat(self) -> dict[str, Any]:
        """Return all settings in one dictionary, as config.json and checkpoints record them."""
        groups = (getattr(self, item.name) for item in dataclasses.fields(self))
        return {name: value for group in groups for name, value in dataclasses.asdict(group).items()}

    def of_scene(self) -> dict[str, Any]:
        """Return the arguments of `scene.load_scene`."""
        names = (
            "source_path",
            "images",
            "depths",
            "train_test_exp",
            "init_points",
            "resolution",
            "white_background",
            "eval",
            "data_device",
            "max_memory_gb",
            "seed",
            "quiet",
        )
        return {name: value for name, value in self.flat().items() if name in names}

    def inputs(self, folder: Path) -> list[Path]:
        """Return the paths that a run reads: the PLY of points, the folders of photos and depth maps.

        Those that contain `folder` are left out.
        """
        scene = Path(self.model.source_path)
        paths = [scene / name for name in (self.model.images, self.model.depths) if name]
        paths += [Path(self.model.init_points)] if self.model.init_points else []
        outside = {folder.resolve(), *folder.resolve().parents}
        return [path for path in paths if path.resolve() not in outside]


def make_settings(given: dict[str, Any], recorded: dict[str, Any] | None = None) -> Settings:
    """Return the settings of a run.

    The variant overrides the defaults, the settings `recorded` by an earlier run override the variant, and
    the flags `given` override all. Keys that are not settings are ignored. Raise ValueError, naming the flag,
    for the first value that is out of its bound, and for settings that exclude each other.
    """
    recorded = {name: value for name, value in (recorded or {}).items() if name not in OF_ONE_COMMAND}
    recorded = ADDED | recorded if "iterations" in recorded else recorded  # of a run, not a part of one
    recorded, given = without_aliases(recorded), without_aliases(given)
    if recorded.get("error_floor", 0) > 1:
        recorded["error_floor"] /= PIXELS_OF_FLOOR
    for name, value in DROPPED.items():
        if recorded.get(name, value) != value:
            raise ValueError(
                f"the run was made with --{name} {recorded[name]}; this version has {value} built in"
            )
    variant = given.get("variant", recorded.get("variant", RunSettings.variant))
    if variant not in VARIANTS:
        raise ValueError(f"--variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
    settings = _of_variant(variant, {"views_per_step": PROCESSES} | recorded | given)
    _check_together(settings)
    return settings


def without_aliases(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings, given or recorded, with every alias replaced by the name of its value."""
    known = {name: ALIASES[name] for name in ALIASES if name in values}
    return values | {name: aliases.get(values[name], values[name]) for name, aliases in known.items()}


def _of_variant(variant: str, fixed: dict[str, Any]) -> Settings:
    """Return the settings of a variant, overridden by the `fixed` ones.

    With --scale_schedule and --scale_rates the settings that are not fixed are scaled.
    """
    settings = _settings({**VARIANTS[variant], **fixed})
    return _settings(settings.flat() | _scaled(settings, VARIANTS[variant], fixed))


def variant_values(settings: Settings) -> dict[str, Any]:
    """Return the values that the variant of a run sets, scaled to its number of iterations.

    Flags that were given for the run do not change them.
    """
    scaling = ("iterations", "scale_schedule", "scale_rates", "densification_interval")
    values, variant = settings.flat(), settings.run.variant
    alone = _of_variant(variant, {name: values[name] for name in scaling}).flat()
    return {name: alone[name] for name in VARIANTS[variant]}


def _check_together(settings: Settings) -> None:
    """Raise ValueError for settings that are valid alone but not together."""
    pruning, importance, growth = settings.pruning, settings.importance, settings.densification
    if not (growth.max_gaussians or growth.target_size_mb):
        for name, value in (
            ("prune_threshold", pruning.prune_threshold),
            ("importance_control", importance.importance_control),
        ):
            if value == "budget":
                raise ValueError(f"--{name} budget: which one? give --max_gaussians or --target_size_mb")
    thinning = {"save_shares": pruning.save_shares, "prune_keep": pruning.prune_keep < 1}
    thinning["thin_energy"] = pruning.thin_energy
    thins = next((name for name, is_given in thinning.items() if is_given), "")
    shortest = 0 if settings.optimization.scale_schedule else 1  # of a few iterations none are left for it
    if thins and pruning.prune_until_iter < growth.densify_until_iter + shortest:
        raise ValueError(
            f"--{thins} thins what has grown: pruning must go on after densification, "
            f"--prune_until_iter {pruning.prune_until_iter} "
            f"above --densify_until_iter {growth.densify_until_iter}"
        )
    if importance.importance == "none":
        if pruning.prune_by == "importance":
            raise ValueError("--prune_by importance: there is none to prune by; give --importance full, say")
        if importance.importance_control == "budget":
            raise ValueError(
                "--importance_control budget: there is none to steer; give --importance full, say"
            )


def _settings(values: dict[str, Any]) -> Settings:
    return Settings(*(_fill(item.default_factory, values) for item in dataclasses.fields(Settings)))


def _fill(group: type, values: dict[str, Any]) -> Any:
    known = {item.name: values[item.name] for item in dataclasses.fields(group) if item.name in values}
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    filled = group(**known)
    check_bounds(filled)
    return filled


def _scaled(settings: Settings, variant: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
    """Return milestones and rates for the number of iterations, and shares for as much growth as in full.

    A densification may add more where there are fewer of them than in a run of FULL_RUN iterations. `fixed`
    holds the values that are not scaled.
    """
    groups, values = [item.default_factory for item in dataclasses.fields(Settings)], settings.flat()
    fields = [item for group in groups for item in dataclasses.fields(group) if item.metadata["scales"]]
    fields = [item for item in fields if values[item.metadata["scales"].switch]]
    full = {item.name: variant.get(item.name, item.default) for item in fields}
    factor = settings.optimization.iterations / FULL_RUN
    scaled = {item.name: _at_scale(item, full[item.name], factor) for item in fields} | fixed
    if not settings.optimization.scale_schedule:
        return scaled
    times = _densifications(full, settings) / max(1, _densifications(scaled, settings))
    unscaled = dataclasses.asdict(DensificationSettings()) | variant
    shares = {
        "growth_cap": _compounded(unscaled["growth_cap"], times),
        "error_quantile": min(1.0, _compounded(unscaled["error_quantile"], times)),
    }
    return shares | scaled


def _at_scale(item: dataclasses.Field, value: float, factor: float) -> float:
    """Return a value for a run of `factor` times the iterations; a whole number stays one in its bound."""
    scaling = item.metadata["scales"]
    scaled = value * max(factor, scaling.least) ** scaling.power
    if type(item.default) is float:
        return scaled
    return round(scaled) if item.metadata["bound"].holds(round(scaled)) else 1


def _compounded(share: float, times: float) -> float:
    """Return by what share something grows that grows by `share` so many times."""
    return share if times == 1 else math.expm1(min(times * math.log1p(share), LARGEST_EXPONENT))


def _densifications(milestones: dict[str, int], settings: Settings) -> int:
    """Return the number of densifications of a run with these milestones."""
    first, end = milestones["densify_from_iter"] + 1, milestones["densify_until_iter"]
    interval = settings.densification.densification_interval
    return len(range(-(-first // interval) * interval, end, interval))
