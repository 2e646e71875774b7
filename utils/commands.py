"""The functions that all commands share: their exit codes and error messages, and rounding for display."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Any, Callable

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # in what torch raises
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def run_command(main: Callable[[], object]) -> None:
    """Call `main` and exit with 0, 2 (bad input, `error: ...` on stderr), 130 (Ctrl-C) or 143 (SIGTERM).

    The library raises ValueError and OSError for bad input, and MemoryError if memory runs out; torch raises
    a RuntimeError then. With `--debug` on the command line, their traceback is printed too. Every other
    exception is a defect of this project and is not caught.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # set by utils/before_torch.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _tells_of_memory(error):
            raise
        if "--debug" in sys.argv:
            traceback.print_exc()
        _end(_say(f"error: {_message(error)}", EXIT_BAD_INPUT))
    except KeyboardInterrupt as interruption:
        number = getattr(interruption, "number", signal.SIGINT)
        _end(_say(f"\ninterrupted {interruption}".rstrip(), 128 + number))
    _end(0)


def _tells_of_memory(error: RuntimeError) -> bool:
    return any(words in str(error) for words in OUT_OF_MEMORY)


def _message(error: Exception) -> str:
    text = str(error)
    if isinstance(error, (RuntimeError, MemoryError)):
        return f"out of memory: {text.rpartition('Allocator: ')[2]}".removesuffix(": ")
    return text


def _end(code: int) -> None:
    """Exit with `code`, or return after success.

    One of several processes leaves at once, with all its files written: threads of Gloo may live until the
    interpreter has ended, and then abort the process (pytorch/pytorch, pull request 179291).
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def printer(quiet: bool) -> Callable[[str], object]:
    """Return `print`, or with `quiet` a function that prints nothing."""
    return (lambda text: None) if quiet else print


def rounded(value: Any) -> Any:
    """Return a setting for display: floats are rounded, as a computed one may have sixteen digits."""
    return f"{value:.4g}" if isinstance(value, float) else value
