"""What all commands share: how they end, also by a mistake or Ctrl-C, and how they show a value."""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Any, Callable

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def run_command(main: Callable[[], object]) -> None:
    """Call `main` and leave the process with 0, 2 (bad input, `error: ...` on stderr), 130 (Ctrl-C) or 143 (SIGTERM).

    ValueError and OSError are how the library reports bad input, MemoryError what the machine cannot hold;
    with `--debug` on the command line their traceback is printed too. Everything else is a defect of ours and
    is not hidden.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # utils/before_torch.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except (ValueError, OSError, MemoryError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        sys.exit(_say(f"error: {error or 'out of memory'}", EXIT_BAD_INPUT))
    except KeyboardInterrupt as interruption:
        number = getattr(interruption, "number", signal.SIGINT)
        sys.exit(_say(f"\ninterrupted {interruption}".rstrip(), 128 + number))


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def rounded(value: Any) -> Any:
    """A setting as it is shown: the growth cap of a scaled schedule has sixteen digits."""
    return f"{value:.4g}" if isinstance(value, float) else value
