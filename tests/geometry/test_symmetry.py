"""Space groups and Wyckoff positions against spglib and pymatgen's tables, derivatives against finite differences."""

import gzip
import json
import re
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pymatgen.analysis.prototypes
import pytest
import spglib

from crysjax.base import Crystal, one_hot
from crysjax.geometry import lattice as lattices
from crysjax.geometry import symmetry, torus

GROUPS = range(1, 231)
SOME = [2, 5, 12, 14, 38, 62, 88, 146, 148, 161, 166, 176, 194, 205, 216, 221, 225, 227, 230]
orbit, conventional = jax.jit(jax.vmap(symmetry.orbit)), jax.jit(symmetry.conventional)
lattice_from_free = jax.jit(symmetry.lattice_from_free)
symmetrize, project = jax.jit(symmetry.symmetrize), jax.jit(symmetry.project)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@lru_cache
def settings() -> dict[int, int]:
    """Number of a group -> spglib's number of its standard setting (origin choice 2, hexagonal axes)."""
    found = {}
    for hall in range(1, 531):
        kind = spglib.get_spacegroup_type(hall)
        if kind.number not in found or (
            kind.choice == "2" and spglib.get_spacegroup_type(found[kind.number]).choice == "1"
        ):
            found[kind.number] = hall
    return found


def aflow(name: str) -> dict:
    """One of the tables of the AFLOW prototype label, as pymatgen ships them."""
    folder = Path(pymatgen.analysis.prototypes.__file__).parent
    with gzip.open(folder / f"wyckoff-position-{name}.json.gz") as file:
        return json.load(file)


def draw_lattice(group: int, seed: int = 0) -> np.ndarray:
    """A random lattice of the group with a < b < c: spglib exchanges axes for this order, and letters with them."""
    rng = np.random.default_rng((seed, group))
    parameters = np.concatenate([np.sort(rng.uniform(9, 14, 3)), rng.uniform(75, 88, 3)])
    return np.asarray(lattice_from_free(group, jnp.asarray(parameters)))


def draw_crystal(group: int, letters: list[int], seed: int = 1) -> tuple:
    """Orbits of the given positions, each of an element of its own, in the primitive cell: lattice, frac, numbers."""
    rng = np.random.default_rng((seed, group))
    u = rng.uniform(0.02, 0.98, (len(letters), 3))
    padded = np.resize(letters, 29)  # one compilation
    sites, mask = orbit(jnp.full(29, group), jnp.asarray(padded), jnp.asarray(np.resize(u, (29, 3))))
    sites, mask = np.asarray(sites)[: len(letters)], np.asarray(mask)[: len(letters)] > 0
    basis = symmetry.table().primitive[group]
    numbers = np.concatenate([np.full(m.sum(), k + 1) for k, m in enumerate(mask)])
    frac = np.concatenate([s[m] for s, m in zip(sites, mask)]) @ np.linalg.inv(basis) % 1
    return basis @ draw_lattice(group), frac, numbers


@lru_cache
def every_orbit(group: int) -> tuple:
    """One orbit of every position, a second general one, and what spglib says of the crystal."""
    letters = list(range(len(symmetry.positions(group))))
    letters += letters[-1:]
    lattice, frac, numbers = draw_crystal(group, letters)
    found = spglib.get_symmetry_dataset((lattice, frac, numbers), 1e-5, hall_number=settings()[group])
    return letters, numbers, found


def test_operations_are_those_of_spglib():
    for group in GROUPS:
        database = spglib.get_symmetry_from_database(settings()[group])
        expected = {(r.tobytes(), tuple(np.round(t * 24).astype(int) % 24)) for r, t in zip(*database.values())}
        table = symmetry.table()
        found = set()
        for w, t in zip(table.rotations[group][: table.operations[group]], table.translations[group]):
            for c in table.centerings[group][: table.centering[group]]:
                shift = tuple(np.round((t + c) * 24).astype(int) % 24)
                found.add((np.round(w).astype(np.int32).tobytes(), shift))
        assert found == expected, group


def test_multiplicities_letters_and_freedom_are_those_of_pymatgen():
    multiplicities, freedom, table = aflow("multiplicities"), aflow("params"), symmetry.table()
    for group in GROUPS:
        letters = symmetry.positions(group)
        found = {letter: table.multiplicity[group, k] for k, letter in enumerate(letters)}
        assert found == {k: v for k, v in multiplicities[str(group)].items()}, group
        found = {letter: table.free[group, k].sum() for k, letter in enumerate(letters)}
        assert found == freedom[str(group)], group


