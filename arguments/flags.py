"""Dataclass fields as command-line flags: name, default, unit, bound and sentence of each stand once."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn


@dataclass(frozen=True)
class Bound:
    """What a value must satisfy, with the words that say so."""

    words: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()  # where there are only so many values


def at_least(low: float) -> Bound:
    return Bound(f"at least {low}", lambda value: value >= low)


def between(low: float, high: float) -> Bound:
    return Bound(f"{low} to {high}", lambda value: low <= value <= high)


def share() -> Bound:
    return Bound("above 0, at most 1", lambda value: 0 < value <= 1)


def open_unit_interval() -> Bound:
    return Bound("above 0 and below 1", lambda value: 0 < value < 1)


def one_of(*choices: str) -> Bound:
    return Bound("one of " + ", ".join(choices), lambda value: value in choices, choices)


def flag(
    default: Any,
    sentence: str,
    *,
    unit: str = "",
    bound: Bound | None = None,
    short: str = "",
    metavar: str = "",
    scales: bool = False,
) -> Any:
    """A dataclass field that is also a flag.

    default: its type is the flag's type; False makes a switch, a tuple takes one or more whole numbers.
    scales: whether --scale_schedule scales the default with the number of iterations.
    """
    about = {"sentence": sentence, "unit": unit, "bound": bound, "short": short, "metavar": metavar}
    return field(default=default, metadata=about | {"scales": scales})


def milestone(default: int, sentence: str, low: int = 0) -> Any:
    """A flag that names an iteration of a run of 30,000."""
    return flag(default, sentence, bound=at_least(low), scales=True)


class Parser(argparse.ArgumentParser):
    """argparse without guessed abbreviations, whose errors are ValueErrors like everyone else's."""

    def __init__(self, examples: str, common: Container[str] | None = None, **options: Any) -> None:
        """`examples`: the last lines of --help. `common`: flags that --help shows, --help_all adds the others."""
        examples = f"Examples:\n{examples}"
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, epilog=examples, **options)
        self._common = common
        if common is not None:
            self.add_argument(
                "--help_all", action=_ShowAllFlags, help="show all flags, not only the common ones"
            )

    def format_help(self) -> str:
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
        self._common = None

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


class _ShowAllFlags(argparse.Action):
    """Print help with all flags and leave."""

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
    """Give `parser` one flag per field of `settings_class`. Flags not given leave no trace when parsed."""
    group = parser.add_argument_group(settings_class.__doc__.splitlines()[0].rstrip("."))
    for item in dataclasses.fields(settings_class):
        if only is None or item.name in only:
            names = [item.metadata["short"]] if item.metadata["short"] else []
            group.add_argument(*names, f"--{item.name}", default=argparse.SUPPRESS, **_how_to_read(item))


def _how_to_read(item: dataclasses.Field) -> dict[str, Any]:
    text = _help_text(item).replace("%", "%%")
    if item.default is False:
        return {"action": "store_true", "help": text}
    if isinstance(item.default, tuple):
        return {"nargs": "+", "type": int, "metavar": "N", "help": text}
    kind, choices = type(item.default), _choices(item)
    metavar = item.metadata["metavar"] or {int: "N", float: "X", str: "TEXT"}[kind]
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
    """Return a default as a person would write it: small powers of two as such."""
    if isinstance(value, float) and 0 < value < 1e-4 and math.frexp(value)[0] == 0.5:
        return f"2^{math.frexp(value)[1] - 1}"
    return str(value)


def check_bounds(settings: Any) -> None:
    """ValueError for the first field that is not finite, of the wrong type or out of its bound."""
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if isinstance(item.default, tuple) != isinstance(value, (tuple, list)):
            raise ValueError(f"--{item.name}: expected {_kind(item)}, got {value!r}")
        for single in value if isinstance(value, (tuple, list)) else [value]:
            _check_one(item, single)


def _check_one(item: dataclasses.Field, value: Any) -> None:
    kind = int if isinstance(item.default, tuple) else type(item.default)
    right_type = type(value) is kind or (kind is float and type(value) is int)
    if not right_type or (kind is float and not math.isfinite(value)):
        raise ValueError(f"--{item.name}: expected {_kind(item)}, got {value!r}")
    bound = item.metadata["bound"]
    if bound and not bound.holds(value):
        raise ValueError(f"--{item.name}: expected {bound.words}, got {value!r}")


def _kind(item: dataclasses.Field) -> str:
    if isinstance(item.default, tuple):
        return "whole numbers"
    kind = type(item.default)
    return {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}[kind]
