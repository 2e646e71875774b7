"""How defaults, variant, recorded run and command line together make the settings of a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .flags import check_bounds
from .settings import DensificationSettings, ImportanceSettings, ModelSettings, OptimizationSettings
from .settings import PipelineSettings, PruningSettings, RunSettings
from .variants import VARIANTS

FULL_RUN = OptimizationSettings.iterations  # the run whose milestones the defaults are
# Flags of earlier versions, and the value that is built in now.
DROPPED = {
    "split_length": 0.6,
    "reset_opacity": 0.01,
    "prune_scale": 0.1,
    "latent_size": 4,
    "importance_width": 32,
    "importance_frequencies": 4,
}
ALIASES = {"prune_by": {"gradient": "removal_energy"}}  # values under other names

# Asked of one command: a later command that takes over the settings of a run does not take over these.
OF_ONE_COMMAND = ("model_path", "start_checkpoint", "resume", "overwrite", "quiet", "data_device")

# What a run may be told anew when it goes on: how it is watched, kept and sped up, not what it comes to.
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
    """All settings of a run, by group. Field names are unique across the groups."""

    model: ModelSettings = field(default_factory=ModelSettings)
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    densification: DensificationSettings = field(default_factory=DensificationSettings)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    importance: ImportanceSettings = field(default_factory=ImportanceSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def flat(self) -> dict[str, Any]:
        """All settings in one dictionary, as config.json and checkpoints record them."""
        groups = (getattr(self, item.name) for item in dataclasses.fields(self))
        return {name: value for group in groups for name, value in dataclasses.asdict(group).items()}

    def of_scene(self) -> dict[str, Any]:
        """What `scene.load_scene` needs to know."""
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
        """The file of points and the folders of pictures that are read, without those that hold `folder`."""
        scene = Path(self.model.source_path)
        paths = [scene / name for name in (self.model.images, self.model.depths) if name]
        paths += [Path(self.model.init_points)] if self.model.init_points else []
        outside = {folder.resolve(), *folder.resolve().parents}
        return [path for path in paths if path.resolve() not in outside]


def make_settings(given: dict[str, Any], recorded: dict[str, Any] | None = None) -> Settings:
    """Defaults, under the variant, under the settings `recorded` by an earlier run, under the flags `given`.

    Keys that are no setting are left out. ValueError names the first value out of its bound.
    """
    recorded = {name: value for name, value in (recorded or {}).items() if name not in OF_ONE_COMMAND}
    recorded, given = without_aliases(recorded), without_aliases(given)
    for name, value in DROPPED.items():
        if recorded.get(name, value) != value:
            raise ValueError(
                f"the run was made with --{name} {recorded[name]}; this version has {value} built in"
            )
    variant = given.get("variant", recorded.get("variant", RunSettings.variant))
    if variant not in VARIANTS:
        raise ValueError(f"--variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
    settings = _of_variant(variant, {**recorded, **given})
    _check_together(settings)
    return settings


def without_aliases(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings, given or recorded, with every value under its own name."""
    known = {name: ALIASES[name] for name in ALIASES if name in values}
    return values | {name: aliases.get(values[name], values[name]) for name, aliases in known.items()}


def _of_variant(variant: str, fixed: dict[str, Any]) -> Settings:
    """The variant's settings under the `fixed` ones; with --scale_schedule the others are scaled."""
    settings = _settings({**VARIANTS[variant], **fixed})
    if settings.optimization.scale_schedule:
        settings = _settings(settings.flat() | _scaled(settings, VARIANTS[variant], fixed))
    return settings


def variant_values(settings: Settings) -> dict[str, Any]:
    """What the variant of a run sets, for as many iterations as it has, whatever was given by hand."""
    asked = ("iterations", "scale_schedule", "densification_interval")  # what scaling depends on
    values, variant = settings.flat(), settings.run.variant
    alone = _of_variant(variant, {name: values[name] for name in asked}).flat()
    return {name: alone[name] for name in VARIANTS[variant]}


def _check_together(settings: Settings) -> None:
    """ValueError for settings that each are fine, but not together."""
    pruning, importance, growth = settings.pruning, settings.importance, settings.densification
    if not (growth.max_gaussians or growth.target_size_mb):
        for name, value in (
            ("prune_threshold", pruning.prune_threshold),
            ("importance_control", importance.importance_control),
        ):
            if value == "budget":
                raise ValueError(f"--{name} budget: which one? give --max_gaussians or --target_size_mb")
    if pruning.prune_keep < 1 and pruning.prune_until_iter <= growth.densify_until_iter:
        raise ValueError(
            "--prune_keep thins what has grown: pruning must go on after densification, "
            f"--prune_until_iter {pruning.prune_until_iter} above --densify_until_iter {growth.densify_until_iter}"
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
    """Milestones for the number of iterations at hand, and a growth cap that lets the total grow as much.

    `fixed`: values that stay as they are.
    """
    factor = settings.optimization.iterations / FULL_RUN
    groups = [item.default_factory for item in dataclasses.fields(Settings)]
    fields = [item for group in groups for item in dataclasses.fields(group) if item.metadata["scales"]]
    full = {item.name: variant.get(item.name, item.default) for item in fields}
    scaled = {name: fixed.get(name, round(value * factor)) for name, value in full.items()}
    scaled["position_lr_max_steps"] = max(1, scaled["position_lr_max_steps"])
    steps = _densifications(full, settings), _densifications(scaled, settings)
    cap = variant.get("growth_cap", DensificationSettings.growth_cap)
    return {"growth_cap": (1 + cap) ** (steps[0] / max(1, steps[1])) - 1} | fixed | scaled


def _densifications(milestones: dict[str, int], settings: Settings) -> int:
    first, end = milestones["densify_from_iter"] + 1, milestones["densify_until_iter"]
    interval = settings.densification.densification_interval
    return len(range(-(-first // interval) * interval, end, interval))
