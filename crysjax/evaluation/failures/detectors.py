"""Nine ways in which inverse design fails, each a test that says so.

The modes are those of the map of failures in "Towards Automated Discovery: A Review of Generative Models, Multimodal
Learning and Closed-Loop Workflows in Inverse Materials Design" (section 6, figure 4), from the cheap to the costly:
of validity (`clash`, `chemical_implausibility`, `crowded_composition`, `symmetry_breaking`), of optimization
(`reward_hacking`, `diversity_collapse`) and of evidence (`hidden_shift`, `leakage`, `miscalibration`).

Each compares host arrays of samples with a reference and answers a `Finding`. `level` is the chance of a false alarm
where nothing is wrong, by default one in a thousand, so that all of them run on a hundred campaigns raise about one.
Shares are compared by Fisher's exact test, sets by permutation; both keep the level at every size, given independent
samples, and both are silent where the samples are too few to tell. `detector_inputs` makes the arrays out of crystals.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from crysjax.crystallography.contacts import MIN_CLOSENESS
from crysjax.evaluation.failures import permutation
from crysjax.predictors import calibration

LEVEL = 0.001
DRAWS = 1999  # permutations; the smallest level that so many can reach is 1/2000


class Finding(NamedTuple):
    """What one detector says of a set of samples."""

    name: str
    detected: bool
    value: float
    threshold: float  # between what is detected and what is not, in the same unit
    unit: str
    explanation: str  # a sentence with the numbers
    worst: np.ndarray  # indices of the worst offenders among the samples, the worst first


def clash(
    closeness: np.ndarray,
    reference: np.ndarray,
    *,
    min_closeness: float = MIN_CLOSENESS,
    level: float = LEVEL,
    show: int = 10,
) -> Finding:
    """Atoms inside each other: more crystals with a shortest distance below `min_closeness` than real ones have.

    `closeness` (m,), and (r,) of the reference: shortest distance over the sum of the two covalent radii
    (`detector_inputs.closeness`). The bound is that of `contacts`, below which hardly any real
    crystal is. NaN is a clash.
    """
    closeness, reference = np.asarray(closeness, np.float64), np.asarray(reference, np.float64)
    bad = ~(closeness >= min_closeness)
    worst = np.argsort(np.nan_to_num(closeness, nan=-1.0), kind="stable")[: min(show, bad.sum())]
    what = f"have atoms closer than {min_closeness:g} of the sum of their covalent radii"
    return _more_often("clash", bad, ~(reference >= min_closeness), level, what, worst)


def chemical_implausibility(
    valid: np.ndarray, reference: np.ndarray, *, level: float = LEVEL, show: int = 10
) -> Finding:
    """Compositions that cannot balance: more fail SMACT's test than real ones do.

    `valid` (m,), (r,) bool of `validity.smact_valid`. About a tenth of real compounds fails, hence a reference.
    """
    bad = ~np.asarray(valid, bool)
    what = "have a composition that fails SMACT's test"
    return _more_often(
        "chemical implausibility", bad, ~np.asarray(reference, bool), level, what, np.flatnonzero(bad)[:show]
    )


def symmetry_breaking(
    space_group: np.ndarray, reference: np.ndarray, *, level: float = LEVEL, show: int = 10
) -> Finding:
    """Symmetry lost: more crystals in P1 than the reference has.

    Space group numbers (m,), (r,), found at one tolerance in both; the share depends on the tolerance, its excess
    over real crystals much less. Crystals without a group (0) are left out.
    """
    space_group, reference = np.asarray(space_group), np.asarray(reference)
    known, bad = space_group > 0, space_group == 1
    what = "with a space group have no symmetry but translation (P1)"
    usual = reference[reference > 0] == 1
    return _more_often("symmetry breaking", bad[known], usual, level, what, np.flatnonzero(bad)[:show])


def crowded_composition(
    num_elements: np.ndarray, reference: np.ndarray, *, level: float = LEVEL, show: int = 10
) -> Finding:
    """Too many elements in one crystal: more crystals than the reference has exceed what 99 % of it have.

    Numbers of different elements (m,), (r,). Free samples of an undertrained model mix elements at random.
    """
    counts, usual = np.asarray(num_elements, int), np.asarray(reference, int)
    most = int(np.quantile(usual, 0.99, method="higher"))
    bad = counts > most
    medians = f"(medians {np.median(counts):g} and {np.median(usual):g})"
    what = f"have more than {most} elements {medians}"
    worst = np.argsort(-counts, kind="stable")[: min(show, bad.sum())]
    return _more_often("crowded composition", bad, usual > most, level, what, worst)


def reward_hacking(
    proxy: np.ndarray,
    judge: np.ndarray,
    selected: np.ndarray,
    *,
    least_correlation: float = 0.3,
    level: float = LEVEL,
    show: int = 10,
) -> Finding:
    """The proxy improves and an independent judge does not follow.

    `proxy`, `judge` (m,): what was optimized, and what was not; lower is better in both, units may differ. `selected`
    (m,) bool: outcomes of the optimization; the others are candidates as they come. Any noisy proxy disappoints among
    the selected; the regression of judge on proxy among the others says how much (regression to the mean). Detected is
    a disappointment beyond it (t test of the mean residual, linear with equal variance), or a proxy whose rank
    correlation with the judge among the others is below `least_correlation` (Fieller et al. 1957), which shares less
    than a tenth of the variance of ranks and is worth no optimizing. Half of `level` each.
    """
    from scipy.stats import norm, spearmanr, t

    proxy, judge, selected = np.asarray(proxy, np.float64), np.asarray(judge, np.float64), np.asarray(selected, bool)
    _same("reward hacking", proxy, judge, selected)
    x, y, k, n = proxy[~selected], judge[~selected], selected.sum(), (~selected).sum()
    if k < 1 or n < 10 or not np.ptp(x) > 0:
        raise ValueError(f"reward hacking: {k} selected and {n} others; expected 1 and 10, the others' proxies varied")
    slope, offset = np.polyfit(x, y, 1)
    rounding = (1e-9 * (np.abs(y).max() or 1)) ** 2  # of a judge that follows the proxy exactly
    square = ((y - offset - slope * x) ** 2).sum() / (n - 2) + rounding
    excess = judge[selected] - offset - slope * proxy[selected]
    lever = 1 / k + 1 / n + (proxy[selected].mean() - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    p_excess = t.sf(excess.mean() / np.sqrt(square * lever), n - 2)
    rank = spearmanr(x, y).statistic if np.ptp(y) > 0 else 0.0
    away = np.arctanh(np.clip(rank, -0.999999, 0.999999)) - np.arctanh(least_correlation)
    p = min(1.0, 2 * min(p_excess, norm.cdf(away * np.sqrt((n - 3) / 1.06))))
    promised, found = ((a[selected].mean() - a[~selected].mean()) / (a[~selected].std() or 1) for a in (proxy, judge))
    said = (
        f"the proxy of the selected improves by {-promised:.2f} std, the judge by {-found:.2f}, which is "
        f"{excess.mean() / (y.std() or 1):+.2f} std off what regression to the mean leaves; rank correlation of the "
        f"two among the others {rank:.2f}"
    )
    worst = np.flatnonzero(selected)[np.argsort(-excess, kind="stable")[:show]]
    return Finding("reward hacking", bool(p <= level), float(p), level, "p-value", said, worst)


def diversity_collapse(
    samples: np.ndarray,
    reference: np.ndarray,
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    most: int = 500,
    seed: int = 0,
    show: int = 10,
) -> Finding:
    """Fewer distinct samples, effectively, than the reference has at the same number.

    Labels (m,), (r,), such as reduced formulas or clusters of structures, or features (m, d), (r, d); r ≥ m.
    The effective number is 1 / mean(K_ij²): Hill's number of order 2 of labels (K: whether equal), the Vendi score of
    order 2 of features (Pasarkar and Dieng 2024; K: Gaussian of the median distance). Its law where samples and
    reference are alike comes from relabeling the two; at most `most` of each are drawn.
    """
    a, b, rows = permutation.drawn(samples, reference, most, seed, "diversity collapse")
    if len(b) < len(a):
        raise ValueError(f"diversity collapse: {len(a)} samples but a reference of {len(b)}; expected at least as many")
    both, n = np.concatenate([a, b]), len(a)
    if both.ndim == 1:
        similar = (both[:, None] == both[None]).astype(np.float32)
    else:
        distance = permutation.distances(both)
        similar = np.exp(-((distance / (np.median(distance) or 1)) ** 2))  # K², K of width median
    inside, _ = permutation.sums_within(similar, n, draws, seed)
    effective = n**2 / inside
    value, threshold = float(effective[0]), -permutation.critical(-effective[1:], level)
    usual = n**2 / permutation.sums_within(similar[n:, n:], n, 50, seed)[0].mean()
    said = f"{value:.1f} of {n} samples are effectively distinct; of as many of the reference {usual:.1f}"
    worst = rows[np.argsort(-similar[:n, :n].sum(1), kind="stable")[:show]]
    return Finding("diversity collapse", bool(value < threshold), value, threshold, "effective samples", said, worst)


def hidden_shift(
    features: np.ndarray,
    training: np.ndarray,
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    most: int = 500,
    seed: int = 0,
    show: int = 10,
) -> Finding:
    """A predictor is asked about crystals unlike those that it learned from.

    Features (m, d) and (r, d), each standardized over both sets; at most `most` rows of each are drawn. The statistic
    is the energy distance (Székely and Rizzo 2013) over its largest value, 0 to 1, and its law without a shift comes
    from permutation. Detected means that retrospective errors do not carry over, not that predictions are wrong.
    """
    a, b, rows = permutation.drawn(features, training, most, seed, "hidden shift")
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"hidden shift: features {a.shape} and {b.shape}; expected (m, d) and (r, d)")
    n, m = len(a), len(b)
    distance = permutation.distances(np.concatenate([a, b]))
    inside, row_sum = permutation.sums_within(distance, n, draws, seed)
    across, total = row_sum - inside, distance.sum(dtype=np.float64)
    between = 2 * across / (n * m)
    energy = (between - inside / n**2 - (total - inside - 2 * across) / m**2) / np.maximum(between, 1e-300)
    value, threshold = float(energy[0]), permutation.critical(energy[1:], level)
    nearest = distance[:n, n:].min(1)
    said = (
        f"energy distance to the training data {value:.4f} of 1, {np.median(energy[1:]):.4f} without a shift; nearest "
        f"training crystal at {np.median(nearest):.2f} (median)"
    )
    worst = rows[np.argsort(-nearest, kind="stable")[:show]]
    return Finding("hidden shift", bool(value > threshold), value, threshold, "energy coefficient", said, worst)


def leakage(
    seen: np.ndarray, independent: np.ndarray | None = None, *, level: float = LEVEL, show: int = 10
) -> Finding:
    """Test crystals whose structure or composition is in the training set.

    `seen` (m,) bool (`detector_inputs`). Chance is what happens between the training set and crystals `independent`
    (r,) of it: a random split of data with twins is no such set, it leaks. Without one the limit is 1/√m: a mean
    of m errors is known to about that share of itself, so that fewer seen crystals cannot move it visibly.
    """
    seen = np.asarray(seen, bool)
    what, worst = "of the test crystals are in the training set", np.flatnonzero(seen)[:show]
    if independent is not None:
        return _more_often("leakage", seen, np.asarray(independent, bool), level, what, worst)
    if not seen.size:
        raise ValueError("leakage: no test crystal")
    share, limit = float(seen.mean()), 1 / np.sqrt(seen.size)
    said = (
        f"{100 * share:.2f} % {what}; below {100 * limit:.2f} % it moves a mean error by less than its standard error"
    )
    return Finding("leakage", bool(share > limit), share, float(limit), "share", said, worst)


def miscalibration(
    error: np.ndarray,
    std: np.ndarray,
    *,
    bins: int = 10,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
    show: int = 10,
) -> Finding:
    """Errors (m,) that are not Gaussian with the predicted std (m,), in size over all or from bin to bin of std.

    Two tests at half of `level` each: sum (error / std)² against chi² with m degrees of freedom, two-sided, and the
    ENCE of `calibration` against that of simulated Gaussian errors. Heavy tails fail the first, as they should.
    """
    from scipy.stats import chi2

    error, std = np.asarray(error, np.float64), np.asarray(std, np.float64)
    summary, z = calibration.summarize(error, std), error / std
    total = np.nansum(z**2)
    p_size = 2 * min(chi2.cdf(total, summary.count), chi2.sf(total, summary.count))
    usual = calibration.simulated_ence(std[np.isfinite(z)], bins, draws=draws, seed=seed)
    found = calibration.ence(error, std, bins)
    p = float(min(1.0, 2 * min(p_size, (1 + np.sum(usual >= found)) / (1 + draws))))
    said = (
        f"errors are {summary.scale:.2f} times their std (root mean square); ENCE {found:.3f}, of perfect errors "
        f"{usual.mean():.3f}; {100 * summary.coverage_2:.1f} % within two std"
    )
    worst = np.argsort(-np.nan_to_num(np.abs(z), nan=-1.0), kind="stable")[:show]
    return Finding("miscalibration", p <= level, p, level, "p-value", said, worst)


def text(findings: Iterable[Finding]) -> str:
    """One line a finding."""
    return "\n".join(f"{'FOUND' if f.detected else 'not found':9s} {f.name}: {f.explanation}" for f in findings)


def _more_often(name: str, bad: np.ndarray, usual: np.ndarray, level: float, what: str, worst: np.ndarray) -> Finding:
    """Whether a fault is more frequent than in the reference: Fisher's exact test, one-sided."""
    from scipy.stats import hypergeom

    m, r, count, known = bad.size, usual.size, int(bad.sum()), int(usual.sum())
    if not (m and r):
        raise ValueError(f"{name}: {m} samples and {r} of the reference; expected some of both")
    counts = np.arange(m + 1)
    enough = counts[hypergeom.sf(counts - 1, m + r, known + counts, m) <= level]  # counts that would be detected
    threshold = (enough[0] - 0.5) / m if len(enough) else np.inf
    said = f"{100 * count / m:.1f} % of {m} samples {what}, {100 * known / r:.1f} % of the {r} of the reference"
    said += "" if len(enough) else "; too few to tell"
    return Finding(name, bool(count / m > threshold), count / m, float(threshold), "share", said, worst)


def _same(name: str, first: np.ndarray, *others: np.ndarray) -> None:
    if first.ndim != 1 or any(a.shape != first.shape for a in others) or not np.isfinite(first).all():
        raise ValueError(f"{name}: {[a.shape for a in (first, *others)]}; expected finite (m,) each")
