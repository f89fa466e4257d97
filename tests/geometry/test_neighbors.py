"""The radius graph against ASE's neighbor list and a sum over cells, traced and on the host; what it cannot hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.neighborlist import primitive_neighbor_list

from crysjax.base import NUM_SPECIES, Pack
from crysjax.data import batching
from crysjax.geometry.neighbors import (
    _true_entries,
    edge_vectors,
    needed_images,
    plane_spacings,
    radius_graph,
    radius_graph_host,
)

CUTOFF = 4.0
SIZES = (3, 1, 5, 2)
SHAPE = batching.Capacity(sites=14, pairs=20, crystals=6)


def draw_crystals(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Skewed cells of about 12 Å³ per atom, atoms up to three cells away from home: (frac, lattice) of each size."""
    rng, out = np.random.default_rng(seed), []
    for n in SIZES:
        cell = np.eye(3) * (12 * n) ** (1 / 3) + np.triu(rng.uniform(-2.5, 2.5, (3, 3)), 1)
        out.append((rng.uniform(-3, 3, (n, 3)), cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]))
    return out


def make_pack(crystals: list, shape: batching.Capacity = SHAPE, dtype=np.float32) -> Pack:
    counts = [len(frac) for frac, _ in crystals]
    occupancy, frac = np.zeros((shape.sites, NUM_SPECIES), dtype), np.zeros((shape.sites, 3), dtype)
    occupancy[: sum(counts), 0] = 1
    frac[: sum(counts)] = np.concatenate([f for f, _ in crystals])
    lattice = np.tile(np.eye(3, dtype=dtype), (shape.crystals, 1, 1))
    lattice[: len(crystals)] = [cell for _, cell in crystals]
    return Pack(occupancy, frac, lattice, *batching.topology(counts, shape))


def listed(graph) -> list[tuple[int, ...]]:
    """Real edges as (receiver, sender, shift), as often as they come, sorted."""
    real = np.asarray(graph.mask) > 0
    columns = np.column_stack([graph.receiver, graph.sender, graph.shift])[real]
    return sorted(map(tuple, columns.tolist()))


def listed_by_ase(crystals: list, cutoff: float) -> list[tuple[int, ...]]:
    rows, first = [], 0
    for frac, cell in crystals:
        i, j, shift = primitive_neighbor_list("ijS", [True] * 3, cell, frac, cutoff, use_scaled_positions=True)
        rows += list(map(tuple, np.column_stack([i + first, j + first, shift]).tolist()))
        first += len(frac)
    return sorted(rows)


compiled = jax.jit(radius_graph, static_argnames=("max_edges", "max_images"))


def traced(pack: Pack, max_edges: int = 1400, max_images: int = 3):
    return compiled(pack, CUTOFF, max_edges=max_edges, max_images=max_images)


@pytest.mark.parametrize("seed", range(6))
def test_traced_graph_is_the_hosts_and_that_of_ase(seed):
    crystals = draw_crystals(seed)
    expected = listed_by_ase(crystals, CUTOFF)
    near = listed_by_ase(crystals, CUTOFF - 1e-4), listed_by_ase(crystals, CUTOFF + 1e-4)
    assert near[0] == near[1], "a distance within single precision of the cutoff shows nothing: draw another seed"
    double = radius_graph_host(make_pack(crystals, dtype=np.float64), CUTOFF)
    single, found = radius_graph_host(make_pack(crystals), CUTOFF), traced(make_pack(crystals))
    assert needed_images(np.stack([cell for _, cell in crystals]), CUTOFF).max() <= 3
    for graph in (double, single, found):
        assert not np.asarray(graph.overflow).any()
        assert listed(graph) == expected


