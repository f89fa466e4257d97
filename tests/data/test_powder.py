"""Files of powder patterns: how two columns may be written, and what is refused instead of being misread."""

import numpy as np
import pytest

from crysjax.data.readers import powder

X, Y = [10.0, 10.5, 11.0, 11.5], [153.0, 2.5, 30.0, 4.0]


def as_text(separator: str, comma: bool = False, head: str = "", extra: str = "") -> str:
    rows = [separator.join([f"{x:.2f}", f"{y:.1f}"] + [extra] * bool(extra)) for x, y in zip(X, Y)]
    return head + "\n".join(row.replace(".", ",") if comma else row for row in rows) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        as_text(","), as_text(", "), as_text(";"), as_text("\t"), as_text("  "), as_text(" \t"), as_text(" ,"),
        as_text(" ", comma=True), as_text("\t", comma=True), as_text(";", comma=True), as_text("; ", comma=True),
        as_text(",", head="two_theta_degree,intensity\n"), as_text(",", head="Angle,Counts\n"),
        as_text(",", head="2theta (deg), I [cts]\n"), as_text(" ", head="# 2Theta   Yobs\n"),
        as_text(";", comma=True, head="2θ [°];counts\n"), as_text(" ", head="2-Theta Intensity (counts)\n"),
        as_text(" ", head="# measured in March at 2theta from 10 with 50 counts\n! a comment\n'another\n"),
        as_text(" ", head="Titania of the second batch, measured again\n"), as_text(" ", extra="0.1"),
        as_text(",", extra=","), as_text(",").replace("\n", "\r\n"), "\n\n" + as_text(","), "\ufeff" + as_text(","),
        "\ufeff" + as_text(",", head="two_theta_degree,intensity\n"), as_text(" ").replace("153.0", "1.53E+02"),
    ],
)  # fmt: skip
def test_one_pattern_however_it_is_written(text, tmp_path):
    """No first row is lost to a byte-order mark, and no decimal comma is taken for a separator."""
    path = tmp_path / "pattern.xy"
    path.write_bytes(text.encode())
    found = powder.read(path)
    np.testing.assert_array_equal(found.two_theta, X)
    np.testing.assert_array_equal(found.intensity, Y)
    assert found.is_profile and found.unread == ()


@pytest.mark.parametrize(
    ("names", "unread"),
    [
        ("2theta,background,counts", ("background",)), ("background,2theta,counts", ("background",)),
        ("id,two_theta_degree,counts,intensity", ("counts",)), ("d,2theta,hkl,I", ("d", "hkl")),
    ],
)  # fmt: skip
def test_columns_are_taken_by_their_names(names, unread):
    """Whatever their order; the names of the others are told."""
    values = {"2theta": X, "two_theta_degree": X, "intensity": Y, "background": [9, 8, 7, 6], "d": [4, 3, 2, 1]}
    values["counts"] = [7, 7, 7, 7] if "intensity" in names else Y
    rows = [",".join(str((values | {"I": Y}).get(n, ["a"] * 4)[k]) for n in names.split(",")) for k in range(4)]
    found = powder.parse("\n".join([names, *rows]))
    np.testing.assert_array_equal([found.two_theta, found.intensity], [X, Y])
    assert found.unread == unread


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"), ("# 2theta counts\n", "no rows"), ("2theta,counts\n", "no rows below"),
        ("10,00,153,0\n10,50,2,5\n", "4 columns separated by commas"),
        ("2theta,counts\n10,00,153\n", "line 2: 3 columns under 2 names"),
        ("10 1\n11 2\n11 3\n", "line 3: an angle of 11 after 11; expected rising angles"),
        ("10 1\n9 2\n", "line 2: an angle of 9 after 10"), ("10 1\n181 2\n", "an angle of 181"),
        ("-1 1\n10 2\n", "an angle of -1"), ("10 1\n11;2\n", "line 2: '11;2'"), ("10 1\n11 nan\n", "line 2: '11 nan'"),
        ("10 1\n11 2\nend of scan\n", "line 3: 'end of scan'"), ("10 1\n11 two\n", "line 2: '11 two'"),
        ("10.0 1,5\n11,0 2.5\n", "both points and commas"), ("10 1\n11 1,5\n12 1.5\n", "both points and commas"),
        ("d,counts\n4.1,5\n4.2,6\n", "line 1: columns d, counts; expected one of 2θ"),
        ("2theta,background\n10,5\n", "line 1: columns 2theta, background"), ("ten,one\n", "no rows"),
        ("2theta,counts,Yobs\n10,5,6\n", "counts, Yobs all look like intensity"), ("10\n11\n", "line 1: '10'"),
        ("id,2theta,counts\na,10,5\nb,10,6\n", "several crystals"), ("10 1e999\n11 2\n", "line 1"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused_in_one_line(text, message, tmp_path):
    path = tmp_path / "pattern.csv"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        powder.read(path)
    assert message in str(error.value) and str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_profiles_and_lists_of_peaks():
    """Equal steps, or many whose rounding makes them unequal, are a profile; a few uneven angles are peaks."""
    even = np.arange(10, 12, 0.0131303)
    for x, profile in (
        (even, True),
        (even.round(2), True),
        (np.sort(even[::7] ** 1.5), False),
        (even[[0, 5, 60]], False),
    ):
        rows = "\n".join(f"{a:.7g} {k}" for k, a in enumerate(x))
        assert powder.parse(rows).is_profile == profile
