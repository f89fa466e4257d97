"""Distances, diversity and intervals against closed forms, SciPy, pymatgen, and the published figures of DiffCSP."""

import numpy as np
import pytest

from crysjax.data.datasets import Entry, concatenate, from_entries, take
from crysjax.data.readers.io import read, to_structure
from crysjax.evaluation.metrics import distributions as dist


def test_wilson_known_values():
    """Wilson (1927) by hand for 0 of 10 and 10 of 10: z^2 / (n + z^2); and a textbook value for 8 of 10."""
    z2 = 1.959963984540054**2
    assert dist.wilson(0, 10) == (0.0, pytest.approx(z2 / (10 + z2)))
    assert dist.wilson(10, 10) == (pytest.approx(10 / (10 + z2)), pytest.approx(1.0))
    assert dist.wilson(8, 10) == (pytest.approx(0.4902, abs=5e-5), pytest.approx(0.9433, abs=5e-5))
    with pytest.raises(ValueError, match="3 hits of 2"):
        dist.wilson(3, 2)


def test_wilson_covers_as_often_as_it_says():
    """Exact: the mean over a grid of shares of the probability that the interval holds the share."""
    from scipy.stats import binom

    n, shares = 40, np.linspace(0.05, 0.95, 91)
    bounds = np.array([dist.wilson(k, n) for k in range(n + 1)])
    covered = (bounds[:, :1] <= shares) & (shares <= bounds[:, 1:])
    chance = binom.pmf(np.arange(n + 1)[:, None], n, shares)
    assert (covered * chance).sum(0).mean() == pytest.approx(0.95, abs=0.01)


def test_interval_of_a_share_and_of_nothing():
    values = np.array([True] * 8 + [False] * 2)
    assert dist.interval(values) == dist.Interval(0.8, *dist.wilson(8, 10), 10, 0)
    nothing = dist.interval(np.array([np.nan, np.nan]))
    assert np.isnan(nothing[:3]).all() and nothing[3:] == (0, 2)
    with pytest.raises(ValueError, match="expected"):
        dist.interval(np.zeros((2, 2)))


