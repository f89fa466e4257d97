"""Each detector with its fault planted, without it, and how often it cries wolf over seeded clean draws."""

import re

import numpy as np
import pytest
from scipy.stats import energy_distance, fisher_exact, t

from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.data.readers.io import read
from crysjax.evaluation.failures import detector_inputs, detectors, permutation
from crysjax.evaluation.validity import smact_valid
from crysjax.splits import grouped as splits


@pytest.fixture(scope="module")
def real(data_dir):
    """MP-20's validation part in a fixed order."""
    dataset = read(data_dir / "mp_20" / "val")
    return datasets.take(dataset, np.random.default_rng(0).permutation(len(dataset)))


@pytest.fixture(scope="module")
def perovskites(data_dir):
    return read(data_dir / "perov_5" / "perov_5.npz")


def rows(dataset, start, stop):
    return datasets.take(dataset, np.arange(start, stop))


def planted(clean: list[Entry], chosen, change) -> datasets.Dataset:
    return datasets.from_entries([change(row) if i in chosen else row for i, row in enumerate(clean)])


# --- clash ---


def test_closeness_is_that_of_ase(real):
    from ase import Atoms
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    some = rows(real, 0, 40)
    found = detector_inputs.closeness(some)
    for row, value in zip(datasets.entries(some), found):
        atoms = Atoms(row.numbers, scaled_positions=row.frac, cell=row.lattice, pbc=True)
        i, j, d = neighbor_list("ijd", atoms, 6.0)
        radii = covalent_radii[row.numbers]
        assert value == pytest.approx((d / (radii[i] + radii[j])).min(), rel=1e-4)


def test_atoms_inside_each_other_are_found(real):
    from ase.data import covalent_radii

    def squeeze(row: Entry) -> Entry:
        distance = 0.3 * covalent_radii[row.numbers[:2]].sum()
        step = distance * np.array([0.6, 0, 0.8]) @ np.linalg.inv(row.lattice.astype(float))
        return row._replace(frac=np.concatenate([row.frac[:1], row.frac[:1] + step, row.frac[2:]]))

    clean = [row for row in datasets.entries(rows(real, 0, 300)) if len(row.numbers) > 1][:200]
    chosen = {3, 20, 57, 58, 90, 111, 140, 150, 177, 199, 30, 31}
    reference = detector_inputs.closeness(rows(real, 300, 700))
    found = detectors.clash(detector_inputs.closeness(planted(clean, chosen, squeeze)), reference, show=20)
    assert found.detected and set(found.worst.tolist()) == chosen and found.value == 12 / 200
    fine = detectors.clash(detector_inputs.closeness(datasets.from_entries(clean)), reference)
    assert not fine.detected and fine.value < fine.threshold < 12 / 200


def test_a_broken_crystal_is_a_clash():
    assert detectors.clash(np.full(20, np.nan), np.ones(50)).detected


# --- chemical implausibility ---


def test_generated_compositions_are_less_plausible_than_real_ones(real, data_dir):
    samples = read(data_dir / "samples" / "DiffCSP_mp_20_10k.npz")  # 83.2 % of all pass, 90.5 % of MP-20
    valid = [
        np.array([smact_valid(row.numbers) for row in datasets.entries(part)])
        for part in (rows(samples, 0, 1500), rows(real, 0, 1500), rows(real, 1500, 3000))
    ]
    found = detectors.chemical_implausibility(valid[0], valid[1])
    assert found.detected and not valid[0][found.worst].any()
    assert not detectors.chemical_implausibility(valid[2], valid[1]).detected


# --- symmetry breaking ---


def test_displaced_atoms_break_the_symmetry(real):
    import spglib

    draw = np.random.default_rng(1)

    def shake(row: Entry) -> Entry:
        return row._replace(frac=row.frac + draw.normal(0, 0.3, row.frac.shape) @ np.linalg.inv(row.lattice))

    def groups(some: list[Entry]) -> np.ndarray:
        cells = [(row.lattice.astype(float), row.frac.astype(float), row.numbers) for row in some]
        return np.array([int(re.search(r"\((\d+)\)", spglib.get_spacegroup(c, symprec=0.1))[1]) for c in cells])

    some = [row for row in datasets.entries(rows(real, 0, 200)) if len(row.numbers) > 2][:120]
    reference = groups(some[60:])
    shaken = [shake(row) if i < 20 else row for i, row in enumerate(some[:60])]
    found = detectors.symmetry_breaking(groups(shaken), reference)
    assert found.detected and np.mean(found.worst < 20) > 0.8
    assert not detectors.symmetry_breaking(groups(some[:60]), reference).detected


# --- reward hacking ---


