"""JSON in pandas' orients and JARVIS's layout, hydrogen's isotopes, slabs, and ids given twice."""

import json

import numpy as np
import pytest

from crysjax.data.datasets import Entry, from_entries
from crysjax.data.readers import io

SITE = {"species": [{"element": "Na", "occu": 1}], "abc": [0.0, 0.0, 0.0]}
SODIUM = {"lattice": {"matrix": [[3.0, 0, 0], [0, 3.1, 0], [0, 0, 3.2]]}, "sites": [SITE]}
WATER = {"lattice_mat": [[3.0, 0, 0], [0, 4.0, 0], [0, 0, 5.0]], "coords": [[0, 0, 0], [1.5, 1.0, 2.5]],
         "elements": ["D", "O"], "cartesian": True, "abc": [3, 4, 5]}  # fmt: skip


def read(tmp_path, content, name="a.json"):
    (tmp_path / name).write_text(json.dumps(content))
    return io.read(tmp_path / name)


def test_the_orients_of_pandas(tmp_path):
    rows = {"x": {"structure": SODIUM, "band_gap": 1.0}, "y": {"structure": SODIUM, "band_gap": 2.0}}
    columns = {name: {key: row[name] for key, row in rows.items()} for name in ("structure", "band_gap")}
    split = {"columns": list(columns), "index": list(rows), "data": [list(row.values()) for row in rows.values()]}
    table = {"schema": {"fields": []}, "data": [{"id": key} | row for key, row in rows.items()]}
    records = [{"id": key} | row for key, row in rows.items()]
    for content in (rows, columns, split, table, records):
        found = read(tmp_path, content)
        assert found.ids.tolist() == ["x", "y"]
        assert found.properties["band_gap_ev"].tolist() == [1, 2]
    texts = {"structure": {k: json.dumps(SODIUM) for k in rows}, "band_gap": columns["band_gap"]}
    assert read(tmp_path, texts).ids.tolist() == ["x", "y"]
    with pytest.raises(ValueError, match="columns have different rows"):
        read(tmp_path, columns | {"band_gap": {"x": 1.0}})
    with pytest.raises(ValueError, match="a JSON list where a structure was expected"):
        read(tmp_path, [list(row.values()) for row in rows.values()])  # pandas' "values" has no names


def test_structures_of_jarvis(tmp_path):
    direct = WATER | {"cartesian": False, "coords": [[0, 0, 0], [0.5, 0.25, 0.5]]}
    for content in (WATER, direct, [WATER], [{"jid": "JVASP-1", "atoms": direct, "optb88vdw_bandgap": 1.5}]):
        found = read(tmp_path, content)
        assert found.numbers.tolist() == [1, 8]
        np.testing.assert_allclose(found.frac, [[0, 0, 0], [0.5, 0.25, 0.5]])
        np.testing.assert_allclose(found.lattice[0], np.diag([3, 4, 5]))
    assert found.ids.tolist() == ["JVASP-1"] and found.properties["band_gap_ev"].tolist() == [1.5]
    for broken in (WATER | {"elements": ["D"]}, WATER | {"lattice_mat": [[0] * 3] * 3}, WATER | {"coords": "x"}):
        with pytest.raises(ValueError, match=r"positions|no volume|no structure of pymatgen or JARVIS"):
            read(tmp_path, broken)


@pytest.mark.parametrize("symbol", ["D", "T"])
def test_isotopes_of_hydrogen_are_hydrogen(tmp_path, symbol):
    deuteride = SODIUM | {"sites": [SITE | {"species": [{"element": symbol, "occu": 1}]}]}
    assert read(tmp_path, deuteride).numbers.tolist() == [1]
    head = '2\nLattice="3 0 0 0 3 0 0 0 3" Properties=id:I:1:species:S:1:pos:R:3 pbc="T T T"\n'
    (tmp_path / "a.extxyz").write_text(f"{head}1 {symbol} 0 0 0\n2 O 1.5 1.5 1.5\n")
    found = io.read(tmp_path / "a.extxyz")
    assert found.numbers.tolist() == [1, 8]
    np.testing.assert_allclose(found.frac, [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_unknown_elements_are_named(tmp_path):
    with pytest.raises(ValueError, match="'Xx' is not a chemical element"):
        read(tmp_path, SODIUM | {"sites": [SITE | {"species": [{"element": "Xx", "occu": 1}]}]})
    (tmp_path / "a.extxyz").write_text('1\nLattice="3 0 0 0 3 0 0 0 3"\nXx 0 0 0\n')
    with pytest.raises(ValueError, match="'Xx' is not a chemical element"):
        io.read(tmp_path / "a.extxyz")


def test_slabs_are_no_crystals(tmp_path):
    from pymatgen.core import DummySpecies, Lattice, Structure

    assert len(read(tmp_path, SODIUM | {"lattice": SODIUM["lattice"] | {"pbc": [True, True, True]}})) == 1
    with pytest.raises(ValueError, match="not periodic in all three directions"):
        read(tmp_path, SODIUM | {"lattice": SODIUM["lattice"] | {"pbc": [True, True, False]}})
    slab = Structure(Lattice(np.eye(3) * 4, pbc=(True, True, False)), ["Na"], [[0, 0, 0]])
    with pytest.raises(ValueError, match="not periodic in all three directions"):
        io.from_structure(slab)
    with pytest.raises(ValueError, match="'X' is not a chemical element"):
        io.from_structure(Structure(Lattice(np.eye(3) * 4), [DummySpecies("X")], [[0, 0, 0]]))


def test_ids_given_twice_name_their_files(tmp_path):
    rows = [Entry("m0", np.array([11]), np.zeros((1, 3)), np.eye(3) * 4, {})]
    for name in ("a.extxyz", "b.extxyz", "c.extxyz"):
        io.write_crystals(from_entries([rows[0]._replace(id="m1")] if name[0] == "b" else rows), tmp_path / name)
    inputs = [(tmp_path / name, "") for name in ("a.extxyz", "b.extxyz", "c.extxyz")]
    with pytest.raises(
        ValueError, match=r"'m0' comes 2 times in split '' \(1 such ids\), in \S+a.extxyz, \S+c.extxyz; "
    ):
        io.prepare(inputs)
    assert io.prepare(inputs[:2]).ids.tolist() == ["m0", "m1"]
