"""The last step of training property heads: a std that is true on held-out crystals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crysjax.data.batching import Capacity
    from crysjax.data.datasets import Dataset

LEAST_LABELS = 20  # fewer say nothing of a std


def calibrate(
    heads: Any, params: Any, settings: dict[str, Any], held_out: Dataset, shape: Capacity
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings with a fitted std (see `evaluation.calibration`), and how true it is on crystals it was not fitted to.

    One half of the held-out crystals fits; the report is of the other half. An ensemble gets `spread_factor` and
    `floor`, single heads a constant `std`.
    """
    import numpy as np

    from crysjax.campaign.validate import estimate
    from crysjax.evaluation import calibration

    said = estimate(heads.predict, params, held_out, shape)
    many = any(key.startswith("ensemble.") for key in settings)
    mine = np.random.default_rng(0).random(len(held_out)) < 0.5
    factors, floors, report = [], [], {}
    for k, name in enumerate(heads.names):
        error = held_out.properties[name] - said.value[:, k]
        known = np.isfinite(error) & said.valid[:, k]
        fit, rest = known & mine, known & ~mine
        if min(fit.sum(), rest.sum()) < LEAST_LABELS:
            factor, floor = 1.0, 0.0 if many else float(said.std[0, k])
        elif many:
            factor, floor = calibration.fit_spread(error[fit], said.std[fit, k])
        else:
            factor, floor = 0.0, float(np.sqrt(np.mean(error[fit] ** 2)))
        std = np.sqrt((factor * said.std[:, k]) ** 2 + floor**2)
        factors, floors = [*factors, round(factor, 6)], [*floors, round(floor, 6)]
        if rest.any():
            summary = calibration.summarize(error[rest], std[rest])
            report[name] = {key: round(float(value), 4) for key, value in summary._asdict().items()}
    found = {"ensemble.spread_factor": factors, "ensemble.floor": floors} if many else {"heads.std": floors}
    return settings | found, report