def optimized(seed, *, hack=0.0, noise=0.7, selected=30, others=200):
    """Truth N(0, 1), proxy and judge with noise of their own; the best tenth by proxy, whose proxy is also hacked."""
    draw = np.random.default_rng(seed)
    truth = draw.normal(size=others + 10 * selected)
    proxy, judge = truth + noise * draw.normal(size=truth.size), truth + 0.5 * draw.normal(size=truth.size)
    best = np.argsort(proxy[others:])[:selected] + others
    keep = np.concatenate([np.arange(others), best])
    proxy, judge, chosen = proxy[keep], judge[keep], np.arange(len(keep)) >= others
    return proxy - hack * chosen, judge, chosen


def test_a_hacked_proxy_is_told_from_the_winners_curse():
    honest = detectors.reward_hacking(*optimized(0))
    proxy, judge, chosen = optimized(0)
    # the winner's curse is there: the judge gives about 1 / (1 + 0.49) of what the proxy promised
    assert 0.4 < (judge[chosen].mean() - judge[~chosen].mean()) / (proxy[chosen].mean() - proxy[~chosen].mean()) < 0.9
    assert not honest.detected
    hacked = detectors.reward_hacking(*optimized(0, hack=2.0))
    assert hacked.detected and hacked.worst.min() >= 200


def test_a_useless_proxy_is_found():
    assert detectors.reward_hacking(*optimized(1, noise=100.0)).detected


def test_a_judge_that_agrees_exactly_is_no_alarm():
    proxy, _, chosen = optimized(2)
    assert not detectors.reward_hacking(proxy, 3 * proxy + 1, chosen).detected


def test_one_selected_is_the_regression_with_a_dummy():
    proxy, judge, chosen = optimized(3, selected=1)
    judge = judge + 1.0 * chosen
    design = np.column_stack([np.ones(len(proxy)), proxy, chosen])
    beta, square, *_ = np.linalg.lstsq(design, judge, rcond=None)
    freedom = len(proxy) - 3
    error = np.sqrt(square[0] / freedom * np.linalg.inv(design.T @ design)[2, 2])
    found = detectors.reward_hacking(proxy, judge, chosen)
    assert found.value == pytest.approx(2 * t.sf(beta[2] / error, freedom), rel=1e-6)


# --- diversity collapse ---


def test_effective_numbers_by_hand():
    call = lambda a, b: detectors.diversity_collapse(np.array(a), np.array(b), level=0.5, draws=19).value  # noqa: E731
    assert call(["a", "a", "b", "c"], list("defgh")) == pytest.approx(16 / 6)  # 1 / sum of squared shares
    assert call([[1.0, 2.0]] * 4, [[0.0, 1.0], [5.0, 2.0], [7.0, 7.0], [2.0, 8.0]]) == pytest.approx(1)
    two = [[0.0], [0.0], [1e6], [1e6]]  # standardized ±1: the median of the distances, half 0 and half 2, is 1
    assert call(two, two) == pytest.approx(1 / (0.5 + 0.5 * np.exp(-4)), rel=1e-5)


def test_mode_collapse_in_real_compositions_is_found(real):
    names = detector_inputs.compositions(rows(real, 0, 900))
    samples = names[:300].copy()
    chosen = np.random.default_rng(0).choice(300, 60, replace=False)
    samples[chosen] = "NaCl"
    found = detectors.diversity_collapse(samples, names[300:], show=60)
    assert found.detected and set(found.worst.tolist()) == set(np.flatnonzero(samples == "NaCl").tolist())
    assert not detectors.diversity_collapse(names[:300], names[300:]).detected


def test_mode_collapse_in_features_is_found():
    draw = np.random.default_rng(0)
    reference, narrow = draw.normal(size=(300, 4)), draw.normal(size=(200, 4)) * [0.2, 1, 1, 1]
    assert detectors.diversity_collapse(narrow, reference).detected
    assert not detectors.diversity_collapse(draw.normal(size=(200, 4)), reference).detected


# --- hidden shift ---


def descriptors(dataset):
    volume = np.abs(np.linalg.det(dataset.lattice.astype(float))) / dataset.num_atoms
    mean_z = np.array([row.numbers.mean() for row in datasets.entries(dataset)])
    return np.column_stack([np.log(volume), mean_z, dataset.num_atoms])


def test_oxides_are_a_shift_for_what_learned_without_them(real):
    some = rows(real, 0, 2500)
    oxide = np.array([8 in row.numbers for row in datasets.entries(some)])
    x = descriptors(some)
    found = detectors.hidden_shift(x[oxide], x[~oxide], most=250)
    assert found.detected and found.worst.max() < oxide.sum()
    assert not detectors.hidden_shift(x[:1000], x[1000:], most=250).detected


