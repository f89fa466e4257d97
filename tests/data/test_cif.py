"""Small CIF files with the right crystal each, and files that are no crystal or could be two: these are refused."""

import re
from fractions import Fraction

import numpy as np
import pytest
import spglib

from crysjax.chemistry.elements import formula
from crysjax.data.readers import cif, cif_sites, cif_symmetry, cif_syntax, io


def block(symmetry: str = "'F m -3 m'", cell=(4, 4, 4, 90, 90, 90), sites: str = "Na1 Na 0 0 0", extra: str = "",
          columns: str = "label type_symbol fract_x fract_y fract_z") -> str:  # fmt: skip
    symmetry = f"_symmetry_space_group_name_H-M {symmetry}\n" if symmetry and symmetry[0] != "_" else symmetry
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    cell = "".join(f"_cell_{name} {value}\n" for name, value in zip(names, cell))
    head = "loop_\n" + "".join(f"_atom_site_{name}\n" for name in columns.split())
    return f"data_x\n{symmetry}{cell}{extra}\n{head}{sites}\n"


def read(text: str):
    return cif.parse("x", text)


def atoms(text: str) -> str:
    return formula(read(text).numbers, reduce=False)


HEXAGONAL, ARSENIC = (3.7598, 3.7598, 10.5475, 90, 90, 120), (4.1309, 4.1309, 4.1309, 54.11, 54.11, 54.11)
CUBIC, DIAMOND = (5.64, 5.64, 5.64, 90, 90, 90), (5.43, 5.43, 5.43, 90, 90, 90)
MONOCLINIC = (5.1, 5.2, 5.3, 90, 99, 90)


def test_all_530_settings_by_their_operations_written_out():
    """`x+1/2,-y,z` and so on, of which the group is found again, the order of axes of every setting included."""
    for hall in range(1, 531):
        found = spglib.get_symmetry_from_database(hall)
        lines = "".join(f"'{xyz(w, t)}'\n" for w, t in zip(found["rotations"], found["translations"]))
        text = f"data_x\nloop_\n_space_group_symop_operation_xyz\n{lines}"
        (setting,) = cif_symmetry.possible(cif_syntax.parse(text), cell_of(hall))
        assert sets(setting.rotation, setting.translation) == sets(found["rotations"], found["translations"]), hall


def xyz(rotation: np.ndarray, translation: np.ndarray) -> str:
    rows = []
    for row, shift in zip(rotation, translation):
        words = "".join(f"{'+' if value > 0 else '-'}{axis}" for value, axis in zip(row, "xyz") if value)
        rows.append(words + (f"+{Fraction(float(shift)).limit_denominator(12)}" if shift else ""))
    return ",".join(rows)


def test_a_site_between_a_special_position_and_none_is_refused():
    """A fourfold axis and a site 0.001 Å beside it: a quarter turn is within rounding, half a turn is not."""
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    group = cif_symmetry.Operations(np.array([np.linalg.matrix_power(turn, k) for k in range(4)]), np.zeros((4, 3)), "")
    rounding, cell = np.full(3, 5e-5), 5 * np.eye(3)  # with 1e-4 that every file may have, 1.5e-4 of an edge
    with pytest.raises(ValueError, match="site X: too near to a special position"):
        cif_sites._orbit("X", np.array([1.2e-4, 0, 0.3]), rounding, group, cell)
    np.testing.assert_allclose(
        cif_sites._orbit("X", np.array([2e-5, 0, 0.3]), rounding, group, cell), [[0, 0, 0.3]], atol=1e-12
    )
    assert len(cif_sites._orbit("X", np.array([0.2, 0, 0.3]), rounding, group, cell)) == 4


@pytest.mark.parametrize("symbol", ["'R -3 m'", "'R -3 m :R'", "'R-3mR'", "'R -3 m HR'", "R-3m", "\nIT 166"])
def test_rhombohedral_axes_are_told_by_the_cell(symbol):
    symbol = "_symmetry_Int_Tables_number 166\n" if "IT" in symbol else symbol
    assert atoms(block(symbol, ARSENIC, "As1 As 0.227 0.227 0.227")) == "As2"
    if "R'" not in symbol:
        assert atoms(block(symbol, HEXAGONAL, "As1 As 0 0 0.227")) == "As6"
        assert atoms(block(symbol.replace("'R -3 m'", "'R -3 m :H'"), HEXAGONAL, "As1 As 0 0 0.227")) == "As6"