def test_shells_of_the_cubic_lattices():
    """Coordination shells: simple 6, 12, 8; body-centered 8, 6, 12, 24, 8; face-centered 12, 6, 24, 12, 24, 8."""
    cubic = np.eye(3)
    centered = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2
    faces = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    shells = {1.01: (6, 14, 18), 1.42: (18, 26, 54), 1.74: (26, 58, 86)}
    for cutoff, counts in shells.items():
        pack = make_pack([(np.zeros((1, 3)), cell) for cell in (cubic, centered, faces)])
        graph = compiled(pack, cutoff, max_edges=1400, max_images=3)
        assert np.bincount(graph.receiver[graph.mask > 0], minlength=3)[:3].tolist() == list(counts)


def test_edges_and_their_reverses():
    pack = make_pack(draw_crystals(0))
    for graph in (traced(pack), radius_graph_host(pack, CUTOFF, max_edges=1400)):
        half = len(graph.sender) // 2
        np.testing.assert_array_equal(graph.sender[:half], graph.receiver[half:])
        np.testing.assert_array_equal(graph.receiver[:half], graph.sender[half:])
        np.testing.assert_array_equal(graph.shift[:half], -graph.shift[half:])
        np.testing.assert_array_equal(graph.mask[:half], graph.mask[half:])
        r = np.asarray(edge_vectors(jax.tree.map(jnp.asarray, pack), graph))
        np.testing.assert_array_equal(r[:half], -r[half:])
        padding = np.asarray(graph.mask) == 0
        assert padding.any() and (np.asarray(graph.sender)[padding] == SHAPE.sites - 1).all()
        np.testing.assert_array_equal(r[padding], 0)
        assert (np.linalg.norm(r[~padding], axis=-1) < CUTOFF).all()


@pytest.mark.parametrize("shape, size", [((5, 27), 40), ((3, 64), 10), ((40, 343), 700), ((1, 1), 3)])
def test_true_entries_are_those_of_nonzero(shape, size):
    """Fewer, as many and more places than there are entries; whole words and words that are not full."""
    hit = np.random.default_rng(size).random(shape) < 0.1
    hit[0, -1] = True
    row, column, found = _true_entries(jnp.asarray(hit), size)
    expected = np.stack(np.nonzero(hit), -1)[:size]
    assert int(found.sum()) == len(expected) and bool(found[: len(expected)].all())
    np.testing.assert_array_equal(np.stack([row, column], -1)[: len(expected)], expected)


def test_a_full_row_is_read_to_its_last_bit():
    row, column, found = _true_entries(jnp.ones((2, 64), bool), 128)
    np.testing.assert_array_equal(np.asarray(row) * 64 + np.asarray(column), np.arange(128))
    assert bool(found.all())


def edges_by_crystal(pack: Pack, graph) -> list[list[tuple[int, ...]]]:
    owner = np.asarray(pack.owner)
    return [[edge for edge in listed(graph) if owner[edge[0]] == c] for c in range(len(pack.lattice))]


def test_overflow_is_told_by_crystal_and_the_others_are_whole():
    """Who does not fit has no edges and is told, on the host as in the trace; who comes later may still fit."""
    crystals = draw_crystals(1)
    pack = make_pack(crystals)
    whole = edges_by_crystal(pack, radius_graph_host(pack, CUTOFF))
    count = [len(edges) for edges in whole]
    for room, told in {
        sum(count): [],
        sum(count) - 2: [3],
        sum(count) - count[2]: [2],
        count[0]: [1, 2, 3],
        min(count[: len(SIZES)]) - 2: [0, 1, 2, 3],
    }.items():
        for graph in (traced(pack, max_edges=room), radius_graph_host(pack, CUTOFF, max_edges=room)):
            assert np.flatnonzero(graph.overflow).tolist() == told
            assert edges_by_crystal(pack, graph) == [[] if c in told else edges for c, edges in enumerate(whole)]


