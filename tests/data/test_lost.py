"""What files say of atoms and crystals do not keep is counted and named, whichever format says it."""

import json
import warnings

import numpy as np
import pytest

from crysjax.data import labels, lost
from crysjax.data.datasets import Dataset, Entry
from crysjax.data.lost import NotKept
from crysjax.data.readers import io, source
from crysjax.data.readers.cif import format_p1
from crysjax.data.readers.cif_said import charged

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
P1 = format_p1("x", np.array([1, 8]), np.array([[0, 0, 0], [0.5] * 3]), 4 * np.eye(3))
STATES = "data_x\nloop_\n_atom_type_symbol\n_atom_type_oxidation_number\nO -2\nC 0\n"
STATES_OF_P1 = STATES.removeprefix("data_x\n")
CIF_STATES = STATES + CIF.removeprefix("data_x\n")
MORE = CIF.replace("D1 D 0 0 0", "O1 O 0 0 0 0.02 0.5").replace("13C4+ 0.5 0.5 0.5", "C 0.5 0.5 0.5 0.01 .").replace(
    "fract_z\n", "fract_z\n_atom_site_U_iso_or_equiv\n_atom_site_charge\n"
) + ("loop_\n_atom_site_moment_label\n_atom_site_moment_crystalaxis_x\n_atom_site_moment_crystalaxis_z\nC1 0.0 2.5\n")
SPECIES = json.dumps(
    {
        "lattice": {"matrix": CUBE},
        "charge": 1.0,
        "sites": [
            {"species": [{"element": "Fe", "oxidation_state": 3.0, "spin": 5, "occu": 1}], "abc": [0, 0, 0]},
            {"species": [{"element": "O", "oxidation_state": -2, "occu": 1}], "abc": [0.5, 0.5, 0.5]},
            {"species": [{"element": "C", "oxidation_state": 0, "occu": 1}], "abc": [0.5, 0.5, 0]},
        ],
    }
)
TAGS = (
    '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:tags:I:1:magmoms:R:1:initial_charges:R:1 magmom=2\n'
    "H 0 0 0 0 0 1\nO 2 2 2 1 2 -1\n"
)

