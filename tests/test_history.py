"""utils/history.py: what report.py draws of a run."""

import math

import pytest
import torch
from utils.history import BINS, RANGES, histogram, shares_of_weight


def test_a_histogram_counts_all_that_is_a_number_the_outermost_bins_what_lies_beyond():
    values = torch.tensor([-1.0, 0.0, 0.49, 0.51, 1.0, 2.0, math.nan, math.inf])
    found = histogram(values, "linear", 0.0, 1.0)
    assert len(found["edges"]) == BINS + 1 and found["edges"][0] == 0 and found["edges"][-1] == 1
    counts = {index: count for index, count in enumerate(found["counts"]) if count}
    assert counts == {0: 2, BINS // 2 - 1: 1, BINS // 2: 1, BINS - 1: 2}


def test_bins_of_a_logarithmic_histogram_are_of_equal_ratio():
    _, low, high = RANGES["E_k"]
    found = histogram(torch.tensor([0.0, low / 10, 1.01, high * 10]), "log", low, high)
    ratios = [later / edge for edge, later in zip(found["edges"], found["edges"][1:])]
    assert ratios == pytest.approx([(high / low) ** (1 / BINS)] * BINS)
    counts = {index: count for index, count in enumerate(found["counts"]) if count}
    assert counts == {0: 1, BINS // 2: 1, BINS - 1: 1}  # 0 has no logarithm


def test_shares_of_weight_that_hint_at_floaters():
    weights = torch.tensor([1.0, 2.0, 4.0, 3.0, 0.0])
    opacities = torch.tensor([[0.05], [0.09], [0.5], [0.9], [0.01]])
    depths = torch.tensor([0.3, 1.0, 4.0, 9.0, 1000.0])  # half the weight lies within 4: near is below 0.4
    found = shares_of_weight(weights, opacities, depths)
    assert found == {"low_opacity": pytest.approx(0.3), "near_camera": pytest.approx(0.1)}
    far = torch.tensor([0.3, 1.0, 4.0, 9000.0, 1000.0])  # one far Gaussian brings none of the others near
    assert shares_of_weight(weights, opacities, far) == found
    assert shares_of_weight(torch.zeros(5), opacities, depths) == {}
