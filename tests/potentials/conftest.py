"""Small potentials of every kind with random parameters, and crystals for them."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES, Crystal, Pack
from crysjax.data import batching
from crysjax.data.batching import Capacity
from crysjax.geometry.neighbors import Graph, radius_graph_host
from crysjax.potentials.mlip import mlip

FAST_COMPILE = {"xla_backend_optimization_level": 0}
ELEMENTS = (1, 8, 14, 26)
SHAPE = Capacity(sites=20, pairs=64, crystals=4)
EDGES = 2400
ROWS = {
    "nequip": dict(
        network="nequip", numbers=ELEMENTS, hidden_irreps="6x0e + 4x1o + 4x2e", layers=2, lmax=2, cutoff_angstrom=4.2,
        radial_basis=5, radial_width=8, radial_layers=1, mean_neighbors=20.0, scale_ev=0.7, shift_ev=-2.0,
    ),
    "cluster": dict(
        network="cluster", numbers=ELEMENTS, cutoff_angstrom=4.0, radial_basis=4, channels=6, vectors=4, width=8,
        hidden=8, mean_neighbors=20.0,
    ),
    "lennard_jones": dict(
        network="lennard_jones", numbers=ELEMENTS, epsilon_ev=0.3, sigma_angstrom=2.2, cutoff_angstrom=4.4
    ),
    "morse": dict(  # lists, as a file gives them back
        network="morse", numbers=ELEMENTS, cutoff_angstrom=4.4,
        pairs=[[b, a, 0.2 + 0.02 * a, 1.2 + 0.01 * b, 1.6 + 0.02 * b] for a in ELEMENTS for b in ELEMENTS if a <= b],
    ),
    "soft_sphere": dict(
        network="soft_sphere", numbers=ELEMENTS, radii_angstrom=[1.5, 1.2, 1.7, 1.8], scale=1.3, exponent=2.5,
        cutoff_angstrom=3.5,
    ),
    "coulomb": dict(network="coulomb", numbers=ELEMENTS, charges=[1.0, -2.0, 4.0, 2.5], cutoff_angstrom=4.4),
    "buckingham": dict(
        network="buckingham", numbers=ELEMENTS, charges=[0.5, -1.0, 2.0, 1.0], alpha_per_angstrom=0.3,
        pairs=[[14, 8, 300.0, 0.3, 10.0], [8, 8, 900.0, 0.25, 30.0]], cutoff_angstrom=4.2,
    ),
    "stillinger_weber": dict(  # a short sigma: something must be left to see just below the cutoff
        network="stillinger_weber", numbers=ELEMENTS, epsilon_ev=0.4, sigma_angstrom=0.4, pair_repulsion=400.0,
        cutoff_angstrom=4.0,
    ),
}  # fmt: skip
LEARNED = ("nequip", "cluster")


class Answer(NamedTuple):
    """What a potential says of one crystal."""

    energy: np.ndarray  # () eV
    forces: np.ndarray  # (n, 3) eV/Å
    stress: np.ndarray  # (3, 3) eV/Å³


def potential(name: str):
    """A potential of the table with random parameters everywhere: what starts at zero would hide mistakes.

    Those of a closed form have a meaning and stay near it.
    """
    made, rng = mlip(**ROWS[name]), np.random.default_rng(3)
    if name in LEARNED:
        shapes = jax.eval_shape(made.init, jax.random.key(0))
        return made, jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    params = made.init(jax.random.key(0))
    return made, jax.tree.map(lambda x: x * jnp.asarray(rng.uniform(0.8, 1.2, x.shape), jnp.float32), params)


def draw_crystal(n: int, seed: int, nearest: float = 1.5) -> Crystal:
    """A random triclinic cell of about 14 Å³ per atom without atoms nearer than `nearest` (Å); NumPy, float64."""
    rng = np.random.default_rng((n, seed))
    while True:
        cell = np.eye(3) * (14 * n) ** (1 / 3) + rng.uniform(-0.8, 0.8, (3, 3))
        crystal = Crystal(np.eye(NUM_SPECIES)[rng.choice(ELEMENTS, n) - 1], rng.random((n, 3)), cell)
        pack = make_pack([crystal], Capacity(n, n * n, 1), float)
        if not len(radius_graph_host(pack, nearest).sender):
            return crystal


def make_pack(crystals: list[Crystal], shape: Capacity = SHAPE, dtype=np.float32) -> Pack:
    """The crystals one after another, with whatever empty slots they have themselves."""
    counts = [len(c.frac) for c in crystals]
    occupancy, frac = np.zeros((shape.sites, NUM_SPECIES), dtype), np.zeros((shape.sites, 3), dtype)
    occupancy[: sum(counts)] = np.concatenate([c.occupancy for c in crystals])
    frac[: sum(counts)] = np.concatenate([c.frac for c in crystals])
    lattice = np.tile(np.eye(3, dtype=dtype), (shape.crystals, 1, 1))
    lattice[: len(crystals)] = [c.lattice for c in crystals]
    return Pack(occupancy, frac, lattice, *batching.topology(counts, shape))


def make_graph(pack: Pack, cutoff: float, edges: int = EDGES) -> Graph:
    with np.errstate(all="ignore"):
        return radius_graph_host(pack, cutoff, max_edges=edges)


def answers(said: tuple, crystals: list[Crystal]) -> list[Answer]:
    """Energies, forces and stresses of a pack, crystal by crystal."""
    energy, forces, stress = (np.asarray(x) for x in said)
    start = np.cumsum([0] + [len(c.frac) for c in crystals])
    return [Answer(energy[k], forces[start[k] : start[k + 1]], stress[k]) for k in range(len(crystals))]


def same_bits(a: Answer, b: Answer) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b))


# Argon: face-centered cubic, at -8.6 epsilon an atom the only minimum near by

ARGON = dict(network="lennard_jones", numbers=(18,), epsilon_ev=0.0104, sigma_angstrom=3.4, cutoff_angstrom=7.0)
EDGE = 5.25  # Å, of the cube, near the minimum
CELLS = {
    1: ([[0, 0, 0]], np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2),
    2: ([[0, 0, 0], [0.5, 0.5, 0.5]], np.diag([0.5**0.5, 0.5**0.5, 1])),
    4: ([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], np.eye(3)),
}


def draw_argon(n: int, seed: int) -> Crystal:
    """The primitive, a tetragonal or the cubic cell of argon (1, 2, 4 atoms), strained by 5 % and shaken."""
    rng = np.random.default_rng((n, seed))
    frac, cell = CELLS[n]
    cell = EDGE * cell @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3)))
    frac = np.array(frac) + rng.uniform(-0.04, 0.04, (n, 3))
    return Crystal(np.eye(NUM_SPECIES)[np.full(n, 17)], frac, cell)


def break_crystal(c: Crystal, kind: int) -> tuple[Crystal, str]:
    """The crystal spoilt in one of seven ways, and what `relax_dataset` should say of it."""
    frac, n = c.frac.copy(), len(c.frac)
    if kind == 0:
        frac[-1, 1] = np.nan
        return c._replace(frac=frac), "positions or cell are not finite"
    if kind == 1:
        frac[-1] = frac[0] + 0.01
        return c._replace(frac=frac), "atoms closer than 0.5 Å"
    return [
        (c._replace(lattice=np.ones((3, 3))), "the cell has no volume"),
        (c._replace(occupancy=np.eye(NUM_SPECIES)[np.full(n, 35)]), "an element that it does not know?"),
        (c._replace(lattice=0.5 * c.lattice), "the volume ran away"),
        (c._replace(lattice=np.inf * c.lattice), "positions or cell are not finite"),
        (c._replace(lattice=c.lattice * np.array([[1], [1], [0.01]])), "more than 8 images along an axis"),
    ][kind - 2]


@pytest.fixture(scope="session")
def toys() -> SimpleNamespace:
    made = {name: potential(name) for name in ROWS}
    return SimpleNamespace(
        potentials=made, draw_crystal=draw_crystal, make_pack=make_pack, make_graph=make_graph, answers=answers,
        same_bits=same_bits, elements=ELEMENTS, shape=SHAPE, fast=FAST_COMPILE, argon=mlip(**ARGON),
        draw_argon=draw_argon, break_crystal=break_crystal,
    )  # fmt: skip
