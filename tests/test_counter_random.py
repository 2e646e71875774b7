"""Random numbers of a counter: the published ones, uniform, unrelated between rows, iterations, streams."""

import itertools

import pytest
import torch

from backends import backends
from utils.counter_random import GAMMA, Stream, mix, random_key, uniform

COUNT = 1 << 16
NOISE = 5 / COUNT**0.5  # five standard deviations of a mean of COUNT numbers of variance 1


def draws(*words: int) -> torch.Tensor:
    return uniform(random_key(*words), COUNT, "cpu").double()


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([first, second]))[0, 1].abs().item()


@pytest.mark.parametrize("device", sorted({backend.device for backend in backends()}))
def test_the_numbers_are_those_of_splitmix64(device):
    """The first five of seed 1234567, as https://prng.di.unimi.it/splitmix64.c gives them."""
    states = [(1234567 + i * GAMMA + 2**63) % 2**64 - 2**63 for i in range(1, 6)]
    assert [number % 2**64 for number in mix(torch.tensor(states, device=device)).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    highest = [6457827717110365317 >> 40, 3203168211198807973 >> 40]
    assert uniform(1234567, 2, device).tolist() == [number / 2**24 for number in highest]


def test_keys_do_not_change_between_versions():
    assert random_key(0, Stream.GATES, 1) == random_key(0, 1, 1) == -6045484230750537336
    assert random_key(2**63 - 1, 2, 30_000) != random_key(2**63 - 2, 2, 30_000)


def test_keys_of_different_words_differ():
    keys = {random_key(*words) for words in itertools.product(range(10), range(3), range(100))}
    assert len(keys) == 3000 and random_key(1, 2) != random_key(2, 1) and random_key(0) != random_key(0, 0)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_numbers_are_uniform_in_0_to_1(seed):
    numbers = draws(seed, Stream.GATES, 7)
    assert 0 <= numbers.min() and numbers.max() < 1
    counts = torch.histc(numbers, 256, 0, 1)
    expected = COUNT / 256
    chi_squared = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi_squared - 255) < 5 * (2 * 255) ** 0.5
    assert numbers.mean().item() == pytest.approx(0.5, abs=NOISE * 12**-0.5)


def test_every_bit_is_set_half_of_the_time():
    bits = (draws(0, 0, 0) * 2**24).long()[:, None] >> torch.arange(24) & 1
    assert (bits.double().mean(0) - 0.5).abs().max() < NOISE / 2


@pytest.mark.parametrize("apart", [1, 2, 3, 64, 4096])
def test_rows_are_unrelated(apart):
    numbers = draws(0, Stream.GATES, 1)
    assert correlation(numbers[apart:], numbers[:-apart]) < 1.1 * NOISE


@pytest.mark.parametrize(
    "other",
    [(0, Stream.GATES, 2), (0, Stream.GATES, 257), (0, Stream.MEASURED_GATES, 1), (1, Stream.GATES, 1)],
)
def test_iterations_streams_and_seeds_are_unrelated(other):
    first, second = draws(0, Stream.GATES, 1), draws(*other)
    assert correlation(first, second) < NOISE
    for apart in (1, 2):  # also where the rows do not lie beside each other
        assert correlation(first[apart:], second[:-apart]) < 1.1 * NOISE
    assert not set(first.tolist()) <= set(second.tolist())


def test_one_row_is_uniform_over_iterations():
    numbers = torch.cat(
        [uniform(random_key(0, Stream.GATES, iteration), 1, "cpu") for iteration in range(4000)]
    )
    assert correlation(numbers[1:], numbers[:-1]) < 5 / 4000**0.5
    assert numbers.mean().item() == pytest.approx(0.5, abs=5 / (12 * 4000) ** 0.5)


def test_numbers_depend_on_their_place_alone():
    assert torch.equal(uniform(5, 10, "cpu"), uniform(5, 1000, "cpu")[:10])
    assert uniform(5, 0, "cpu").shape == (0,) and uniform(5, 3, "cpu").dtype == torch.float32