def test_axes_that_the_cell_does_not_have_are_refused():
    for symbol, cell in (("'R -3 m :H'", ARSENIC), ("'R -3 m :R'", HEXAGONAL), ("'F m -3 m'", MONOCLINIC)):
        with pytest.raises(ValueError, match="the cell does not have the symmetry of"):
            read(block(symbol, cell, "As1 As 0 0 0"))


@pytest.mark.parametrize(
    ("symbol", "place", "count"),
    [
        ("'F d -3 m :1'", 0, 8), ("'F d -3 m S'", 0, 8), ("'F d -3 m O1'", 0, 8), ("'Fd-3mS'", 0, 8),
        ("'F d -3 m :2'", 0.125, 8), ("'F d -3 m Z'", 0.125, 8), ("'F d -3 m :2'", 0, 16), ("'F d 3 m :1'", 0, 8),
        ("'F 41/d -3 2/m :1'", 0, 8), ("'F_d_-3_m:2'", 0.125, 8),
    ],
)  # fmt: skip
def test_the_origin_that_is_named_is_taken(symbol, place, count):
    assert atoms(block(symbol, DIAMOND, f"Si1 Si {place} {place} {place}")) == f"Si{count}"


@pytest.mark.parametrize("symmetry", ["'F d -3 m'", "_space_group_IT_number 227\n"])
def test_an_origin_that_is_not_named_is_decided_by_the_formula_or_refused(symmetry):
    text = block(symmetry, DIAMOND, "Si1 Si 0 0 0")
    with pytest.raises(ValueError, match=r"Fd-3m:1 or Fd-3m:2\? The origin is not said, .* between 8 or 16 sites"):
        read(text)
    said = text.replace("_cell_length_a", "_chemical_formula_sum Si\n_cell_formula_units_Z 8\n_cell_length_a", 1)
    assert atoms(said) == "Si8"
    assert atoms(said.replace("Z 8", "Z 16")) == "Si16"
    code = text.replace("_cell_length_a", "_space_group_IT_coordinate_system_code 1\n_cell_length_a", 1)
    assert atoms(code) == "Si8"
    counted = block(symmetry, DIAMOND, "Si1 Si 0 0 0 16", columns="label type_symbol fract_x fract_y fract_z "
                    "site_symmetry_multiplicity")  # fmt: skip
    assert atoms(counted) == "Si16"


def test_rounded_special_positions_are_one_atom_at_the_exact_place():
    found = read(block("'P 63/m m c'", (3.2, 3.2, 5.2, 90, 90, 120), "Mg1 Mg 0.333 0.667 0.25"))
    np.testing.assert_allclose(found.frac, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], atol=1e-12)
    for x, y in ((0.33, 0.67), (0.3333, 0.6667), (0.33333, 0.66667)):
        assert atoms(block("'P 63/m m c'", (3.2, 3.2, 5.2, 90, 90, 120), f"Mg1 Mg {x} {y} 0.25")) == "Mg2"


def test_images_that_are_neither_one_atom_nor_two_are_refused():
    for x, distance in ((0.48, "0.16"), (0.49, "0.08"), (0.4985, "0.012")):
        with pytest.raises(ValueError, match=f"site Na1: symmetry makes images of it that are {distance} Å apart"):
            read(block("'P -1'", sites=f"Na1 Na {x} 0.0 0.0"))
    assert atoms(block("'P -1'", sites="Na1 Na 0.46 0 0")) == "Na2"  # 0.32 Å: for others to judge
    assert atoms(block("'P -1'", sites="Na1 Na 0.4999 0 0")) == "Na"


def test_two_sites_in_one_place_are_refused():
    for second in ("Cl1 Cl 0 0 0", "Na2 Na 0.5 0.5 0"):
        with pytest.raises(ValueError, match=r"the sites 'Na1' and '.*' have atoms in one place"):
            read(block(sites=f"Na1 Na 0 0 0\n{second}"))


