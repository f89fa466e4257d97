"""What follows a crystal from one description to another: forces, stresses, scores of generators, verdicts.

Numbers per crystal that nothing changes are in `test_equivalent_descriptions.py`; here are those that turn, move and
are shared with the crystal. Which site is which comes from the description itself, asked about a crystal whose species
are the numbers of its sites.
"""

from __future__ import annotations

import csv
import gzip
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES, Condition, Crystal, Pack
from crysjax.data import batching, datasets
from crysjax.data.datasets import Dataset, Entry
from crysjax.data.readers import cif
from crysjax.evaluation import stages
from crysjax.generators import coordinates
from crysjax.geometry import lattice as lattices
from crysjax.geometry.neighbors import radius_graph_host
from crysjax.models import registry
from crysjax.nets.equivariant import equivariant
from tests.support import EQUIVALENT, crystal

SHAPE = batching.Capacity(sites=40, pairs=800, crystals=2)
TURNS = ("rotation", "reflection")
CELL_KEPT = (*TURNS, "translation", "whole cells", "order of sites")
"""Kinds that leave the axes alone: what a network that reads them must follow."""
FAST = {"xla_backend_optimization_level": 0}


class Change(NamedTuple):
    """How a description came from another one: `lattice' = axes @ lattice @ turn`."""

    crystal: Crystal
    source: np.ndarray  # (n',) the site that each new one is a copy of
    axes: np.ndarray  # (3, 3) whole numbers
    turn: np.ndarray  # (3, 3) orthogonal


def changed(kind: str, c: Crystal) -> Change:
    made = EQUIVALENT[kind](c)
    source = EQUIVALENT[kind](c._replace(occupancy=np.eye(NUM_SPECIES)[: len(c.frac)])).occupancy.argmax(-1)
    relative = made.lattice.astype(float) @ np.linalg.inv(c.lattice.astype(float))
    turn = np.linalg.inv(c.lattice.astype(float)) @ made.lattice if kind in TURNS else np.eye(3)
    return Change(made, source, np.eye(3) if kind in TURNS else np.round(relative), turn)


def crystals() -> list[Crystal]:
    """Rock salt off its sites, and two without symmetry at distances of real crystals: all forces count."""
    face = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    salt = crystal([12, 8], [[0.02, 0, 0], [0.5, 0.47, 0.5]], 4.21 * face)
    rng, found = np.random.default_rng(4), [salt]
    grid = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.5], [0, 0.5, 0], [0.5, 0.5, 0], [0, 0, 0.5]])
    for n, cell in ((3, 4.4), (6, 4.8)):
        axes = cell * np.eye(3) + rng.normal(0, 0.3, (3, 3))
        found.append(crystal(rng.choice([8, 22, 38, 13], n), grid[:n] + rng.normal(0, 0.03, (n, 3)), axes))
    return found


def pack_of(c: Crystal) -> Pack:
    n = len(c.frac)
    occupancy, frac = np.zeros((SHAPE.sites, NUM_SPECIES), np.float32), np.zeros((SHAPE.sites, 3), np.float32)
    occupancy[:n], frac[:n] = c.occupancy, c.frac
    lattice = np.stack([c.lattice, np.eye(3, dtype=np.float32)])
    return jax.tree.map(jnp.asarray, Pack(occupancy, frac, lattice, *batching.topology(np.array([n]), SHAPE)))


@pytest.fixture(scope="module")
def student() -> Callable[[Crystal], tuple]:
    """Energy per atom, forces of each site, stress of the shipped potential.

    Edges reach up to 128 cells along an axis: a graph with the default of 32 refuses the far sheared cells.
    """
    potential, params, _ = registry.load_potential("student")
    compiled = jax.jit(potential.energy_forces_stress, compiler_options=FAST)

    def ask(c: Crystal) -> tuple:
        pack = pack_of(c)
        graph = radius_graph_host(pack, potential.cutoff_angstrom, max_edges=8000, limit_images=128)
        assert not graph.overflow.any()
        energy, forces, stress = jax.tree.map(np.asarray, compiled(params, pack, graph))
        return energy[0] / len(c.frac), forces[: len(c.frac)], stress[0]

    return ask


@pytest.mark.parametrize("kind", list(EQUIVALENT))
def test_energy_stays_and_forces_and_stress_turn_with_the_crystal(student, kind):
    """Positions of up to 50 Å (cells sheared by seven vectors) are rounded to 3e-6 Å in float32, where forces change by
    up to 30 eV/Å for each Å: 1e-4 eV/Å. The energy changes by forces times that, up to 1e-5 eV per atom; the stress is
    a sum of forces times distances over a volume of 20 to 100 Å³: 3e-5 eV/Å³.
    """
    for c in crystals():
        (energy, forces, stress), change = student(c), changed(kind, c)
        found = student(change.crystal)
        assert np.abs(forces).max() > 0.1 and np.abs(stress).max() > 1e-3, "too small to show anything"
        np.testing.assert_allclose(found[0], energy, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[1], forces[change.source] @ change.turn, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found[2], change.turn.T @ stress @ change.turn, rtol=0, atol=3e-5)


def shipped_score() -> Callable[[Pack, jax.Array], object]:
    """The network of the shipped generator, with its own weights."""
    model = registry.load_model("mp_20_generator", "generator")
    _, nested = registry.sections(model.config["settings"], ("network",))
    network = registry.made("network", "dense", registry.networks(), nested["network"])
    return lambda pack, context: network.apply(model.params, pack, context)