def test_spglib_finds_the_group_and_the_letters_of_one_orbit_of_every_position():
    """The letters up to the group's own choice of origin and axes (its affine normalizer, listed by AFLOW)."""
    relabelings = aflow("relabelings")
    for group in GROUPS:
        letters, numbers, found = every_orbit(group)
        assert found.number == group
        pairs = {(symmetry.LETTERS[letters[n - 1]], letter) for n, letter in zip(numbers, found.wyckoffs)}
        assert len(pairs) == len(set(letters)), group  # every site of an orbit has the letter of the orbit
        allowed = [{(chr(int(k)), v) for k, v in row.items()} for row in relabelings[str(group)]]
        assert pairs in allowed, group
        orbits = [np.unique(found.crystallographic_orbits[numbers == n]) for n in np.unique(numbers)]
        assert all(len(o) == 1 for o in orbits), group


def test_spglib_finds_the_group_of_random_general_orbits():
    for group in GROUPS:
        general = len(symmetry.positions(group)) - 1
        lattice, frac, numbers = draw_crystal(group, [general, general])
        assert spglib.get_symmetry_dataset((lattice, frac, numbers), 1e-4).number == group
        assert len(frac) * symmetry.table().centering[group] == 2 * symmetry.table().multiplicity[group, general]


def test_conventional_and_primitive_cells_are_the_same_crystal():
    for group in SOME:
        general = len(symmetry.positions(group)) - 1
        u = jnp.asarray(np.random.default_rng(group).uniform(size=3))
        sites, mask = symmetry.orbit(group, general, u)
        copies, real = conventional(group, sites, mask)
        lattice = draw_lattice(group)
        cell = lattice, np.asarray(copies)[np.asarray(real) > 0], np.ones(int(real.sum()))
        small, frac, _ = spglib.find_primitive(cell, 1e-5) if group > 2 else cell
        ours = symmetry.primitive_lattice(group, jnp.asarray(lattice))
        assert len(frac) == mask.sum()
        np.testing.assert_allclose(abs(np.linalg.det(small)), lattices.volume(ours), rtol=1e-6)
        np.testing.assert_allclose(symmetry.conventional_lattice(group, ours), lattice, atol=1e-12)
        back = symmetry.from_primitive(group, symmetry.to_primitive(group, sites))
        off = np.asarray(back - sites)[:, None, :] - symmetry.table().centerings[group][None]
        assert np.abs(off - np.round(off)).max(-1).min(-1).max() < 1e-12


def test_free_lattice_parameters_number_as_the_crystal_system_says():
    expected = [6] * 2 + [4] * 13 + [3] * 59 + [2] * 68 + [2] * 52 + [1] * 36
    assert symmetry.table().lattice_free[1:].sum(-1).tolist() == expected


def test_lattices_of_free_parameters_are_left_alone_and_others_lose_their_strain():
    rng = np.random.default_rng(0)
    for group in SOME:
        lattice = jnp.asarray(draw_lattice(group))
        np.testing.assert_allclose(symmetry.symmetrize_lattice(group, lattice), lattice, atol=1e-12)
        again = symmetry.lattice_from_free(group, symmetry.lattice_to_free(group, lattice))
        np.testing.assert_allclose(again, lattice, atol=1e-10)
        strained = lattice @ jnp.asarray(np.eye(3) + 0.05 * rng.normal(size=(3, 3)))
        metric = np.asarray(lattices.metric(symmetry.symmetrize_lattice(group, strained)))
        for w in symmetry.table().rotations[group][: symmetry.table().operations[group]]:
            np.testing.assert_allclose(w.T @ metric @ w, metric, atol=1e-10)


def test_projection_finds_a_site_of_the_orbit_that_was_moved_off_its_position():
    """A site moved at right angles to its position comes back; the orbit of the answer passes through it."""
    rng = np.random.default_rng(1)
    for group in SOME:
        lattice = jnp.asarray(draw_lattice(group))
        for letter in range(len(symmetry.positions(group))):
            u = jnp.asarray(rng.uniform(size=3))
            sites, mask = symmetry.orbit(group, letter, u)
            site = sites[rng.integers(int(mask.sum()))] + jnp.asarray(rng.integers(-2, 3, 3), u.dtype)
            shift = jnp.asarray(rng.normal(size=3)) * 1e-3
            found, coordinates, distance = project(group, letter, site + shift, lattice)
            off = np.asarray(torus.log(found - site - shift) @ lattice)
            np.testing.assert_allclose(np.linalg.norm(off), distance, atol=1e-12)
            assert distance <= np.linalg.norm(shift @ lattice) + 1e-12
            through, real = symmetry.orbit(group, letter, coordinates)
            through, _ = conventional(group, through, real)
            assert np.abs(torus.log(through - found[None])).max(-1).min() < 1e-9
            along = jnp.asarray(rng.normal(size=3)) * 1e-4  # the nearest point: every other one is further
            others, _ = conventional(group, *symmetry.orbit(group, letter, coordinates + along))
            far = np.linalg.norm(torus.log(others - site[None] - shift[None]) @ lattice, axis=-1).min()
            assert far >= distance - 1e-12


