"""The last step of training property heads: what they know of their training data, and a std that is true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crysjax.data.batching import Capacity
    from crysjax.data.datasets import Dataset
    from crysjax.predictors import calibration

LEAST_LABELS = 20  # fewer say nothing of a std
POWERS = (0.3, 1.0)
"""Range of the power of the spread in a calibrated std."""

SLOPE = 0.14
"""How fast a std grows with the novelty, where a config does not say. See `experiments/uncertainty`."""


def remembered(settings: dict[str, Any], params: Any, part: Dataset, shape: Capacity) -> Any:
    """Parameters with what `predictors.novelty` needs to know of the training part, for each member of an ensemble."""
    import jax
    import numpy as np

    from crysjax.data import batching
    from crysjax.models import registry
    from crysjax.predictors import novelty

    one = {k: v for k, v in settings.items() if k.partition(".")[0] in ("network", "heads")}
    features = jax.jit(registry.build_heads(one).features)
    contains = novelty.contained(part.numbers, part.num_atoms)

    def of_one(member: Any) -> dict[str, Any]:
        found = batching.each_crystal(lambda pack: features(member, pack), part, shape)
        return novelty.known(found[np.isfinite(found).all(-1)], contains)

    if not any(key.startswith("ensemble.") for key in settings):
        return params | {"known": of_one(params)}
    count = len(jax.tree.leaves(params)[0])
    members = [of_one(jax.tree.map(lambda leaf, m=m: leaf[m], params)) for m in range(count)]
    return params | {"known": jax.tree.map(lambda *leaves: np.stack(leaves), *members)}


def calibrate(
    heads: Any, params: Any, settings: dict[str, Any], held_out: Dataset, shape: Capacity
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings with a std fitted to the held-out crystals (see `predictors.calibration`), and how true it is.

    The report is of one half of the crystals with a std fitted to the other half; the settings are fitted to all. An
    ensemble gets `spread_factor` and `floor`, single heads a constant `std`; both grow with the novelty at the rate
    that the config says.
    """
    import jax
    import numpy as np

    from crysjax.data import batching
    from crysjax.predictors import calibration
    from crysjax.predictors.predictor import estimate

    said = estimate(heads.predict, params, held_out, shape)
    far = jax.jit(heads.novelty)
    novelty = batching.each_crystal(lambda pack: far(params, pack), held_out, shape)
    usual, limit = (float(np.round(np.quantile(novelty, q), 6)) for q in (0.5, 0.99))
    slope = [float(x) for x in settings.get("novelty.slope") or [SLOPE] * len(heads.names)]
    many = any(key.startswith("ensemble.") for key in settings)
    mine = np.random.default_rng(0).random(len(held_out)) < 0.5
    fits, report = [], {}
    for k, name in enumerate(heads.names):
        grown = np.exp(slope[k] * np.maximum(novelty - usual, 0))
        error = (said.value[:, k] - held_out.properties[name]) / grown
        known = np.isfinite(error) & said.valid[:, k]
        parts = [(error[rows], said.std[rows, k]) for rows in (known & mine, known)]
        of_half, of_all = (_fitted(*part, many=many) for part in parts)
        fits.append(of_all)
        rest = known & ~mine
        if rest.any():
            std = grown * np.sqrt((of_half.factor * said.std[:, k] ** of_half.power) ** 2 + of_half.floor**2)
            summary = calibration.summarize((error * grown)[rest], std[rest])
            report[name] = {key: round(float(value), 4) for key, value in summary._asdict().items()}
    factors, floors, powers = ([round(x, 6) for x in column] for column in zip(*fits))
    of_many = {"ensemble.spread_factor": factors, "ensemble.floor": floors, "ensemble.power": powers}
    found = of_many if many else {"heads.std": floors}
    return settings | found | {"novelty.slope": slope, "novelty.usual": usual, "novelty.limit": limit}, report


def _fitted(error: Any, spread: Any, *, many: bool) -> calibration.FittedSpread:
    """The std out of the spread; with too few labels the spread (several members) or std (one head) as it is."""
    import numpy as np

    from crysjax.predictors import calibration

    if len(error) < LEAST_LABELS:
        return calibration.FittedSpread(1.0, 0.0) if many else calibration.FittedSpread(0.0, float([*spread, 1.0][0]))
    if many:
        floor = calibration.floor_of_the_certain(error, spread)
        return calibration.fit_spread(error, spread, least_floor=floor, powers=POWERS)
    return calibration.FittedSpread(0.0, float(np.sqrt(np.mean(np.square(error)))))