def equivariant_score() -> Callable[[Pack, jax.Array], object]:
    """The equivariant network with random weights: heads start at zero, where every symmetry is trivial."""
    network = equivariant(hidden_irreps="8x0e + 4x1o + 2x2e", layers=1, neighbors=12.0, max_neighbors=30,
                          radial_width=8)  # fmt: skip
    shapes = jax.eval_shape(network.init, jax.random.key(0), pack_of(crystals()[0]), context_of())
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype), shapes)
    return lambda pack, context: network.apply(params, pack, context)


def context_of() -> jax.Array:
    """Half-way in time, a property asked for, another not."""
    asked = Condition(jnp.asarray([[-1.0, jnp.nan]] * 2, jnp.float32), jnp.zeros(2, jnp.int32))
    return coordinates.context(jnp.full(2, 0.5), asked, (0.0, 0.0), (1.0, 1.0))


SCORES = {"dense": (shipped_score, CELL_KEPT), "equivariant": (equivariant_score, tuple(EQUIVALENT))}
CASES = [(name, kind) for name, (_, kinds) in SCORES.items() for kind in kinds]


@pytest.fixture(scope="module")
def scores() -> Callable[[str, Crystal], tuple]:
    """(fractional displacement, lattice change, species) that a generator's network says of one crystal."""
    compiled: dict[str, Callable] = {}

    def ask(name: str, c: Crystal) -> tuple:
        if name not in compiled:
            compiled[name] = jax.jit(SCORES[name][0](), compiler_options=FAST)
        said = jax.tree.map(np.asarray, compiled[name](pack_of(c), context_of()))
        return said.frac[: len(c.frac)], said.lattice[0], said.species[: len(c.frac)]

    return ask


def in_the_frame_of(change: Change, c: Crystal, strain: np.ndarray) -> np.ndarray:
    """Six coordinates of a symmetric strain beside the polar frame of the new cell, which other axes turn."""
    before, after = (
        np.asarray(lattices.polar(jnp.asarray(x, jnp.float32)[None])[1][0], float)
        for x in (c.lattice, change.crystal.lattice)
    )
    turn = after @ change.turn.T @ before.T
    matrix = np.asarray(lattices.to_symmetric(jnp.asarray(strain)[None])[0], float)
    return np.asarray(lattices.from_symmetric(jnp.asarray(turn @ matrix @ turn.T, jnp.float32)[None])[0])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_scores_follow_the_crystal(scores, name, kind):
    """To 1e-4 of the largest entry of each output, as in `test_symmetry`."""
    for c in crystals():
        (frac, strain, species), change = scores(name, c), changed(kind, c)
        found = scores(name, change.crystal)
        expected = frac[change.source] @ np.linalg.inv(change.axes), species[change.source]
        assert min(np.abs(x).max() for x in (frac, strain, species)) > 1e-3, "too small to show anything"
        for said, true in zip((found[0], found[2]), expected):
            np.testing.assert_allclose(said, true, rtol=0, atol=1e-4 * max(np.abs(true).max(), np.abs(frac).max()))
        turned = in_the_frame_of(change, c, strain)
        np.testing.assert_allclose(found[1], turned, rtol=0, atol=1e-4 * np.abs(strain).max())


def test_the_dense_score_does_read_the_axes(scores):
    """What its docstring says: another name of the axes is another answer, by far more than rounding."""
    c = crystals()[1]
    change = changed("axes renamed in a cycle", c)
    off = scores("dense", change.crystal)[0] - scores("dense", c)[0] @ np.linalg.inv(change.axes)
    assert np.abs(off).max() > 0.01 * np.abs(scores("dense", c)[0]).max()


DESCRIBED = ("rotation", "two axes exchanged", "sheared far", "doubled along one axis")


@pytest.fixture(scope="module")
def real(data_dir) -> Dataset:
    """Thirty crystals of MP-20 of up to 12 atoms, and ten of them squeezed until their atoms touch."""
    with gzip.open(data_dir / "mp_20_small/val.csv.gz", "rt") as file:
        parsed = (cif.parse(row["material_id"], row["cif"]) for row in csv.DictReader(file))
        rows = list(itertools.islice((row for row in parsed if len(row.numbers) <= 12), 30))
    squeezed = [row._replace(id=f"{row.id}-squeezed", lattice=0.5 * row.lattice) for row in rows[:10]]
    return datasets.from_entries([*rows, *squeezed])


def in_other_words(dataset: Dataset, kind: str) -> Dataset:
    rows = []
    for row in datasets.entries(dataset):
        new = EQUIVALENT[kind](crystal(row.numbers, row.frac, row.lattice))
        rows.append(Entry(f"{row.id} again", new.occupancy.argmax(-1) + 1, new.frac, new.lattice, {}))
    return datasets.from_entries(rows)


@pytest.mark.parametrize("kind", DESCRIBED)
def test_evaluation_gives_one_verdict_of_a_crystal(real, kind):
    """Valid or not and why, by the same numbers; a copy is no unique crystal, and none is new beside the originals."""
    other = in_other_words(real, kind)
    before, after = stages.valid(real), stages.valid(other)
    np.testing.assert_array_equal(after.passed, before.passed)
    assert before.passed.sum() >= 20 and (~before.passed).sum() >= 10
    for name in ("apart", "structure_valid", "composition_valid"):
        np.testing.assert_array_equal(after.columns[name], before.columns[name])
    for name in ("closest_angstrom", "closeness", "volume_a3_per_atom", "density_g_cm3"):
        np.testing.assert_allclose(after.columns[name], before.columns[name], rtol=1e-4)
    sane = np.flatnonzero(before.passed)
    whole, copies = datasets.take(real, sane), datasets.take(other, sane)
    both = stages.unique(datasets.concatenate([whole, copies]), processes=1)
    assert not both.passed[len(sane) :].any() and both.passed[: len(sane)].any()
    assert not stages.novel(copies, {"train": whole}, processes=1).passed.any()
