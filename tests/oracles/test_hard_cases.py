"""Crystals that break things, put to every physical oracle: an answer or a reason, soon, and nothing for others."""

import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from crysjax.data import datasets
from crysjax.data.datasets import Dataset, Entry
from crysjax.physics.elasticity import driver
from crysjax.physics.phonons.driver import phonons
from crysjax.potentials.mlip import mlip

EDGE = 5.243195  # Å, of argon's cube at the minimum, see tests/potentials/test_relax.py
FACES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
CUBE, PRIMITIVE = EDGE * np.eye(3), EDGE / 2 * (np.ones((3, 3)) - np.eye(3))
SHEAR = np.array([[1.0, 0, 0], [-9, 1, 0], [7, -8, 1]])
MANY = np.array([5, 5, 2])
CELLS = np.stack(np.meshgrid(*map(np.arange, MANY), indexing="ij"), -1).reshape(-1, 1, 3)

# name: positions, cell, element, whether a stiffness is to be had
CASES = {
    "one atom": (np.zeros((1, 3)), PRIMITIVE, 18, True),
    "overlapping atoms": (np.array([[0, 0, 0], [0.001, 0, 0], [0.5, 0, 0.5]]), CUBE, 18, False),
    "collapsed cell": (FACES, 0.4 * CUBE, 18, False),
    "exploded cell": (FACES, 40 * np.eye(3), 18, False),
    "flat cell": (FACES, CUBE * np.array([[1], [1], [1e-3]]), 18, False),
    "no volume": (FACES, np.ones((3, 3)), 18, False),
    "skewed cell": (FACES @ np.linalg.inv(SHEAR), SHEAR @ CUBE, 18, True),
    "not finite": (FACES * np.nan, CUBE, 18, False),
    "unknown element": (FACES, CUBE, 54, False),
    "two hundred atoms": ((FACES[None] + CELLS).reshape(-1, 3) / MANY, EDGE * np.diag(MANY), 18, True),
}
SOUND = [name for name, case in CASES.items() if case[3]]


def crystals(names: list[str]) -> Dataset:
    """The cases as they are; `datasets.from_entries` would refuse the broken ones."""
    parts = [CASES[name] for name in names]
    blank = [Entry(n, np.full(len(p[0]), 18), np.zeros((len(p[0]), 3)), np.eye(3), {}) for n, p in zip(names, parts)]
    numbers = np.concatenate([np.full(len(p[0]), p[2], np.uint8) for p in parts])
    frac, lattice = np.concatenate([p[0] for p in parts]), np.stack([p[1] for p in parts])
    made = datasets.from_entries(blank)
    return replace(made, numbers=numbers, frac=frac.astype(np.float32), lattice=lattice.astype(np.float32))


@pytest.fixture(scope="module")
def argon() -> tuple:
    potential = mlip(network="lennard_jones", numbers=(18,), cutoff_angstrom=7.0)
    return potential, potential.init(jax.random.key(0))


def test_elastic_constants(argon):
    """One atom, a cube of four in a skewed setting, two hundred: one tensor. All others have a reason and no number."""
    found = driver.elasticity(*argon, crystals(list(CASES)))
    assert dict(zip(CASES, found.valid.tolist())) == {name: case[3] for name, case in CASES.items()}
    assert [bool(reason) for reason in found.reason] == (~found.valid).tolist()
    assert np.isnan(found.tensor_gpa[~found.valid]).all() and np.isfinite(found.tensor_gpa[found.valid]).all()
    bulk = found.moduli.bulk[found.valid]
    np.testing.assert_allclose(bulk, bulk[0], rtol=2e-3)  # of what the relaxation leaves
    alone = driver.elasticity(*argon, crystals(SOUND))
    np.testing.assert_allclose(alone.tensor_gpa, found.tensor_gpa[found.valid], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in CASES if name != "two hundred atoms"])
def test_phonons(argon, name):
    entry = datasets.entries(crystals([name]))[0]
    start = time.perf_counter()
    try:
        found = phonons(*argon, entry, length_angstrom=7.5)
        assert found.valid == (found.reason == "") == np.isfinite(found.frequencies).all()
        said = found.reason
    except ValueError as error:  # no crystal at all, for which there is no primitive cell
        said = str(error)
        assert said.startswith(f"{name}: ") and "\n" not in said
    assert bool(said) == (name not in (*SOUND, "exploded cell")), "atoms out of reach of one another have no modes"
    assert time.perf_counter() - start < 60
