"""What files say of atoms and crystals do not keep is counted and named, whichever format says it."""

import json
import warnings

import numpy as np
import pytest

from crysjax.data import labels
from crysjax.data.datasets import Entry
from crysjax.data.lost import NotKept
from crysjax.data.readers import io

HEAD = "salt\n1.0\n4.0 0.0 0.0\n0.0 4.0 0.0\n0.0 0.0 4.0\n"
FIXED = HEAD + "D O\n2 1\nSelective dynamics\nDirect\n0 0 0 F F F\n0.5 0.5 0.5 T T T\n0.5 0.5 0 T .FALSE. T\n"
MOVING = "\n0.0 0.0 0.1D-1\n0 0 0\n0 0 0\n"
CELL_MOVES = "Lattice velocities and vectors\n1\n" + "0 0 0\n" * 6
SITES = [{"species": [{"element": "D", "occu": 1}], "abc": [0, 0, 0],
          "properties": {"selective_dynamics": [True, False, True], "magmom": 1.5, "note": None}},
         {"species": [{"element": "O", "occu": 1}], "abc": [0.5, 0.5, 0.5], "properties": {"magmom": 0.0}}]  # fmt: skip
CUBE = (4 * np.eye(3)).tolist()
PYMATGEN = json.dumps({"lattice": {"matrix": CUBE}, "sites": SITES})
JARVIS = json.dumps({"lattice_mat": CUBE, "elements": ["T", "T", "O"], "coords": [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]})
CIF = """data_x
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
D1 D 0 0 0
C1 13C4+ 0.5 0.5 0.5
"""
LABELS = CIF.replace("_atom_site_type_symbol\n", "").replace("D1 D", "D1").replace("C1 13C4+", "C1")
EXTXYZ = (
    '3\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:move_mask:L:1:initial_magmoms:R:1\n'
    "D 0 0 0 F 1\nT 2 2 2 T 0\nO 2 2 0 F 0\n"
)

FILES = {
    "a.vasp": (FIXED, ["selective dynamics of 2 atoms not kept", "isotope D of 2 atoms read as H"]),
    "moving.vasp": (FIXED.replace("F", "T").replace("D O", "H O") + MOVING, ["velocities of 1 atom not kept"]),
    "CONTCAR": (FIXED.replace("F", "T").replace("D O", "H O") + CELL_MOVES + MOVING, ["velocities of 1 atom not kept"]),
    "quiet.vasp": (FIXED.replace("F", "T").replace("D O", "H O") + MOVING.replace("0.1D-1", "0"), []),
    "p.json": (
        PYMATGEN,
        ["isotope D of 1 atom read as H", "selective dynamics of 1 atom not kept", "magmom of 1 atom not kept"],
    ),
    "j.json": (JARVIS, ["isotope T of 2 atoms read as H"]),
    "a.cif": (CIF, ["isotope D of 4 atoms read as H", "isotope 13C of 4 atoms read as C"]),
    "labels.cif": (LABELS, ["isotope D of 4 atoms read as H"]),
    "a.extxyz": (
        EXTXYZ * 2,
        ["constraints of 4 atoms (2 crystals) not kept", "magnetic moments of 2 atoms (2 crystals) not kept",
         "isotope D of 2 atoms (2 crystals) read as H", "isotope T of 2 atoms (2 crystals) read as H"],
    ),
    "a.csv": (f'id,cif,gap\nx,"{CIF}",1.5\n', ["isotope D of 4 atoms read as H", "isotope 13C of 4 atoms read as C"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_is_not_kept_is_a_warning_of_what_and_how_many(tmp_path, name):
    text, expected = FILES[name]
    (tmp_path / name).write_text(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = io.read(tmp_path / name)
    assert [str(w.message) for w in caught if w.category is NotKept] == [f"{name}: {line}" for line in expected]
    assert labels.lost_lines(found.provenance.get("columns", [])) == expected
    assert set(found.numbers.tolist()) <= {1, 6, 8}
    assert not any("atoms" in line for line in labels.lines(found.provenance.get("columns", [])))


def test_objects_of_others_say_it_too():
    from ase import Atoms
    from ase.constraints import FixAtoms
    from pymatgen.core import Structure

    atoms = Atoms("HO", scaled_positions=[[0, 0, 0], [0.5] * 3], cell=4 * np.eye(3), pbc=True, constraint=FixAtoms([1]))
    atoms.set_velocities([[0, 0, 1.0], [0, 0, 0]])
    assert io.entry_of_atoms(atoms, "").lost == {("constraints", "not kept"): 1, ("velocities", "not kept"): 1}
    structure = Structure(4 * np.eye(3), ["D", "O"], [[0, 0, 0], [0.5] * 3], site_properties={"magmom": [0, 5.0]})
    assert io.entry_of_structure(structure, "", {}).lost == {
        ("isotope D", "read as H"): 1,
        ("magmom", "not kept"): 1,
    }


def test_counts_add_up_over_crystals():
    one = Entry("", np.array([1]), np.zeros((1, 3)), np.eye(3), {}, lost={("x", "not kept"): 3})
    kept, report = labels.settle([one, one._replace(lost={}), one], [1, 2, 3])
    assert labels.lost_lines(report) == ["x of 6 atoms (2 crystals) not kept"] and kept[0].lost == {}
