"""Calculators by name answer what their own packages answer, and say in one line what is missing."""

import importlib.util
import sys

import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from crysjax.chemistry.levels import Level
from crysjax.data.readers.convert import entry_of_atoms
from crysjax.oracles.calculators import named
from crysjax.oracles.hosted import HostedRelax, host
from crysjax.potentials.ase import calculator
from crysjax.potentials.mlip import mlip, save_potential

needs_chgnet = pytest.mark.skipif(importlib.util.find_spec("chgnet") is None, reason="the package chgnet is missing")
needs_d3 = pytest.mark.skipif(importlib.util.find_spec("dftd3") is None, reason="the package dftd3 is missing")


def shaken(name: str, structure: str, a: float, seed: int = 0):
    """A strained and shaken crystal."""
    atoms = bulk(name, structure, a=a)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.random.default_rng(seed).uniform(-0.02, 0.02, (3, 3))), True)
    atoms.rattle(0.04, seed=seed)
    return atoms


SHAKEN = [shaken("Si", "diamond", 5.47), shaken("MgO", "rocksalt", 4.25, 1), shaken("CsCl", "cesiumchloride", 4.2, 2)]


def asked(text: str, atoms: list, settings=None, **limits):
    known = named(text, settings)
    work = host(known.make, settings=known.settings, **limits)
    answers = work.ask([entry_of_atoms(a, str(k)) for k, a in enumerate(atoms)])
    work.close()
    return answers


def agree(answers, atoms, make, *, atol: float):
    """Energy (eV), forces (eV/Å) and stress (eV/Å³) of a calculator in this process."""
    for answer, one in zip(answers, atoms):
        one = one.copy()
        one.calc = make()
        assert answer.reason == ""
        np.testing.assert_allclose(answer.single.energy, one.get_potential_energy(), atol=atol)
        np.testing.assert_allclose(answer.single.forces, one.get_forces(), atol=atol)
        np.testing.assert_allclose(answer.single.stress, one.get_stress(voigt=False), atol=atol)


def test_lennard_jones_by_name():
    """Positions wrapped into the cell may be summed in another order: rounding in double precision."""
    settings = {"sigma_angstrom": 2.5, "epsilon_ev": 0.2, "cutoff_angstrom": 6.0}
    found = asked("lennard_jones", SHAKEN, settings)
    agree(found, SHAKEN, lambda: LennardJones(sigma=2.5, epsilon=0.2, rc=6.0), atol=1e-5)  # entries hold float32


def test_a_potential_of_ours_by_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # the worker compiles quickly
    ours = mlip(network="lennard_jones", numbers=(14,), epsilon_ev=0.3, sigma_angstrom=2.1, cutoff_angstrom=4.5)
    params = ours.init(jax.random.key(0))
    save_potential(tmp_path / "mine.npz", ours, params)
    found = asked(str(tmp_path / "mine.npz"), SHAKEN[:2])
    agree(found[:1], SHAKEN[:1], lambda: calculator(ours, params), atol=1e-5)
    assert found[1].reason.startswith("CalculationFailed: the potential does not know ")
    level = named(str(tmp_path / "mine.npz")).level
    assert level.theory.startswith("potential mine.npz (") and level.corrections == "none"
    save_potential(tmp_path / "mine.npz", ours, jax.tree.map(lambda x: 2 * x, params))
    assert named(str(tmp_path / "mine.npz")).level != level  # other weights under the same name


@needs_chgnet
def test_chgnet_answers_what_its_own_package_answers():
    """By `predict_structure`, which knows no ASE; single precision, energies of 10 eV: 1e-5."""
    from chgnet.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    model = CHGNet.load(verbose=False, use_device="cpu")
    found = asked("chgnet", SHAKEN, timeout_seconds=300)
    for answer, atoms in zip(found, SHAKEN):
        said = model.predict_structure(AseAtomsAdaptor.get_structure(atoms))
        assert answer.reason == ""
        np.testing.assert_allclose(answer.single.energy / len(atoms), said["e"], atol=1e-5)
        np.testing.assert_allclose(answer.single.forces, said["f"], atol=2e-5)
        np.testing.assert_allclose(answer.single.stress * 160.21766208, said["s"], atol=2e-3)  # GPa
    known = named("chgnet")
    assert known.level.corrections == "MaterialsProject2020Compatibility" and "PBE" in known.level.theory
    assert named("chgnet", {"model": "r2scan"}).level != known.level


