import math

import pytest
from utils.schedules import log_linear


def test_ends_middle_and_beyond():
    assert log_linear(0, 1e-2, 1e-4, 100) == pytest.approx(1e-2)
    assert log_linear(50, 1e-2, 1e-4, 100) == pytest.approx(1e-3)
    assert log_linear(100, 1e-2, 1e-4, 100) == pytest.approx(1e-4)
    assert log_linear(1000, 1e-2, 1e-4, 100) == pytest.approx(1e-4)


def test_delay_follows_a_quarter_sine():
    assert log_linear(0, 1.0, 1.0, 100, delay_steps=10, delay_mult=0.01) == pytest.approx(0.01)
    assert log_linear(5, 1.0, 1.0, 100, 10, 0.01) == pytest.approx(0.01 + 0.99 * math.sin(math.pi / 4))
    assert log_linear(10, 1.0, 1.0, 100, 10, 0.01) == pytest.approx(1.0)


def test_without_delay_steps_the_factor_does_nothing():
    assert log_linear(0, 1.0, 0.1, 100, 0, 0.01) == 1.0


def test_zero():
    assert log_linear(3, 0, 0, 100) == 0
    with pytest.raises(ValueError, match="both ends above 0"):
        log_linear(3, 0.1, 0, 100)