FILES = {
    "a.vasp": (FIXED, ["selective dynamics of 2 atoms not kept", "isotope D of 2 atoms read as H"]),
    "moving.vasp": (FIXED.replace("F", "T").replace("D O", "H O") + MOVING, ["velocities of 1 atom not kept"]),
    "CONTCAR": (FIXED.replace("F", "T").replace("D O", "H O") + CELL_MOVES + MOVING, ["velocities of 1 atom not kept"]),
    "cell.vasp": (
        FIXED.replace("F", "T").replace("D O", "H O") + CELL_MOVES.replace("0 0 0", "0 0.1 0", 1),
        ["velocities of the cell of 3 atoms not kept"],
    ),
    "quiet.vasp": (FIXED.replace("F", "T").replace("D O", "H O") + MOVING.replace("0.1D-1", "0"), []),
    "p.json": (
        PYMATGEN,
        ["isotope D of 1 atom read as H", "selective dynamics of 1 atom not kept", "magmom of 1 atom not kept"],
    ),
    "j.json": (JARVIS, ["isotope T of 2 atoms read as H"]),
    "a.cif": (CIF, ["isotope D of 4 atoms read as H", "isotope 13C of 4 atoms read as C",
                    "oxidation states of 4 atoms not kept"]),
    "labels.cif": (LABELS, ["isotope D of 4 atoms read as H"]),
    "a.extxyz": (
        EXTXYZ * 2,
        ["constraints of 4 atoms (2 crystals) not kept", "magnetic moments of 2 atoms (2 crystals) not kept",
         "isotope D of 2 atoms (2 crystals) read as H", "isotope T of 2 atoms (2 crystals) read as H"],
    ),
    "a.csv": (f'id,cif,gap\nx,"{CIF}",1.5\n', ["isotope D of 4 atoms read as H", "isotope 13C of 4 atoms read as C",
                                              "oxidation states of 4 atoms not kept"]),
    "types.cif": (CIF_STATES.replace("D1 D ", "D1 O ").replace("13C4+", "C0+"),
                  ["oxidation states of 4 atoms not kept"]),
    "of_ions.cif": (
        CIF_STATES.replace("O -2\nC 0", "O2- -2\nC4+ ?").replace("D1 D ", "D1 O ").replace("13C4+", "C"),
        ["oxidation states of 4 atoms not kept"],
    ),
    "p1.cif": (P1.replace("loop_", STATES_OF_P1 + "loop_", 1), ["oxidation states of 1 atom not kept"]),
    "plain.cif": (P1, []),
    "zero.cif": (CIF.replace("D1 D ", "H1 H ").replace("13C4+", "C0+"), []),
    "more.cif": (MORE, ["charge of 4 atoms not kept", "displacement parameters of 8 atoms not kept",
                        "magnetic moments of 4 atoms not kept"]),
    "species.json": (SPECIES, ["oxidation states of 2 atoms not kept", "spins of 1 atom not kept",
                               "total charge of 3 atoms not kept"]),
    "props.json": (json.dumps(json.loads(JARVIS) | {"elements": ["H", "H", "O"], "props": ["T T T", "F T F", ""]}),
                   ["selective dynamics of 1 atom not kept"]),
    "empty.json": (json.dumps(json.loads(JARVIS) | {"elements": ["H", "H", "O"], "props": ["", "", ""]}), []),
    "tags.extxyz": (TAGS, ["magnetic moments of 1 atom not kept", "charges of 2 atoms not kept",
                           "tags of 1 atom not kept"]),
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
    assert set(found.numbers.tolist()) <= {1, 6, 8, 26}
    assert not any("atoms" in line for line in labels.lines(found.provenance.get("columns", [])))


def told(read, *given) -> tuple[Dataset, list[str]]:
    """What is read, and the warnings of what is not kept."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read(*given)
    return found, [str(w.message) for w in caught if w.category is NotKept]


def ase_atoms():
    """HO2 in a cube, of which ASE knows everything that a user can set and a calculator says."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms, FixBondLengths

    atoms = Atoms("HO2", scaled_positions=[[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]], cell=4 * np.eye(3), pbc=True,
                  magmoms=[0, 2.0, 0], charges=[1, 0, 0],
                  tags=[1, 1, 1])  # fmt: skip
    atoms.set_velocities([[0, 0, 1.0], [0, 0, 0], [0, 0, 0]])
    atoms.set_constraint([FixAtoms([1]), FixBondLengths([[0, 1]])])  # last: it would change the velocities
    atoms.calc = SinglePointCalculator(atoms, energy=-6.0, magmoms=[0, 1.5, 0.1], magmom=1.6, dipole=[0, 0, 1.0])
    return atoms


OF_ATOMS = [
    "constraints of 2 atoms not kept", "velocities of 1 atom not kept", "magnetic moments of 2 atoms not kept",
    "charges of 1 atom not kept", "tags of 3 atoms not kept",
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["db", "json"])
def test_databases_of_ase_say_it_too(tmp_path, suffix):
    from ase import Atoms
    from ase.constraints import FixCom
    from ase.db import connect

    path, plain = tmp_path / f"a.{suffix}", Atoms("H", cell=4 * np.eye(3), pbc=True)
    with connect(path) as database:
        database.write(ase_atoms(), key_value_pairs={"gap": 1.5, "material_id": "m"}, data={"of": [1]})
        database.write(plain)
    found, said = told(io.read, path)
    assert said == [f"a.{suffix}: {line}" for line in OF_ATOMS]
    assert found.ids.tolist() == ["m", "2"] and found.numbers.tolist() == [1, 8, 8, 1]
    np.testing.assert_allclose(found.frac[:3], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]], atol=1e-7)
    known = {"energy_ev_per_atom": -2.0, "gap": 1.5, "magmom": 1.6}
    assert {k: pytest.approx(v[0]) for k, v in found.properties.items()} == known
    assert {row["property"] for row in found.provenance["columns"]} >= {"energy", "gap", "magmom"}
    assert {row["column"] for row in found.provenance["columns"] if row.get("reason")} >= {"data", "dipole"}
    plain = plain.repeat(2)
    plain.set_constraint(FixCom())  # names no atoms: it binds them all
    with connect(tmp_path / f"b.{suffix}") as database:
        database.write(plain)
    assert told(io.read, tmp_path / f"b.{suffix}")[1] == [f"b.{suffix}: constraints of 8 atoms not kept"]


CONSTRAINED = {"none": 0, "mask": 0, "one": 1, "direction": 1, "free": 0, "last": 1, "all": 4, "both": 2}


