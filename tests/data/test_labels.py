"""Columns of labels: what is a number, what is not, and that nothing is lost without being named."""

import csv
import json
import warnings

import numpy as np
import pytest

from crysjax.data import datasets, labels
from crysjax.data.datasets import ENERGY, FORCES, STRESS, Entry
from crysjax.data.lost import Notice
from crysjax.data.readers import io, tables
from crysjax.data.readers.cif import format_p1

NUMBERS, FRAC, CELL = np.array([12, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), 3.1 * np.eye(3)
CIF = format_p1("MgO", NUMBERS, FRAC, CELL)


def table(path, columns: dict[str, list[str]]):
    """A CSV of as many crystals as the columns are long."""
    count = len(next(iter(columns.values())))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif", *columns])
        writer.writerows([f"m{i}", CIF, *(values[i] for values in columns.values())] for i in range(count))
    return path


def report(dataset) -> dict[str, dict]:
    return {row["column"]: row for row in dataset.provenance["columns"]}


@pytest.mark.parametrize("bad", ["1.5 eV", "1,5", ">5", "True", "1.5(2)", "1_5", "inf", "1e39", "ca. 3", "9" * 400])
def test_a_cell_that_is_no_number_is_named_by_row_id_column_and_value(tmp_path, bad):
    found = io.read(table(tmp_path / "t.csv", {"band_gap": ["0.5", bad, "1.5", "", "nan"]}))
    np.testing.assert_array_equal(found.properties["band_gap_ev"], np.array([0.5, np.nan, 1.5, np.nan, np.nan], "f4"))
    row = report(found)["band_gap"]
    assert (row["property"], row["known"], row["unread"]) == ("band_gap_ev", 2, 1)
    assert (row["row"], row["id"], row["value"]) == (2, "m1", bad[: labels.VALUE_CHARACTERS])
    (line,) = labels.unread_lines(found.provenance["columns"])
    assert line.startswith("column 'band_gap': 1 of 3 cells") and f"row 2 (id m1): {bad[:20]!r}"[:-1] in line


@pytest.mark.parametrize("cell", ["1.5", " 1.5 ", "+1.5", "15e-1", "1.5E0", "0.15e+1"])
def test_numbers_as_they_are_written(cell):
    assert labels.cell(cell) == 1.5


@pytest.mark.parametrize("cell", ["", "-", "NaN", "nan", "None", "NULL", "N/A", "na", "<NA>", " ", "?", None, np.nan])
def test_what_is_missing_is_missing(cell):
    assert np.isnan(labels.cell(cell))


def test_half_a_column_with_units_is_named_and_so_is_a_whole_one(tmp_path):
    columns = {"half": ["1", "2", "3 GPa", "4 GPa", "5 GPa"], "whole": ["1 eV", "2 eV", "3 eV", "4 eV", "5 eV"]}
    found = io.read(table(tmp_path / "t.csv", columns))
    np.testing.assert_array_equal(found.properties["half"], np.array([1, 2, np.nan, np.nan, np.nan], np.float32))
    assert report(found)["half"]["unread"] == 3 and report(found)["half"]["value"] == "3 GPa"
    assert "whole" not in found.properties
    assert report(found)["whole"]["unread"] == 5 and report(found)["whole"]["value"] == "1 eV"
    assert "'whole' (5 cells, no cell is a plain number, row 1 (id m0): '1 eV')" in "\n".join(
        labels.lines(found.provenance["columns"])
    )


def test_density_and_volume_are_read_and_book_keeping_is_named(tmp_path):
    columns = {"density": ["3.6", "3.7"], "volume": ["18.7", "18.9"], "nsites": ["2", "2"], "formula": ["MgO", "MgO"]}
    found = io.read(table(tmp_path / "t.csv", columns))
    assert sorted(found.properties) == ["density", "volume"]
    assert found.properties["volume"].tolist() == [np.float32(18.7), np.float32(18.9)]
    said = "\n".join(labels.lines(found.provenance["columns"]))
    assert "'nsites' (2 cells, book-keeping)" in said and "'formula' (2 cells, text, row 1 (id m0): 'MgO')" in said


def test_sodium_nitride_and_indium_fluoride_are_no_numbers(tmp_path):
    columns = {"formula": ["NaN", "InF", "MgO", "NaN"], "only": ["NaN", "NaN", "NaN", "NaN"]}
    columns |= {"compound": ["1", "InF", "Inf", "NaN"], "gap": ["1", "NaN", "2", "3"]}
    found = io.read(table(tmp_path / "t.csv", columns))
    assert list(found.properties) == ["gap"]
    assert report(found)["formula"]["reason"] == report(found)["compound"]["reason"] == "text"
    assert report(found)["only"]["reason"] == "no value"


def test_truth_values_alone_are_one_and_zero_and_named(tmp_path):
    found = io.read(table(tmp_path / "t.csv", {"stable": ["True", "False", "", "true"]}))
    np.testing.assert_array_equal(found.properties["stable"], np.array([1, 0, np.nan, 1], np.float32))
    assert report(found)["stable"]["reason"] == "true and false read as 1 and 0"


def test_of_two_columns_of_one_property_the_first_is_read_and_the_other_compared(tmp_path):
    columns = {"dft_band_gap": ["1", "2", "3"], "band_gap": ["1", "2.5", ""]}
    found = io.read(table(tmp_path / "a.csv", columns))
    assert found.properties["band_gap_ev"].tolist() == [1, 2, 3]
    row = report(found)["band_gap"]
    assert row["property"] == "" and row["unread"] == 2
    assert row["reason"] == "band_gap_ev is read from column 'dft_band_gap'; 1 of 2 values differ"
    found = io.read(table(tmp_path / "b.csv", columns | {"band_gap_ev": ["7", "8", "9"]}))  # its very name goes first
    assert found.properties["band_gap_ev"].tolist() == [7, 8, 9]
    assert "3 of 3 values differ" in report(found)["dft_band_gap"]["reason"]


def test_a_decimal_comma_without_quotes_does_not_shift_the_columns(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f'material_id,cif,gap,e_form\na,"{CIF}",1.5,-2\nb,"{CIF}",1,5,-2\nc,"{CIF}",2.5\n')
    with pytest.raises(ValueError, match=r"t\.csv: entry b: 1 cells more than the header names"):
        io.read(path)
    found = io.read(path, skip_bad=True)
    assert found.ids.tolist() == ["a", "c"] and found.properties["gap"].tolist() == [1.5, 2.5]
    np.testing.assert_array_equal(found.properties["formation_energy_ev_per_atom"], np.array([-2, np.nan], "f4"))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    path = table(tmp_path / "t.csv", {"gap": ["1", "2"]})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert io.read(path).ids.tolist() == ["m0", "m1"]
    assert list(tables.read(path)[0]) == ["material_id", "cif", "gap"]
    path.write_bytes(path.read_bytes().decode("utf-8-sig").encode("utf-16"))
    assert tables.read(path)[1]["gap"] == "2"


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize("hint", ["", "sep={}\n"], ids=["", "hint"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_semicolons_and_tabs_separate_as_commas_do(tmp_path, suffix, separator, hint, mark):
    rows = [
        ("material_id", "cif", "gap", '"note, long; free"'),
        ("a", f'"{CIF}"', "1.5", '"x,y;z"'),
        ("b", f'"{CIF}"', "2"),
    ]
    text = mark + hint.format(separator) + "".join(separator.join(row) + "\r\n" for row in rows)
    path = tmp_path / f"t.{suffix}"
    path.write_bytes(text.encode())
    found = io.read(path)
    assert found.ids.tolist() == ["a", "b"] and found.properties["gap"].tolist() == [1.5, 2]
    assert tables.read(path)[0]["note, long; free"] == "x,y;z"


def test_a_semicolon_or_comma_within_cells_separates_nothing(tmp_path):
    (tmp_path / "t.csv").write_text("id,note\na,x;y;z\n")
    assert tables.read(tmp_path / "t.csv") == [{"id": "a", "note": "x;y;z"}]
    (tmp_path / "t.csv").write_text("id;x\na;1,5\nb;2\n")
    assert tables.read(tmp_path / "t.csv") == [{"id": "a", "x": "1.5"}, {"id": "b", "x": "2"}]
    (tmp_path / "t.csv").write_text("id\na;b\n")
    assert tables.read(tmp_path / "t.csv") == [{"id": "a;b"}]


@pytest.mark.parametrize(("mark", "hint"), [(";", ""), (";", "sep=;\n"), ("\t", "")])
def test_a_column_of_decimal_commas_is_numbers_and_said_to_be(tmp_path, mark, hint):
    """As a European Excel writes it; a column with commas and points, or with words, is left as it is."""
    head = ("id", "cif", "gap", "e_form", "mixed", "note", "count")
    body = [
        ("1,5", f'"{CIF}"', "0,125", "-1,5E+02", "1,5", "1,2 eV", "1"),
        ("2,5", f'"{CIF}"', "", "+,25", "2.5", "x", "200.5"),
    ]
    path = tmp_path / "t.csv"
    path.write_text(hint + "".join(mark.join(row) + "\r\n" for row in (head, *body)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = io.read(path)
        rows = tables.read(path)
    line = "decimal commas are read as decimal points in 'gap', 'e_form'"
    lost = "column 'mixed': 1 of 2 cells are no plain numbers and count as missing, the first in row 1 (id 1,5): '1,5'"
    told = [f"t.csv: {line}", f"t.csv: {lost}", f"{path}: {line}"]
    assert [str(w.message) for w in caught if w.category is Notice] == told
    assert found.ids.tolist() == ["1,5", "2,5"] and sorted(found.properties) == [
        "count", "formation_energy_ev_per_atom", "gap", "mixed"]  # fmt: skip
    np.testing.assert_array_equal(found.properties["gap"], np.array([0.125, np.nan], "f4"))
    assert found.properties["formation_energy_ev_per_atom"].tolist() == [-150, 0.25]
    said = report(found)
    assert [said[name]["unread"] for name in ("mixed", "count", "note")] == [1, 0, 2]
    assert said["mixed"]["value"] == "1,5" and said["gap"]["note"] and "note" not in said["mixed"]
    assert [rows[0][name] for name in ("id", "gap", "mixed")] == ["1,5", "0.125", "1,5"]


@pytest.mark.parametrize(
    ("mark", "cells", "values"),
    [
        (";", ["1,5", "0", "-"], [1.5, 0, np.nan]),  # Excel writes 0 without a comma
        ("\t", ["1,5", "-2", "3e2"], [1.5, -2, 300]),
        (";", ["1,500", "200", ""], [1.5, 200, np.nan]),
        ("\t", ["1,500", "200", ""], [np.nan, 200, np.nan]),  # fifteen hundred?
        (";", ["1,5", "2.25", "2"], [np.nan, 2.25, 2]),
        (";", ["1.234,5", "", ""], None),
    ],
)
def test_whole_numbers_among_decimal_commas_and_cells_that_are_lost_are_told(tmp_path, mark, cells, values):
    path = tmp_path / "t.csv"
    path.write_text(f"id{mark}cif{mark}gap\n" + "".join(f'a{i}{mark}"{CIF}"{mark}{x}\n' for i, x in enumerate(cells)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = io.read(path)
    (line,) = [str(w.message) for w in caught if w.category is Notice]
    if values is None:
        assert "gap" not in found.properties
    else:
        np.testing.assert_array_equal(found.properties["gap"], np.array(values, "f4"))
    lost = values is None or any(np.isnan(v) and c not in ("", "-") for v, c in zip(values, cells))
    count = sum(cell not in ("", "-") for cell in cells)
    assert line == (
        f"t.csv: column 'gap': 1 of {count} cells are no plain numbers and count as missing, "
        f"the first in row 1 (id a0): {cells[0]!r}"
        if lost
        else "t.csv: decimal commas are read as decimal points in 'gap'"
    )


def test_a_comma_that_may_divide_thousands_is_no_decimal_comma(tmp_path):
    for mark, first, expected in (("\t", "2,500", "1,500"), ("\t", "2,50", "1.500"), (";", "2,500", "1.500")):
        (tmp_path / "t.csv").write_text(f"id{mark}x\na{mark}1,500\nb{mark}{first}\n")
        assert tables.read(tmp_path / "t.csv")[0]["x"] == expected
    (tmp_path / "t.csv").write_text('id,x\na,"1,5"\nb,"2,5"\n')  # commas separate: whose number is it?
    assert tables.read(tmp_path / "t.csv")[0]["x"] == "1,5"


def test_integers_and_truth_values_of_arrays_are_read_and_others_named(tmp_path):
    np.savez(
        tmp_path / "t.npz", num_atoms=np.array([1, 1]), atomic_numbers=np.array([12, 8]), frac_coords=np.zeros((2, 3)),
        cell=np.stack([CELL, CELL]), space_group_number=np.array([221, 225]), made=np.array([True, False]),
        dos=np.zeros((2, 51)), formula=np.array(["Mg", "O"]),
    )  # fmt: skip
    found = io.read(tmp_path / "t.npz")
    assert found.properties["space_group"].tolist() == [221, 225] and found.properties["made"].tolist() == [1, 0]
    assert (
        report(found)["dos"]["reason"] == "an array of shape (2, 51)" and report(found)["formula"]["reason"] == "text"
    )


def test_a_number_beyond_float32_is_refused_by_name():
    rows = [Entry("a", NUMBERS, FRAC, CELL, {"x": 1.0}), Entry("b", NUMBERS, FRAC, CELL, {"x": -1e39})]
    with pytest.raises(ValueError, match="x of 'b' is -1e\\+39: beyond the range of float32"):
        datasets.from_entries(rows)


def test_records_of_jarvis_and_of_pandas_are_read_by_their_names(tmp_path):
    structure = io.to_structure(Entry("", NUMBERS, FRAC, CELL, {})).as_dict()
    record = {"jid": "JVASP-1", "structure": structure, "formation_energy_peratom": -3.0, "optb88vdw_bandgap": 4.5,
              "mbj_bandgap": "na", "spg_number": "225", "ehull": 0, "elastic_tensor": [[1, 2], [3, 4]],
              "formula": "NaN", "is_metal": False, "bulk_modulus_kv": 10**400}  # fmt: skip
    (tmp_path / "t.json").write_text("\ufeff" + json.dumps([record, record | {"jid": "JVASP-2", "mbj_bandgap": 6.0}]))
    found = io.read(tmp_path / "t.json")
    assert found.ids.tolist() == ["JVASP-1", "JVASP-2"]
    wanted = {"formation_energy_ev_per_atom": -3.0, "band_gap_ev": 4.5, "space_group": 225, "is_metal": 0,
              "e_above_hull_ev_per_atom": 0, "mbj_band_gap_ev": 6.0}  # fmt: skip
    assert {name: values[1] for name, values in found.properties.items()} == wanted
    assert np.isnan(found.properties["mbj_band_gap_ev"][0])
    assert report(found)["elastic_tensor"]["value"] == "a list of 2"
    assert report(found)["bulk_modulus_kv"]["value"] == "inf"
    assert report(found)["structure"]["property"] == "structure"


# Frames


FRAME = (
    '1\nLattice="2 0 0 0 4 0 0 0 5" Properties=species:S:1:pos:R:3{columns} pbc="T T T" {labels}\nMg 0 0 0{values}\n'
)
VOLUME = 40.0


def frame(tmp_path, labels: str, columns: str = "", values: str = ""):
    path = tmp_path / "t.extxyz"
    path.write_text(FRAME.format(labels=labels, columns=columns, values=values))
    return io.read(path)


@pytest.mark.parametrize("name", ["energy", "REF_energy", "dft_energy", "DFT_energy", "energy_ref", "free_energy",
                                  "total_energy", "Energy"])  # fmt: skip
def test_energies_are_read_under_their_usual_names(tmp_path, name):
    found = frame(tmp_path, f"{name}=-7.5 config_type=bulk")
    assert found.properties[ENERGY].tolist() == [-7.5] and list(found.properties) == [ENERGY]
    assert report(found)[name]["property"] == "energy"
    assert report(found)["config_type"]["reason"] == "text"


@pytest.mark.parametrize("name", ["forces", "force", "REF_forces", "dft_forces", "dft_force"])
def test_forces_are_read_under_their_usual_names(tmp_path, name):
    found = frame(tmp_path, "energy=1", f":{name}:R:3", " 0.1 0.2 -0.3")
    np.testing.assert_allclose(found.site_properties[FORCES], [[0.1, 0.2, -0.3]], rtol=1e-6)


@pytest.mark.parametrize("name", ["virial", "virials", "REF_virial", "dft_virials", "stress", "REF_stress"])
def test_stress_is_minus_the_virial_by_the_volume(tmp_path, name):
    matrix = np.array([[1.0, 0.6, 0.5], [0.6, 2.0, 0.4], [0.5, 0.4, 3.0]])
    found = frame(tmp_path, f'{name}="{" ".join(map(str, matrix.ravel()))}"')
    wanted = np.array([1, 2, 3, 0.4, 0.5, 0.6]) * (-1 / VOLUME if "virial" in name else 1)
    np.testing.assert_allclose([found.properties[s][0] for s in STRESS], wanted, rtol=1e-6)


def test_a_reference_goes_before_the_plain_name_which_is_named(tmp_path):
    labels = 'energy=-1 ref_energy=-2 free_energy=-3 gap=0.5 mode="1 2 3"'
    found = frame(tmp_path, labels, ":magmoms:R:1", " 2.5")
    assert found.properties[ENERGY].tolist() == [-2] and found.properties["gap"].tolist() == [0.5]
    rows = report(found)
    assert rows["energy"]["reason"] == rows["free_energy"]["reason"] == "'ref_energy' is read"
    assert "magmoms" in rows and rows["magmoms"]["property"] == ""
    assert rows["mode"]["reason"] == "an array of shape (3,)"


def test_an_energy_an_atom_beside_the_total_is_compared(tmp_path):
    row = report(frame(tmp_path, "energy=-1 energy_per_atom=-2"))["energy_per_atom"]
    assert row["reason"].endswith("is read from the energies and stresses of the file; 1 of 1 values differ")


@pytest.mark.parametrize(("labels", "message"), [
    ('REF_energy="a b"', "REF_energy is 'a b'; expected a number in eV"),
    ('virials="1 2 3"', r"virials of shape \(3,\), expected"),
    ("energy=1e39", r"energy_ev_per_atom is 1e\+39; a data set holds numbers up to 3.4e\+38"),
])  # fmt: skip
def test_labels_of_frames_that_are_none_are_one_line(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        frame(tmp_path, labels)
    assert "\n" not in str(caught.value)


# Structures in tables


def test_structures_as_json_and_as_python_dicts_in_any_column(tmp_path):
    structure = io.to_structure(Entry("", NUMBERS, FRAC, CELL, {})).as_dict()
    tupled = str(
        structure | {"sites": tuple(structure["sites"]), "note": 'it\'s "so"', "none": None, "x": float("nan")}
    )
    texts = {"json": json.dumps(structure), "dict": str(structure), "tuples": tupled,
             "numpy": str(structure).replace("3.1", "np.float64(3.1)"),
             "exponent": str(structure | {"y": 1e-21})}  # fmt: skip
    for name, text in texts.items():
        for column in ("cif", "structure", "generated"):
            with (tmp_path / "t.csv").open("w", newline="") as file:
                head = ["formula", column, "gap"]
                csv.writer(file).writerows([head, ["NaN", text, "1.5"], head, ["InF", text, "2"]])
            found = io.read(tmp_path / "t.csv")
            assert found.ids.tolist() == ["0", "1"], name
            assert found.numbers.tolist() == [12, 8] * 2 and found.properties["gap"].tolist() == [1.5, 2]
            np.testing.assert_allclose(found.lattice[0], CELL, rtol=1e-6)
            np.testing.assert_allclose(found.frac[:2], FRAC)
            assert report(found)[column]["property"] == "structure"


def test_the_column_that_holds_structures_goes_before_the_one_that_is_called_so(tmp_path):
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["structure", "relaxed"], ["rocksalt", CIF], ["rocksalt", CIF]])
    found = io.read(tmp_path / "t.csv")
    assert len(found) == 2 and report(found)["relaxed"]["property"] == "structure"
    assert report(found)["structure"]["reason"] == "text"


@pytest.mark.parametrize("text", [
    "{'lattice': __import__('os').system('true'), 'sites': []}", "{'lattice'" + "(" * 100_000, "{'a':" * 100_000,
    "{'sites': 'lattice' 'x'}", "{'lattice': [1] * 1000, 'sites': 1}", "{'sites': [], 'lattice': {'matrix': 1",
    "{'sites': '" + "\\" * 100_001, "{'lattice': {'matrix': [[1, 0, 0]]}, 'sites': 'lattice" + ", " * 100_000 + "'}",
])  # fmt: skip
def test_dicts_that_are_none_are_a_reason(tmp_path, text):
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["structure"], [text]])
    with pytest.raises(ValueError, match=r"t\.csv: entry 0: ") as caught:
        io.read(tmp_path / "t.csv")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_the_column_that_names_crystals_is_reported(tmp_path):
    (tmp_path / "t.csv").write_text(f'name,cif,gap\nhalite,"{CIF}",1.5\n')
    (tmp_path / "t.json").write_text(json.dumps([{"name": "halite", "cif": CIF, "gap": 1.5}]))
    for file in ("t.csv", "t.json"):
        found = io.read(tmp_path / file)
        assert found.ids.tolist() == ["halite"]
        said = labels.lines(found.provenance["columns"])[0]
        assert "id from 'name'" in said and "gap" in said
