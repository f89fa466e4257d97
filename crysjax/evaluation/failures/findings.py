"""Which of the detectors a judged set has the data for, and what they say of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crysjax.data.datasets import Dataset, take
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.evaluation import stages
from crysjax.evaluation.failures import detector_inputs, detectors
from crysjax.evaluation.failures.detectors import Finding
from crysjax.evaluation.metrics.descriptors import descriptors
from crysjax.evaluation.metrics.distributions import num_elements
from crysjax.evaluation.totals import JudgedSet

FEWEST = 10  # samples below which a distribution tells nothing
BEST = 0.1  # the share of samples with the lowest predicted energy: whom a search would select


def findings(
    judged: JudgedSet, reference: JudgedSet, train: Dataset | None, predict: Callable[[Dataset], dict] | None = None,
    *, held_out: bool = True,
) -> list[Finding]:  # fmt: skip
    """The detectors that apply, in the order of `detectors`.

    Args:
        judged: the samples.
        reference: real crystals that samples should be like.
        train: what models were trained on; without it neither leakage nor shift can be told.
        predict: data set -> {property: (value, std)} of the heads, for their calibration on the reference.
        held_out: whether the reference is apart from the training data; if not, nothing is said of leakage and of
            calibration, which would compare the training data with itself.
    """
    valid = stages.valid(reference.samples).columns["composition_valid"]
    close = [closeness(s.samples) for s in (judged, reference)]
    found = [
        detectors.clash(*close),
        detectors.chemical_implausibility(judged.verdicts["valid"].columns["composition_valid"], valid),
        detectors.crowded_composition(*(num_elements(s.samples) for s in (judged, reference))),
        *broken_symmetry(judged.space_group, reference.space_group),
        *reward_hacking(judged),
    ]
    size = min(len(judged.features), len(reference.features))
    if size >= FEWEST:
        found.append(detectors.diversity_collapse(judged.features[:size], reference.features))
    if train is not None:
        found += [shift(judged, train)] if len(judged.features) >= FEWEST else []
    if train is not None and held_out:
        found.append(detectors.leakage(detector_inputs.seen_structures(reference.samples, train)))
    return found + (calibration_of(reference.samples, predict) if predict is not None and held_out else [])


def broken_symmetry(found: np.ndarray, reference: np.ndarray) -> list[Finding]:
    """`detectors.symmetry_breaking`, if both have crystals with a space group."""
    return [detectors.symmetry_breaking(found, reference)] if (found > 0).any() and (reference > 0).any() else []


def closeness(samples: Dataset) -> np.ndarray:
    """`detector_inputs.closeness`, NaN for cells too large to look at every pair."""
    small, found = samples.num_atoms <= stages.MAX_SITES, np.full(len(samples), np.nan)
    if small.any():
        found[small] = detector_inputs.closeness(take(samples, small))
    return found


def shift(judged: JudgedSet, train: Dataset, most: int = 1000, seed: int = 0) -> Finding:
    """Samples against a part of the training data."""
    part = np.random.default_rng(seed).permutation(len(train))[:most]
    return detectors.hidden_shift(judged.features, descriptors(take(train, np.sort(part))))


def reward_hacking(judged: JudgedSet) -> list[Finding]:
    """Predicted against relaxed formation energy of the samples that the prediction puts first, if both are known."""
    needed = [judged.verdicts.get("target"), judged.verdicts.get("stable")]
    if None in needed or f"predicted_{FORMATION_ENERGY}" not in needed[0].columns:
        return []
    proxy, judge = needed[0].columns[f"predicted_{FORMATION_ENERGY}"], needed[1].columns[FORMATION_ENERGY]
    known = np.isfinite(proxy) & np.isfinite(judge)
    if known.sum() < 3 * FEWEST:
        return []
    index = np.flatnonzero(known)
    chosen = proxy[index] <= np.quantile(proxy[index], BEST)
    found = detectors.reward_hacking(proxy[index], judge[index], chosen)
    return [found._replace(worst=index[found.worst])]


def calibration_of(reference: Dataset, predict: Callable[[Dataset], dict]) -> list[Finding]:
    """Predicted std against errors on the reference, one finding per property that it has values of."""
    found = []
    for name, (value, std) in predict(reference).items():
        error = reference.properties.get(name, np.full(len(reference), np.nan)) - value
        known = np.isfinite(error) & (std > 0)
        if known.sum() >= 3 * FEWEST:
            said = detectors.miscalibration(error[known], std[known])
            said = said._replace(explanation=f"{name}: {said.explanation}", worst=np.flatnonzero(known)[said.worst])
            found.append(said)
    return found
