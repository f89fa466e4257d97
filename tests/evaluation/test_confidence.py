"""Words for error bars: right ones, too narrow ones, too wide ones, too few."""

import numpy as np
import pytest

from crysjax.reports import confidence

NORMAL = np.random.default_rng(0).normal(size=200)


@pytest.mark.parametrize(
    ("error", "said"),
    [(NORMAL, "no fault seen"), (2 * NORMAL, "too confident"), (0.4 * NORMAL, "too cautious"),
     (NORMAL[:9], "too few to tell"), (1.15 * NORMAL / NORMAL.std(), "probably too confident")],
)  # fmt: skip
def test_verdicts(error, said):
    found = confidence.confidence(error, np.ones(len(error)))
    assert found.verdict.startswith(said)
    assert found.inside == np.sum(np.abs(error) <= 1) and found.count == len(error)


def test_what_is_not_known_does_not_count():
    error, std = np.append(NORMAL, [np.nan, 1.0]), np.append(np.ones(200), [1.0, 0.0])
    assert confidence.confidence(error, std) == confidence.confidence(NORMAL, np.ones(200))