def test_occupancies():
    columns = "label type_symbol fract_x fract_y fract_z occupancy"
    for written in (".", "?", "1", "1.0", "1.000(3)"):
        assert atoms(block(sites=f"Na1 Na 0 0 0 {written}\nCl1 Cl 0.5 0.5 0.5 1", columns=columns)) == "Cl4Na4"
    assert atoms(block(sites="Na1 Na 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 0", columns=columns)) == "Na4"
    for written, said in (("0.5", "partial occupancy"), ("1.5", "occupancy 1.5, expected at most 1"), ("x", "no num")):
        with pytest.raises(ValueError, match=said):
            read(block(sites=f"Na1 Na 0 0 0 {written}", columns=columns))


@pytest.mark.parametrize(
    ("symbol", "number"),
    [("7Li", 3), ("Li1+", 3), ("D", 1), ("2H", 1), ("T", 1), ("Fe3+", 26), ("Fe+3", 26), ("O2-", 8), ("CL", 17),
     ("Mn2.5+", 25), ("Na+", 11), ("Co2", 27)],
)  # fmt: skip
def test_type_symbols_of_elements(symbol, number):
    assert read(block(sites=f"A1 {symbol} 0 0 0")).numbers.tolist() == [number] * 4


@pytest.mark.parametrize("symbol", ["OH", "Vac", "Va", "X", "Oa", "Wat", "OH2", "NO3", "Cval", "Xx3+", "OH1-", "NH4+"])
def test_symbols_that_are_no_element_are_named(symbol):
    with pytest.raises(ValueError, match=re.escape(f"{symbol!r} at the site A1 is no element")):
        read(block(sites=f"A1 {symbol} 0 0 0\nA2 Na 0.5 0.5 0.5"))


def test_labels_stand_in_for_type_symbols_where_they_are_clear():
    one = lambda label, extra="": read(block(sites=f"{label} 0 0 0", extra=extra,  # noqa: E731
                                             columns="label fract_x fract_y fract_z")).numbers[0]  # fmt: skip
    known = {"Na1": 11, "O1A": 8, "C12": 6, "Fe(1)": 26, "D1": 1, "V1": 23, "Si": 14, "OB2": 8, "Cl_1": 17}
    assert {label: one(label) for label in known} == known
    assert one("CA1", "_chemical_formula_sum Ca") == 20 and one("CA1", "_chemical_formula_sum C") == 6
    for label in ("CA1", "Vac1", "Wat1", "OH1", "Tet1", "1Na", "X1"):
        with pytest.raises(ValueError, match=r"is no element|can be more than one element"):
            one(label)


def test_a_crystal_that_contradicts_its_own_formula_is_refused():
    rock_salt = block(cell=CUBIC, sites="Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5", extra="{}")
    good = ("'Na Cl'\n_cell_formula_units_Z 4", "'Cl1 Na1'\n_cell_formula_units_Z 4", "'Na4 Cl4'", "'Na Cl'",
            "'Na4 Cl4'\n_cell_formula_units_Z 4", "?", "'no formula'", "'Na Cl'\n_cell_formula_units_Z ?")  # fmt: skip
    for said in good:
        assert atoms(rock_salt.format(f"_chemical_formula_sum {said}")) == "Cl4Na4"
    bad = ("'Na2 Cl'", "'Na Cl H2'", "'Na'", "'K Cl'", "'Na Cl'\n_cell_formula_units_Z 1", "'D Na Cl'")
    for said in bad:
        with pytest.raises(ValueError, match=r"8 sites, Na4 Cl4, but the formula is|8 sites, .* and Z is 1"):
            read(rock_salt.format(f"_chemical_formula_sum {said}"))
    p1 = cif.format_p1("x", np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.eye(3) * 4.0)
    assert cif.parse_p1(p1).numbers.tolist() == [11, 17]
    for wrong in (p1.replace("Na1", "K1"), p1.replace("'Na1 Cl1'", "'Na2 Cl1'"),
                  p1.replace("_cell_volume", "_cell_formula_units_Z   3\n_cell_volume")):  # fmt: skip
        with pytest.raises(ValueError, match=r"2 sites, Na Cl, but the formula is|and Z is 3"):
            cif.parse_p1(wrong)


