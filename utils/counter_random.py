"""Random numbers of a counter: the same on every device, computed where they are used, and without a state.

SplitMix64 (Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators; its constants are
Stafford's variant 13): number i of a sequence is mix(key + i * GAMMA) modulo 2^64, so that each element
computes its own. int64 holds the 64 bits: its sums and products wrap around.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15  # the golden ratio's fraction, odd
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
FLOAT_BITS = 24  # of a float32's fraction: all numbers are exact and below 1


class Stream(IntEnum):
    """The purposes of random numbers; the streams of one seed are independent."""

    BACKGROUND = 0
    GATES = 1
    MEASURED_GATES = 2
    SPLITS = 3


def random_key(*words: int) -> int:
    """Return the key of the sequence that is called `words`, such as a seed, a stream and an iteration."""
    state = 0
    for word in words:
        state = int(mix(torch.tensor(_signed(state + word + GAMMA))))
    return state


def uniform(key: int, count: int, device: torch.device | str) -> Tensor:
    """Return numbers (count,) float32 on `device`, uniform in [0, 1), that follow from `key` alone."""
    numbers = torch.arange(1, count + 1, device=device).mul_(_signed(GAMMA)).add_(_signed(key))
    highest = mix(numbers).bitwise_right_shift_(64 - FLOAT_BITS).bitwise_and_(2**FLOAT_BITS - 1)
    return highest.float().mul_(2**-FLOAT_BITS)


def mix(z: Tensor) -> Tensor:
    """Scramble the 64 bits of each number in place and return them: a bit of z flips half of them."""
    for shift, multiplier in zip((30, 27), MULTIPLIERS):
        z.bitwise_xor_(_shifted(z, shift)).mul_(_signed(multiplier))
    return z.bitwise_xor_(_shifted(z, 31))


def _shifted(z: Tensor, places: int) -> Tensor:
    """Return z >> places with zeros coming in, where torch repeats the sign."""
    return (z >> places).bitwise_and_(2 ** (64 - places) - 1)


def _signed(bits: int) -> int:
    """Return the int64 with the lowest 64 bits of a whole number."""
    bits %= 2**64
    return bits - 2**64 if bits >= 2**63 else bits
