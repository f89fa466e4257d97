"""`crysjax phonons` on argon, whose frequencies the tests of the oracle know."""

import csv
import json
import xml.etree.ElementTree as ET

import jax
import numpy as np
import pytest
import typer

from crysjax.cli.phonons import phonons
from crysjax.data.datasets import Entry
from crysjax.data.readers import io
from crysjax.potentials.mlip import mlip, save_potential

EDGE = 5.243195  # Å, of argon's cube at the minimum, see tests/potentials/test_relax.py


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A potential and a slightly stretched crystal in its cube of four atoms."""
    folder = tmp_path_factory.mktemp("phonons")
    argon = mlip(network="lennard_jones", numbers=(18,), epsilon_ev=0.0104, sigma_angstrom=3.4, cutoff_angstrom=7.0)
    save_potential(folder / "argon.npz", argon, argon.init(jax.random.key(0)))
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    cube = Entry("argon", np.full(4, 18), corners, 1.01 * EDGE * np.eye(3), {})
    broken = cube._replace(id="broken", frac=corners + 0.05 * np.eye(4, 3))
    io.write_crystals([cube, broken], folder / "argon.extxyz")
    bcc = Entry("bcc", np.array([18]), np.zeros((1, 3)), 4.265652 / 2 * (1 - 2 * np.eye(3)), {})
    io.write_crystals([bcc], folder / "bcc.extxyz")
    return folder


def run(*arguments) -> None:
    app = typer.Typer()
    app.command()(phonons)
    app(args=[str(a) for a in arguments], standalone_mode=False)


def table(path) -> dict[str, np.ndarray]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def test_what_is_written_belongs_together(files, capsys):
    out = files / "out"
    run(files / "argon.extxyz", "--potential", files / "argon.npz", "--out", out, "--length", 7, "--mesh", 0.1)
    assert "1 atoms, last peak at" in capsys.readouterr().out
    summary, bands = json.loads((out / "summary.json").read_text()), table(out / "bands.csv")
    assert summary["stable"] and summary["supercell"] == [2, 2, 2] and summary["products"] == 1
    lattice = io.read(out / "crystal.cif").lattice[0].astype(float)
    assert abs(np.linalg.det(lattice)) == pytest.approx(EDGE**3 / 4, rel=1e-3)
    at_gamma = np.abs(bands["q1"]) + np.abs(bands["q2"]) + np.abs(bands["q3"]) == 0
    assert at_gamma.sum() >= 2 and np.abs(bands["mode_3_thz"][at_gamma]).max() < 1e-5
    assert summary["highest_thz"] <= bands["mode_3_thz"].max() * 1.001  # the path holds the extremes
    dos, thermal = table(out / "dos.csv"), table(out / "thermal.csv")
    step = dos["frequency_thz"][1] - dos["frequency_thz"][0]
    assert dos["modes_per_thz_per_cell"].sum() * step == pytest.approx(3, rel=1e-5)
    np.testing.assert_allclose(thermal["temperature_k"], np.arange(50, 1001, 50))
    assert (np.diff(thermal["free_energy_ev_per_cell"]) < 0).all()
    limit = 3 * (1 - summary["modes_left_out"]) * 8.617333e-5
    assert thermal["heat_capacity_ev_per_k_per_cell"][-1] == pytest.approx(limit, rel=1e-3)
    dulong_petit = 3 * (1 - summary["modes_left_out"]) * 8.314463  # J/(K mol)
    assert thermal["heat_capacity_j_per_k_per_mol_formula"][-1] == pytest.approx(dulong_petit, rel=1e-3)
    assert summary["formula"] == "Ar" and summary["formula_units_per_cell"] == 1
    lines = ET.parse(out / "phonons.svg").getroot().findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) % 3 == 1  # three modes a part of the path, and the density of states


def test_an_unstable_crystal_has_no_thermodynamics(files, capsys):
    """Body-centered argon: more than 1 % of its modes are imaginary, and sums over the others would be too low."""
    out = files / "unstable"
    run(
        files / "bcc.extxyz",
        "--potential",
        files / "argon.npz",
        "--out",
        out,
        "--length",
        7,
        "--mesh",
        0.1,
        "--no-relax",
    )
    said, summary, thermal = (
        capsys.readouterr(),
        json.loads((out / "summary.json").read_text()),
        table(out / "thermal.csv"),
    )
    assert not summary["stable"] and 0.01 < summary["modes_imaginary"] <= summary["modes_left_out"]
    assert all(np.isnan(values).all() for name, values in thermal.items() if name != "temperature_k")
    assert "have no thermal average: thermal.csv is empty (nan); --remedy" in said.err


def test_mistakes_are_one_line(files):
    given = files / "argon.extxyz", "--potential", files / "argon.npz", "--out", files / "never"
    with pytest.raises(ValueError, match="holds 2 crystals"):
        run(*given, "--row", 2)
    with pytest.raises(ValueError, match="--temperatures 0:10:1: expected LOW:HIGH:STEP"):
        run(*given, "--temperatures", "0:10:1")
    with pytest.raises(ValueError, match="relax the crystal first"):
        run(*given, "--row", 1, "--no-relax", "--length", 5)
    assert not (files / "never").exists()
