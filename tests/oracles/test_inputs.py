"""Inputs are read back by the programs' own parsers, hold the same crystals, and name their level of theory."""

import json
import warnings

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read as ase_read
from ase.io.espresso import read_fortran_namelist
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.io.vasp import Incar, Kpoints, Poscar

from crysjax.chemistry.levels import Level
from crysjax.data import names
from crysjax.data.datasets import from_entries
from crysjax.data.readers.convert import entry_of_atoms, to_structure
from crysjax.oracles.inputs import read_manifest, write_espresso, write_vasp

PSEUDO = {"Si": "Si.pbe.UPF", "Mg": "Mg.pbe.UPF", "O": "O.pbe.UPF", "Fe": "Fe.pbe.UPF"}
PLACE = f"1_{names.of('../MgO x')}"
PW = {"pseudopotentials": PSEUDO, "functional": "PBE", "cutoff_ev": 600.0}


@pytest.fixture(scope="module")
def crystals():
    """Silicon, magnesia and an iron oxide; one id is no file name."""
    iron = bulk("FeO", "rocksalt", a=4.3)
    iron.rattle(0.02, seed=0)
    named = {"mp-149": bulk("Si", "diamond", a=5.47), "../MgO x": bulk("MgO", "rocksalt", a=4.25), "feo": iron}
    return [entry_of_atoms(atoms, name) for name, atoms in named.items()]


def same(structure, entry) -> bool:
    return StructureMatcher(ltol=1e-4, stol=1e-4, angle_tol=1e-2, primitive_cell=False, scale=False).fit(
        structure, to_structure(entry)
    )


def test_vasp_inputs_are_those_of_the_materials_project(tmp_path, crystals):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen's advice about its sets
        manifest = write_vasp(from_entries(crystals), tmp_path / "vasp")
    said = json.loads(manifest.read_text())
    assert [row["id"] for row in said["crystals"]] == ["mp-149", "../MgO x", "feo"]
    assert [row["folder"] for row in said["crystals"]] == ["0_mp-149", PLACE, "2_feo"]
    assert [(row["formula"], row["atoms"]) for row in said["crystals"]][1] == ("MgO", 2)
    assert (said["program"], said["input_set"]) == ("VASP", "MPRelaxSet")
    for row, entry in zip(said["crystals"], crystals):
        place = tmp_path / "vasp" / row["folder"]
        assert sorted(p.name for p in place.iterdir()) == ["INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"]
        assert same(Poscar.from_file(place / "POSCAR", check_for_potcar=False).structure, entry)
        assert Incar.from_file(place / "INCAR")["ENCUT"] == 520
        assert min(Kpoints.from_file(place / "KPOINTS").kpts[0]) > 1
    iron = tmp_path / "vasp" / "2_feo"
    assert (iron / "POTCAR.spec").read_text().split() == ["Fe_pv", "O"]
    assert Incar.from_file(iron / "INCAR")["LDAU"] and Incar.from_file(iron / "INCAR")["LDAUU"] == [5.3, 0]
    assert sorted(p.name for p in (tmp_path / "vasp").iterdir()) == ["0_mp-149", PLACE, "2_feo", "manifest.json"]


def test_r2scan_is_another_level(tmp_path, crystals):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_vasp(crystals[:1], tmp_path, input_set="MPScanRelaxSet", incar={"ENCUT": 700})
    incar = Incar.from_file(tmp_path / "0_mp-149" / "INCAR")
    assert str(incar["METAGGA"]).upper() == "R2SCAN" and incar["ENCUT"] == 700
    said = read_manifest(tmp_path)
    assert said["level"] == Level("r2SCAN (VASP, Materials Project)", "none") and said["settings"] == {"ENCUT": 700}


def test_espresso_inputs_are_read_back_by_ase(tmp_path, crystals):
    said = read_manifest(write_espresso(crystals, tmp_path / "qe", density_cutoff_ev=4800.0, **PW).parent)
    assert said["level"] == Level("PBE (Quantum ESPRESSO, 600 eV)", "none")
    for row, entry in zip(said["crystals"], crystals):
        path = tmp_path / "qe" / row["folder"] / "pw.in"
        atoms = ase_read(path, format="espresso-in")
        assert sorted(atoms.numbers) == sorted(entry.numbers)
        assert same(to_structure(entry_of_atoms(atoms, "")), entry)
        with path.open() as file:
            data, cards = read_fortran_namelist(file)
        assert data["control"]["calculation"] == "vc-relax"
        np.testing.assert_allclose(data["system"]["ecutwfc"] * 13.605693, 600, rtol=1e-6)
        np.testing.assert_allclose(data["system"]["ecutrho"] * 13.605693, 4800, rtol=1e-6)
        points = next(cards[i + 1] for i, line in enumerate(cards) if line.startswith("K_POINTS automatic"))
        density = np.array(points.split()[:3], int) / (2 * np.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1))
        assert (density >= 5 - 1e-9).all() and (density < 6).all()
        assert {line.split()[2] for line in cards if line.rstrip().endswith(".UPF")} <= set(PSEUDO.values())


def test_crystals_without_names_are_numbered(tmp_path, crystals):
    said = read_manifest(write_espresso([c._replace(id="") for c in crystals], tmp_path, **PW).parent)
    assert [row["id"] for row in said["crystals"]] == ["crystal-0", "crystal-1", "crystal-2"]


def test_what_cannot_be_written_is_named_and_leaves_nothing_half_done(tmp_path, crystals):
    copper = entry_of_atoms(bulk("Cu"), "cu")
    with pytest.raises(ValueError, match="crystal 'cu': no pseudopotential for Cu"):
        write_espresso([crystals[0], copper], tmp_path / "a", **PW)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["0_mp-149"]  # whole, and no manifest
    flat = crystals[0]._replace(lattice=0 * crystals[0].lattice)
    for call, said in (
        (lambda: write_vasp([flat], tmp_path / "b"), "crystal 'mp-149': the cell has no volume"),
        (lambda: write_vasp(crystals, tmp_path / "b", input_set="MySet"), "'MySet'; expected one of MPRelaxSet"),
        (lambda: write_espresso([crystals[0]] * 2, tmp_path / "b", **PW), "two crystals of the id 'mp-149'"),
        (lambda: write_espresso(crystals, tmp_path / "b", calculation="md", **PW), "calculation 'md'"),
        (lambda: read_manifest(tmp_path / "a"), "no manifest of inputs"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