def constrained(kind: str):
    """MgO3 under a constraint of ASE."""
    from ase import Atoms
    from ase.constraints import FixAtoms, FixCartesian, FixCom

    atoms = Atoms("MgO3", scaled_positions=np.arange(12).reshape(4, 3) / 12, cell=4 * np.eye(3), pbc=True)
    atoms.set_constraint(
        {
            "none": FixAtoms([]),
            "mask": FixAtoms(mask=[False] * 4),
            "one": FixCartesian([2]),
            "direction": FixCartesian([2], mask=[True, False, False]),
            "free": FixCartesian([2], mask=[False] * 3),
            "last": [FixAtoms([-1]), FixAtoms([3])],
            "all": FixCom(),
            "both": [FixAtoms([]), FixAtoms([0, 1])],
        }[kind]
    )
    return atoms


@pytest.mark.parametrize("kind", CONSTRAINED)
def test_a_constraint_binds_as_many_atoms_in_every_format(tmp_path, kind):
    from ase.db import connect
    from ase.io import write

    for suffix in ("db", "json"):
        with connect(tmp_path / f"a.{suffix}") as database:
            database.write(constrained(kind))
    names = ["a.db", "a.json"]
    if kind in ("one", "direction", "free"):  # extxyz has a column of what is fixed for these
        write(tmp_path / "a.extxyz", constrained(kind), columns=["symbols", "positions", "move_mask"])
        names.append("a.extxyz")
    count = CONSTRAINED[kind]
    line = f"constraints of {count} atom{'s' * (count > 1)} not kept"
    for name in names:
        assert told(io.read, tmp_path / name)[1] == ([f"{name}: {line}"] if count else []), name
    assert told(source.read, constrained(kind))[1] == ([f"Atoms: {line}"] if count else [])


def test_an_index_from_the_end_is_the_same_atom():
    assert lost.constraints([{-1}, {3}], 4) == {("constraints", "not kept"): 1}


@pytest.mark.parametrize(("changed", "count"), [({}, 0), ({0: 25.983}, 1), ({1: 2.0}, 1), ({0: 24.3050}, 0)])
def test_only_masses_that_are_not_the_usual_ones_are_said(tmp_path, changed, count):
    from ase.db import connect

    atoms = constrained("none")
    atoms.set_masses([changed.get(i, mass) for i, mass in enumerate(atoms.get_masses())])
    line = [f"masses of {count} atom not kept"] * (count > 0)
    assert told(source.read, atoms)[1] == [f"Atoms: {one}" for one in line]
    with connect(tmp_path / "a.db") as database:
        database.write(atoms)
    assert told(io.read, tmp_path / "a.db")[1] == [f"a.db: {one}" for one in line]


ROW = {"numbers": [12, 8], "positions": [[0, 0, 0], [2, 2, 2]], "cell": CUBE, "pbc": [True] * 3}
SPRING = {"name": "Hookean", "kwargs": {"a1": 0, "a2": 1, "k": 5.0, "rt": 2.0}}


def of_json(tmp_path, **more) -> tuple[Dataset, list[str]]:
    (tmp_path / "a.json").write_text(json.dumps({"1": ROW | more, "ids": [1], "nextid": 2}))
    return told(io.read, tmp_path / "a.json")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"magmoms": [None, 1]}, "magnetic moments of 1 atom not kept"),
        ({"magmoms": {"__ndarray__": [[2], "float64", [None, 1]]}}, "magnetic moments of 1 atom not kept"),
        ({"masses": [None, 2.0]}, "masses of 1 atom not kept"),
        ({"constraints": [{"name": "FixBondLengths", "kwargs": {"bonds": 7}}]}, "constraints of 2 atoms not kept"),
        ({"constraints": [{"name": "FixAtoms", "kwargs": {"indices": [0]}}]}, "constraints of 1 atom not kept"),
        ({"constraints": [SPRING]}, "constraints of 2 atoms not kept"),
    ],
)
def test_gaps_and_odd_constraints_are_no_reason_to_refuse_a_crystal(tmp_path, more, line):
    found, said = of_json(tmp_path, **more)
    assert found.numbers.tolist() == [12, 8] and said == [f"a.json: {line}"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"energy": True}, "energy: True; expected a number"),
        ({"energy": "-3"}, "energy: '-3'; expected a number"),
        ({"free_energy": [1]}, r"free_energy: \[1\]; expected a number"),
        ({"magmoms": ["up", 1]}, "magmoms: no array of numbers"),
        ({"magmoms": [1, 2, 3]}, r"magmoms: an array of shape \(3,\); expected a value for each of 2 atoms"),
    ],
)
def test_what_is_no_number_in_a_database_is_named(tmp_path, more, why):
    with pytest.raises(ValueError, match=rf"a\.json: entry 1: {why}"):
        of_json(tmp_path, **more)


