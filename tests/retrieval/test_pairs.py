"""Pairs for the retrieval-based flow: starts are leave-one-out, truths lie in their basis, refusals are one line."""

import numpy as np
import pytest

from crysjax.crystallography.equivalence import onto
from crysjax.data import batching, datasets
from crysjax.data.datasets import Entry, entries, from_entries
from crysjax.retrieval.pairs import pairs
from crysjax.retrieval.start_view import pairs_view, start_view
from crysjax.retrieval.substitution import substituted
from crysjax.retrieval.templates import element_distance

SITES = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.02], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def perovskite(name: str, a: int, b: int, x: int = 8, edge: float = 4.0) -> Entry:
    return Entry(name, np.array([a, b, x, x, x]), SITES, np.diag([edge, edge, 1.1 * edge]), {})


def disguised(row: Entry, seed: int = 0) -> Entry:
    """The same crystal in another basis, origin and order of sites."""
    rng = np.random.default_rng(seed)
    change = np.array([[1, 0, 0], [1, 1, 0], [0, 0, -1]])
    order = rng.permutation(len(row.numbers))
    frac = (row.frac @ np.linalg.inv(change) + rng.random(3))[order]
    return row._replace(numbers=row.numbers[order], frac=frac, lattice=change @ row.lattice)


def test_onto_finds_the_basis_origin_and_order_of_the_first():
    first = perovskite("a", 38, 22)
    second = disguised(perovskite("b", 38, 22, edge=4.2))
    value, found = onto(first, second)
    assert value < 1e-6 and found.numbers.tolist() == first.numbers.tolist()
    shift = found.frac - first.frac
    assert np.abs(shift).max() < 1e-6  # every site lies on its own, in the origin of the first
    assert np.allclose(found.lattice @ found.lattice.T, 1.05**2 * first.lattice @ first.lattice.T, atol=1e-6)
    other = perovskite("c", 38, 22)._replace(lattice=np.diag([4.0, 4.0, 9.0]))
    assert onto(first, other) is None


def test_every_crystal_is_paired_with_another_one_never_with_itself():
    train = from_entries([perovskite("SrTiO3", 38, 22), disguised(perovskite("BaTiO3", 56, 22, edge=4.1))])
    found = pairs(train, train, tries=2, own=np.arange(2), processes=1)
    assert found.ids.tolist() == ["SrTiO3", "BaTiO3"] and found.properties["matched"].tolist() == [1, 1]
    first = entries(found)[0]
    was = dict(zip(first.numbers.tolist(), first.site_properties["was"].astype(int).tolist()))
    assert was == {38: 56, 22: 22, 8: 8}
    gap = first.frac - first.site_properties["start_frac"]
    assert np.abs((gap - gap[:1] + 0.5) % 1 - 0.5).max() < 1e-5
    alone = pairs(train, train, tries=2, processes=1)
    assert len(alone) == 4  # without `own` a crystal also finds itself


def test_views_hold_what_the_pairs_hold_and_other_compositions_are_refused():
    train = from_entries([perovskite("SrTiO3", 38, 22), perovskite("BaTiO3", 56, 22)])
    found = pairs(train, train, tries=1, own=np.arange(2), processes=1)
    rows = pairs_view(found)(np.array([1]), batching.Capacity(8, 16, 2))
    first = datasets.offsets(found)[1]
    assert np.array_equal(rows.start.frac[0, :5], found.site_properties["start_frac"][first:])
    with pytest.raises(ValueError, match="crysjax data pairs"):
        pairs_view(train)
    with pytest.raises(ValueError, match="row i's atoms"):
        start_view(train, [from_entries([perovskite("x", 20, 22), perovskite("y", 56, 22)])])


def test_substitution_keeps_the_structure_and_takes_near_elements_more_often():
    train = from_entries([perovskite("SrTiO3", 38, 22), perovskite("CaZrO3", 20, 40), perovskite("CsPbI3", 55, 82, 53)])
    made = entries(substituted(train, 600, seed=1, share=0.0))  # one element each
    assert all(len(np.unique(row.numbers)) == 3 and len(row.numbers) == 5 for row in made)
    kept = [{38, 22, 8}, {20, 40, 8}, {55, 82, 53}]
    new = [
        sorted(set(row.numbers.tolist()) ^ old)
        for row in made
        for old in kept
        if len(set(row.numbers.tolist()) & old) == 2
    ]
    assert len(new) >= len(made)
    # titanium gives way to zirconium, which is near, more often than to caesium, which is far
    near, far = element_distance()[21, [39, 54]]
    instead = [pair for pair in new if 22 in pair]
    assert near < far and instead.count([22, 40]) > 3 * instead.count([22, 55])
