"""Schedules of learning rates and weights over a training run."""

from __future__ import annotations

import math


def log_linear(
    step: int, first: float, last: float, max_steps: int, delay_steps: int = 0, delay_mult: float = 1.0
) -> float:
    """Return the exponential decay from `first` at step 0 to `last` at `max_steps` and later (JaxNeRF, 3DGS).

    With `delay_steps`, the rate starts at `delay_mult` times itself and grows to full along a quarter sine.
    Zero has no logarithm: with both ends 0 the whole schedule is 0, with one of them ValueError is raised.
    """
    if first == 0 and last == 0:
        return 0.0
    if first <= 0 or last <= 0:
        raise ValueError(f"a log-linear schedule needs both ends above 0, or both 0; got {first} and {last}")
    progress = min(max(step / max_steps, 0.0), 1.0)
    rate = math.exp(math.log(first) * (1 - progress) + math.log(last) * progress)
    return rate * _delay(step, delay_steps, delay_mult)


def _delay(step: int, delay_steps: int, delay_mult: float) -> float:
    if delay_steps == 0:
        return 1.0
    progress = min(max(step / delay_steps, 0.0), 1.0)
    return delay_mult + (1 - delay_mult) * math.sin(0.5 * math.pi * progress)
