"""The number of hits among candidates of known probabilities, against enumeration and the binomial law."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from crysjax.evaluation import hits


def test_the_interval_is_that_of_all_outcomes_enumerated():
    p = np.array([0.9, 0.05, 0.4, 0.6, 0.2])
    law = np.zeros(6)
    for outcome in itertools.product((0, 1), repeat=5):
        law[sum(outcome)] += np.prod(np.where(outcome, p, 1 - p))
    for confidence in (0.95, 0.5):
        found = hits.hits(p, confidence=confidence)
        low, high = (int(np.argmax(law.cumsum() >= q)) for q in ((1 - confidence) / 2, (1 + confidence) / 2))
        assert (found.expected, found.low, found.high) == (pytest.approx(p.sum()), low, high)


def test_equal_probabilities_are_binomial_and_certain_ones_certain():
    found = hits.hits(np.full(24, 0.29))
    assert (found.low, found.high) == tuple(binom.ppf([0.025, 0.975], 24, 0.29))
    assert hits.hits(np.array([1.0, 1.0, 0.0])) == (2.0, 2, 2)
    assert hits.hits(np.zeros(0)) == (0.0, 0, 0)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        hits.hits(np.array([0.5, np.nan]))


def said(**changed):
    settings = dict(windowed=True, validations=10, means_inside=3, opinions={"gap": "heads"}, guidance="none") | changed
    return hits.summary(np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.3]), **settings)


def test_the_summary_puts_chance_beside_what_was_found():
    found = said()
    assert found["found"]["expected"] == 1.0 and found["means_inside"] == 3 and found["validations"] == 10
    assert found["base_rate_among_screened"] == pytest.approx(0.2) and found["screened"] == 2
    assert found["at_random_among_screened"]["expected"] == pytest.approx(2.0)
    rows = {row[0]: row[1] for row in hits.lines(found)}
    assert rows["hits expected"] == "1.0 (0 to 3) of 10"
    assert rows["as many at random among the screened"] == "2.0 (0 to 5) of 10"
    assert rows["rate among the screened"] == "20.0 %" and rows["values inside every window"] == "3 of 10"
    assert ("judge of gap", "", "heads") in hits.lines(found)


def test_chance_among_guided_candidates_is_not_called_that_of_the_generator():
    plain, guided = ({row[0]: row[2] for row in hits.lines(said(guidance=how))} for how in ("none", "resample"))
    for row in ("as many at random among the screened", "rate among the screened"):
        assert "drawn without guidance" in plain[row] and "drawn with guidance (resample)" in guided[row]
    assert "not the rate of the generator" in guided["rate among the screened"]
    assert "generator" not in plain["rate among the screened"]
    assert said(guidance="resample")["guidance_of_screened"] == "resample"


def test_without_a_window_or_a_screened_candidate_nothing_is_made_up():
    found = said(windowed=False)
    assert found["found"] is found["base_rate_among_screened"] is found["means_inside"] is None
    assert "no window" in hits.lines(found)[0][2]
    none = hits.summary(
        np.zeros(0), np.zeros(0), windowed=True, validations=0, means_inside=0, opinions={}, guidance="none"
    )
    assert none["found"]["expected"] == 0 and none["at_random_among_screened"] is None
    assert dict((row[0], row[1]) for row in hits.lines(none))["rate among the screened"] == "–"
