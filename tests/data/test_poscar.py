"""POSCAR files in every dialect against ASE and known answers, and files that are cut short."""

import io as text_io

import numpy as np
import pytest

from crysjax.data.readers import poscar

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

HEAD = "salt\n1.0\n4.0 0.0 0.0\n0.0 5.0 0.0\n1.0 0.0 6.0\n"
SITES = "0.0000 0.0000 0.0000\n0.5000 0.5000 0.5000\n0.2500 0.1250 0.7500\n"


def read(text: str):
    return poscar.parse("x", text)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "Na Cl\n1 2\nDirect\n" + SITES,
        HEAD + "Na_pv Cl/abc\n1 2 ! counts\nSelective dynamics\nDirect\n" + SITES.replace("\n", " T T F\n"),
        HEAD.replace("salt", "Na Cl") + "1 2\nDirect\n" + SITES,
        HEAD.replace("1.0\n4.0", "2.0\n4.0") + "Na Cl\n1 2\nCartesian\n0 0 0\n2.5 2.5 3.0\n1.75 0.625 4.5\n",
        HEAD.replace("1.0\n4.0", "-960\n4.0") + "Na Cl\n1 2\nkartesisch\n0 0 0\n2.5 2.5 3.0\n1.75 0.625 4.5\n",
        HEAD + "Na Cl\n1 2\nDirect\n" + SITES + "\n0 0 0\n0 0 0\n0 0 0\n",
    ],
    ids=["VASP 5", "selective", "VASP 4", "scaled", "volume", "velocities"],
)
def test_dialects_equal_ase(text):
    from ase.io import read as ase_read

    found, theirs = read(text), ase_read(text_io.StringIO(text.replace("kart", "cart")), format="vasp")
    assert found.numbers.tolist() == theirs.numbers.tolist() == [11, 17, 17]
    np.testing.assert_allclose(found.lattice, np.asarray(theirs.cell), atol=1e-12)
    np.testing.assert_allclose(found.frac, theirs.get_scaled_positions(wrap=False), atol=1e-12)
    np.testing.assert_allclose(found.frac, [[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.125, 0.75]], atol=1e-12)


def test_deuterium_and_symbols_behind_positions():
    assert read(HEAD + "D O\n2 1\nDirect\n" + SITES).numbers.tolist() == [1, 1, 8]
    behind = "0 0 0 Na\n0.5 0.5 0.5 Cl\n0.25 0.125 0.75 Cl\n"
    assert read(HEAD + "1 2\nDirect\n" + behind).numbers.tolist() == [11, 17, 17]


def test_three_scales_are_one_for_each_axis():
    found = read(
        HEAD.replace("1.0\n4.0", "2 1 0.5\n4.0") + "Na Cl\n1 2\nCartesian\n0 0 0\n2.5 2.5 3.0\n1.75 0.625 4.5\n"
    )
    np.testing.assert_allclose(found.lattice, [[8, 0, 0], [0, 5, 0], [2, 0, 3]])
    np.testing.assert_allclose(found.frac[1:], [[0.5, 0.5, 0.5], [0.25, 0.125, 0.75]])


def test_a_file_cut_short_anywhere_is_refused():
    whole = HEAD + "Na Cl\n1 2\nDirect\n" + SITES.rstrip("\n")
    assert len(read(whole).numbers) == 3
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"cut short|no element|expected|lines"):
            read(whole[:length])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("Na Cl\n1 2", "Na Cl\n1"), "2 elements on line 6 and 1 counts on line 7"),
        (("Na Cl", "Na Xx"), "'Xx' is not a chemical element"),
        (("1.0\n4.0", "0\n4.0"), "line 2: a scale of '0'"),
        (("4.0 0.0 0.0", "4.0 a 0.0"), "line 3: 3 numbers were expected, got '4.0 a 0.0'"),
        (("0.5000 0.5000 0.5000", "0.5000 x 0.5000"), "line 10: 3 numbers were expected"),
        (("Na Cl\n1 2", "1 2"), "no element symbols on line 6"),
        (("1 2", "1 20"), r"\[1, 20\] sites announced in a file of 12 lines"),
    ],
)
def test_reasons_say_what_is_wrong(change, said):
    with pytest.raises(ValueError, match=said):
        read((HEAD + "Na Cl\n1 2\nDirect\n" + SITES).replace(*change, 1))