def near(group: int, seed: int) -> tuple[Crystal, Crystal]:
    """A crystal with the group, in its primitive cell, and the same moved by about 0.01 Å and strained by 0.1 %."""
    letters = len(symmetry.positions(group))
    lattice, frac, numbers = draw_crystal(group, [min(letters, 3) - 1, letters - 1], seed)
    exact = Crystal(one_hot(jnp.asarray(numbers), jnp.float64), jnp.asarray(frac), jnp.asarray(lattice))
    rng = np.random.default_rng(seed)
    moved = exact.frac + 1e-3 * jnp.asarray(rng.normal(size=frac.shape))
    strained = exact.lattice @ jnp.asarray(np.eye(3) + 1e-3 * rng.normal(size=(3, 3)))
    return exact, exact._replace(frac=moved, lattice=strained)


@pytest.mark.parametrize("group", [5, 62, 146, 166, 194, 216, 227])
def test_symmetrize_restores_the_group(group):
    exact, moved = near(group, 3)
    same, missed = symmetrize(group, exact)
    assert missed < 1e-9
    np.testing.assert_allclose(torus.log(same.frac - exact.frac), 0, atol=1e-10)
    restored, missed = symmetrize(group, moved)
    assert 1e-3 < missed < 0.5
    cell = np.asarray(restored.lattice), np.asarray(restored.frac), np.asarray(exact.occupancy.argmax(-1))
    assert spglib.get_symmetry_dataset(cell, 1e-7).number == group
    assert spglib.get_symmetry_dataset((moved.lattice, moved.frac, cell[2]), 1e-7).number == 1
    again, missed = symmetrize(group, restored)
    assert missed < 1e-9
    np.testing.assert_allclose(torus.log(again.frac - restored.frac), 0, atol=1e-10)


def test_symmetrize_says_that_a_crystal_is_not_near_the_group():
    _, moved = near(1, 0)
    assert symmetrize(225, moved)[1] > 0.5


def numeric(function, x: jnp.ndarray, along: jnp.ndarray, step: float = 1e-5) -> float:
    return (function(x + step * along) - function(x - step * along)) / (2 * step)


@pytest.mark.parametrize("group", [5, 166, 225])
def test_derivatives_are_those_of_finite_differences(group):
    rng = np.random.default_rng(2)
    weight = jnp.asarray(rng.normal(size=(48, 3)))
    letter = len(symmetry.positions(group)) - 1
    exact, moved = near(group, 5)

    def of_orbit(u):
        return (weight * jnp.sin(symmetry.orbit(group, letter, u)[0] * 2 * jnp.pi)).sum()

    def of_lattice(parameters):
        lattice = symmetry.primitive_lattice(group, symmetry.lattice_from_free(group, parameters))
        return (weight[:3] * lattice).sum()

    def of_strain(lattice):
        return (weight[:3] * symmetry.symmetrize_lattice(group, lattice)).sum()

    def of_sites(frac):
        restored, _ = symmetry.symmetrize(group, moved._replace(frac=frac))
        return (jnp.resize(weight, frac.shape) * jnp.sin(restored.frac * 2 * jnp.pi)).sum()

    def of_projection(site):
        return (weight[:2] * jnp.stack(symmetry.project(group, letter - 1, site, exact.lattice)[:2])).sum()

    cases = [
        (of_orbit, jnp.asarray(rng.uniform(size=3))),
        (of_lattice, jnp.asarray([9.0, 10.0, 11.0, 80.0, 85.0, 88.0])),
        (of_strain, symmetry.conventional_lattice(group, moved.lattice)),
        (of_sites, moved.frac),
        (of_projection, jnp.asarray([0.213, 0.371, 0.117])),
    ]
    for function, x in cases:
        function, along = jax.jit(function), jnp.asarray(rng.normal(size=x.shape))
        slope = (jax.jit(jax.grad(function))(x) * along).sum()
        np.testing.assert_allclose(slope, numeric(function, x, along), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: symmetry.positions(225, multiplicity=5),
            "multiplicity: space group 225 has no position of 5 sites; it has 4, 8",
        ),
        (lambda: symmetry.positions(231), "group: 231 is no space group number, expected 1..230"),
        (lambda: symmetry.index(2, "j"), "letter: space group 2 has no position 'j'; it has a to i"),
    ],
)
def test_mistakes_are_one_line(call, said):
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        call()
    assert "\n" not in str(error.value)


def test_positions_by_multiplicity():
    assert symmetry.positions(225, multiplicity=4) == ["a", "b"]
    assert symmetry.positions(47)[-1] == "A"
    assert symmetry.index(47, "A") == 26
