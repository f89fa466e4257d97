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
PLACE = names.of("../MgO x")
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
    assert [row["folder"] for row in said["crystals"]] == ["mp-149", PLACE, "feo"]
    assert [(row["formula"], row["atoms"]) for row in said["crystals"]][1] == ("MgO", 2)
    assert (said["program"], said["input_set"]) == ("VASP", "MPRelaxSet")
    for row, entry in zip(said["crystals"], crystals):
        place = tmp_path / "vasp" / row["folder"]
        assert sorted(p.name for p in place.iterdir()) == ["INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"]
        assert same(Poscar.from_file(place / "POSCAR", check_for_potcar=False).structure, entry)
        assert Incar.from_file(place / "INCAR")["ENCUT"] == 520
        assert min(Kpoints.from_file(place / "KPOINTS").kpts[0]) > 1
    iron = tmp_path / "vasp" / "feo"
    assert (iron / "POTCAR.spec").read_text().split() == ["Fe_pv", "O"]
    assert Incar.from_file(iron / "INCAR")["LDAU"] and Incar.from_file(iron / "INCAR")["LDAUU"] == [5.3, 0]
    assert sorted(p.name for p in (tmp_path / "vasp").iterdir()) == sorted(["mp-149", PLACE, "feo", "manifest.json"])
    rows = said["crystals"]
    assert said["potcar_titles"] == ["Fe_pv", "Mg_pv", "O", "Si"] and rows[2]["potcar_titles"] == ["Fe_pv", "O"]
    assert rows[2]["moments_bohr_magneton"] == {"Fe": [5.0], "O": [0.6]}
    assert said["kpoint_density"] == {"reciprocal_density": 64} and "MPRelaxSet" in said["source"]
    assert rows[0]["kpoints"] == list(Kpoints.from_file(tmp_path / "vasp/mp-149/KPOINTS").kpts[0])
    assert (iron / "POSCAR").read_text().startswith("feo FeO\n")


def test_r2scan_is_another_level(tmp_path, crystals):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_vasp(crystals[:1], tmp_path, input_set="MPScanRelaxSet", incar={"ENCUT": 700})
    incar = Incar.from_file(tmp_path / "mp-149" / "INCAR")
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
        assert points.split()[:3] == list(map(str, row["kpoints"]))
        magnetic = bool(row["moments_bohr_magneton"])
        assert magnetic == ("Fe" in atoms.get_chemical_symbols()) == (data["system"].get("nspin") == 2)
        assert {line.split()[2] for line in cards if line.rstrip().endswith(".UPF")} <= set(PSEUDO.values())


def test_crystals_without_names_are_numbered(tmp_path, crystals):
    said = read_manifest(write_espresso([c._replace(id="") for c in crystals], tmp_path, **PW).parent)
    assert [row["id"] for row in said["crystals"]] == ["crystal-0", "crystal-1", "crystal-2"]


def test_what_cannot_be_written_is_named_and_leaves_nothing_half_done(tmp_path, crystals):
    copper = entry_of_atoms(bulk("Cu"), "cu")
    with pytest.raises(ValueError, match="crystal 'cu': no pseudopotential for Cu"):
        write_espresso([crystals[0], copper], tmp_path / "a", **PW)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["mp-149"]  # whole, and no manifest
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


def test_the_command_names_what_it_leaves_out_and_what_is_needed(tmp_path, crystals, capsys):
    from crysjax.cli.app import main
    from crysjax.data.readers import io

    io.write_crystals([*crystals, entry_of_atoms(bulk("Cu"), "cu")], tmp_path / "a.extxyz")
    (tmp_path / "upf").mkdir()
    for name in PSEUDO.values():
        (tmp_path / "upf" / name).write_text("")
    more = ["--for", "qe", "--pseudopotentials", str(tmp_path / "upf"), "--top", "4"]
    with pytest.raises(SystemExit) as code:
        main(["inputs", str(tmp_path / "a.extxyz"), "--out", str(tmp_path / "qe"), *more])
    said = capsys.readouterr()
    assert not code.value.code and "cu: no pseudopotential for Cu" in said.err and "3 crystals" in said.out
    assert read_manifest(tmp_path / "qe")["left_out"] == [{"id": "cu", "reason": "no pseudopotential for Cu"}]
    assert f"pseudo_dir       = '{tmp_path / 'upf'}'" in (tmp_path / "qe/feo/pw.in").read_text()
    (tmp_path / "upf" / "si_other.upf").write_text("")
    with pytest.raises(SystemExit) as code:
        main(["inputs", str(tmp_path / "a.extxyz"), "--out", str(tmp_path / "b"), *more])
    assert code.value.code == 2 and "are both of Si" in capsys.readouterr().err