def test_a_block_that_is_silent_about_its_symmetry_is_no_p1():
    text = block("", sites="Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5", extra="{}")
    with pytest.raises(ValueError, match="neither symmetry operations nor a space group"):
        read(text.format(""))
    with pytest.raises(ValueError, match="neither symmetry operations nor a space group"):
        read(text.format("_chemical_formula_sum 'Na Cl'"))
    assert atoms(text.format("_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 1")) == "ClNa"


@pytest.mark.parametrize(
    ("symmetry", "said"),
    [
        ("'P 9 9 9'", "the space group 'P 9 9 9' is in no table"),
        ("'F m -3 m :3'", "has no setting '3'"),
        ("'P 21/c :2'", "has no setting '2'"),
        ("'P 1'\n_symmetry_Int_Tables_number 225", "'P 1' and '225' contradict each other"),
        ("_space_group_IT_number 231\n", "the space group number '231'"),
        ("_space_group_name_Hall 'X 4 2 3'\n", "the Hall symbol 'X 4 2 3'"),
        ("'F m -3 m'\n_symmetry_space_group_name_Hall '-P 4 2 3'", "'-P 4 2 3' and 'F m -3 m' contradict"),
    ],
)
def test_symmetry_that_is_unknown_or_contradicts_itself_is_refused(symmetry, said):
    with pytest.raises(ValueError, match=re.escape(said) if "(" not in said else said):
        read(block(symmetry))


def sets(rotation, translation) -> set:
    whole = zip(rotation, np.round(np.asarray(translation) * 24).astype(int) % 24)
    return {(*w.reshape(-1).astype(int).tolist(), *t.tolist()) for w, t in whole}


def cell_of(hall: int) -> np.ndarray:
    """A lattice that the rotations of this setting leave as it is, and that is as low as they allow."""
    rotations = spglib.get_symmetry_from_database(hall)["rotations"].astype(float)
    start = cif.lattice_from_parameters(np.array([5.0, 5.9, 6.7]), np.array([83.0, 97.0, 105.0]))
    metric = (rotations.swapaxes(1, 2) @ (start @ start.T) @ rotations).mean(0)
    return np.linalg.cholesky(metric)


def test_all_530_settings_by_hall_symbol_and_by_full_symbol_with_setting():
    for hall in range(1, 531):
        kind, found = spglib.get_spacegroup_type(hall), spglib.get_symmetry_from_database(hall)
        wanted = sets(found["rotations"], found["translations"])
        by_symbol = kind.international_full + (f" :{kind.choice}" if kind.choice else "")
        for name, value in (("name_Hall", kind.hall_symbol), ("name_H-M_alt", by_symbol)):
            text = f"data_x\n_space_group_{name}\n;{value}\n;\n"
            settings = cif_symmetry.possible(cif_syntax.parse(text), cell_of(hall))
            assert len(settings) == 1, (hall, value)
            assert sets(settings[0].rotation, settings[0].translation) == wanted, (hall, value)


@pytest.mark.parametrize(
    ("symbol", "hall"),
    [("P 21/c", "-P 2ybc"), ("P 21/n", "-P 2yn"), ("P 1 21/n 1", "-P 2yn"), ("P 1 1 21/b", "-P 2bc"),
     ("C m c a", "-C 2ac 2"), ("C m c e", "-C 2ac 2"), ("A b a 2", "A 2 -2ab"), ("P n m a", "-P 2ac 2n"),
     ("P m c n", "-P 2n 2a"), ("I m 3 m", "-I 4 2 3"), ("C m m a", "-C 2a 2"), ("C m m b", "-C 2a 2a")],
)  # fmt: skip
def test_symbols_as_they_are_written(symbol, hall):
    number = next(h for h in range(1, 531) if spglib.get_spacegroup_type(h).hall_symbol == hall)
    found, wanted = (
        cif_symmetry.possible(cif_syntax.parse(f"data_x\n_space_group_name_{name}\n;{value}\n;\n"), cell_of(number))
        for name, value in (("H-M_alt", symbol), ("Hall", hall))
    )
    assert sets(*found[0][:2]) == sets(*wanted[0][:2])


