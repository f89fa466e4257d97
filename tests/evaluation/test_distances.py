"""AMD and PDD against the program of their authors, linear programming and their invariances."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.crystallography.distances import PDD, amd, emd, nearest, pairwise, pdd, transport
from crysjax.data.datasets import Dataset, Entry, from_entries, take, wrap

REFERENCE = np.load(Path(__file__).parent / "amd_reference.npz")


@pytest.fixture(scope="module")
def val(data_dir) -> Dataset:
    """The thousand crystals of MP-20's validation part that the reference numbers are of."""
    folder = data_dir / "mp_20" / "val"
    names = ("structure_id", "num_atoms", "atomic_numbers", "pos", "cell")
    ids, num_atoms, numbers, frac, cell = (np.load(folder / f"{name}.npy") for name in names)
    kinds = (ids.astype(str), num_atoms.astype(np.int32), numbers.astype(np.uint8), wrap(frac), cell.astype(np.float32))
    return take(Dataset(*kinds, {}, np.full(len(ids), "val"), {}), REFERENCE["rows"])


@pytest.fixture(scope="module")
def val_pdd(val) -> PDD:
    return pdd(val)


def random_entry(sites: int, seed: int) -> Entry:
    rng = np.random.default_rng(seed)
    lattice = (15 * sites) ** (1 / 3) * (np.eye(3) + 0.15 * rng.normal(size=(3, 3)))
    return Entry("", np.full(sites, 6), rng.random((sites, 3)), lattice, {})


def other_cell(entry: Entry, matrix: np.ndarray, seed: int = 0) -> Entry:
    """The same crystal in the cell `matrix @ lattice`, its sites shuffled and its origin moved."""
    rng = np.random.default_rng(seed)
    count = round(abs(np.linalg.det(matrix)))
    reach = np.abs(matrix).sum() + 1
    grid = np.stack(np.meshgrid(*3 * [np.arange(-reach, reach + 1)], indexing="ij"), -1).reshape(-1, 3)
    frac = ((np.asarray(entry.frac)[:, None] + grid[None]) @ np.linalg.inv(matrix)).reshape(-1, 3)
    inside = frac[((frac > -1e-9) & (frac < 1 - 1e-9)).all(1)]
    assert len(inside) == count * len(entry.numbers)
    inside = rng.permutation(inside) + rng.random(3)
    return Entry("", np.full(len(inside), 6), inside, matrix @ entry.lattice, {})


def test_amd_of_1000_crystals_equals_the_authors_program(val):
    np.testing.assert_allclose(amd(val)[:, REFERENCE["ks"] - 1], REFERENCE["amd"], atol=1e-6)


def test_pdd_rows_equal_the_authors_program(val_pdd):
    columns = REFERENCE["pdd_columns"]
    theirs = np.split(REFERENCE["pdd_rows"], np.cumsum(REFERENCE["pdd_sizes"])[:-1])
    start = np.cumsum(val_pdd.sizes) - val_pdd.sizes
    for crystal, rows in zip(REFERENCE["pdd_of"], theirs):
        here = slice(start[crystal], start[crystal] + val_pdd.sizes[crystal])
        ours = np.concatenate([val_pdd.weights[here, None], val_pdd.distances[here]], 1)[:, columns]
        assert len(ours) == len(rows)
        key = lambda x: np.lexsort(np.round(x, 5).T[::-1])  # noqa: E731
        np.testing.assert_allclose(ours[key(ours)], rows[key(rows)], atol=1e-6)


def test_earth_movers_distance_of_200_pairs_equals_the_authors_program(val_pdd):
    np.testing.assert_allclose(emd(val_pdd, val_pdd, REFERENCE["pairs"]), REFERENCE["emd"], atol=1e-6)


def test_distance_of_pdds_is_never_below_that_of_amds_and_symmetric(val, val_pdd):
    pairs, rows = REFERENCE["pairs"][:60], amd(val)
    ours = emd(val_pdd, val_pdd, pairs)
    assert (ours >= np.abs(rows[pairs[:, 0]] - rows[pairs[:, 1]]).max(1) - 1e-9).all()
    np.testing.assert_allclose(emd(val_pdd, val_pdd, pairs[:, ::-1]), ours, atol=1e-9)


