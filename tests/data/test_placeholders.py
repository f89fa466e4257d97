"""Placeholders and absurd labels are named by column, value and count; ordinary columns never are."""

import numpy as np
import pytest

from crysjax.data import placeholders, scales
from crysjax.data.datasets import Entry, from_entries
from crysjax.data.readers import io
from crysjax.splits import audit, audit_text

GAPS = np.random.default_rng(0).gamma(1.5, 1.0, 60)


@pytest.mark.parametrize(("extra", "found"), [
    ([-99999] * 12, {-99999: 12}), ([-9999], {-9999: 1}), ([9999, 9999], {9999: 2}), ([-999.0], {-999: 1}),
    ([-9999, 9999, -9999], {-9999: 2, 9999: 1}), ([1e30], {1e30: 1}), ([1e30, -2e25], {1e30: 1, -2e25: 1}),
    ([777] * 3, {777: 3}), ([np.nan] * 5, {}), ([777], {}), ([0.0] * 40, {}), ([], {}),
])  # fmt: skip
def test_what_stands_out(extra, found):
    rows = placeholders.suspicious(np.float32([*GAPS, *extra]))
    assert {float(f"{one.value:.6g}"): one.count for one in rows} == found
    for one in rows:
        assert one.low == np.float32(GAPS.min()) and one.high == np.float32(GAPS.max())


def test_flags_groups_years_and_ordinary_tails_do_not_stand_out():
    rng = np.random.default_rng(1)
    columns = [rng.integers(0, 2, 100), rng.integers(1, 231, 500), rng.integers(1950, 2025, 300), np.full(50, 999.0),
               rng.lognormal(0, 2, 2000), np.append(np.zeros(900), rng.gamma(2, 1, 100)), np.zeros(0), np.array([5.0]),
               np.full(9, -1.0), np.full(9, 1e29), np.full(9, 300.0), rng.standard_cauchy(300),
               np.array([0.5, 999.0, 1500.0, 20.0])]  # fmt: skip
    assert [placeholders.suspicious(np.asarray(column, float)) for column in columns] == [[]] * len(columns)


def test_published_data_sets_have_none(data_dir):
    for name in ("perov_5/perov_5.npz", "mp_20/val", "elasticity/thermal_conductivity_val.csv.gz"):
        assert placeholders.said(io.read(data_dir / name)) == []


@pytest.mark.parametrize(("values", "said"), [
    ([-99999] * 12, "x: all 12 values are -99999; if"), ([1e30] * 3, "x: all 3 values are 1e+30; if"),
    ([-1e32], "x: the only value is -1e+32; if"), ([9999, np.nan, 9999], "x: all 2 values are 9999; if"),
    ([-999] * 2, "x: all 2 values are -999; if"),
])  # fmt: skip
def test_a_column_of_nothing_but_a_placeholder_is_pointed_out(values, said):
    (one,) = placeholders.suspicious(np.float32(values))
    assert placeholders.sentence("x", one).startswith(said)


def crystals(values) -> list[Entry]:
    return [Entry(f"m{i}", np.array([12, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), (3 + i / 50) * np.eye(3),
                  {"gap_ev": float(v)}) for i, v in enumerate(values)]  # fmt: skip


def test_the_line_names_column_value_and_count():
    (line,) = placeholders.said(from_entries(crystals([*GAPS[:20], -99999, -99999])))
    assert line.startswith("gap_ev: -99999 comes 2 times in 22 values, the others run from 0.")


def test_an_audit_reports_them():
    split = ["train"] * 12 + ["test"] * 10
    report = audit.audit(from_entries(crystals([*GAPS[:20], -9999, -9999]), split=split), symmetry_rows=0)
    (row,) = [row for row in report["findings"] if row["kind"] == "value"]
    assert (row["where"], row["count"], row["of"]) == ("gap_ev", 2, 22)
    assert "suspicious values: 1" in audit_text.text(report) and "-9999" in audit_text.text(report)
    assert "labels of gap_ev are -9999" in audit_text.markdown(report, "x")
    report = audit.audit(from_entries(crystals([-99999] * 22), split=split), symmetry_rows=0)
    assert "labels of gap_ev are -99999, and nothing else: if" in audit_text.markdown(report, "x")
    clean = audit.audit(from_entries(crystals(GAPS[:22]), split=split), symmetry_rows=0)
    assert "suspicious" not in audit_text.text(clean)


# Scales


def test_moments_are_those_of_float64():
    values = np.float32(np.random.default_rng(2).normal(1e4, 1e-2, 100_000))
    mean, std = scales.moments(values, "x")
    np.testing.assert_allclose([mean, std], [values.astype(float).mean(), values.astype(float).std()], rtol=1e-12)
    assert scales.moments(np.float32([2e38, -2e38, 1e38]), "x")[1] > 1e38  # squares overflow in float32
    assert scales.moments(np.array([3.0]), "x") == (3.0, 0.0)


def test_a_value_that_drowns_all_others_is_named():
    names = np.array([f"m{i}" for i in range(61)])
    with pytest.raises(ValueError, match=r"gap: the value 1e\+30 of m60 sets a scale of 1\.\d+e\+29, on which 61 diff"):
        scales.moments(np.float32([*GAPS, 1e30]), "gap", names)
    with pytest.raises(ValueError, match=r"gap: the value -1e\+300 in row 61 makes the scale of all 61 infinite"):
        scales.moments(np.array([*GAPS, -1e300]), "gap")


def test_narrow_peaks_and_wide_tails_are_no_error():
    rng = np.random.default_rng(3)
    for values in (np.append(1e-12 * rng.random(60), rng.random(40)), rng.standard_cauchy(1000), np.zeros(9), GAPS,
                   np.append(GAPS, -99999), [0.0, 1.0], [1.0, 1e30]):  # fmt: skip
        assert np.isfinite(scales.moments(np.float32(values), "x")).all()