def test_energy_coefficient_is_scipys():
    draw = np.random.default_rng(2)
    a, b = draw.normal(size=70), 1 + 2 * draw.normal(size=50)
    found = detectors.hidden_shift(a[:, None], b[:, None])
    across = np.abs(a[:, None] - b[None]).mean()
    assert found.value == pytest.approx(energy_distance(a, b) ** 2 / (2 * across), rel=1e-4)


def test_the_farthest_sample_is_the_worst():
    x = np.random.default_rng(3).normal(size=(300, 3))
    x[17] = 40
    assert detectors.hidden_shift(x[:100], x[100:]).worst[0] == 17


# --- leakage ---


def test_the_split_of_perov_5_leaks_compositions_and_a_grouped_one_does_not(perovskites):
    test, train = (datasets.where_split(perovskites, name) for name in ("test", "train"))
    found = detectors.leakage(detector_inputs.seen_compositions(test, train))
    assert found.detected and found.value == 2214 / 3785  # twins, counted by the audit
    grouped = splits.by_composition(perovskites, seed=0)
    clean = detector_inputs.seen_compositions(*(datasets.where_split(grouped, name) for name in ("test", "train")))
    assert clean.sum() == 0 and not detectors.leakage(clean).detected


def test_copies_in_other_clothes_are_seen_and_twins_are_not(perovskites):
    test, train = (datasets.where_split(perovskites, name) for name in ("test", "train"))
    train = rows(train, 0, 3000)
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]

    def disguise(row: Entry) -> Entry:
        order = np.array([3, 1, 4, 0, 2])
        return row._replace(
            numbers=row.numbers[order], frac=row.frac[order] + [0.1, 0.2, 0.7], lattice=row.lattice @ turn
        )

    originals = datasets.entries(rows(test, 0, 150))
    copies = [disguise(row) for row in datasets.entries(rows(train, 0, 20))]
    mixed = datasets.from_entries(originals + copies)
    seen = detector_inputs.seen_structures(mixed, train)
    np.testing.assert_array_equal(seen, np.arange(170) >= 150)
    assert detector_inputs.seen_compositions(mixed, train)[:150].any()  # twins share the formula alone
    found = detectors.leakage(seen, np.zeros(400, bool), show=30)
    assert found.detected and set(found.worst.tolist()) == set(range(150, 170))
    assert not detectors.leakage(seen[:150], np.zeros(400, bool)).detected


# --- miscalibration ---


def errors(seed, m=400):
    draw = np.random.default_rng(seed)
    std = draw.gamma(2.0, 0.5, m) + 0.1
    return std * draw.normal(size=m), std


def test_wrong_size_and_wrong_order_of_std_are_found():
    error, std = errors(0)
    assert not detectors.miscalibration(error, std).detected
    assert detectors.miscalibration(error, std / 1.4).detected
    assert detectors.miscalibration(error, std * 1.4).detected
    other = np.random.default_rng(1).permutation(std)
    other *= np.sqrt(np.mean((error / other) ** 2))  # of the right size over all, which chi² cannot tell
    found = detectors.miscalibration(error, other)
    assert found.detected and found.worst[0] == np.abs(error / other).argmax()


# --- common to all ---


def clean(name, seed, **settings):
    """One detector on a draw without its fault."""
    draw = np.random.default_rng(10_000 + seed)
    share = lambda p: (draw.random(250) < p, draw.random(400) < p)  # noqa: E731
    normal = lambda d: [draw.normal(size=(m, d)) for m in (50, 70)]  # noqa: E731
    return {
        "clash": lambda: detectors.clash(*(np.where(bad, 0.3, 0.9) for bad in share(0.05)), **settings),
        "implausible": lambda: detectors.chemical_implausibility(*share(0.9), **settings),
        "crowded": lambda: detectors.crowded_composition(
            *(np.where(bad, 6, 1 + np.arange(len(bad)) % 4) for bad in share(0.01)), **settings
        ),
        "symmetry": lambda: detectors.symmetry_breaking(*(np.where(bad, 1, 62) for bad in share(0.1)), **settings),
        "hacking": lambda: detectors.reward_hacking(*optimized(seed, others=150, selected=15), **_no_draws(settings)),
        "collapse, labels": lambda: detectors.diversity_collapse(*_labels(draw), **settings),
        "collapse": lambda: detectors.diversity_collapse(*normal(2), **settings),
        "shift": lambda: detectors.hidden_shift(*normal(3), **settings),
        "leakage": lambda: detectors.leakage(*share(0.2), **settings),
        "miscalibration": lambda: detectors.miscalibration(*errors(seed, 200), **settings),
    }[name]()  # fmt: skip


def _labels(draw):
    weight = 1 / np.arange(1, 101)
    return [draw.choice(100, n, p=weight / weight.sum()) for n in (50, 70)]


def _no_draws(settings):
    return {k: v for k, v in settings.items() if k != "draws"}