def test_operations_that_are_written_out():
    loop = "loop_\n_space_group_symop_operation_xyz\n{}\n"
    for operations in (
        "'x,y,z'\n'-x, -y, -z'",
        "x,y,z\n-x,-y,-z",
        "x, y, z\n-x, -y, -z",
        "X,Y,Z\n-X,-Y,-Z",
        '"+x,+y,+z"\n"-x,-y,-z"',
    ):
        assert atoms(block(loop.format(operations), sites="Na1 Na 0.1 0.2 0.3")) == "Na2"
    half = block(loop.format("x,y,z\nx+1/2,y+0.5,.5+z"), sites="Na1 Na 0.1 0.2 0.3")
    np.testing.assert_allclose(read(half).frac, [[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]])
    third = block(loop.format("x,y,z\n-y,x-y,z+0.3333\n-x+y,-x,z+.6667"), HEXAGONAL, "Na1 Na 0 0 0.1")
    np.testing.assert_allclose(read(third).frac[:, 2], [0.1, 0.1 + 1 / 3, 0.1 + 2 / 3])
    for operations, said in (
        ("x,y,z\n-x,y,z\nx,-y,z", "no group"), ("x,y,z\ny,z,x", "no group"), ("x,y,z\nx+1/3,y,z", "no group"),
        ("x,y,z\n-x,-y", "not understood"), ("x,y,z\nx**9,y,z", "not understood"), ("x,y,z\nx/0,y,z", "not underst"),
        ("x,y,z\n2x,y,z", "no symmetry of a lattice"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            read(block(loop.format(operations), sites="Na1 Na 0.1 0.2 0.3"))


def test_blocks_without_atoms_are_passed_over_and_keywords_have_no_case(tmp_path):
    text = block(cell=CUBIC, sites="Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5")
    shouted = re.sub(r"(?m)^(data|loop|_\w+)", lambda m: m[0].upper(), text).replace("_H-M", "_h-m")
    other = "data_global\n_journal_name 'x'\n_publ_section_title\n;\ndata_is_no_block_here\n;\n"
    for name, written in (
        ("a", text),
        ("b", shouted),
        ("c", other + text),
        ("d", text.replace("_atom_site_", "_atom_site.")),
    ):
        (tmp_path / f"{name}.cif").write_text(written)
        found = io.read(tmp_path / f"{name}.cif")
        assert found.ids.tolist() == [name] and sorted(found.numbers.tolist()) == [11] * 4 + [17] * 4
    (tmp_path / "two.cif").write_text(text + other + text.replace("data_x", "data_y"))
    assert io.read(tmp_path / "two.cif").ids.tolist() == ["two-x-0", "two-y-1"]
    assert atoms(text.replace("'F m -3 m'", "F m -3 m")) == "Cl4Na4"  # without its quotes
    (tmp_path / "none.cif").write_text(other)
    with pytest.raises(ValueError, match=r"entry none: cut short or malformed: no CIF with _atom_site_ columns"):
        io.read(tmp_path / "none.cif")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("0 0 0", "0 ? 0\nCl1 Cl 0.5 0.5 0.5"), r"site Na1 has no position: '\?' is no number"),
        (("0 0 0", "0 0"), "4 values in a loop of 5 columns"),
        (("_cell_length_a 4", "_cell_length_a four"), "'four' is no number"),
        (("_cell_length_a 4\n", ""), "no _cell_length_a"),
        (("_cell_angle_alpha 90", "_cell_angle_alpha 190"), "no volume"),
        (("_atom_site_fract_x", "_atom_site_Cartn_x"), "no CIF with _atom_site_fract_x"),
        (("_cell_length_a 4", "_cell_length_a 4\n_cell_length_a 5"), "_cell_length_a is given twice"),
        (("loop_", "_note\n;cut\nloop_"), "a text field that is not closed"),
        (("_atom_site_label", "_atom_site_attached_hydrogens\n_atom_site_label"), "2 hydrogen atoms"),
        (("_cell_length_a", "_cell_modulation_dimension 1\n_cell_length_a"), "modulated crystals are not read"),
    ],
)
def test_reasons_are_ours_and_say_what_is_wrong(change, said):
    sites = "2 Na1 Na 0 0 0" if "hydrogens" in change[1] else "Na1 Na 0 0 0"
    with pytest.raises(ValueError, match=said):
        read(block(sites=sites).replace(*change, 1))


def test_an_angle_that_is_left_out_is_a_right_one():
    assert atoms(re.sub(r"_cell_angle_\w+ 90\n", "", block())) == "Na4"
