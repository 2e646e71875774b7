"""Dataclass fields that are also command-line flags, with name, default, unit, bound and sentence of each."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

METAVARS = {int: "N", float: "X", str: "TEXT"}


@dataclass(frozen=True)
class Bound:
    """The condition that a value must satisfy, with its words for messages."""

    words: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()  # all values, if they can be listed


@dataclass(frozen=True)
class Scaling:
    """How a value follows the number of iterations if a switch is on: by a power of their ratio."""

    switch: str
    power: float
    least: float = 0.0  # ratio to a full run; shorter runs have its value


MILESTONE = Scaling("scale_schedule", 1.0)
RATE = Scaling("scale_rates", -0.5, least=1 / 30)  # of 1,000 iterations, the fewest that were measured
PACE = Scaling("scale_rates", 1.0)


def at_least(low: float) -> Bound:
    """Return the bound low <= value."""
    return Bound(f"at least {low}", lambda value: value >= low)


def between(low: float, high: float) -> Bound:
    """Return the bound low <= value <= high."""
    return Bound(f"{low} to {high}", lambda value: low <= value <= high)


def share() -> Bound:
    """Return the bound 0 < value <= 1."""
    return Bound("above 0, at most 1", lambda value: 0 < value <= 1)


def open_unit_interval() -> Bound:
    """Return the bound 0 < value < 1."""
    return Bound("above 0 and below 1", lambda value: 0 < value < 1)


def one_of(*choices: str) -> Bound:
    """Return the bound of a value that is one of `choices`."""
    return Bound("one of " + ", ".join(choices), lambda value: value in choices, choices)


def flag(
    default: Any,
    sentence: str,
    *,
    unit: str = "",
    bound: Bound | None = None,
    short: str = "",
    metavar: str = "",
    scales: Scaling | None = None,
    of_variants: bool = False,
    of: type = int,
) -> Any:
    """Return a dataclass field that is also a flag.

    default: its type is the type of the flag. False makes a switch, a tuple takes one or more numbers.
    scales: how the default follows the number of iterations, None: it does not.
    of_variants: whether variants have the switch on, so that there must be a --no-NAME.
    of: the type of a tuple's numbers.
    """
    metadata = {"sentence": sentence, "unit": unit, "bound": bound, "short": short, "metavar": metavar}
    return field(
        default=default, metadata=metadata | {"scales": scales, "of_variants": of_variants, "of": of}
    )


def milestone(default: int, sentence: str, low: int = 0) -> Any:
    """Return a flag that names an iteration of a run of 30,000 iterations."""
    return flag(default, sentence, bound=at_least(low), scales=MILESTONE)


class Parser(argparse.ArgumentParser):
    """An argparse parser that accepts no abbreviated flags and raises ValueError for bad command lines."""

    def __init__(self, examples: str, common: Container[str] | None = None, **options: Any) -> None:
        """Make a parser without flags.

        examples: the last lines of --help.
        common: the flags that --help shows, None: all. --help_all shows the others too.
        """
        examples = f"Examples:\n{examples}"
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, epilog=examples, **options)
        self._common = common
        if common is not None:
            self.add_argument(
                "--help_all", action=_ShowAllFlags, help="show all flags, not only the common ones"
            )

    def format_help(self) -> str:
        """Return the text of --help, without the flags that are not common."""
        texts = {action: action.help for action in self._actions}
        for action in self._actions:
            if self._common is not None and action.dest not in self._common and "help" not in action.dest:
                action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, text in texts.items():
                action.help = text

    def show_all_flags(self) -> None:
        """Let `format_help` show all flags."""
        self._common = None

    def error(self, message: str) -> NoReturn:
        """Raise ValueError with the message of argparse."""
        raise ValueError(f"{message} (see {self.prog} --help)")


class _ShowAllFlags(argparse.Action):
    """The action of --help_all: print help with all flags and exit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: Parser, *_: Any) -> NoReturn:
        parser.show_all_flags()
        parser.print_help()
        parser.exit()


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=110)


def add_flags(
    parser: argparse.ArgumentParser, settings_class: type, only: Iterable[str] | None = None
) -> None:
    """Add one flag per field of `settings_class` to `parser`.

    A flag that is not given on the command line does not appear in the result.
    """
    group = parser.add_argument_group(settings_class.__doc__.splitlines()[0].rstrip("."))
    for item in dataclasses.fields(settings_class):
        if only is None or item.name in only:
            names = [item.metadata["short"]] if item.metadata["short"] else []
            group.add_argument(*names, f"--{item.name}", default=argparse.SUPPRESS, **_argparse_options(item))


def _argparse_options(item: dataclasses.Field) -> dict[str, Any]:
    """Return the keyword arguments of `add_argument` for a field."""
    text = _help_text(item).replace("%", "%%")
    if item.default is False:
        action = argparse.BooleanOptionalAction if item.metadata["of_variants"] else "store_true"
        return {"action": action, "help": text}
    if isinstance(item.default, tuple):
        kind = item.metadata["of"]
        return {"nargs": "+", "type": kind, "metavar": METAVARS[kind], "help": text}
    kind, choices = type(item.default), _choices(item)
    metavar = item.metadata["metavar"] or METAVARS[kind]
    return {"type": kind, "metavar": f"{{{','.join(choices)}}}" if choices else metavar, "help": text}


def _choices(item: dataclasses.Field) -> tuple[str, ...]:
    return item.metadata["bound"].choices if item.metadata["bound"] else ()


def _help_text(item: dataclasses.Field) -> str:
    notes = []
    if item.metadata["unit"]:
        notes.append(item.metadata["unit"])
    if item.metadata["bound"] and not _choices(item):
        notes.append(item.metadata["bound"].words)
    if item.default is not False and item.default not in ("", ()):
        values = item.default if isinstance(item.default, tuple) else (item.default,)
        notes.append(f"default {' '.join(map(_as_typed, values))}")
    return item.metadata["sentence"] + (f" ({'; '.join(notes)})" if notes else "")


def _as_typed(value: Any) -> str:
    """Return a default as a person would type it: 2^-20 for a small power of two."""
    if isinstance(value, float) and 0 < value < 1e-4 and math.frexp(value)[0] == 0.5:
        return f"2^{math.frexp(value)[1] - 1}"
    return str(value)


def check_bounds(settings: Any) -> None:
    """Raise ValueError for the first field that has the wrong type, is not finite or is out of its bound."""
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if isinstance(item.default, tuple) != isinstance(value, (tuple, list)):
            raise ValueError(f"--{item.name}: expected {_kind(item)}, got {value!r}")
        for single in value if isinstance(value, (tuple, list)) else [value]:
            _check_one(item, single)


def _check_one(item: dataclasses.Field, value: Any) -> None:
    kind = item.metadata["of"] if isinstance(item.default, tuple) else type(item.default)
    right_type = type(value) is kind or (kind is float and type(value) is int)
    if not right_type or (kind is float and not math.isfinite(value)):
        raise ValueError(f"--{item.name}: expected {_kind(item)}, got {value!r}")
    bound = item.metadata["bound"]
    if bound and not bound.holds(value):
        raise ValueError(f"--{item.name}: expected {bound.words}, got {value!r}")


def _kind(item: dataclasses.Field) -> str:
    if isinstance(item.default, tuple):
        return {int: "whole numbers", float: "finite numbers"}[item.metadata["of"]]
    kind = type(item.default)
    return {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}[kind]
