"""The settings of a run: every flag, default, unit and bound, and how the command line changes them."""

from .parsers import given_flags, render_parser, train_parser
from .resolve import (
    OF_NO_CONSEQUENCE,
    OF_ONE_COMMAND,
    Settings,
    make_settings,
    variant_values,
    without_aliases,
)
from .settings import DensificationSettings, ImportanceSettings, ModelSettings, OptimizationSettings
from .settings import PipelineSettings, PruningSettings, RunSettings
from .variants import VARIANTS

__all__ = [
    "OF_NO_CONSEQUENCE",
    "OF_ONE_COMMAND",
    "VARIANTS",
    "DensificationSettings",
    "ImportanceSettings",
    "ModelSettings",
    "OptimizationSettings",
    "PipelineSettings",
    "PruningSettings",
    "RunSettings",
    "Settings",
    "given_flags",
    "make_settings",
    "render_parser",
    "train_parser",
    "variant_values",
    "without_aliases",
]