def test_interval_of_a_mean_covers_as_often_as_it_says():
    """400 experiments: the coverage has a standard error of 1.1 %, and the bootstrap of 40 values lacks 1 to 2 %."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(400):
        found = dist.interval(rng.normal(1.0, 2.0, 40), draws=200, seed=seed)
        hits += found.low <= 1.0 <= found.high
    assert 0.90 < hits / 400 < 0.97


def test_interval_of_a_mean_leaves_out_missing_values():
    values = np.random.default_rng(1).normal(size=200)
    with_gaps = np.insert(values, [0, 50, 200], np.nan)
    whole, found = dist.interval(values), dist.interval(with_gaps)
    assert found[:4] == whole[:4] and found.missing == 3
    half = 1.96 * values.std(ddof=1) / np.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    narrow = dist.interval(values, confidence=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * half * 0.6745 / 1.96, rel=0.15)


def test_emd_equals_scipy():
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(2)
    for i in range(30):
        a = rng.normal(size=rng.integers(1, 60)).round(1)  # rounded: values tie
        b = rng.exponential(size=rng.integers(1, 60)).round(1) + 0.3 * i
        assert dist.emd(a, b) == pytest.approx(wasserstein_distance(a, b), abs=1e-12)


def test_emd_closed_forms():
    values = np.random.default_rng(3).normal(size=50)
    assert dist.emd(values, values + 0.7) == pytest.approx(0.7)
    assert dist.emd(values, np.repeat(values, 3)) == pytest.approx(0, abs=1e-15)
    assert dist.emd(np.array([0.0]), np.array([-1.0, 3.0])) == pytest.approx(2.0)
    for wrong in (np.array([]), np.array([1.0, np.nan]), np.array([-np.inf, 1])):
        with pytest.raises(ValueError, match="finite"):
            dist.emd(values, wrong)


def test_interval_of_a_distance():
    """A shift of normal samples moves the EMD by as much; its error is that of a difference of means."""
    rng = np.random.default_rng(4)
    a, b = rng.normal(3.0, 1.0, 400), rng.normal(0.0, 1.0, 400)
    found = dist.distance_interval(dist.emd, np.append(a, np.nan), b)
    assert found.value == dist.emd(a, b) and (found.count, found.missing) == (400, 1)
    assert found.low < 3.0 < found.high
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(2 / 400), rel=0.2)
    assert np.isnan(dist.distance_interval(dist.emd, np.array([np.nan]), b).value)


def test_category_distance():
    a, b = np.array([1, 1, 2, 225]), np.array([1, 2, 2, 0])
    assert dist.category_distance(a, b) == pytest.approx(0.5)
    for kind in ("total_variation", "jensen_shannon"):
        assert dist.category_distance(a, np.tile(a, 5), kind=kind) == pytest.approx(0, abs=1e-7)
        assert dist.category_distance(a, a + 300, kind=kind) == pytest.approx(1)
    with pytest.raises(ValueError, match="kind 'chi2'"):
        dist.category_distance(a, b, kind="chi2")
    with pytest.raises(ValueError, match="4 and 0 values"):
        dist.category_distance(a, b[:0])


def test_jensen_shannon_equals_scipy():
    from scipy.spatial.distance import jensenshannon

    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 12, 70), rng.integers(3, 20, 50)
    p, q = (np.bincount(v, minlength=20) / len(v) for v in (a, b))
    assert dist.category_distance(a, b, kind="jensen_shannon") == pytest.approx(jensenshannon(p, q, base=2))


def test_vendi_closed_forms():
    """m different samples count m, copies count 1, two clusters of unequal size exp of their entropy."""
    assert dist.vendi_score(np.eye(7)) == pytest.approx(7)
    assert dist.vendi_score(np.ones((7, 7))) == pytest.approx(1)
    label = np.array([0] * 6 + [1] * 2)
    clusters = (label[:, None] == label[None]).astype(float)
    p = np.array([0.75, 0.25])
    assert dist.vendi_score(clusters) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert dist.vendi_score(clusters, order=2.0) == pytest.approx(1 / (p**2).sum())
    assert dist.vendi_score(clusters, order=np.inf) == pytest.approx(1 / 0.75)
    assert dist.vendi_score(clusters, order=0.0) == pytest.approx(2)
    similar = np.array([[1, 0.3], [0.3, 1]])
    p = np.array([0.65, 0.35])
    assert dist.vendi_score(similar) == pytest.approx(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (np.array([[1, 0.2], [0.1, 1]]), "symmetric"),
        (2 * np.eye(3), "diagonal is not 1"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "not a kernel"),
        (np.ones((2, 3)), "symmetric"),
    ],
)
def test_vendi_wants_a_kernel(kernel, said):
    with pytest.raises(ValueError, match=said):
        dist.vendi_score(kernel)


def test_vendi_of_features_equals_the_kernel_form():
    features = np.random.default_rng(6).normal(size=(40, 5))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert dist.vendi_of_features(features) == pytest.approx(dist.vendi_score(unit @ unit.T))
    with pytest.raises(ValueError, match="row 1 has no direction"):
        dist.vendi_of_features(np.array([[1.0, 0], [0, 0]]))


def test_gaussian_kernel_and_diversity_equal_scipy():
    from scipy.spatial.distance import pdist, squareform

    features = np.random.default_rng(7).normal(size=(30, 4))
    expected = np.exp(-(squareform(pdist(features)) ** 2) / (2 * 0.8**2))
    np.testing.assert_allclose(dist.gaussian_kernel(features, 0.8), expected, atol=1e-12)
    assert dist.diversity(features) == pytest.approx(pdist(features).mean())
    with pytest.raises(ValueError, match="at least two rows"):
        dist.diversity(features[:1])


def test_rediscovery_counts_the_held_out():
    matches = np.zeros((3, 5), bool)
    matches[0, 1] = matches[2, 1] = matches[1, 4] = True
    assert dist.rediscovery(matches) == dist.Interval(0.4, *dist.wilson(2, 5), 5, 0)
    assert dist.rediscovery(matches.any(0)) == dist.rediscovery(matches)
    with pytest.raises(ValueError, match="expected bool"):
        dist.rediscovery(matches.astype(float))


def skewed(count: int, seed: int, *, jitter: float = 0.0) -> list[Entry]:
    """Crystals of 2 to 9 sites in skewed cells, sites apart."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        n = int(rng.integers(2, 10))
        lattice = (np.eye(3) + 0.25 * rng.normal(size=(3, 3))) * (20 * n) ** (1 / 3)
        frac = rng.random((n, 3))
        rows.append(Entry(f"{i}", rng.integers(3, 40, n), frac, lattice, {}))
    return rows


def test_densities_equal_pymatgen_and_elements_are_counted():
    rows = skewed(40, 8)
    dataset = from_entries(rows)
    expected = [to_structure(row._replace(lattice=row.lattice.astype(np.float32))).density for row in rows]
    np.testing.assert_allclose(dist.densities(dataset), expected, rtol=1e-6)
    assert dist.num_elements(dataset).tolist() == [len(set(row.numbers.tolist())) for row in rows]


def test_property_distances_of_a_data_set():
    rows = [r._replace(properties={"formation_energy_ev_per_atom": i / 10}) for i, r in enumerate(skewed(30, 9))]
    rows[3].properties.clear()
    shifted = [r._replace(properties={k: v - 0.5 for k, v in r.properties.items()}) for r in rows]
    found = dist.property_distances(from_entries(shifted), from_entries(rows), draws=20)
    assert {k: round(v.value, 5) for k, v in found.items()} == {
        "density_g_cm3": 0.0, "num_elements": 0.0, "formation_energy_ev_per_atom": 0.5,
    }  # fmt: skip
    assert found["formation_energy_ev_per_atom"].missing == 1
    bare = from_entries([r._replace(properties={}) for r in rows])
    assert set(dist.property_distances(bare, bare, draws=2)) == {"density_g_cm3", "num_elements"}