FEWEST = {  # of the level: 1 for an exact test, half where half of the level is a test that a clean case never meets
    "clash": 0.2, "implausible": 0.2, "symmetry": 0.2, "leakage": 0.2,  # Fisher's counts are whole numbers
    "hacking": 0.5, "collapse, labels": 0.9, "collapse": 1, "shift": 1, "miscalibration": 0.75,
}  # fmt: skip


@pytest.mark.parametrize("name", FEWEST)
def test_false_alarms_are_as_frequent_as_the_level_says(name):
    level, draws = 0.1, 300
    draws_of = {} if name in ("clash", "implausible", "symmetry", "leakage") else {"draws": 199}
    rate = np.mean([clean(name, seed, level=level, **draws_of).detected for seed in range(draws)])
    error = 3.5 * np.sqrt(level * (1 - level) / draws)
    assert FEWEST[name] * level - error < rate < level + error


@pytest.mark.parametrize("name", FEWEST)
def test_no_alarm_at_the_default_level_in_clean_draws(name):
    # one in a thousand: three or more of 120 have a chance of 3e-4
    assert sum(clean(name, 1000 + seed).detected for seed in range(120)) <= 2


def test_the_threshold_of_a_share_is_where_fishers_test_turns():
    reference = np.arange(300) < 9
    for count in range(40):
        found = detectors.leakage(np.arange(100) < count, reference)
        p = fisher_exact([[count, 100 - count], [9, 291]], alternative="greater").pvalue
        assert found.detected == (p <= detectors.LEVEL)


def test_too_few_to_tell_is_said():
    found = detectors.symmetry_breaking(np.ones(2), np.full(5, 62))
    assert not found.detected and found.threshold == np.inf and "too few to tell" in found.explanation


def test_same_seed_same_finding_and_text():
    first, second = (clean("shift", 0) for _ in range(2))
    assert first.value == second.value and first.threshold == second.threshold
    assert detectors.text([first]).startswith("not found hidden shift: energy distance to the training data 0.0")


def test_sums_within_by_hand():
    matrix = np.arange(36.0).reshape(6, 6) + np.arange(36.0).reshape(6, 6).T
    inside, total = permutation.sums_within(matrix.astype(np.float32), 2, 4000, 0)
    assert inside[0] == matrix[:2, :2].sum() and total[0] == matrix[:2].sum()
    pairs = [(i, j) for i in range(6) for j in range(i)]
    exact = [matrix[np.ix_(p, p)].sum() for p in pairs]
    assert set(inside[1:]) == set(exact)  # every choice occurs
    assert abs(inside[1:].mean() - np.mean(exact)) < 4 * np.std(exact) / np.sqrt(4000)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: detectors.leakage(np.zeros(0, bool)), "no test crystal"),
        (lambda: detectors.clash(np.ones(0), np.ones(3)), "0 samples and 3 of the reference"),
        (lambda: detectors.hidden_shift(np.zeros((5, 2)), np.zeros((5, 3))), "as many columns"),
        (lambda: detectors.hidden_shift(np.full((5, 2), np.nan), np.zeros((5, 2))), "not finite"),
        (lambda: detectors.hidden_shift(np.ones(5), np.ones(5)), r"expected \(m, d\)"),
        (lambda: detectors.hidden_shift(np.eye(5), np.eye(5), draws=99), "needs at least 999 draws; got 99"),
        (lambda: detectors.diversity_collapse(np.ones(5), np.ones(4)), "expected at least as many"),
        (lambda: detectors.reward_hacking(np.ones(5), np.ones(5), np.ones(5, bool)), "5 selected and 0 others"),
        (lambda: detectors.reward_hacking(np.ones(5), np.ones(4), np.ones(5, bool)), r"expected finite \(m,\)"),
    ],
)
def test_bad_input_is_one_line(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# --- crowded composition ---


def test_crystals_of_too_many_elements_are_found(real):
    usual = np.array([len(set(row.numbers.tolist())) for row in datasets.entries(rows(real, 0, 1000))])
    mixed = np.where(np.arange(200) < 60, 9, usual[:200])  # a third mixes nine elements
    found = detectors.crowded_composition(mixed, usual[200:])
    assert found.detected and found.value >= 0.3 and set(found.worst.tolist()) <= set(range(60))
    assert "have more than 5 elements (medians" in found.explanation
    assert not detectors.crowded_composition(usual[:200], usual[200:]).detected


def test_crystals_without_a_space_group_are_neither_p1_nor_not():
    known, reference = np.array([1] * 30 + [62] * 70), np.full(500, 62)
    found = detectors.symmetry_breaking(known, reference)
    more = detectors.symmetry_breaking(np.concatenate([np.zeros(900, int), known]), reference)
    assert found.value == more.value == 0.3 and more.worst.min() == 900
