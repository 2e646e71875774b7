"""--help of every command: its examples are commands that work, and all can be told to be quiet."""

import importlib
import re
import shlex

import pytest

from arguments import make_settings, render_parser, train_parser
from arguments.parsers import COMMON

COMMANDS = ("train", "render", "metrics", "full_eval", "report", "convert", "export", "view")


def parser_of(command):
    known = {"train": train_parser, "render": render_parser}
    return (known.get(command) or getattr(importlib.import_module(command), f"{command}_parser"))()


def examples(text):
    """(command, arguments) of every line that calls one; what stands behind three spaces is a remark."""
    for line in text.replace("\\\n", " ").splitlines():
        called = re.fullmatch(r"\s+python (\w+)\.py (.*)", line)
        if called:
            remarks_gone = re.split(r"(?<=\S)   +(?!-)", called[2])[0]
            yield called[1], shlex.split(remarks_gone)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples_that_are_understood(command, capsys):
    with pytest.raises(SystemExit) as leaving:
        parser_of(command).parse_args(["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    found = list(examples(text.partition("Examples:\n")[2]))
    assert command in {name for name, _ in found}
    for name, arguments in found:
        ours, _, of_train = " ".join(map(shlex.quote, arguments)).partition(" -- ")
        parser_of(name).parse_args(shlex.split(ours))
        parser_of("train").parse_args(shlex.split(of_train))


def test_help_shows_the_flags_that_people_set_and_help_all_the_rest(capsys):
    texts = {}
    for flag in ("--help", "--help_all", "-h"):
        with pytest.raises(SystemExit) as leaving:
            train_parser().parse_args([flag])
        assert leaving.value.code == 0
        texts[flag] = capsys.readouterr().out
    shown = {
        flag: set(re.findall(r"^ +(?:-\w.*?)?--(\w+)", text, re.MULTILINE)) for flag, text in texts.items()
    }
    assert shown["--help"] == shown["-h"] == {*COMMON, "help", "help_all"}
    assert shown["--help_all"] == {*make_settings({}).flat(), "help", "help_all"}
    assert "{gradient,error}" in texts["--help"] and "2^-20" in texts["--help_all"]
    assert train_parser().parse_args(["--error_beta", "2"]).error_beta == 2  # hidden ones are flags too


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_quiet(command):
    assert "--quiet" in parser_of(command).format_help()


def test_a_wrong_example_would_be_found():
    ((command, arguments),) = examples("  python train.py -s a --no_such_flag   remark")
    assert command == "train"
    with pytest.raises(ValueError, match="no_such_flag"):
        parser_of(command).parse_args(arguments)
