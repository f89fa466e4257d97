"""How many particles does resampling need? Effective number and distance to the exact tilt, for the quickstart's plan.

    python experiments/quickstart/particles.py --out experiments/quickstart/particles.json

Particles of one candidate (of one size, and from one template where the generator has some) are draws of one law p, so
all of them together give the exact tilt p exp(-s E) / Z. With K particles the picked one has the law p(x) r(x), r(x) =
E[K w(x) / (w(x) + the other K - 1 weights)], w = exp(-s E). For each K: the effective number (1 / sum of squared
normalized weights), the total variation distance ½ E_p |r - w / Z|, and how far the mean objective has come from p (0)
to the tilt (1). The same for a toy whose tilt is a Gaussian (mean 1, std 1 against a standard normal p, that is w =
exp(x)). Both are exact up to the sampling error of the pool.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crysjax.base import Condition, Views
from crysjax.campaign import constrained
from crysjax.campaign.assemble import assemble
from crysjax.campaign.plan import Plan, read_plan
from crysjax.campaign.propose import energy
from crysjax.campaign.round import pack_shape
from crysjax.data import batching
from crysjax.reports import record
from crysjax.sampling import draws as sampling
from crysjax.sampling.space_groups import DrawStart

COUNTS = (1, 2, 4, 8, 16, 32)
DRAWS = 4000  # groups of K particles that an expectation is taken over


def drawn_energies(plan: Plan, packs: int, particles: int) -> dict[str, np.ndarray]:
    """Candidate -> the objectives (particles,) of its unguided particles."""
    tools, _ = assemble(plan)
    made, goals = constrained.make(plan, tools.elements), tools.goals
    sizes = np.sort(sampling.draw_sizes(plan.seed, tools.sizes, plan.candidates))
    start = made.start(sizes, plan.seed) if made.start else DrawStart(None, None, np.zeros(len(sizes), int))
    shape = pack_shape(tools.sizes, plan.candidates)
    batch = batching.pack_dataset(sampling.blank(sizes, start.numbers), shape)
    templates, slots = sampling.restrict(batch.pack, tools.elements or plan.numbers), batch.index.shape[1]
    wanted = jnp.tile(jnp.asarray(tools.condition, jnp.float32)[None], (slots, 1))

    @jax.jit
    def objectives(params: Any, heads: Any, key: jax.Array, template: Any, asked: Condition) -> jax.Array:
        value = energy(tools.predictor, heads, goals)
        one = lambda k: value(made.generator.sample(params, k, template, asked))  # noqa: E731
        return jax.lax.map(one, jax.random.split(key, particles))

    found = {}
    for k in np.unique(np.linspace(0, len(batch.index) - 1, packs).astype(int)):
        template = jax.tree.map(lambda leaf, k=k: jnp.asarray(leaf[k]), templates)
        rows = batch.index[k]
        group = jnp.asarray(np.where(rows >= 0, start.group[rows], 0), jnp.int32)
        views = jax.tree.map(jnp.asarray, start.view(rows[rows >= 0], shape)) if start.view else Views()
        asked = Condition(wanted, group, *views)
        said = np.asarray(objectives(made.params, tools.predictor.params, jax.random.key(int(k)), template, asked))
        found |= {f"{k}-{row}": said[:, slot] for slot, row in enumerate(rows) if row >= 0}
    return found


def of_pool(energies: np.ndarray, strength: float, particles: int, rng: np.random.Generator) -> tuple:
    """Of one pool of exchangeable particles (m,): effective number, total variation distance, the way of the mean
    objective, and the whole way to the tilt."""
    weight = np.exp(-strength * (energies - energies.min()))
    z = weight.mean()
    others = weight[rng.integers(len(weight), size=(DRAWS, particles - 1))]
    group = np.concatenate([weight[rng.integers(len(weight), size=DRAWS)][:, None], others], 1)
    effective = (group.sum(1) ** 2 / (group**2).sum(1)).mean()
    total = others.sum(1)
    ratio = np.array([(particles * w / (w + total)).mean() for w in weight])
    tilted = (weight / z * energies).mean()
    way, whole = energies.mean() - (ratio * energies).mean(), energies.mean() - tilted
    return effective, 0.5 * np.abs(ratio - weight / z).mean(), way, whole


def table(pools: dict[Any, np.ndarray], strength: float) -> list[dict[str, float]]:
    """One row for each number of particles: means over the pools, weighted by their size; ways are added up."""
    rows, rng = [], np.random.default_rng(0)
    size = np.array([len(pool) for pool in pools.values()], float)
    for k in COUNTS:
        found = np.array([of_pool(pool, strength, k, rng) for pool in pools.values()])
        mean = (size @ found) / size.sum()
        mean = [*mean[:2], mean[2] / mean[3]]
        names = ("effective_particles", "total_variation", "share_of_the_way")
        rows.append({"particles": k} | {name: round(float(v), 3) for name, v in zip(names, mean)})
    return rows


def main() -> None:
    """Measure, write the raw result, print Markdown."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--plan", default="configs/quickstart.yaml")
    ask.add_argument("--packs", type=int, default=2, help="packs of candidates, spread over all sizes")
    ask.add_argument("--particles", type=int, default=256, help="unguided samples of each candidate")
    ask.add_argument("--out", type=Path, default=Path("experiments/quickstart/particles.json"))
    a = ask.parse_args()
    plan = read_plan(a.plan)
    pools = {n: e for n, e in drawn_energies(plan, a.packs, a.particles).items() if np.std(e) > 0}
    toy = {"toy": -np.random.default_rng(0).normal(size=4000)}
    result = record.about(a) | {
        "plan": a.plan, "guidance_strength": plan.settings["guidance.strength"], "heads": plan.heads,
        "candidates": len(pools),
        "objective": {"mean": float(np.mean(np.concatenate([*pools.values()]))),
                      "std": float(np.std(np.concatenate([*pools.values()])))},
        "quickstart": table(pools, plan.settings["guidance.strength"]), "toy": table(toy, 1.0),
    }  # fmt: skip
    record.write(a.out, result)
    for name in ("quickstart", "toy"):
        print(f"\n| {name}: particles | effective number | distance to the tilt (0 to 1) | share of the way |")
        print("| --- | --- | --- | --- |")
        for row in result[name]:
            print("| " + " | ".join(str(v) for v in row.values()) + " |")


if __name__ == "__main__":
    main()
