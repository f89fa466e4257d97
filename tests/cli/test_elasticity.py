"""`crysjax elasticity` on silicon by Stillinger and Weber, whose elastic constants are in the literature."""

import csv
import json

import jax
import numpy as np
import pytest

from crysjax.cli import app, elasticity
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.data.readers import io
from crysjax.potentials.mlip import mlip, save_potential

FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
DIAMOND = [[0, 0, 0], [0.25, 0.25, 0.25]]


@pytest.fixture(scope="module", autouse=True)
def registered():
    if "elasticity" not in {command.name for command in app.app.registered_commands}:
        app.app.command("elasticity")(elasticity.elasticity)


@pytest.fixture(scope="module")
def silicon(tmp_path_factory):
    """Paths of a potential, and of silicon at 5.6 Å beside a crystal that the potential does not know."""
    folder = tmp_path_factory.mktemp("silicon")
    potential = mlip(network="stillinger_weber", numbers=(14,))
    path = save_potential(folder / "sw.npz", potential, potential.init(jax.random.key(0)))
    entries = [Entry("si", [14, 14], DIAMOND, 5.6 * FCC, {}), Entry("c", [6, 6], DIAMOND, 3.57 * FCC, {})]
    datasets.save(datasets.from_entries(entries), folder / "si.npz")
    return path, folder / "si.npz"


def test_silicon_as_json(crysjax, silicon, tmp_path):
    """Relaxed from 5.6 Å to 5.431 Å; Balamane et al., Phys. Rev. B 46, 2250 (1992), to the 0.01 eV/Å that are left."""
    out = tmp_path / "si.json"
    answer = crysjax("elasticity", silicon[1], "--potential", silicon[0], "--out", out, "--fmax", 0.001)
    assert answer.code == 0, answer.err
    assert answer.out.endswith(f"{out}: 2 crystals, 0 elastically unstable, 1 failed\n")
    good, bad = json.loads(out.read_text())
    c = np.array(good["tensor_gpa"])
    np.testing.assert_allclose([c[0, 0], c[0, 1], c[3, 3]], [151.4, 76.4, 56.4], rtol=0.005)
    assert good["clamped_ion_tensor_gpa"][3][3] > 1.9 * c[3, 3]  # internal relaxation halves it
    np.testing.assert_allclose([good["bulk_gpa"], good["eos_bulk_gpa"]], 101.4, rtol=0.01)
    np.testing.assert_allclose(good["eos_volume_a3_per_atom"], 5.431**3 / 8, rtol=1e-3)
    np.testing.assert_allclose(good["eos_energy_ev_per_atom"], -2 * 2.1683, rtol=1e-3)  # two bonds per atom
    np.testing.assert_allclose(good["density_g_cm3"], 2.329, rtol=2e-3)
    assert good["born_stable"] and good["reason"] == "" and good["formula"] == "Si"
    assert bad["reason"] and bad["eos_reason"] and bad["bulk_gpa"] is bad["tensor_gpa"] is bad["born_stable"] is None
    assert answer.err == f"c: {bad['reason']}\n"
    assert good["crystal_system"] == "cubic" and good["frame"].startswith("IEEE 176-1987: x1, x2, x3 along the axes")
    np.testing.assert_allclose(np.array(good["frame_axes"]) @ np.transpose(good["frame_axes"]), np.eye(3), atol=1e-5)
    assert bad["frame"] is bad["frame_axes"] is None
    assert f"{tmp_path / 'si_relaxed.extxyz'}: 2 crystals" in answer.out
    written = io.read(tmp_path / "si_relaxed.extxyz")
    np.testing.assert_allclose(np.linalg.det(written.lattice[0].astype(float)), 5.431**3 / 4, rtol=1e-3)


def test_silicon_as_a_table(crysjax, silicon, tmp_path):
    """As given, at 5.6 Å: stretched, so softer than at rest."""
    out = tmp_path / "si.csv"
    answer = crysjax("elasticity", silicon[1], "--potential", silicon[0], "--out", out, "--no-relax", "--no-eos")
    assert answer.code == 0, answer.err
    good, bad = csv.DictReader(out.read_text().splitlines())
    assert float(good["c11_gpa"]) < 140 and abs(float(good["c14_gpa"])) < 0.1 and good["born_stable"] == "True"
    assert bad["c11_gpa"] == "" and bad["reason"] == "the potential does not know C"
    assert bad["code"] == "unknown_element" and good["code"] == ""
    assert len([name for name in good if name.startswith("c") and name.endswith("_gpa")]) == 21
    assert good["frame"].startswith("IEEE 176-1987") and bad["frame"] == ""


def test_soft_ions_are_told_and_remedied(crysjax, tmp_path):
    """Body-centered argon with room to shear: its ions are at no minimum, and next to it is a denser packing."""
    potential = mlip(network="lennard_jones", numbers=(18,), epsilon_ev=0.0104, sigma_angstrom=3.4, cutoff_angstrom=7.0)
    path = save_potential(tmp_path / "argon.npz", potential, potential.init(jax.random.key(0)))
    half = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    cell = 4.265652 * np.array([[1, 1, 0], [-1, 1, 0], [0, 0, 1]])
    old = {"energy_ev_per_atom": -1.0, "hardness_gpa": 2.0}
    datasets.save(datasets.from_entries([Entry("bcc", [18] * 4, half, cell, old)]), tmp_path / "bcc.npz")
    command = ("elasticity", tmp_path / "bcc.npz", "--potential", path, "--no-eos", "--fmax", 0.003, "--out")
    told = crysjax(*command, tmp_path / "told.csv")
    assert told.code == 0 and "soft internal modes); --remedy follows them" in told.err, told
    answer = crysjax(*command, tmp_path / "mended.json", "--remedy", 2)
    assert answer.code == 0, answer.err
    row = json.loads((tmp_path / "mended.json").read_text())[0]
    assert row["reason"] == "" and row["remedy_gain_ev_per_atom"] > 1e-3 and row["bulk_gpa"] > 0
    written = io.read(tmp_path / "mended_relaxed.extxyz")
    assert "hardness_gpa" in written.properties and "energy_ev_per_atom" not in written.properties


def test_mistakes(crysjax, one_line, silicon, tmp_path):
    command = ("elasticity", silicon[1], "--potential", silicon[0], "--out")
    one_line(crysjax(*command, tmp_path / "a.txt"), r"--out .*a\.txt: expected a name that ends in \.json or \.csv")
    one_line(crysjax(*command, tmp_path / "a.csv", "--eos-range", 2), r"--eos-range 2\.0: expected a share")
    gone = crysjax("elasticity", silicon[1], "--potential", "gone", "--out", tmp_path / "a.csv")
    one_line(gone, "'gone' is neither a file nor a model")