@pytest.mark.parametrize("matrix", [
    [[1, 2, 0], [0, 1, 0], [1, 0, 1]],
    [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[1, 1, 0], [-1, 1, 0], [0, 0, 2]],
], ids=["unimodular", "doubled", "quadrupled"])  # fmt: skip
def test_another_cell_of_the_same_crystal_has_the_same_amd_and_pdd(matrix):
    one = random_entry(3, 1)
    pair = from_entries([one, other_cell(one, np.array(matrix))])
    both, rows = amd(pair), pdd(pair)
    np.testing.assert_allclose(both[1], both[0], atol=1e-5)  # fractions are stored in single precision
    assert rows.sizes.tolist() == [3, 3]
    np.testing.assert_allclose(rows.distances[3:], rows.distances[:3], atol=1e-5)
    np.testing.assert_allclose(rows.weights, 1 / 3)


def test_long_thin_and_sheared_cells_are_searched_far_enough():
    """The same lattice of points, once cubic and once in a cell that is no good."""
    cube = Entry("", np.array([6]), np.zeros((1, 3)), 3 * np.eye(3), {})
    thin = Entry("", np.array([6]), np.zeros((1, 3)), 3 * np.array([[1, 0, 0], [7, 1, 0], [-4, 9, 1]]), {})
    k = 80
    points = np.stack(np.meshgrid(*3 * [np.arange(-4, 5)]), -1).reshape(-1, 3)
    exact = np.sort(3 * np.linalg.norm(points, axis=1))[1 : k + 1]
    np.testing.assert_allclose(amd(from_entries([cube, thin]), k=k), [exact, exact], atol=1e-6)


def test_layers_far_apart_make_the_search_grow():
    """A square net of points, the next one 60 Å away: the mean density says nothing of where neighbors are."""
    net = Entry("", np.array([6]), np.zeros((1, 3)), np.diag([2.0, 2.0, 60.0]), {})
    points = np.stack(np.meshgrid(*2 * [np.arange(-8, 9)]), -1).reshape(-1, 2)
    exact = np.sort(2 * np.linalg.norm(points, axis=1))[1:101]
    np.testing.assert_allclose(amd(from_entries([net]))[0], exact, atol=1e-6)


def test_amd_moves_at_most_twice_the_largest_displacement():
    one = random_entry(5, 2)
    step = np.random.default_rng(3).normal(size=(5, 3))
    step *= 0.01 / np.linalg.norm(step, axis=1, keepdims=True)
    moved = one._replace(frac=one.frac + step @ np.linalg.inv(one.lattice))
    rows = amd(from_entries([one, moved]))
    assert 1e-4 < np.abs(rows[0] - rows[1]).max() <= 0.02


def test_equal_amd_different_pdd_is_told_apart():
    """Rows that differ while their means do not: the distance is that of the only two ways to pair them."""
    a = PDD(np.array([0.5, 0.5]), np.array([[1.0, 1.0], [3.0, 3.0]]), np.array([2]))
    b = PDD(np.array([1.0]), np.array([[2.0, 2.0]]), np.array([1]))
    assert emd(a, b, np.array([[0, 0]]))[0] == pytest.approx(1.0)
    c = PDD(np.array([0.25, 0.75]), np.array([[1.0, 1.0], [3.0, 3.0]]), np.array([2]))
    assert emd(a, c, np.array([[0, 0]]))[0] == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_transport_equals_linear_programming(seed):
    """Costs and weights that repeat, so that bases are degenerate and optima not unique."""
    from scipy.optimize import linprog

    rng, (r, c) = np.random.default_rng(seed), [(3, 5), (6, 6), (2, 9)][seed]
    cost = rng.integers(0, 6, (r, c, 8)).astype(float)
    supply, demand = (rng.integers(1, 4, (n, 8)).astype(float) for n in (r, c))
    supply, demand = supply / supply.sum(0), demand / demand.sum(0)
    with jax.enable_x64(True):
        ours = jax.jit(transport)(*map(jnp.asarray, (cost, supply, demand)))
    rows, columns = np.kron(np.eye(r), np.ones(c)), np.kron(np.ones(r), np.eye(c))
    for i in range(8):
        equal = np.concatenate([supply[:, i], demand[:, i]])
        best = linprog(cost[:, :, i].ravel(), A_eq=np.concatenate([rows, columns]), b_eq=equal)
        assert float(ours[i]) == pytest.approx(best.fun, abs=1e-8)


def test_nearest_equals_the_least_of_all_pairs(val):
    rows = amd(val)
    table = pairwise(rows[:50], rows[50:])
    distance, index = nearest(rows[:50], rows[50:])
    np.testing.assert_allclose(distance, table.min(1), atol=1e-12)
    np.testing.assert_array_equal(index, table.argmin(1))
    with pytest.raises(ValueError, match="expected one of"):
        nearest(rows, rows, metric="cosine")