def test_too_few_images_are_told():
    crystals = draw_crystals(2)
    pack = make_pack(crystals)
    enough = (needed_images(pack.lattice[: len(SIZES)].astype(float), CUTOFF) <= 1).all(-1)
    assert enough.any() and not enough.all()
    graph = traced(pack, max_images=1)
    np.testing.assert_array_equal(graph.overflow[: len(SIZES)], ~enough)
    whole = edges_by_crystal(pack, radius_graph_host(pack, CUTOFF))
    for c, edges in enumerate(edges_by_crystal(pack, graph)):
        assert edges == (whole[c] if c >= len(SIZES) or enough[c] else [])


def test_what_is_no_crystal_is_told_and_has_no_edges():
    crystals = draw_crystals(3)
    broken = {
        "flat cell": (0, [[4, 0, 0], [0, 4, 0], [4, 4, 0]]),
        "no cell": (1, np.zeros((3, 3))),
        "cell that is not a number": (2, np.full((3, 3), np.nan)),
    }
    pack = make_pack(crystals)
    whole = edges_by_crystal(pack, traced(pack))
    for name, (c, lattice) in broken.items():
        spoilt = pack._replace(lattice=pack.lattice.copy())
        spoilt.lattice[c] = lattice
        for graph in (traced(spoilt), radius_graph_host(spoilt, CUTOFF)):
            assert np.flatnonzero(graph.overflow).tolist() == [c], name
            found = edges_by_crystal(pack, graph)
            assert found == [[] if k == c else edges for k, edges in enumerate(whole)], name


def test_positions_that_are_not_numbers_are_told_and_leave_the_others_alone():
    pack = make_pack(draw_crystals(4))
    whole = edges_by_crystal(pack, traced(pack))
    spoilt = pack._replace(frac=pack.frac.copy())
    spoilt.frac[4] = np.nan  # first site of the third crystal
    for graph in (traced(spoilt), radius_graph_host(spoilt, CUTOFF)):
        assert np.flatnonzero(graph.overflow).tolist() == [2]
        assert edges_by_crystal(pack, graph) == [*whole[:2], [], *whole[3:]]


def test_spacings_are_those_of_the_reciprocal_lattice():
    cells = np.stack([cell for seed in range(9) for _, cell in draw_crystals(seed)])
    expected = 1 / np.linalg.norm(np.linalg.inv(cells), axis=-2)
    np.testing.assert_allclose(plane_spacings(cells), expected, rtol=1e-12)
    np.testing.assert_allclose(plane_spacings(jnp.asarray(cells, jnp.float32)), expected, rtol=1e-5)


def test_derivatives_of_edge_vectors():
    """r = (f_j + T - f_i) L: its slopes are L itself and the fractional difference."""
    pack = jax.tree.map(jnp.asarray, make_pack(draw_crystals(5)))
    graph = traced(pack)
    e = int(np.flatnonzero(np.asarray(graph.sender != graph.receiver) & (np.asarray(graph.mask) > 0))[0])
    by_frac, by_lattice = jax.jacobian(
        lambda f, l: edge_vectors(pack._replace(frac=f, lattice=l), graph)[e], argnums=(0, 1)
    )(pack.frac, pack.lattice)
    i, j, c = int(graph.receiver[e]), int(graph.sender[e]), int(pack.owner[graph.receiver[e]])
    np.testing.assert_allclose(by_frac[:, j], pack.lattice[c].T, rtol=1e-6)
    np.testing.assert_allclose(by_frac[:, i], -pack.lattice[c].T, rtol=1e-6)
    delta = pack.frac[j] + graph.shift[e].astype(jnp.float32) - pack.frac[i]
    np.testing.assert_allclose(by_lattice[:, c], jnp.einsum("k,xy->xky", delta, jnp.eye(3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [0, 7, -2])
def test_a_size_that_cannot_hold_both_directions_is_named(size):
    with pytest.raises(ValueError, match=f"max_edges: {size} is not a positive even number"):
        radius_graph(make_pack(draw_crystals(0)), CUTOFF, max_edges=size)
