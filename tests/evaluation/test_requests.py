"""What was asked beside what was predicted: numbers by hand, and the chart of them."""

import numpy as np
import pytest
from scipy.stats import norm

from crysjax.data.datasets import Entry, from_entries
from crysjax.evaluation import requests
from crysjax.reports import asked


def samples(values):
    rows = [Entry(f"s{k}", np.array([12]), np.zeros((1, 3)), 3 * np.eye(3), {"asked_k_gpa": v, "asked_x": np.nan})
            for k, v in enumerate(values)]  # fmt: skip
    return from_entries(rows)


def test_a_range_that_was_asked_is_the_window():
    """Asked for 10 to 20: errors of 0, +2, -1 and +5, of which the last is outside; a fifth has no prediction."""
    found = samples([10.0, 12.0, 16.0, 20.0, 15.0])
    assert requests.names(found) == ["k_gpa"]
    said = requests.request(found, "k_gpa", np.array([10, 14, 15, 25, np.nan]), np.array([1.0, 1, 1, 1, 1]))
    got = requests.got(said)
    assert said.window == (10, 20) and got.crystals == 4
    assert (got.mean_error, got.mean_absolute_error, got.inside) == (1.5, 2.0, 0.75)
    # at the edge a half; 4 std and 5 std inside; 5 std outside
    assert got.expected_inside == pytest.approx((0.5 + norm.cdf(4) + 1 + 0) / 4, abs=1e-5)
    assert got.rank_correlation == 1
    assert "75% of 4 predicted within 10 to 20" in requests.told(said)
    assert asked.chart(said, found.ids).count("<circle") == 8


def test_one_value_is_met_within_what_is_said_or_the_std():
    found = samples([100.0] * 3)
    value, std = np.array([101.0, 97.0, 104.0]), np.array([2.0, 2.0, 5.0])
    said = requests.request(found, "k_gpa", value, std)
    assert said.window == (97, 103) and requests.got(said).inside == pytest.approx(2 / 3)
    assert np.isnan(requests.got(said).rank_correlation)
    assert requests.request(found, "k_gpa", value, std, within=1.0).window == (99, 101)


def test_without_predictions_it_is_said():
    said = requests.request(samples([1.0, 2.0]), "k_gpa", np.full(2, np.nan), np.full(2, np.nan))
    assert requests.told(said) == "k_gpa: no crystal has both an asked and a predicted value"
    assert asked.chart(said, ["a", "b"]) == ""