@needs_chgnet
def test_chgnet_relaxes_to_the_lattice_constants_of_its_level():
    """PBE: silicon 5.47 Å, MgO 4.25 Å; CHGNet is within 1 % of them."""
    found = asked("chgnet", SHAKEN[:2], relax=HostedRelax(fmax_ev_angstrom=0.02, steps=200), timeout_seconds=600)
    for answer, expected in zip(found, (5.47, 4.25)):
        assert answer.reason == ""
        np.testing.assert_allclose((4 * abs(np.linalg.det(answer.crystal.lattice))) ** (1 / 3), expected, rtol=0.01)


@needs_d3
def test_dispersion_adds_its_own_energy():
    from dftd3.ase import DFTD3

    settings = {"sigma_angstrom": 2.5, "epsilon_ev": 0.2, "cutoff_angstrom": 6.0}
    plain, with_d3 = asked("lennard_jones", SHAKEN, settings), asked("lennard_jones+d3", SHAKEN, settings)
    for one, both, atoms in zip(plain, with_d3, SHAKEN):
        atoms = atoms.copy()
        atoms.calc = DFTD3(method="PBE", damping="d3bj")
        assert atoms.get_potential_energy() < -0.01
        np.testing.assert_allclose(both.single.energy - one.single.energy, atoms.get_potential_energy(), atol=1e-5)
        np.testing.assert_allclose(both.single.forces - one.single.forces, atoms.get_forces(), atol=1e-5)
    assert named("emt+d3").level == Level("emt + D3(BJ, PBE)", "none")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("color", {}, "calculator 'color' is unknown; expected one of chgnet, emt, espresso"),
        ("emt+d4", {}, "'d4' cannot be added; expected emt\\+d3"),
        ("nowhere.nqx", {}, "calculator potential: no such file 'nowhere.nqx'"),
        ("emt", {"color": 3}, "calculator emt: no setting 'color'; expected one of none"),
        ("lennard_jones", {"epsilon_ev": 1.0}, "calculator lennard_jones: the setting sigma_angstrom is missing"),
    ],
)
def test_an_unknown_name_or_setting_is_one_line(name, settings, said):
    with pytest.raises(ValueError, match=said):
        named(name, settings)


def test_what_is_not_installed_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    for name, how in (
        ("chgnet", r"the package chgnet is not installed; pip install 'crysjax\[chgnet\]'"),
        ("emt+d3", "the package dftd3 is not installed; pip install dftd3"),
        ("espresso", "no program 'pw.x'; Debian: apt-get install quantum-espresso"),
    ):
        settings = {"pseudopotentials": {}, "cutoff_ev": 300.0} if name == "espresso" else {}
        with pytest.raises(ValueError, match=how):
            named(name, settings)


def test_somebody_elses_calculator_goes_by_its_place():
    known = named("ase.calculators.emt:EMT", {"asap_cutoff": True})
    assert known == ("ase.calculators.emt:EMT", {"asap_cutoff": True}, ("calculator ase.calculators.emt:EMT", "none"))


def test_levels_of_dft_name_what_energies_depend_on():
    """A default that is given is no other level; where a program lies does not matter."""

    def level(**settings):
        return named("gpaw", {"python": sys.executable, **settings}).level

    assert level() == level(python="/usr/bin/python3", derivatives=False) == level(cutoff_ev=400.0)
    others = {level(cutoff_ev=500.0), level(functional="RPBE"), level(kpoints=(3, 3, 3)), level(smearing_ev=0.1)}
    assert len(others | {level()}) == 5
    assert level().theory.startswith("DFT by GPAW {") and '"functional": "PBE"' in level().theory
