"""What every backbone must leave unchanged, read off the types: one line of `BACKBONES` a network."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from crysjax.base import NUM_SPECIES, Crystal, Network, Pack, Prediction
from crysjax.data import batching
from crysjax.geometry import lattice as lattices
from crysjax.nets.dense import dense
from crysjax.nets.equivariant import equivariant
from crysjax.nets.graph import graph

SMALL = {"hidden_irreps": "8x0e + 4x1o + 2x2e", "layers": 2, "neighbors": 12.0, "max_neighbors": 30, "radial_width": 8}


class Row(NamedTuple):
    """A backbone, and whether it sees the crystal alone and not the cell that describes it."""

    network: Network
    cell_free: bool


BACKBONES = {
    "dense": Row(dense(width=16, layers=2, frequencies=4, geometry=4), cell_free=False),
    "dense, as published": Row(dense(width=16, layers=2, frequencies=4, geometry=0), cell_free=False),
    "dense, one edge layer": Row(dense(width=16, layers=2, frequencies=4, edge_depth=1), cell_free=False),
    "graph": Row(graph(width=16, layers=2, angular=4, radial_basis=8), cell_free=True),
    "equivariant": Row(equivariant(**SMALL), cell_free=True),
    "equivariant, sees the cell": Row(equivariant(**SMALL, sees_cell=True), cell_free=False),
}
SIZES = (3, 1, 5)
SHAPE = batching.Capacity(sites=12, pairs=16, crystals=4)
TOLERANCE = 1e-4  # relative to the largest entry of an output, in float32


def draw_crystals() -> list[Crystal]:
    rng = np.random.default_rng(0)
    crystals = []
    for n in SIZES:
        cell = np.linalg.qr(rng.normal(size=(3, 3)))[0] * 2.5 * n ** (1 / 3) + 0.3 * rng.normal(size=(3, 3))
        rows = np.eye(NUM_SPECIES)[rng.integers(0, 90, n)]
        crystals.append(Crystal(*(x.astype(np.float32) for x in (rows, rng.random((n, 3)), cell))))
    return crystals


def make_pack(crystals: list[Crystal], shape: batching.Capacity = SHAPE) -> Pack:
    """The crystals in one pack, as float32 device arrays."""
    counts = [len(c.frac) for c in crystals]
    occupancy, frac = np.zeros((shape.sites, NUM_SPECIES), np.float32), np.zeros((shape.sites, 3), np.float32)
    occupancy[: sum(counts)] = np.concatenate([c.occupancy for c in crystals])
    frac[: sum(counts)] = np.concatenate([c.frac for c in crystals])
    lattice = np.tile(np.eye(3, dtype=np.float32), (shape.crystals, 1, 1))
    lattice[: len(crystals)] = np.stack([c.lattice for c in crystals])
    return jax.tree.map(jnp.asarray, Pack(occupancy, frac, lattice, *batching.topology(counts, shape)))


def context_of(crystals: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(crystals, 5)).astype(np.float32))


class Case(NamedTuple):
    predict: object  # (pack, context) -> Prediction of host arrays
    row: Row
    crystals: list[Crystal]
    reference: Prediction


@pytest.fixture(scope="module", params=list(BACKBONES))
def case(request) -> Case:
    row, crystals = BACKBONES[request.param], draw_crystals()
    pack, context = make_pack(crystals), context_of(SHAPE.crystals)
    # random everywhere: heads start at zero, where every symmetry is trivial
    shapes = jax.eval_shape(row.network.init, jax.random.key(0), pack, context)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype), shapes)
    apply = jax.jit(
        row.network.apply, compiler_options={"xla_backend_optimization_level": 0}
    )  # compiles in half the time

    def predict(pack: Pack, context) -> Prediction:
        return jax.tree.map(np.asarray, apply(params, pack, context))

    reference = predict(pack, context)
    for name, value in reference._asdict().items():
        assert np.std(value) > 1e-3, f"{name} is too small to show anything"
    return Case(predict, row, crystals, reference)


def agree(found: Prediction, expected: Prediction, sites: int = sum(SIZES), crystals: int = len(SIZES)) -> None:
    """Equal in all real slots, relative to the largest entry of each output."""
    for name in Prediction._fields:
        count = crystals if name in ("lattice", "crystal") else sites
        a, b = getattr(found, name)[:count], getattr(expected, name)[:count]
        np.testing.assert_allclose(a, b, atol=TOLERANCE * np.abs(b).max(), rtol=0, err_msg=name)


def changed(case: Case, change) -> Prediction:
    return case.predict(make_pack([change(c) for c in case.crystals]), context_of(SHAPE.crystals))


def test_rotation_changes_nothing(case):
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix().astype(np.float32)
    agree(changed(case, lambda c: c._replace(lattice=c.lattice @ turn)), case.reference)


def test_reflection_changes_nothing(case):
    agree(changed(case, lambda c: c._replace(lattice=c.lattice * np.float32([-1, 1, 1]))), case.reference)


def test_translation_changes_nothing(case):
    shift = np.float32([0.21, 0.63, -0.4])
    agree(changed(case, lambda c: c._replace(frac=c.frac + shift)), case.reference)


def test_whole_cells_change_nothing(case):
    def move(c: Crystal) -> Crystal:
        frac = c.frac.copy()
        frac[0] += np.float32([1, -2, 0])
        return c._replace(frac=frac)

    agree(changed(case, move), case.reference)


def test_order_of_sites_is_followed(case):
    orders = [np.random.default_rng(n).permutation(n) for n in SIZES]
    crystals = [c._replace(occupancy=c.occupancy[o], frac=c.frac[o]) for c, o in zip(case.crystals, orders)]
    found = case.predict(make_pack(crystals), context_of(SHAPE.crystals))
    start = np.cumsum((0, *SIZES))
    order = np.concatenate([o + s for o, s in zip(orders, start)])
    sites = {k: getattr(case.reference, k)[order] for k in ("frac", "species", "site")}
    agree(found, case.reference._replace(**sites))


def test_order_of_crystals_is_followed(case):
    order = [2, 0, 1]
    context = context_of(SHAPE.crystals)[jnp.asarray([*order, 3])]
    found = case.predict(make_pack([case.crystals[k] for k in order]), context)
    start = np.cumsum((0, *SIZES))
    sites = np.concatenate([np.arange(start[k], start[k + 1]) for k in order])
    moved = {k: getattr(case.reference, k)[sites] for k in ("frac", "species", "site")}
    moved |= {k: getattr(case.reference, k)[order] for k in ("lattice", "crystal")}
    agree(found, Prediction(**moved))


def test_padding_changes_nothing(case):
    shape = batching.Capacity(sites=17, pairs=40, crystals=6)
    context = jnp.concatenate([context_of(SHAPE.crystals), jnp.ones((2, 5), jnp.float32)])
    agree(case.predict(make_pack(case.crystals, shape), context), case.reference)


def test_crystals_of_a_pack_do_not_see_each_other(case):
    alone = case.predict(make_pack(case.crystals[:1]), context_of(SHAPE.crystals))
    agree(alone, case.reference, SIZES[0], 1)


def test_choice_of_the_cell_changes_nothing(case):
    """Same crystal, another cell `U L`: same features; the displacement and the strain are those of the new cell."""
    if not case.row.cell_free:
        pytest.skip("sees the cell by design")
    u = np.float32([[1, 1, 0], [0, 1, 0], [-1, 0, 1]])
    back = np.linalg.inv(u).astype(np.float32)
    found = changed(case, lambda c: c._replace(lattice=u @ c.lattice, frac=c.frac @ back))
    before, after = (np.stack([m @ c.lattice for c in case.crystals]) for m in (np.eye(3, dtype=np.float32), u))
    turn = np.einsum("bij,bkj->bik", lattices.polar(jnp.asarray(after))[1], lattices.polar(jnp.asarray(before))[1])
    strain = np.asarray(lattices.to_symmetric(jnp.asarray(case.reference.lattice[: len(SIZES)])))
    turned = lattices.from_symmetric(jnp.asarray(np.einsum("bij,bjk,blk->bil", turn, strain, turn)))
    agree(found, case.reference._replace(frac=case.reference.frac @ back, lattice=np.asarray(turned)))