def test_published_distances_of_diffcsp(data_dir):
    """DiffCSP (Jiao et al. 2023, table 2), MP-20: density 0.3502 g/cm^3, elements 0.3398, of 1,000 valid samples.

    The tolerance is twice the spread between draws of 1,000 samples.
    """
    from crysjax.evaluation.validity import validity

    samples = read(data_dir / "samples/DiffCSP_mp_20_10k.npz")
    test = read(data_dir / "mp_20/test", format="mattergen")
    valid = take(samples, validity(samples)["valid"])
    rng = np.random.default_rng(0)
    draws = [take(valid, rng.choice(len(valid), 1000, replace=False)) for _ in range(8)]
    density = np.array([dist.emd(dist.densities(d), dist.densities(test)) for d in draws])
    elements = np.array([dist.emd(dist.num_elements(d), dist.num_elements(test)) for d in draws])
    print(f"density {density.mean():.4f} ± {density.std():.4f}, elements {elements.mean():.4f} ± {elements.std():.4f}")
    assert elements.mean() == pytest.approx(0.3398, abs=2 * elements.std())
    assert density.mean() == pytest.approx(0.3502, abs=2 * density.std())


def test_rmsd_closed_forms():
    cube = Entry("cube", np.array([11, 17]), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), 4 * np.eye(3), {})
    moved = cube._replace(frac=np.array([[0.99, 0, 0], [0.51, 0.5, 0.5]]))  # -0.04 and +0.04 Å through the face
    shifted = cube._replace(frac=cube.frac + 0.37)
    grown = cube._replace(lattice=5 * np.eye(3), frac=moved.frac)  # in the mean cell, 4.5 Å, ±0.045 Å
    turned = grown._replace(lattice=5 * np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    broken = cube._replace(frac=cube.frac)
    rows = [moved, shifted, grown, turned, broken]
    relaxed = from_entries(rows)
    relaxed.lattice[4] = np.nan
    found = dist.relaxation_rmsd(from_entries([cube] * 5), relaxed)
    np.testing.assert_allclose(found["rmsd_angstrom"], [0.04, 0, 0.045, 0.045, np.nan], atol=1e-6)
    free = np.array([4, 4, 4.5, 4.5, np.nan]) / 2 ** (1 / 3)
    np.testing.assert_allclose(found["rmsd_normalized"], found["rmsd_angstrom"] / free, atol=1e-6)
    with pytest.raises(ValueError, match="differ in their sites"):
        dist.relaxation_rmsd(from_entries([cube]), from_entries([cube._replace(numbers=np.array([11, 9]))]))


def test_rmsd_equals_structure_matcher_where_sites_keep_their_places():
    """Small moves and strains of crystals whose sites are apart: MatterGen's matcher finds the same assignment."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(ltol=0.5, stol=10, angle_tol=10, scale=False, attempt_supercell=True)
    rng = np.random.default_rng(10)
    before = [r._replace(numbers=3 + np.arange(len(r.numbers))) for r in skewed(15, 11)]  # no two sites alike
    after = []
    for row in before:
        strain = np.eye(3) + 0.01 * rng.normal(size=(3, 3))
        frac = row.frac + rng.random(3) + 0.01 * rng.normal(size=row.frac.shape)
        after.append(row._replace(lattice=row.lattice @ strain, frac=frac))
    sets = from_entries(before), from_entries(after)
    found = dist.relaxation_rmsd(*sets)["rmsd_normalized"]
    expected = [matcher.get_rms_dist(to_structure(a), to_structure(b))[0] for a, b in zip(before, after)]
    np.testing.assert_allclose(found, expected, rtol=2e-3)  # the matcher averages the reduced cells, we the given ones


def test_minimum_images_of_a_flat_cell():
    """A cell whose rounded image is far from the shortest: against a box of 15^3 images."""
    lattice = np.array([[3.0, 0, 0], [7.1, 1.3, 0], [4.3, -2.9, 2.0]])
    difference = np.random.default_rng(12).random((20, 3)) * 3
    box = np.stack(np.meshgrid(*[np.arange(-7, 8)] * 3, indexing="ij"), -1).reshape(-1, 3)
    every = ((difference - np.round(difference))[:, None] + box) @ lattice
    expected = np.linalg.norm(every, axis=-1).min(1)
    found = np.linalg.norm(dist.minimum_images(difference, lattice), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (np.linalg.norm((difference - np.round(difference)) @ lattice, axis=1) > found + 0.1).any()


def test_joined_sets_lie_between_their_parts():
    """EMD to a mixture of the reference and a shifted copy is the shift times the share of the copy."""
    rows = skewed(20, 13)
    dense = [r._replace(lattice=r.lattice * 0.5 ** (1 / 3)) for r in rows]  # twice the density
    reference, mixture = from_entries(rows), concatenate([from_entries(rows), from_entries(dense)])
    expected = dist.densities(reference).mean() / 2
    found = dist.property_distances(mixture, reference, draws=2)["density_g_cm3"]
    assert found.value == pytest.approx(expected, rel=1e-5)
