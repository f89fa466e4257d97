"""Energies of the convex hull: pymatgen's PhaseDiagram, the host's batched simplex and the traced one, side by side.

    python benchmarks/hull.py --data PATH/TO/mp_20

The hull is that of MP-20's 45,229 formation energies, all parts. Asked are the first `--count` of all reduced
compositions of MP-20 in random order, its test part first, up to six elements. pymatgen gets what a careful user gives
it: entries sorted by chemical system beforehand, one PhaseDiagram a chemical system, of the lowest entry of each
composition in the system and its sub-systems; it is timed on `--subset` compositions with the systems that they have,
and scaled. Every answer of the subset is compared. Times are wall (processor); the machine may be shared with others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TOGETHER = 64  # compositions in one call of the traced solver's `vmap`


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def asked(data: Path, count: int, compositions: np.ndarray) -> np.ndarray:
    """Distinct fractions of up to six elements: the test part's first, then those of all parts."""
    from crysjax.physics.hull.hull import read_cache

    test, rng = read_cache(data / "test")[0], np.random.default_rng(0)
    both = np.concatenate([test[rng.permutation(len(test))], compositions[rng.permutation(len(compositions))]])
    both = both[(both > 0).sum(1) <= 6]
    fractions = both / both.sum(1, keepdims=True)
    _, first = np.unique(fractions.round(9), axis=0, return_index=True)
    return fractions[np.sort(first)][:count]


def by_pymatgen(fractions: np.ndarray, hull) -> np.ndarray:
    """`get_hull_energy_per_atom`, one PhaseDiagram a chemical system."""
    from itertools import combinations

    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition, Element

    def composition(row: np.ndarray) -> Composition:
        return Composition({Element.from_Z(int(i) + 1): float(row[i]) for i in np.flatnonzero(row)})

    diagrams: dict[tuple, PhaseDiagram] = {}
    answers = []
    for row in fractions:
        system = tuple(np.flatnonzero(row).tolist())
        if system not in diagrams:
            parts = (p for size in range(1, len(system) + 1) for p in combinations(system, size))
            inside = np.concatenate([hull.systems[p] for p in parts if p in hull.systems])
            diagrams[system] = PhaseDiagram([PDEntry(composition(hull.fractions[i]), hull.energies[i]) for i in inside])
        answers.append(diagrams[system].get_hull_energy_per_atom(composition(row)))
    return np.array(answers)


def by_jax(fractions: np.ndarray, thin) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[float, float]]]:
    """Energies, derivatives by composition, and times of making the table, compiling and answering."""
    import jax
    import jax.numpy as jnp

    from crysjax.physics.hull import traced

    table, *make = timed(lambda: traced.table(thin.fractions, thin.energies))
    filled = np.concatenate([fractions, fractions[: -len(fractions) % TOGETHER]])
    blocks = jnp.asarray(filled, jnp.float32).reshape(-1, TOGETHER, filled.shape[1])
    one = jax.vmap(traced.hull_energy, (0, None))
    slope = jax.vmap(jax.value_and_grad(traced.hull_energy, has_aux=True), (0, None))
    many = {"energies": one, "energies and derivatives": slope}
    times, found = {"table": make}, {}
    for name, rows in many.items():
        run = jax.jit(lambda blocks, table, rows=rows: jax.lax.map(lambda part: rows(part, table), blocks))
        program, *times[f"compile {name}"] = timed(lambda run=run: run.lower(blocks, table).compile())
        runs = [timed(lambda program=program: jax.block_until_ready(program(blocks, table))) for _ in range(3)]
        found[name], *times[name] = min(runs, key=lambda each: each[2])
    energy, valid = (np.asarray(leaf).ravel()[: len(fractions)] for leaf in found["energies"])
    assert valid.all(), f"{(~valid).sum()} compositions without an answer"
    return energy, np.asarray(found["energies and derivatives"][1]), times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="MP-20 in MatterGen's cache layout")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--subset", type=int, default=500, help="compositions that pymatgen is timed on")
    parser.add_argument("--out", help="raw result, JSON: seconds (wall, processor) and differences")
    options = parser.parse_args()

    from crysjax.physics.hull import hull as hulls
    from crysjax.reports import record

    compositions, energies, names = hulls.read_cache(*(options.data / part for part in ("train", "val", "test")))
    level = hulls.MATERIALS_PROJECT_2021
    hull, *made = timed(lambda: hulls.hull(compositions, energies, level=level, source="MP-20", names=names))
    fractions = asked(options.data, options.count, compositions)
    sizes = np.bincount((fractions > 0).sum(1))
    systems = len({tuple(np.flatnonzero(row)) for row in fractions})
    print(f"{len(hull.energies)} entries of the hull made in {made[0]:.2f} ({made[1]:.2f}) s")
    print(
        f"{len(fractions)} compositions of {systems} systems; by number of elements: {dict(enumerate(sizes.tolist()))}"
    )
    by_pymatgen(fractions[-2:], hull)  # imports
    thin, *prune = timed(lambda: hulls.vertices(hull))
    (host, _), *host_time = timed(lambda: hulls.hull_energy(fractions, hull))
    _, *thin_time = timed(lambda: hulls.hull_energy(fractions, thin))
    rows = np.sort(np.random.default_rng(1).permutation(len(fractions))[: options.subset])
    peer, *peer_time = timed(lambda: by_pymatgen(fractions[rows], hull))
    energy, _, times = by_jax(fractions, thin)
    times |= {"vertices": prune, "host": host_time, "host, of vertices": thin_time}
    peer_s = [len(fractions) / len(rows) * t for t in peer_time]
    cold = np.sum([times[k] for k in ("vertices", "table", "compile energies", "energies")], axis=0)
    print(f"pymatgen, scaled from {len(rows)}: {peer_s[0]:.1f} s ({peer_s[1]:.1f} s)")
    for name, (wall, cpu) in (times | {"energies with all that comes before": cold}).items():
        print(f"{name}: {wall:.3f} s ({cpu:.3f} s), pymatgen's processor time is {peer_s[1] / cpu:.1f} times that")
    apart = {
        "host and pymatgen": np.abs(host[rows] - peer).max(), "traced and pymatgen": np.abs(energy[rows] - peer).max(),
        "traced and host": np.abs(energy - host).max(),
        "traced and host, 99 %": np.percentile(np.abs(energy - host), 99),
    }  # fmt: skip
    apart = {name: float(value) for name, value in apart.items()}
    for name, value in apart.items():
        print(f"{name} differ by up to {value:.1e} eV/atom")
    if options.out:
        seconds = {name: list(map(float, pair)) for name, pair in ({"pymatgen, scaled": peer_s} | times).items()}
        record.write(options.out, record.about(options) | {"seconds": seconds, "eV/atom apart": apart})


if __name__ == "__main__":
    main()
