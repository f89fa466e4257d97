"""The last step of training property heads: what they know of their training data, and a std that is true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crysjax.data.batching import Capacity
    from crysjax.data.datasets import Dataset

LEAST_LABELS = 20  # fewer say nothing of a std
SLOPE = 0.5
"""How fast a std grows with the novelty, where a config does not say. See `experiments/uncertainty`."""


def remembered(settings: dict[str, Any], params: Any, part: Dataset, shape: Capacity) -> Any:
    """Parameters with what `properties.novelty` needs to know of the training part, for each member of an ensemble."""
    import jax
    import numpy as np

    from crysjax.cli import registry
    from crysjax.data import batching
    from crysjax.properties import novelty

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
    """Settings with a fitted std (see `evaluation.calibration`), and how true it is on crystals it was not fitted to.

    One half of the held-out crystals fits; the report is of the other half. An ensemble gets `spread_factor` and
    `floor`, single heads a constant `std`; both grow with the novelty at the rate that the config says.
    """
    import jax
    import numpy as np

    from crysjax.campaign.validate import estimate
    from crysjax.data import batching
    from crysjax.evaluation import calibration

    said = estimate(heads.predict, params, held_out, shape)
    far = jax.jit(heads.novelty)
    novelty = batching.each_crystal(lambda pack: far(params, pack), held_out, shape)
    usual, limit = (float(np.round(np.quantile(novelty, q), 6)) for q in (0.5, 0.99))
    slope = [float(x) for x in settings.get("novelty.slope") or [SLOPE] * len(heads.names)]
    many = any(key.startswith("ensemble.") for key in settings)
    mine = np.random.default_rng(0).random(len(held_out)) < 0.5
    factors, floors, report = [], [], {}
    for k, name in enumerate(heads.names):
        grown = np.exp(slope[k] * np.maximum(novelty - usual, 0))
        error = (held_out.properties[name] - said.value[:, k]) / grown
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
            summary = calibration.summarize((error * grown)[rest], (std * grown)[rest])
            report[name] = {key: round(float(value), 4) for key, value in summary._asdict().items()}
    found = {"ensemble.spread_factor": factors, "ensemble.floor": floors} if many else {"heads.std": floors}
    found |= {"novelty.slope": slope, "novelty.usual": usual, "novelty.limit": limit}
    return settings | found, report