def test_the_energy_at_0_k_goes_before_the_free_energy(tmp_path):
    energy = "energy_ev_per_atom"
    assert of_json(tmp_path, energy=-6.0, free_energy=-7.0)[0].properties[energy].tolist() == [-3]
    assert of_json(tmp_path, free_energy=-7.0)[0].properties[energy].tolist() == [-3.5]


def test_a_database_in_json_with_other_arrays_than_numbers_is_refused(tmp_path):
    row = {"numbers": [1], "positions": [[0, 0, 0]], "cell": CUBE, "pbc": [True] * 3}
    for wrong in (
        {"numbers": {"__ndarray__": [[1], "object", ["os"]]}},
        {"pbc": [True, False, True]},
        {"cell": "x"},
        {"numbers": None},
    ):
        (tmp_path / "a.json").write_text(json.dumps({"1": row | wrong, "ids": [1], "nextid": 2}))
        with pytest.raises(ValueError, match=r"a\.json: entry 1: "):
            io.read(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps({"1": row, "ids": [1, 7], "nextid": 8}))
    with pytest.raises(ValueError, match=r"a\.json: entry 7: no row of a database of ASE"):
        io.read(tmp_path / "a.json")


def test_objects_of_others_say_it_too():
    from pymatgen.core import Species, Structure

    atoms = ase_atoms()
    atoms.info["gap"] = 1.5
    found, said = told(source.read, [atoms, atoms])
    twice = [f"Atoms: {what} of {2 * int(n)} atoms (2 crystals) not kept" for what, n in
             ((line.split(" of ")[0], line.split(" of ")[1].split()[0]) for line in OF_ATOMS)]  # fmt: skip
    assert said == twice and found.ids.tolist() == ["crystal-0", "crystal-1"]
    assert {k: v.tolist() for k, v in found.properties.items() if k == "gap"} == {"gap": [1.5, 1.5]}
    places = [[0, 0, 0], [0.5] * 3]
    structure = Structure(4 * np.eye(3), ["D", "O"], places, site_properties={"magmom": [0, 5.0]})
    assert told(source.read, structure)[1] == [
        "Structure: isotope D of 1 atom read as H", "Structure: magmom of 1 atom not kept"]  # fmt: skip
    iron = Structure(4 * np.eye(3), [Species("Fe", 3, spin=5), Species("O", -2)], places, properties={"gap": 0.5})
    said = ["oxidation states of 2 atoms not kept", "spins of 1 atom not kept", "total charge of 2 atoms not kept"]
    found, lines = told(source.read, iron)
    assert lines == [f"Structure: {line}" for line in said] and found.properties["gap"].tolist() == [0.5]
    assert told(source.read, Structure(4 * np.eye(3), ["H", "O"], places))[1] == []


def test_pymatgen_says_the_same_by_its_own_files(tmp_path):
    """JSON and CIF as pymatgen itself writes them."""
    from pymatgen.core import Species, Structure

    iron = Structure(4 * np.eye(3), [Species("Fe", 3), Species("O", -2)], [[0, 0, 0], [0.5] * 3])
    for name in ("a.json", "a.cif"):
        iron.to(str(tmp_path / name))
        assert f"{name}: oxidation states of 2 atoms not kept" in told(io.read, tmp_path / name)[1], name


@pytest.mark.parametrize("symbol", ["Fe3+", "Fe+3", "O2-", "O-2", "Na+", "Cl-", "Fe2.5+", "13C4+"])
def test_symbols_with_a_charge(symbol):
    assert charged(symbol)


@pytest.mark.parametrize("symbol", ["Fe", "C1", "Fe0+", "O0-", "13C", "D", "Fe3", "", "Fe0.0+"])
def test_symbols_without_one(symbol):
    assert not charged(symbol)


def test_counts_add_up_over_crystals():
    one = Entry("", np.array([1]), np.zeros((1, 3)), np.eye(3), {}, lost={("x", "not kept"): 3})
    kept, report = labels.settle([one, one._replace(lost={}), one], [1, 2, 3])
    assert labels.lost_lines(report) == ["x of 6 atoms (2 crystals) not kept"] and kept[0].lost == {}
